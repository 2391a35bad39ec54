"""image.json: what a directory that `peerpods image build` made holds, for whoever boots, measures or uploads it; pure.

The local provider reads the same file without this module (providers know nothing of images): its keys are an interface.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Final

VERSION: Final = 1
FILE: Final = "image.json"
PROFILES: Final = ("min", "systemd")
_TABLES: Final = ("hashes", "programs")


class ManifestFault(ValueError):
    """An image.json that cannot be used."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """File names are relative to the directory; hashes are SHA-256 in hex."""

    architecture: str  # amd64 | arm64
    profile: str
    release: bool  # no shell, no login, a real agent: never with the development agent
    development_agent: bool
    kernel_version: str
    command_line: str  # the UKI's; the same for a direct boot
    root_hash: str  # of dm-verity
    kernel: str = "vmlinuz"
    initrd: str = "initrd"
    uki: str = "podvm.efi"
    disk: str = "podvm.raw"
    root: str = "root.erofs"
    verity: str = "root.verity"
    hashes: tuple[tuple[str, str], ...] = ()  # (file name, hash) of each of them
    programs: tuple[tuple[str, str], ...] = ()  # that the builder gave: (name, "VERSION sha256:HASH")
    version: int = VERSION


def to_json(manifest: Manifest) -> str:
    """The file's text, the same for the same manifest."""
    fields = dataclasses.asdict(manifest) | {name: dict(getattr(manifest, name)) for name in _TABLES}
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def parse(text: str, where: str) -> Manifest:
    """Raises: ManifestFault, which begins with `where`."""
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ManifestFault(f"{where} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ManifestFault(f"{where} is no JSON object")
    if fields.get("version") != VERSION:
        raise ManifestFault(f"{where} is of version {fields.get('version')!r}; {VERSION} is understood: build it anew")
    kinds = {field.name: field.type for field in dataclasses.fields(Manifest)}
    for name, value in fields.items():
        if name not in kinds:
            raise ManifestFault(f"{where}: {name} is not known here")
        wanted = dict if name in _TABLES else kinds[name]
        if type(value) is not wanted:
            raise ManifestFault(f"{where}: {name} is {value!r}")
    missing = sorted(kinds.keys() - fields.keys())
    if missing:
        raise ManifestFault(f"{where}: {', '.join(missing)} missing")
    tables = {name: tuple(sorted((str(key), str(value)) for key, value in fields[name].items())) for name in _TABLES}
    return Manifest(**{**fields, **tables})
