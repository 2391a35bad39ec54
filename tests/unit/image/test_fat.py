"""FAT file systems: read as mtools wrote them, and refused where damaged."""

import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podvm_images.image.fat import Fat, FatFault
from tests.unit.image.disks import SECTOR, fat16

PATH = "EFI/BOOT/BOOTX64.EFI"
CONTENT = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(100))
TOOLS = shutil.which("mcopy") and (shutil.which("mkfs.fat") or shutil.which("mkfs.fat", path="/usr/sbin:/sbin"))
GOOD = fat16(CONTENT)


def test_a_file_is_put_together_in_its_tables_order() -> None:
    assert Fat.parse(GOOD).read(PATH) == CONTENT
    assert Fat.parse(GOOD).read(PATH.lower()) == CONTENT
    assert Fat.parse(fat16(b"")).read(PATH) == b""


@pytest.mark.skipif(not TOOLS, reason="mcopy or mkfs.fat is not installed (packages mtools, dosfstools)")
@pytest.mark.parametrize(("width", "mib", "per_cluster"), [(16, 16, 1), (16, 40, 4), (32, 40, 1)])
def test_what_mtools_writes_is_read(tmp_path: Path, width: int, mib: int, per_cluster: int) -> None:
    volume, source = tmp_path / "esp", tmp_path / "content"
    with volume.open("wb") as file:
        file.truncate(mib << 20)
    content = CONTENT * 700  # 2.2 MB
    source.write_bytes(content)
    subprocess.run(
        [str(TOOLS), "-F", str(width), "-s", str(per_cluster), "-n", "ESP", volume], check=True, capture_output=True
    )

    def mtools(*words: object) -> None:
        subprocess.run([words[0], "-i", volume, *words[1:]], check=True)  # type: ignore[list-item]

    mtools("mmd", "::/EFI", "::/EFI/BOOT")
    mtools("mcopy", source, "::/gone")
    mtools("mcopy", source, "::/EFI/BOOT/a long name that comes first.efi")
    mtools("mdel", "::/gone")
    mtools("mcopy", source, f"::/{PATH}")
    assert Fat.parse(volume.read_bytes()).read(PATH) == content


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("EFI/BOOT/BOOTAA64.EFI", "there is no file EFI/BOOT/BOOTAA64.EFI"),
        ("EFI/BOOT", "/EFI/BOOT in it is no file"),
        (f"{PATH}/more", "is no directory"),
    ],
)
def test_a_path_that_is_not_there_is_said_not_to_be(path: str, why: str) -> None:
    with pytest.raises(FatFault, match=why):
        Fat.parse(GOOD).read(path)


def changed(at: int, form: str, value: int) -> bytes:
    data = bytearray(GOOD)
    struct.pack_into(form, data, at, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no FAT file system"),
        (bytes(len(GOOD)), "no FAT file system"),
        (changed(11, "<H", 3), "first sector is damaged"),
        (changed(13, "<B", 0), "first sector is damaged"),
        (changed(19, "<H", 100), "FAT12"),
        (changed(22, "<H", 1), "smaller than its clusters need"),
        (GOOD[:-1], "truncated"),
        (changed(SECTOR + 2 * 10, "<H", 60000), "leads to cluster 60000"),  # 10 is one of the file's clusters
        (changed(SECTOR + 2 * 10, "<H", 10), "leads to cluster 10, which cannot be"),  # a loop
        (changed(SECTOR + 2 * 10, "<H", 0xFFFF), "3200 bytes by its directory"),
    ],
)
def test_a_damaged_file_system_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(FatFault, match=why):
        Fat.parse(data).read(PATH)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, SECTOR * 40), st.binary(min_size=1, max_size=8))
def test_whatever_is_overwritten_the_answer_is_the_file_or_a_fault(at: int, garbage: bytes) -> None:
    data = bytearray(GOOD)
    data[at : at + len(garbage)] = garbage
    try:
        assert isinstance(Fat.parse(bytes(data)).read(PATH), bytes)
    except FatFault:
        pass
