"""Files in a FAT16 or FAT32 file system, read without mounting it; pure.

Short names only: what firmware boots from an EFI partition (EFI/BOOT/BOOTX64.EFI) has them.
Source: Microsoft, "FAT: General Overview of On-Disk Format".
"""

import struct
from collections.abc import Iterator
from typing import Final, Self

_BOOT: Final = struct.Struct("<11xHBHBHHxHHHII I4xI")
_ENTRY: Final = struct.Struct("<11sB8xH4xHI")
_FEWEST_16: Final = 4085  # clusters: below is FAT12, which no EFI partition of ours is
_LONG_NAME: Final = 0x0F
_VOLUME: Final = 0x08
_DIRECTORY: Final = 0x10
_FREED: Final = 0xE5


class FatFault(ValueError):
    """A file system that is none, is damaged, or has no such file."""


class Fat:
    """`Fat.parse(bytes)` of the whole partition."""

    def __init__(self, data: bytes, cluster: int, table: memoryview, begin: int, root: bytes | int) -> None:
        self._data = data
        self._cluster = cluster  # bytes
        self._table = table  # cluster -> the next one
        self._begin = begin  # of cluster 2, in bytes
        self._root = root  # FAT16: the directory's bytes; FAT32: its first cluster

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises: FatFault."""
        if len(data) < 512 or data[510:512] != b"\x55\xaa":
            raise FatFault("it holds no FAT file system")
        sector, per_cluster, reserved, tables, entries, small, short, _, _, _, large, long, root = _BOOT.unpack_from(
            data
        )
        if sector not in (512, 1024, 2048, 4096) or per_cluster not in (1, 2, 4, 8, 16, 32, 64, 128) or not tables:
            raise FatFault("it holds no FAT file system, or its first sector is damaged")
        size, whole = short or long, small or large
        directory = (reserved + tables * size) * sector
        begin = directory + -(-entries * 32 // sector) * sector
        clusters = (whole * sector - begin) // (per_cluster * sector)
        wide = short == 0
        if not reserved or whole * sector > len(data) or clusters <= 0:
            raise FatFault(
                f"its FAT file system says {whole * sector} bytes, and {len(data)} are there: it is truncated"
            )
        if not wide and clusters < _FEWEST_16:
            raise FatFault("its file system is FAT12; an EFI partition has FAT16 or FAT32")
        width = 4 if wide else 2
        if size * sector < (clusters + 2) * width:
            raise FatFault("its file system's table is smaller than its clusters need: it is damaged")
        table = memoryview(data)[reserved * sector :][: (clusters + 2) * width].cast("I" if wide else "H")
        return cls(data, per_cluster * sector, table, begin, root if wide else data[directory:begin])

    def read(self, path: str) -> bytes:
        """The file's content; `path`: "EFI/BOOT/BOOTX64.EFI". Raises: FatFault."""
        content, walked = self._root if isinstance(self._root, bytes) else self._chain(self._root, "/"), ""
        parts = path.split("/")
        for part in parts:
            walked = f"{walked}/{part}"
            found = next((entry for entry in _entries(content) if entry[0] == part.upper()), None)
            if found is None:
                raise FatFault(f"there is no file {path} in it")
            _, attributes, first, length = found
            if bool(attributes & _DIRECTORY) != (walked.count("/") < len(parts)):
                raise FatFault(f"{walked} in it is no {'file' if attributes & _DIRECTORY else 'directory'}")
            content = self._chain(first, walked)
        if length > len(content):
            raise FatFault(f"{path} in it has {length} bytes by its directory and {len(content)} by its table: damaged")
        return content[:length]

    def _chain(self, cluster: int, what: str) -> bytes:
        """All of a file's clusters. A file of no bytes has none."""
        parts: list[bytes] = []
        last = 0x0FFFFFF8 if self._table.itemsize == 4 else 0xFFF8
        while cluster and cluster < last:
            if not 2 <= cluster < len(self._table) or len(parts) >= len(self._table):
                raise FatFault(f"{what} in it leads to cluster {cluster}, which cannot be: its table is damaged")
            at = self._begin + (cluster - 2) * self._cluster
            parts.append(self._data[at : at + self._cluster])
            cluster = self._table[cluster] & 0x0FFFFFFF
        return b"".join(parts)


def _entries(directory: bytes) -> Iterator[tuple[str, int, int, int]]:
    """(name, attributes, first cluster, bytes) of each file and directory."""
    for at in range(0, len(directory) - 31, 32):
        name, attributes, high, low, length = _ENTRY.unpack_from(directory, at)
        if name[0] == 0:
            return
        if name[0] == _FREED or attributes & _LONG_NAME == _LONG_NAME or attributes & _VOLUME:
            continue
        stem, extension = name[:8].decode("latin-1").rstrip(), name[8:].decode("latin-1").rstrip()
        yield (f"{stem}.{extension}" if extension else stem), attributes, high << 16 | low, length
