"""Which disk is the one with user-data."""

import pytest

from podvm_images.supervisor.media import kind_of


def iso(label: bytes) -> bytes:
    return bytes(32768) + b"\x01CD001\x01\x00" + b" " * 32 + label.ljust(32)


def fat(label: bytes, *, wide: bool) -> bytes:
    head = bytearray(512)
    at, word, where = (71, b"FAT32   ", 82) if wide else (43, b"FAT16   ", 54)
    head[at : at + 11], head[where : where + 8] = label.ljust(11), word
    return bytes(head)


@pytest.mark.parametrize("label", [b"cidata", b"CIDATA"])
def test_a_disk_is_known_by_its_label_in_either_case(label: bytes) -> None:
    assert kind_of(iso(label)) == "iso9660"
    assert kind_of(fat(label, wide=False)) == kind_of(fat(label, wide=True)) == "vfat"


def test_other_disks_are_left_alone() -> None:
    for head in (b"", bytes(512), bytes(40000), iso(b"cidata2"), iso(b""), fat(b"DATA", wide=True), b"initdata" * 5000):
        assert kind_of(head) == ""
