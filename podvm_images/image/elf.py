"""What an ELF file needs of others: its libraries' names, as the dynamic loader reads them; pure.

Source: System V ABI, chapter 5 (program header, dynamic section). 64 bits, little endian: all that images are made for.
"""

import struct
from collections.abc import Iterator
from typing import Final

_MAGIC: Final = b"\x7fELF\x02\x01"
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_NULL, _NEEDED, _STRINGS = 0, 1, 5
_HEADER: Final = struct.Struct("<32xQ14xHH")  # offset of the program headers, their size, how many
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")
_ENTRY: Final = struct.Struct("<qQ")


def needed(data: bytes) -> list[str]:
    """The libraries, and the loader where there is one; nothing for files that are no ELF. Raises: ValueError."""
    if not data.startswith(_MAGIC):
        return []
    try:
        segments = list(_segments(data))
        found = [_text(data, offset) for kind, offset, _, _ in segments if kind == _INTERPRETER]
        for kind, offset, _, size in segments:
            if kind == _DYNAMIC:
                found += _libraries(data, offset, size, segments)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"it is a damaged ELF file: {error}") from None
    return found


def is_for(data: bytes, machine: int) -> bool:
    """Whether it is a program for this machine (e_machine)."""
    return data.startswith(_MAGIC) and data[18:20] == machine.to_bytes(2, "little")


def _segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(kind, offset in the file, address, size in the file)."""
    start, size, count = _HEADER.unpack_from(data)
    for number in range(count):
        kind, _, offset, address, _, length, _, _ = _PROGRAM.unpack_from(data, start + number * size)
        yield kind, offset, address, length


def _libraries(data: bytes, offset: int, size: int, segments: list[tuple[int, int, int, int]]) -> list[str]:
    entries = []
    for position in range(offset, offset + size, _ENTRY.size):
        tag, value = _ENTRY.unpack_from(data, position)
        if tag == _NULL:
            break
        entries.append((tag, value))
    strings = next((value for tag, value in entries if tag == _STRINGS), 0)
    table = next(
        (at + strings - address for kind, at, address, length in segments
         if kind == _LOAD and address <= strings < address + length), None,
    )  # fmt: skip
    if table is None:
        return []
    return [_text(data, table + value) for tag, value in entries if tag == _NEEDED]


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode("ascii")
