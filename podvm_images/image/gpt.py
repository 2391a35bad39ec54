"""A disk's partition table: written so that the same partitions give the same bytes, and read back; pure.

Source: UEFI specification, chapter 5 (GUID Partition Table). Sectors of 512 bytes; partitions lie at whole MiB.
"""

import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SECTOR: Final = 512
MIB: Final = 1 << 20
ESP: Final = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
# Discoverable Partitions Specification: root and its dm-verity hashes, by architecture.
ROOT: Final = {
    "amd64": uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    "arm64": uuid.UUID("b921b045-1df0-41c3-af44-4c6f280d3fae"),
}
VERITY: Final = {
    "amd64": uuid.UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"),
    "arm64": uuid.UUID("df3300ce-d69f-4c92-978c-9bfb0f38d820"),
}
_ENTRIES: Final = 128
_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
_TABLE_SECTORS: Final = _ENTRIES * _ENTRY.size // SECTOR
_HEADER: Final = struct.Struct("<8sIIIIQQQQ16sQIII")
_REVISION: Final = 0x00010000
_SIGNATURE: Final = b"EFI PART"
_MOST_SECTORS: Final = 0xFFFFFFFF


class DiskFault(ValueError):
    """A disk whose partition table is missing or damaged, or one that cannot be made."""


@dataclass(frozen=True, slots=True)
class Partition:
    """`start` and `size` in bytes; `identity` is the partition's own id."""

    name: str
    kind: uuid.UUID
    identity: uuid.UUID
    start: int
    size: int


def place(wanted: Sequence[tuple[str, uuid.UUID, uuid.UUID, int]]) -> tuple[list[Partition], int]:
    """Partitions for (name, kind, identity, bytes of content), one after the other, and the size of the disk."""
    start, placed = MIB, []
    for name, kind, identity, content in wanted:
        size = max(_up(content), MIB)
        placed.append(Partition(name, kind, identity, start, size))
        start += size
    return placed, start + MIB


def write(disk_size: int, identity: uuid.UUID, partitions: Sequence[Partition]) -> tuple[bytes, bytes]:
    """What stands at the disk's beginning and at its end. Raises: DiskFault for what cannot be."""
    _check(disk_size, partitions)
    table = b"".join(_entry(each) for each in partitions)
    table += bytes(_ENTRIES * _ENTRY.size - len(table))
    last = disk_size // SECTOR - 1
    first = _header(1, last, last, identity, 2, table)
    backup = _header(last, 1, last, identity, last - _TABLE_SECTORS, table)
    return _protective(last) + first + table, table + backup


def read(head: bytes) -> tuple[int, list[Partition]]:
    """(size of the disk, its partitions), from the first MiB of it. Raises: DiskFault."""
    header = head[SECTOR : 2 * SECTOR]
    if len(header) < SECTOR or header[:8] != _SIGNATURE:
        raise DiskFault("there is no GUID partition table: this is no disk image of ours")
    fields = _HEADER.unpack(header[: _HEADER.size])
    length, checksum, backup = fields[2], fields[3], fields[6]
    where, count, size, table_checksum = fields[10:14]
    if length != _HEADER.size or zlib.crc32(header[:16] + bytes(4) + header[20:length]) != checksum:
        raise DiskFault("the partition table's header is damaged (its checksum is wrong)")
    table = head[where * SECTOR :][: count * size]
    if size != _ENTRY.size or len(table) < count * size or zlib.crc32(table) != table_checksum:
        raise DiskFault("the partition table is damaged (its checksum is wrong)")
    return (backup + 1) * SECTOR, [each for n in range(count) if (each := _parsed(table[n * size :][:size]))]


def grown(head: bytes, size: int) -> tuple[bytes, bytes]:
    """What stands at the beginning and the end of a disk of ours when it is made so large; `head`: its first MiB.

    Raises: DiskFault, also for a table that others wrote: what it has more than ours would be lost.
    """
    own_size, partitions = read(head)
    identity = uuid.UUID(bytes_le=_HEADER.unpack(head[SECTOR : SECTOR + _HEADER.size])[9])
    begin, _ = write(own_size, identity, partitions)
    if head[: len(begin)] != begin or any(head[len(begin) : MIB]):
        raise DiskFault("the partition table was not written by `peerpods image build`: it cannot be moved")
    return write(size, identity, partitions)


def _check(disk_size: int, partitions: Sequence[Partition]) -> None:
    if disk_size % SECTOR or disk_size // SECTOR > _MOST_SECTORS:
        raise DiskFault(f"a disk of {disk_size} bytes cannot be: it must be whole sectors, and 2 TiB at most")
    if len(partitions) > _ENTRIES:
        raise DiskFault(f"a disk has room for {_ENTRIES} partitions, not {len(partitions)}")
    position = MIB
    for each in partitions:
        if each.start % MIB or each.size % MIB or each.size <= 0 or each.start < position:
            raise DiskFault(f"the partition {each.name} overlaps another, or does not lie at whole MiB")
        if len(each.name.encode("utf-16-le")) > 72:
            raise DiskFault(f"the partition's name {each.name!r} is longer than 36 characters")
        position = each.start + each.size
    if position > disk_size - (_TABLE_SECTORS + 1) * SECTOR:
        raise DiskFault(f"the partitions end at {position}, and the disk has {disk_size} bytes with its second table")


def _entry(each: Partition) -> bytes:
    first, last = each.start // SECTOR, (each.start + each.size) // SECTOR - 1
    return _ENTRY.pack(each.kind.bytes_le, each.identity.bytes_le, first, last, 0, each.name.encode("utf-16-le"))


def _parsed(entry: bytes) -> Partition | None:
    kind, identity, first, last, _, name = _ENTRY.unpack(entry)
    if not any(kind):
        return None
    return Partition(
        name.decode("utf-16-le", "replace").rstrip("\0"),
        uuid.UUID(bytes_le=kind),
        uuid.UUID(bytes_le=identity),
        first * SECTOR,
        (last + 1 - first) * SECTOR,
    )


def _header(own: int, other: int, last: int, identity: uuid.UUID, table_at: int, table: bytes) -> bytes:
    usable = 2 + _TABLE_SECTORS, last - _TABLE_SECTORS - 1
    fields = [
        _SIGNATURE, _REVISION, _HEADER.size, 0, 0, own, other, *usable, identity.bytes_le, table_at, _ENTRIES,
        _ENTRY.size, zlib.crc32(table),
    ]  # fmt: skip
    fields[3] = zlib.crc32(_HEADER.pack(*fields))
    return _HEADER.pack(*fields) + bytes(SECTOR - _HEADER.size)


def _protective(last: int) -> bytes:
    """The old kind of table, which says that all of the disk is taken."""
    entry = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, min(last, _MOST_SECTORS))
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


def _up(size: int) -> int:
    return -(-size // MIB) * MIB
