"""A fixed VHD, as Azure takes it: the disk as it is, and 512 bytes behind it; pure.

Other tools write the time and a random id there. These are the same for the same disk.

Source of the layout: Microsoft, "Virtual Hard Disk Image Format Specification", hard disk footer format. Azure wants the
disk's size in whole MiB.
"""

import struct
import uuid
from typing import Final

MIB: Final = 1 << 20
FOOTER_BYTES: Final = 512
_FIXED: Final = 2
_RESERVED_FEATURE: Final = 2  # always set
_VERSION: Final = 0x00010000
_NO_OFFSET: Final = (1 << 64) - 1  # a fixed disk has no dynamic header
_EPOCH: Final = 946_684_800  # 2000-01-01, in seconds since 1970: whence a VHD counts
# Cylinders, heads, sectors: the largest there is, which tells readers to go by the size instead.
_GEOMETRY: Final = (65535, 16, 255)
_FOOTER: Final = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427s")


def footer(size: int, made_at: int, identity: uuid.UUID) -> bytes:
    """What follows a disk of `size` bytes. `made_at`: seconds since 1970.

    Raises: ValueError for a size that Azure does not take, or a time before 2000.
    """
    if size <= 0 or size % MIB:
        raise ValueError(f"a VHD for Azure has whole MiB; this disk has {size} bytes")
    if made_at < _EPOCH:
        raise ValueError(f"a VHD counts seconds from 2000; {made_at} is before that")
    fields = [
        b"conectix", _RESERVED_FEATURE, _VERSION, _NO_OFFSET, made_at - _EPOCH, b"ppod", _VERSION, b"Wi2k",
        size, size, *_GEOMETRY, _FIXED, 0, identity.bytes, 0, bytes(427),
    ]  # fmt: skip
    unsigned = _FOOTER.pack(*fields)
    fields[14] = ~sum(unsigned) & 0xFFFFFFFF
    return _FOOTER.pack(*fields)
