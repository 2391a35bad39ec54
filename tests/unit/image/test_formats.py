"""Disks as the clouds take them: the same bytes each time, the disk inside as it was, and nothing left of a failure."""

import errno
import hashlib
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from podvm_images.image import formats, gpt, sparse, vhd
from podvm_images.image.formats import FormatFault

WHOLE = 32 * vhd.MIB  # in place of a GiB, which takes seconds to read back
IDENTITY = uuid.UUID(int=7)
WANTED = [
    ("esp", gpt.ESP, uuid.UUID(int=1), 3_000_000),
    ("podvm-root", gpt.ROOT["amd64"], uuid.UUID(int=2), 5_000_000),
    ("podvm-verity", gpt.VERITY["amd64"], uuid.UUID(int=3), 100_000),
]


def disk(path: Path) -> Path:
    """A disk as the build makes it: 11 MiB, most of them zeros, data at odd places."""
    partitions, size = gpt.place(WANTED)
    begin, end = gpt.write(size, IDENTITY, partitions)
    with path.open("wb") as file:
        file.write(begin)
        for number, each in enumerate(partitions):
            for at in range(each.start, each.start + each.size, 200_000):
                file.seek(at)
                file.write(bytes([number + 1]) * 700)
        file.truncate(size - len(end))
        file.seek(0, 2)
        file.write(end)
    return path


def dense(path: Path, other: Path) -> Path:
    """The same bytes with no hole."""
    other.write_bytes(path.read_bytes())
    return other


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return disk(tmp_path / "podvm.raw")


def left(directory: Path) -> set[str]:
    return {each.name for each in directory.iterdir()}


def test_a_vhd_is_the_disk_and_its_footer(raw: Path, tmp_path: Path) -> None:
    for source, name in ((raw, "a.vhd"), (dense(raw, tmp_path / "dense.raw"), "b.vhd")):
        formats.azure(source, tmp_path / name, digest="d1")
    made = (tmp_path / "a.vhd").read_bytes()
    assert made[:-512] == raw.read_bytes()
    assert made[-512:].startswith(b"conectix")
    assert (tmp_path / "b.vhd").read_bytes() == made
    formats.azure(raw, tmp_path / "c.vhd", digest="d2")
    assert (tmp_path / "c.vhd").read_bytes() != made  # another disk has another id


def unpacked(archive: Path, target: Path) -> Path:
    with tarfile.open(archive) as packed:
        (member,) = packed.getmembers()
        assert (member.name, member.size, member.uid, member.gid) == ("disk.raw", WHOLE, 0, 0)
        inside = packed.extractfile(member)
        assert inside is not None
        with target.open("wb") as file:
            while data := inside.read(1 << 20):
                if data.strip(b"\0"):
                    file.write(data)
                else:
                    file.seek(len(data), 1)
            file.truncate(WHOLE)
    return target


def test_google_gets_whole_gib_and_their_zeros_take_no_room(raw: Path, tmp_path: Path) -> None:
    formats.google(raw, tmp_path / "podvm.tar.gz")
    with tarfile.open(tmp_path / "podvm.tar.gz") as packed:
        assert [(each.name, each.size) for each in packed.getmembers()] == [("disk.raw", 1 << 30)]
    assert (tmp_path / "podvm.tar.gz").stat().st_size < raw.stat().st_size


def test_google_gets_one_file_with_the_partitions_as_they_were(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "GIB", WHOLE)
    for source, name in ((raw, "a.tar.gz"), (dense(raw, tmp_path / "dense.raw"), "b.tar.gz")):
        formats.google(source, tmp_path / name)
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    grown = unpacked(tmp_path / "a.tar.gz", tmp_path / "disk.raw")
    original = raw.read_bytes()
    partitions, size = gpt.place(WANTED)
    begin, end = gpt.write(WHOLE, IDENTITY, partitions)
    with grown.open("rb") as file:
        assert gpt.read(head := file.read(gpt.MIB)) == (WHOLE, partitions)
        assert head[: len(begin)] == begin
        inside = file.read(size - 2 * gpt.MIB)
        assert inside == original[gpt.MIB : size - gpt.MIB]
        assert not file.read(gpt.MIB).strip(b"\0")  # where the second table was
        file.seek(-len(end), 2)
        assert file.read() == end


@pytest.mark.skipif(shutil.which("sfdisk") is None, reason="sfdisk is not installed (package fdisk)")
def test_gnu_tar_and_sfdisk_find_no_fault_in_what_google_gets(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "GIB", WHOLE)
    formats.google(raw, tmp_path / "podvm.tar.gz")
    subprocess.run(["tar", "-xzf", tmp_path / "podvm.tar.gz", "-C", tmp_path], check=True)
    unpacked(tmp_path / "podvm.tar.gz", tmp_path / "ours.raw")
    compared = subprocess.run(["cmp", tmp_path / "disk.raw", tmp_path / "ours.raw"], capture_output=True, check=False)
    assert compared.returncode == 0, compared.stdout
    verified = subprocess.run(["sfdisk", "--verify", tmp_path / "disk.raw"], capture_output=True, text=True, check=True)
    assert "No errors detected" in verified.stdout
    assert (tmp_path / "disk.raw").stat().st_blocks * 512 < 16 * vhd.MIB  # it came as holes


def test_an_archive_of_many_extents_is_read_back(tmp_path: Path) -> None:
    """More than a header has room for, and more than one record after it."""
    kept = [(each * 1024, each * 1024 + 512) for each in range(60)]
    data = b"".join(bytes([number + 1]) * 512 for number in range(60))
    made = sparse.header("disk.raw", kept, 100_000, 5) + data + sparse.trailer(len(data))
    (tmp_path / "a.tar").write_bytes(made)
    with tarfile.open(tmp_path / "a.tar") as packed:
        inside = packed.extractfile("disk.raw")
        assert inside is not None
        whole = inside.read()
    assert len(whole) == 100_000
    for number, (start, end) in enumerate(kept):
        assert whole[start:end] == bytes([number + 1]) * 512
        assert not whole[end : start + 1024].strip(b"\0")


def test_a_disk_that_others_partitioned_is_not_grown(raw: Path, tmp_path: Path) -> None:
    with raw.open("r+b") as file:
        file.seek(440)
        file.write(b"boot")  # a boot loader's, where we write zeros
    with pytest.raises(FormatFault, match="not written by `peerpods image build`"):
        formats.google(raw, tmp_path / "x.tar.gz")
    assert left(tmp_path) == {"podvm.raw"}


def test_a_size_that_azure_does_not_take_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(3 * vhd.MIB + 512))
    with pytest.raises(FormatFault, match="whole MiB"):
        formats.azure(raw, tmp_path / "y.vhd", digest="d")
    assert left(tmp_path) == {"disk.raw"}


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed (package qemu-utils)")
def test_a_qcow2_is_the_same_twice_and_holds_the_disk(raw: Path, tmp_path: Path) -> None:
    for name in ("a.qcow2", "b.qcow2"):
        formats.qemu(raw, tmp_path / name)
    assert (tmp_path / "a.qcow2").read_bytes() == (tmp_path / "b.qcow2").read_bytes()
    subprocess.run(["qemu-img", "compare", raw, tmp_path / "a.qcow2"], check=True, capture_output=True)


def test_a_missing_qemu_img_is_named_with_its_package(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FormatFault, match="apt-get install qemu-utils"):
        formats.qemu(raw, tmp_path / "a.qcow2")
    assert left(tmp_path) == {"podvm.raw"}


def test_kernel_and_initrd_are_copied_to_another_directory_only(tmp_path: Path) -> None:
    sources = (tmp_path / "vmlinuz", tmp_path / "initrd")
    for each in sources:
        each.write_bytes(each.name.encode() * 1000)
    (tmp_path / "boot").mkdir()
    formats.direct(sources, tmp_path / "boot")
    assert (tmp_path / "boot/initrd").read_bytes() == sources[1].read_bytes()
    with pytest.raises(FormatFault, match="name another directory"):
        formats.direct(sources, tmp_path)


@pytest.mark.parametrize("form", ["vhd", "gcp", "direct"])
def test_without_space_the_error_says_how_much_is_needed_and_nothing_is_left(
    raw: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "podvm.vhd").write_bytes(b"an older one")
    real = Path.open

    class Full:
        """A file on a device that has room for some bytes."""

        def __init__(self, file: Any) -> None:
            self.file, self.room = file, 100_000

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            self.room -= len(data)
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self.file.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def opened(self: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        file = real(self, mode, *more, **named)
        return Full(file) if "w" in mode and self.parent == target else file

    monkeypatch.setattr(Path, "open", opened)
    noise = hashlib.shake_256(b"noise").digest(2 * vhd.MIB)  # which no packing makes smaller
    with real(raw, "r+b") as file:
        file.seek(2 * vhd.MIB)
        file.write(noise)
    make: Callable[[], None] = {
        "vhd": lambda: formats.azure(raw, target / "podvm.vhd", digest="d"),
        "gcp": lambda: formats.google(raw, target / "podvm.tar.gz"),
        "direct": lambda: formats.direct((raw,), target),
    }[form]
    with pytest.raises(FormatFault, match=r"no space for .*: up to 12 MiB are needed and \d+ MiB are free"):
        make()
    assert left(target) == {"podvm.vhd"}
    assert (target / "podvm.vhd").read_bytes() == b"an older one"


def test_progress_ends_at_the_whole(raw: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    formats.azure(raw, tmp_path / "a.vhd", digest="d", progress=lambda what, done, total: told.append((done, total)))
    size = raw.stat().st_size
    assert told[-1] == (size, size)
    assert told == sorted(told)
    assert len(told) > 2
