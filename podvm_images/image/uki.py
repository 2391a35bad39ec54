"""A unified kernel image: systemd's stub with kernel, initrd and command line as sections of one EFI executable; pure.

The command line names the root's hash, and the stub has the TPM measure every section: so this one file stands for the
whole image. Source: UAPI group, Unified Kernel Image specification; Microsoft, PE format.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final

import pefile

_HEADER: Final = struct.Struct("<8sIIIIIIHHI")
_READ_ONLY_DATA: Final = 0x40000040  # IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ
_CHECKSUM: Final = 64  # in the optional header
_MOST: Final = 1 << 31  # bytes: addresses in a PE file are 32 bits, and firmware maps it as a whole


def unite(stub: bytes, sections: Sequence[tuple[str, bytes]]) -> bytes:
    """`stub` with `sections` appended in this order. Names have at most 8 characters and a leading dot.

    Raises: ValueError when `stub` is no EFI executable, has one of the sections already, or no room for their headers.
    """
    try:
        headers = pefile.PE(data=stub, fast_load=True)
    except pefile.PEFormatError as error:
        raise ValueError(f"the stub is no EFI executable: {error.value}") from error
    _check(headers, sections)
    alignment, page = headers.OPTIONAL_HEADER.FileAlignment, headers.OPTIONAL_HEADER.SectionAlignment
    image = bytearray(stub)
    image += bytes(-len(image) % alignment)
    table = _end_of_table(headers)
    address = max(_up(each.VirtualAddress + each.Misc_VirtualSize, page) for each in headers.sections)
    for name, content in sections:
        size = _up(len(content), alignment)
        header = _HEADER.pack(name.encode(), len(content), address, size, len(image), 0, 0, 0, 0, _READ_ONLY_DATA)
        image[table : table + _HEADER.size] = header
        image += content + bytes(size - len(content))
        table += _HEADER.size
        address = _up(address + max(len(content), 1), page)
    if address > _MOST:
        raise ValueError(f"kernel and initrd need {address} bytes of address space; an EFI executable has {_MOST}")
    _tell(image, headers, len(sections), address)
    return bytes(image)


def _check(headers: Any, sections: Sequence[tuple[str, bytes]]) -> None:
    known = {each.Name.rstrip(b"\0").decode("ascii", "replace") for each in headers.sections}
    for name, content in sections:
        if not 2 <= len(name) <= 8 or not name.startswith("."):
            raise ValueError(f"{name!r} cannot be a section's name: a dot, and up to 7 characters")
        if name in known:
            raise ValueError(f"there is a section {name} already")
        if not content:
            raise ValueError(f"the section {name} is empty")
        known.add(name)
    room = headers.OPTIONAL_HEADER.SizeOfHeaders - _end_of_table(headers)
    if room < len(sections) * _HEADER.size:
        raise ValueError(f"the stub's headers have room for {room // _HEADER.size} sections more, not {len(sections)}")


def _end_of_table(headers: Any) -> int:
    coff = headers.FILE_HEADER
    first = headers.OPTIONAL_HEADER.get_file_offset() + coff.SizeOfOptionalHeader
    return int(first + coff.NumberOfSections * _HEADER.size)


def _tell(image: bytearray, headers: Any, added: int, address: int) -> None:
    """Number of sections and size of the whole; and no checksum, which firmware does not look at."""
    coff, optional = headers.FILE_HEADER.get_file_offset(), headers.OPTIONAL_HEADER.get_file_offset()
    struct.pack_into("<H", image, coff + 2, headers.FILE_HEADER.NumberOfSections + added)
    struct.pack_into("<I", image, optional + 56, address)  # SizeOfImage
    struct.pack_into("<I", image, optional + _CHECKSUM, 0)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
