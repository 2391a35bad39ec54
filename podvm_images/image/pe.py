"""An EFI executable: its sections, and the hash by which firmware measures it; pure.

pefile reads the headers. Authenticode's hash leaves out what signing changes: the checksum, the certificate table's
entry, and the table itself. Source: Microsoft, "Windows Authenticode Portable Executable Signature Format".
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Self

import pefile

_CHECKSUM_OFFSET = 64  # in the optional header, PE32 and PE32+ alike
_SECURITY = 4  # the certificate table's entry of the data directory


class Executable:
    """`Executable.parse(bytes)`."""

    def __init__(self, data: bytes, headers: Any) -> None:
        self._data = data
        self._headers = headers

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises: ValueError when `data` is no PE file, or a part of it lies outside."""
        try:
            headers = pefile.PE(data=data, fast_load=True)
        except pefile.PEFormatError as error:
            raise ValueError(f"it is no EFI executable: {error.value}") from error
        for section in headers.sections:
            if section.PointerToRawData + section.SizeOfRawData > len(data):
                raise ValueError(f"its section {_name(section)} reaches beyond its end: it is truncated")
        return cls(data, headers)

    def sections(self) -> Mapping[str, bytes]:
        """Name -> content, without the padding up to the file's alignment. A name that comes twice counts once, first."""
        found: dict[str, bytes] = {}
        for section in self._headers.sections:
            length = min(section.Misc_VirtualSize, section.SizeOfRawData)
            found.setdefault(_name(section), self._data[section.PointerToRawData :][:length])
        return found

    def authenticode(self, algorithm: str = "sha256") -> bytes:
        """What firmware extends PCR 4 with, in the bank of `algorithm` (hashlib's name)."""
        optional = self._headers.OPTIONAL_HEADER
        checksum = optional.get_file_offset() + _CHECKSUM_OFFSET
        digest = hashlib.new(algorithm, self._data[:checksum])
        certificates = 0
        position = checksum + 4
        if len(optional.DATA_DIRECTORY) > _SECURITY:
            entry = optional.DATA_DIRECTORY[_SECURITY]
            certificates, where = entry.Size, entry.get_file_offset()
            digest.update(self._data[position:where])
            position = where + 8
        digest.update(self._data[position : optional.SizeOfHeaders])
        hashed = optional.SizeOfHeaders
        for section in sorted(self._headers.sections, key=lambda each: each.PointerToRawData):
            digest.update(self._data[section.PointerToRawData :][: section.SizeOfRawData])
            hashed += section.SizeOfRawData
        digest.update(self._data[hashed : max(hashed, len(self._data) - certificates)])
        return digest.digest()


def _name(section: Any) -> str:
    return str(section.Name.rstrip(b"\0").decode("ascii", "replace"))
