"""A large file that is mostly zeros: which parts of it are not, and how a tar archive says so.

Source of the archive's form: GNU tar manual, "Storing Sparse Files", old GNU format: what `tar --format=oldgnu -S`
writes, and what Compute Engine's documentation asks for.
"""

import errno
import os
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, Final

Extent = tuple[int, int]  # first byte, byte behind the last

_UNIT: Final = 64 << 10  # bytes; whole ones are looked at
_RECORD: Final = 512
_IN_HEADER, _IN_RECORD = 4, 21  # how many extents each has room for
_MAP, _MORE, _REAL = 386, 482, 483  # where they stand in a header
_CHECKSUM: Final = 148
_MOST: Final = 8**11  # bytes that eleven octal digits can say


def extents(file: IO[bytes], start: int, end: int) -> Iterator[Extent]:
    """Where `file` is not zero between these, by whole units from `start` on: the same however it lies on its disk."""
    open_at = open_until = -1
    for position in _written(file.fileno(), start, end):
        data = os.pread(file.fileno(), min(_UNIT, end - position), position)
        zero = not data.strip(b"\0")
        if open_at >= 0 and (zero or position > open_until):
            yield open_at, open_until
            open_at = -1
        if not zero:
            open_at, open_until = (position if open_at < 0 else open_at), position + len(data)
    if open_at >= 0:
        yield open_at, open_until


def header(name: str, kept: Sequence[Extent], size: int, made_at: int) -> bytes:
    """What stands before the bytes of `kept`. Raises: ValueError for a file of 8 GiB and more."""
    if size >= _MOST:
        raise ValueError(f"{name} has {size} bytes; this kind of archive holds less than 8 GiB")
    stored = sum(end - start for start, end in kept)
    # As GNU tar does: the map's end says how long the file is, where it ends in zeros.
    listed = [(start, end - start) for start, end in kept]
    if not kept or kept[-1][1] < size:
        listed.append((size, 0))
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode, member.type = stored, made_at, 0o644, tarfile.GNUTYPE_SPARSE
    first = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    first[345:_MAP] = bytes(_MAP - 345)
    first[_MAP:_MORE] = _packed(listed[:_IN_HEADER], _IN_HEADER)
    rest = listed[_IN_HEADER:]
    first[_MORE] = bool(rest)
    first[_REAL : _REAL + 12] = _octal(size)
    first[_CHECKSUM : _CHECKSUM + 8] = b" " * 8
    first[_CHECKSUM : _CHECKSUM + 8] = b"%06o\0 " % sum(first)
    made = bytes(first)
    while rest:
        here, rest = rest[:_IN_RECORD], rest[_IN_RECORD:]
        made += (_packed(here, _IN_RECORD) + bytes([bool(rest)])).ljust(_RECORD, b"\0")
    return made


def trailer(stored: int) -> bytes:
    """What stands behind them: the record filled up, and the archive's end."""
    return bytes(-stored % _RECORD + 2 * _RECORD)


def _packed(listed: Sequence[tuple[int, int]], room: int) -> bytes:
    return b"".join(_octal(number) for pair in listed for number in pair).ljust(24 * room, b"\0")


def _octal(number: int) -> bytes:
    return b"%011o\0" % number


def _written(descriptor: int, start: int, end: int) -> Iterator[int]:
    """Where each unit begins that the file system has written something of."""
    position = start
    while position < end:
        try:
            found = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data from here on
                raise
            return
        position = max(position, start + (found - start) // _UNIT * _UNIT)
        if position >= end:
            return
        yield position
        position += _UNIT
