"""What a disk holds, on real file systems in files; and that nothing but a blank one counts as blank."""

import shutil
import subprocess
from pathlib import Path

import pytest

from podvm_images.guest import blocks
from podvm_images.guest.blocks import Content

MIB = 1 << 20
SIZE = 200 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


def write(disk: Path, at: int, data: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_a_new_disk_is_blank(disk: Path) -> None:
    assert blocks.inspect(str(disk)) is Content.BLANK


@pytest.mark.parametrize("kind", ["ext3", "ext4"])
def test_ext_is_known(disk: Path, kind: str) -> None:
    subprocess.run([f"mkfs.{kind}", "-q", str(disk)], check=True)
    assert blocks.inspect(str(disk)) is Content.EXT


@pytest.mark.skipif(not shutil.which("mkfs.xfs"), reason="mkfs.xfs is not installed: `apt-get install xfsprogs`")
def test_xfs_is_known(tmp_path: Path) -> None:
    disk = tmp_path / "xfs"
    with disk.open("wb") as file:
        file.truncate(320 * MIB)
    subprocess.run(["mkfs.xfs", "-q", str(disk)], check=True)
    assert blocks.inspect(str(disk)) is Content.XFS


@pytest.mark.parametrize(
    ("magic", "content"),
    [(b"XFSB", Content.XFS), (b"LUKS\xba\xbe\0\2", Content.LUKS), (b"\xeb\x3c\x90", Content.OTHER)],
)
def test_other_beginnings_are_told_apart(disk: Path, magic: bytes, content: Content) -> None:
    write(disk, 0, magic)
    assert blocks.inspect(str(disk)) is content


@pytest.mark.parametrize("lost", [2 * 1024, 64 * 1024, MIB])
def test_an_ext_file_system_whose_superblock_was_wiped_is_not_blank(disk: Path, lost: int) -> None:
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
    write(disk, 0, bytes(lost))
    assert blocks.inspect(str(disk)) is Content.OTHER


@pytest.mark.parametrize(
    "at", [511, 4096, 16 * 1024, 4 * MIB, 8 * MIB + 1024, 128 * MIB + 1080, SIZE - MIB, SIZE - 512]
)
def test_one_byte_in_any_telling_place_is_enough_to_be_not_blank(disk: Path, at: int) -> None:
    write(disk, at, b"\1")
    assert blocks.inspect(str(disk)) is Content.OTHER


def test_data_anywhere_shows_in_the_samples(disk: Path) -> None:
    write(disk, 90 * MIB, b"\1" * MIB)
    assert blocks.inspect(str(disk)) is Content.OTHER


@pytest.mark.parametrize("size", [1, 512, 3 * MIB])
def test_a_small_disk_is_looked_at_whole(tmp_path: Path, size: int) -> None:
    disk = tmp_path / "small"
    disk.write_bytes(bytes(size))
    assert blocks.inspect(str(disk)) is Content.BLANK
    write(disk, size - 1, b"\1")
    assert blocks.inspect(str(disk)) is Content.OTHER


def test_a_disk_without_a_size_proves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "empty"
    disk.write_bytes(b"")
    assert blocks.inspect(str(disk)) is Content.OTHER


def test_a_disk_that_cannot_be_read_is_an_error_and_not_blank(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        blocks.inspect(str(tmp_path / "missing"))
