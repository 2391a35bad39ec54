"""Partition tables: written, read back, judged by sfdisk, and refused where damaged."""

import json
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podvm_images.image import gpt
from podvm_images.image.gpt import DiskFault, Partition

DISK = uuid.uuid5(uuid.NAMESPACE_URL, "disk")
WANTED = [
    ("esp", gpt.ESP, uuid.uuid5(DISK, "esp"), 20_000_000),
    ("root", gpt.ROOT["amd64"], uuid.uuid5(DISK, "root"), 30_600_000),
    ("verity", gpt.VERITY["amd64"], uuid.uuid5(DISK, "verity"), 250_000),
]


def disk(partitions: list[Partition], size: int) -> bytearray:
    begin, end = gpt.write(size, DISK, partitions)
    whole = bytearray(size)
    whole[: len(begin)] = begin
    whole[size - len(end) :] = end
    return whole


def test_partitions_lie_one_after_the_other_at_whole_mib() -> None:
    placed, size = gpt.place(WANTED)
    assert [each.start // gpt.MIB for each in placed] == [1, 21, 51]
    assert [each.size // gpt.MIB for each in placed] == [20, 30, 1]
    assert size == 53 * gpt.MIB


@given(st.lists(st.integers(1, 40 * gpt.MIB), min_size=1, max_size=6))
def test_what_is_written_is_read_back(sizes: list[int]) -> None:
    placed, size = gpt.place([(f"p{n}", gpt.ESP, uuid.uuid5(DISK, str(n)), each) for n, each in enumerate(sizes)])
    begin, _ = gpt.write(size, DISK, placed)
    assert gpt.read(begin) == (size, placed)


@pytest.mark.skipif(shutil.which("sfdisk") is None, reason="sfdisk is not installed (package fdisk)")
def test_sfdisk_reads_the_same_and_finds_no_fault(tmp_path: Path) -> None:
    placed, size = gpt.place(WANTED)
    image = tmp_path / "disk.raw"
    image.write_bytes(disk(placed, size))
    verified = subprocess.run(["sfdisk", "--verify", image], capture_output=True, text=True, check=True)
    assert "No errors detected" in verified.stdout
    table = json.loads(subprocess.run(["sfdisk", "--json", image], capture_output=True, check=True).stdout)
    found = table["partitiontable"]
    assert uuid.UUID(found["id"]) == DISK
    assert [
        Partition(
            each["name"], uuid.UUID(each["type"]), uuid.UUID(each["uuid"]), each["start"] * 512, each["size"] * 512
        )
        for each in found["partitions"]
    ] == placed


@pytest.mark.parametrize(
    ("at", "why"),
    [
        (512, "no GUID partition table"),
        (512 + 24, "header is damaged"),
        (1024 + 40, "table is damaged"),
    ],
)
def test_a_damaged_table_is_not_believed(at: int, why: str) -> None:
    placed, size = gpt.place(WANTED)
    begin = bytearray(gpt.write(size, DISK, placed)[0])
    begin[at] ^= 0xFF
    with pytest.raises(DiskFault, match=why):
        gpt.read(bytes(begin))


def test_a_file_that_is_cut_off_is_not_believed() -> None:
    placed, size = gpt.place(WANTED)
    begin = gpt.write(size, DISK, placed)[0]
    for length in (0, 100, 600, 2000):
        with pytest.raises(DiskFault):
            gpt.read(begin[:length])


@pytest.mark.parametrize(
    ("size", "partitions", "why"),
    [
        (10 * gpt.MIB + 1, [], "whole sectors"),
        (4 << 40, [], "2 TiB at most"),
        (10 * gpt.MIB, [Partition("a", gpt.ESP, DISK, gpt.MIB, 9 * gpt.MIB)], "the partitions end at"),
        (10 * gpt.MIB, [Partition("a", gpt.ESP, DISK, 0, gpt.MIB)], "the partition a overlaps"),
        (10 * gpt.MIB, [Partition("a" * 37, gpt.ESP, DISK, gpt.MIB, gpt.MIB)], "longer than 36"),
        (
            10 * gpt.MIB,
            [Partition("a", gpt.ESP, DISK, gpt.MIB, 2 * gpt.MIB), Partition("b", gpt.ESP, DISK, 2 * gpt.MIB, gpt.MIB)],
            "the partition b overlaps",
        ),
    ],
)
def test_what_cannot_be_is_refused(size: int, partitions: list[Partition], why: str) -> None:
    with pytest.raises(DiskFault, match=why):
        gpt.write(size, DISK, partitions)
