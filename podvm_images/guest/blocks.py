"""What a disk holds, and whether it provably holds nothing: only that is ever formatted.

Blank is a disk whose beginning, end, every place where a file system keeps a copy of its superblock, and a sample in
between read as zeros, as a cloud's new disk does. One whose superblock alone was lost is not blank: its data remains.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_HEAD: Final = 16 << 20  # bytes: both headers of LUKS, GPT, LVM, the superblocks of btrfs, ext's first copy at 8 MiB
_TAIL: Final = 1 << 20  # GPT's copy, mdraid 1.0
_SAMPLE: Final = 64 << 10
_SAMPLES: Final = 256  # spread evenly: 16 MiB more
_EXT_COPIES: Final = (128 << 20, 384 << 20, 640 << 20)  # with blocks of 4 KiB: groups 1, 3 and 5
_CHUNK: Final = 1 << 20


class Content(StrEnum):
    BLANK = "nothing"
    EXT = "an ext file system"
    XFS = "an xfs file system"
    LUKS = "LUKS-encrypted data"
    OTHER = "data that is no file system known here"


@dataclass(frozen=True, slots=True)
class _Magic:
    at: int
    value: bytes
    content: Content


_MAGICS: Final = (
    _Magic(0, b"LUKS\xba\xbe", Content.LUKS),
    _Magic(0, b"XFSB", Content.XFS),
    _Magic(1024 + 56, b"\x53\xef", Content.EXT),
)


def inspect(device: str) -> Content:
    """What `device` (or a file) holds. Raises OSError: EBUSY where something has mounted it."""
    descriptor = os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    try:
        head = os.pread(descriptor, 4096, 0)
        for magic in _MAGICS:
            if head[magic.at : magic.at + len(magic.value)] == magic.value:
                return magic.content
        return Content.BLANK if _blank(descriptor) else Content.OTHER
    finally:
        os.close(descriptor)


def _blank(descriptor: int) -> bool:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    return size > 0 and all(_zeros(descriptor, start, min(end, size)) for start, end in _places(size))


def _places(size: int) -> Iterator[tuple[int, int]]:
    yield 0, _HEAD
    yield max(0, size - _TAIL), size
    for start in _EXT_COPIES:
        yield start, start + _SAMPLE
    for number in range(_SAMPLES):
        start = size * number // _SAMPLES
        yield start, start + _SAMPLE


def _zeros(descriptor: int, start: int, end: int) -> bool:
    while start < end:
        data = os.pread(descriptor, min(_CHUNK, end - start), start)
        if not data or data.count(0) != len(data):  # an end before its time proves nothing
            return False
        start += len(data)
    return True
