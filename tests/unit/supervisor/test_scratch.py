"""Where there is room for images on the VM's disk."""

from pathlib import Path

import pytest

from podvm_images.supervisor import scratch
from podvm_images.supervisor.scratch import MIB, NoRoom

SECTORS = MIB // 512


def disk(tmp_path: Path, name: str, size: int, *, read_only: bool = False) -> Path:
    """A disk in sysfs whose third and last partition ends at 80 MiB, nearly; `size` in MiB."""
    devices, blocks = tmp_path / "devices" / name, tmp_path / "block"
    blocks.mkdir(exist_ok=True)
    for number, start, length in ((1, 1, 40), (2, 50, 10), (3, 60, 20)):
        part = devices / f"{name}{number}"
        part.mkdir(parents=True)
        for key, value in (("partition", number), ("start", start * SECTORS), ("size", length * SECTORS - 7)):
            (part / key).write_text(f"{value}\n")
        (part / "uevent").write_text("PARTNAME=podvm-root\n" if number == 2 else "PARTNAME=other\n")
        (blocks / f"{name}{number}").symlink_to(part)
    (devices / "size").write_text(f"{size * SECTORS}\n")
    (devices / "ro").write_text(f"{int(read_only)}\n")
    return blocks


def test_the_room_begins_behind_the_last_partition_and_ends_before_the_tables_copy(tmp_path: Path) -> None:
    room = scratch.find(disk(tmp_path, "vda", 1000))
    assert (room.disk, room.start, room.size, room.number) == ("vda", 80 * MIB, (1000 - 80 - 1) * MIB, 4)


@pytest.mark.parametrize(("size", "why"), [(81, "0 MiB behind its last partition"), (100, "19 MiB behind")])
def test_a_disk_no_larger_than_its_image_has_none_and_what_to_do_is_said(tmp_path: Path, size: int, why: str) -> None:
    with pytest.raises(NoRoom, match=why) as told:
        scratch.find(disk(tmp_path, "vda", size))
    assert "larger than its image" in str(told.value)


def test_a_read_only_disk_has_none(tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match="vda is read-only"):
        scratch.find(disk(tmp_path, "vda", 1000, read_only=True))


def test_a_root_that_is_on_no_disk_has_none(tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match="on no disk"):
        scratch.find(tmp_path)
