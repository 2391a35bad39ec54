"""Disks as the clouds take them: the same bytes each time, and the disk inside as it was."""

import hashlib
import tarfile
from pathlib import Path

import pytest

from podvm_images.image import formats, vhd

MADE = 1_760_000_000


def disk(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.write(b"the beginning")
        file.truncate(size)
    return path


def test_a_vhd_is_the_disk_and_its_footer(tmp_path: Path) -> None:
    raw = disk(tmp_path / "disk.raw", 3 * vhd.MIB)
    for name in ("a.vhd", "b.vhd"):
        formats.azure(raw, tmp_path / name, made_at=MADE, digest="d1")
    made = (tmp_path / "a.vhd").read_bytes()
    assert made[:-512] == raw.read_bytes()
    assert made[-512:].startswith(b"conectix")
    assert (tmp_path / "b.vhd").read_bytes() == made
    formats.azure(raw, tmp_path / "c.vhd", made_at=MADE, digest="d2")
    assert (tmp_path / "c.vhd").read_bytes() != made  # another disk has another id


def test_google_gets_one_file_called_disk_raw(tmp_path: Path) -> None:
    raw = disk(tmp_path / "podvm.raw", 8 * vhd.MIB)
    for name in ("a.tar.gz", "b.tar.gz"):
        formats.archive(raw, tmp_path / name, made_at=MADE)
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "a.tar.gz") as packed:
        (member,) = packed.getmembers()
        assert (member.name, member.size, member.mtime, member.uid, member.gid) == ("disk.raw", 8 * vhd.MIB, MADE, 0, 0)
        inside = packed.extractfile(member)
        assert inside is not None
        digest = hashlib.file_digest(inside, "sha256")  # type: ignore[arg-type]
    with raw.open("rb") as file:
        assert digest.digest() == hashlib.file_digest(file, "sha256").digest()


def test_sizes_that_a_cloud_does_not_take_are_refused(tmp_path: Path) -> None:
    raw = disk(tmp_path / "disk.raw", 3 * vhd.MIB + 512)
    with pytest.raises(ValueError, match="whole GiB; this one has"):
        formats.google(raw, tmp_path / "x", made_at=MADE)
    with pytest.raises(ValueError, match="whole MiB"):
        formats.azure(raw, tmp_path / "y", made_at=MADE, digest="d")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "y").exists()
