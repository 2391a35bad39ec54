"""EFI executables made by hand: the smallest that have sections, a checksum and a certificate table."""

import struct
from collections.abc import Sequence

ALIGNMENT = 512
_HEADERS = 1024


def executable(sections: Sequence[tuple[str, bytes]], *, checksum: int = 0, signature: bytes = b"") -> bytes:
    """PE32+ for x86-64 with `sections` in this order, each padded to ALIGNMENT; `signature` behind everything."""
    body, table, position, address = b"", b"", _HEADERS, 0x1000
    for name, content in sections:
        padded = content + bytes(-len(content) % ALIGNMENT)
        table += struct.pack(
            "<8sIIIIIIHHI", name.encode(), len(content), address, len(padded), position, 0, 0, 0, 0, 0x40000040
        )
        body += padded
        position += len(padded)
        address += -(-max(len(content), 1) // 0x1000) * 0x1000
    where = (position, len(signature)) if signature else (0, 0)
    directory = b"".join(struct.pack("<II", *(where if index == 4 else (0, 0))) for index in range(16))
    optional = struct.pack(
        "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
        0x20B, 0, 0, 0, 0, 0, 0, 0x1000, 0, 0x1000, ALIGNMENT, 0, 0, 0, 0, 0, 0, 0, address, _HEADERS, checksum, 10, 0,
        0, 0, 0, 0, 0, 16,
    )  # fmt: skip
    optional += directory
    coff = struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, len(optional), 0x22)
    dos = b"MZ" + bytes(58) + struct.pack("<I", 64)
    headers = dos + b"PE\0\0" + coff + optional + table
    assert len(headers) <= _HEADERS
    return headers + bytes(_HEADERS - len(headers)) + body + signature
