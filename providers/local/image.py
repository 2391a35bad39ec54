"""image.json: what a directory that `peerpods image build` made holds; its form is an interface (pure).

Read strictly: a VM that boots something else than was built must not come about by a slip.
"""

import json
import posixpath
from dataclasses import dataclass
from typing import Any, Final

FILE: Final = "image.json"
VERSION: Final = 1
# The kernel's and Debian's names for the same thing.
ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "arm64"}
_TEXTS: Final = ("architecture", "profile", "kernel_version", "command_line", "root_hash")
_FLAGS: Final = ("release", "development_agent")
_FILES: Final = ("kernel", "initrd", "uki", "disk", "root", "verity")
_TABLES: Final = ("hashes", "programs")
_KEYS: Final = {*_TEXTS, *_FLAGS, *_FILES, *_TABLES, "version"}


class ImageFault(ValueError):
    """A directory that is no image, or none that can be launched; says which file and what is wrong."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a launch needs of it; paths are whole."""

    directory: str
    architecture: str  # as Offering.architecture has it
    command_line: str
    kernel: str
    initrd: str
    disk: str
    development_agent: bool

    @property
    def boots(self) -> tuple[str, ...]:
        """The files that must be there."""
        return (self.kernel, self.initrd, self.disk)


def parse(text: str, directory: str) -> Image:
    """The manifest of `directory`. Raises ImageFault."""
    where = f"{directory}/{FILE}"
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ImageFault(f"{where} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ImageFault(f"{where} is no JSON object")
    if type(found.get("version")) is not int or found["version"] != VERSION:
        raise ImageFault(
            f"{where} is of version {found.get('version')!r}; {VERSION} is understood: build the image anew"
        )
    _check_keys(found, where)
    if found["architecture"] not in ARCHITECTURES:
        raise ImageFault(
            f"{where}: architecture is {found['architecture']!r}; {' or '.join(ARCHITECTURES)} is expected"
        )
    for name in _FILES:
        if not found[name] or posixpath.basename(found[name]) != found[name] or found[name] in (".", ".."):
            raise ImageFault(f"{where}: {name} is {found[name]!r}, which is no name of a file beside it")
    kernel, initrd, disk = (posixpath.join(directory, found[name]) for name in ("kernel", "initrd", "disk"))
    return Image(
        directory,
        ARCHITECTURES[found["architecture"]],
        found["command_line"],
        kernel,
        initrd,
        disk,
        found["development_agent"],
    )


def _check_keys(found: dict[str, Any], where: str) -> None:
    for name in sorted(found.keys() - _KEYS):
        raise ImageFault(f"{where}: {name} is not known here: it is newer than this peerpods")
    for name in sorted(_KEYS - found.keys()):
        raise ImageFault(f"{where}: {name} is missing")
    for names, kind in (((*_TEXTS, *_FILES), str), (_FLAGS, bool), (_TABLES, dict)):
        for name in names:
            if type(found[name]) is not kind:
                raise ImageFault(f"{where}: {name} is {found[name]!r}")
