"""The footer of a fixed VHD, field by field."""

import struct
import uuid

import pytest

from podvm_images.image import vhd

MADE = 1_760_000_000
IDENTITY = uuid.UUID("0e9a6fe0-68f6-408c-bbeb-136054d20445")


def test_the_footer_says_what_a_fixed_disk_must() -> None:
    footer = vhd.footer(52 * vhd.MIB, MADE, IDENTITY)
    assert len(footer) == vhd.FOOTER_BYTES
    assert footer[:8] == b"conectix"
    features, version, data_offset, stamp = struct.unpack(">IIQI", footer[8:28])
    assert (features, version, data_offset) == (2, 0x10000, 0xFFFFFFFFFFFFFFFF)
    assert stamp == MADE - 946_684_800
    original, current = struct.unpack(">QQ", footer[40:56])
    assert original == current == 52 * vhd.MIB
    assert struct.unpack(">I", footer[60:64]) == (2,)  # fixed
    assert footer[68:84] == IDENTITY.bytes
    assert footer[85:] == bytes(427)


def test_the_checksum_is_the_complement_of_the_sum_of_all_other_bytes() -> None:
    footer = vhd.footer(vhd.MIB, MADE, IDENTITY)
    (checksum,) = struct.unpack(">I", footer[64:68])
    assert checksum == ~sum(footer[:64] + footer[68:]) & 0xFFFFFFFF


def test_the_geometry_is_the_one_that_tells_readers_to_go_by_the_size() -> None:
    assert struct.unpack(">HBB", vhd.footer(vhd.MIB, MADE, IDENTITY)[56:60]) == (65535, 16, 255)


@pytest.mark.parametrize("size", [0, -1, vhd.MIB + 512, 511])
def test_a_size_that_azure_does_not_take_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"whole MiB; this disk has {size} bytes"):
        vhd.footer(size, MADE, IDENTITY)


def test_a_time_before_the_formats_own_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="counts seconds from 2000"):
        vhd.footer(vhd.MIB, 0, IDENTITY)
