"""What a TPM says of an image after it booted, computed beforehand; pure.

    PCR 4    who was started: the boot manager's word, a separator, the UKI, the kernel in it (Authenticode hashes)
    PCR 11   what systemd's stub found in the UKI: for each section its name, then its bytes
    PCR 12   what was put in the stub's way from outside: nothing, so it stays zero

PCR 0, 2 and 7 are the firmware's and the owner's keys', PCR 9 follows from the same inputs as 11: none of them is here.
Sources: TCG PC Client Platform Firmware Profile (PCR 4); systemd's documentation of TPM2 PCR measurements (11, 12).
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from podvm_images.image.pe import Executable

# Those that the stub measures, in its order.
SECTIONS: Final = (
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile",
    ".dtbauto", ".hwids", ".efifw",
)  # fmt: skip
_BOOT: Final = b"Calling EFI Application from Boot Option"
_SEPARATOR: Final = b"\0\0\0\0"
_RVPS_VERSION: Final = "0.1.0"


@dataclass(frozen=True, slots=True)
class Measurements:
    """PCRs of one bank, hex in lower case."""

    pcr4: str
    pcr11: str
    pcr12: str


def measure(uki: Executable, bank: str = "sha256") -> Measurements:
    """What a machine's TPM holds in `bank` (hashlib's name) that booted this UKI from its boot option.

    Raises: ValueError when it is no UKI, or its kernel no executable.
    """
    sections = uki.sections()
    missing = [name for name in (".linux", ".cmdline") if name not in sections]
    if missing:
        raise ValueError(f"it has no section {' and no '.join(missing)}: it is no unified kernel image")
    kernel = Executable.parse(sections[".linux"])
    contents = [part for name in SECTIONS if name in sections for part in _entry(name, sections)]
    events = _digests([_BOOT, _SEPARATOR], bank)
    return Measurements(
        pcr4=_extended([*events, uki.authenticode(bank), kernel.authenticode(bank)], bank),
        pcr11=_extended(_digests(contents, bank), bank),
        pcr12=_extended([], bank),
    )


def rvps_message(values: Mapping[str, Any]) -> bytes:
    """The message with which Trustee's reference value provider registers `values` (type "sample": not signed)."""
    payload = json.dumps({name: values[name] for name in sorted(values)}, separators=(",", ":")).encode()
    message = {"version": _RVPS_VERSION, "type": "sample", "payload": base64.b64encode(payload).decode()}
    return json.dumps(message, separators=(",", ":")).encode()


def _entry(name: str, sections: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    return name.encode() + b"\0", sections[name]


def _digests(events: Iterable[bytes], bank: str) -> list[bytes]:
    return [hashlib.new(bank, event).digest() for event in events]


def _extended(digests: Iterable[bytes], bank: str) -> str:
    register = bytes(hashlib.new(bank).digest_size)
    for digest in digests:
        register = hashlib.new(bank, register + digest).digest()
    return register.hex()
