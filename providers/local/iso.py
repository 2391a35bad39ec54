"""An ISO 9660 image of a few small files, as a cidata disk: byte for byte the same for the same files (pure).

No extensions: names are stored in capitals with a version, as the standard of 1988 has it, and Linux shows
USER-DATA.;1 as user-data.
"""

import struct
from collections.abc import Mapping
from typing import Final

SECTOR: Final = 2048
_SYSTEM: Final = 16  # sectors before the first descriptor
_PATH_LITTLE, _PATH_BIG, _ROOT = 18, 19, 20  # sectors
_NO_DATE: Final = b"0" * 16 + b"\0"
_TIME: Final = bytes((70, 1, 1, 0, 0, 0, 0))  # 1970-01-01


def image(label: str, files: Mapping[str, bytes]) -> bytes:
    """Raises ValueError for names or a number of files that this simple form does not hold."""
    if any(not name or len(name) > 30 or "/" in name for name in files) or len(files) > 20:
        raise ValueError("at most 20 files with names of 1 to 30 characters fit")
    records = [_record(b"\0", _ROOT, SECTOR, directory=True), _record(b"\1", _ROOT, SECTOR, directory=True)]
    contents, sector = b"", _ROOT + 1
    for name, data in sorted((_stored(name), data) for name, data in files.items()):
        records.append(_record(name, sector, len(data)))
        padded = data + b"\0" * (-len(data) % SECTOR)
        contents, sector = contents + padded, sector + len(padded) // SECTOR
    root = b"".join(records)
    return b"".join(
        (
            b"\0" * _SYSTEM * SECTOR,
            _primary(label, sector),
            (b"\xffCD001\x01").ljust(SECTOR, b"\0"),
            struct.pack("<BBIHBB", 1, 0, _ROOT, 1, 0, 0).ljust(SECTOR, b"\0"),
            struct.pack(">BBIHBB", 1, 0, _ROOT, 1, 0, 0).ljust(SECTOR, b"\0"),
            root.ljust(SECTOR, b"\0"),
            contents,
        )
    )


def _stored(name: str) -> bytes:
    stem, dot, suffix = name.upper().partition(".")
    return f"{stem}{dot or '.'}{suffix};1".encode("ascii")


def _record(name: bytes, sector: int, length: int, *, directory: bool = False) -> bytes:
    size = 33 + len(name) + (len(name) + 1) % 2
    body = struct.pack("<BB", size, 0) + _both32(sector) + _both32(length) + _TIME
    body += struct.pack("<BBB", 2 if directory else 0, 0, 0) + _both16(1) + struct.pack("<B", len(name)) + name
    return body.ljust(size, b"\0")


def _primary(label: str, sectors: int) -> bytes:
    def text(value: str, width: int) -> bytes:
        return value.encode("ascii").ljust(width)[:width]

    return b"".join(
        (
            b"\x01CD001\x01\0",
            text("LINUX", 32),
            text(label, 32),
            b"\0" * 8,
            _both32(sectors),
            b"\0" * 32,
            _both16(1),
            _both16(1),
            _both16(SECTOR),
            _both32(10),  # the path table's length
            struct.pack("<II", _PATH_LITTLE, 0),
            struct.pack(">II", _PATH_BIG, 0),
            _record(b"\0", _ROOT, SECTOR, directory=True),
            text("", 128 * 4 + 37 * 3),
            _NO_DATE * 4,
            b"\x01\0",
        )
    ).ljust(SECTOR, b"\0")


def _both16(value: int) -> bytes:
    return struct.pack("<H", value) + struct.pack(">H", value)


def _both32(value: int) -> bytes:
    return struct.pack("<I", value) + struct.pack(">I", value)
