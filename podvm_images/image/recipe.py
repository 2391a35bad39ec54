"""A profile's recipe: which packages, wheels and kernel modules by name, and what of them is left out.

The names are all that goes in: what a package depends on is named too, or is not there. A build checks that no library
is missing, and a lock prints what the dependencies would have added.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from podvm_images.image.faults import BuildFault

BASE: Final = "min"  # the profile that the others add to
# Rooms of packages: where in the image they go.
ROOMS: Final = ("root", "development", "debug", "initrd", "tools", "stub")
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """`packages`: room -> names; `kernel`: the package that depends on the newest kernel; paths relative to the root."""

    suite: str
    architecture: str
    kernel: str
    command_line: str
    packages: Mapping[str, tuple[str, ...]]
    wheels: tuple[str, ...]  # as pip's requirements
    only: Mapping[str, tuple[str, ...]]  # package -> the only files of it that go in
    trim: tuple[str, ...]  # patterns of what does not go in
    links: Mapping[str, str]  # path -> target
    initrd_modules: tuple[str, ...]
    root_modules: tuple[str, ...]

    @property
    def machine(self) -> str:
        """The architecture's name in kernels and wheels."""
        return _MACHINES[self.architecture]

    @property
    def triplet(self) -> str:
        """The architecture's name in library paths."""
        return f"{self.machine}-linux-gnu"


def parse(text: str, architecture: str, where: str, base: str = "") -> Recipe:
    """`base`: the text of the recipe that this one adds to, if it does. Raises: BuildFault naming what is missing."""
    try:
        document: dict[str, Any] = tomllib.loads(_filled(text, architecture))
        if base:
            document = _added(tomllib.loads(_filled(base, architecture)), document)
        return Recipe(
            suite=document["suite"],
            architecture=architecture,
            kernel=document["kernel"],
            command_line=document["command_line"],
            packages={room: tuple(document["packages"][room]) for room in ROOMS},
            wheels=tuple(document["wheels"]),
            only={name: tuple(paths) for name, paths in document["only"].items()},
            trim=tuple(each for each in document["trim"] if each not in document.get("keep", ())),
            links=document.get("links", {}),
            initrd_modules=tuple(document["modules"]["initrd"]),
            root_modules=tuple(document["modules"]["root"]),
        )
    except tomllib.TOMLDecodeError as error:
        raise BuildFault(f"{where} is not TOML: {error}") from None
    except KeyError as error:
        raise BuildFault(f"{where} has no {error.args[0]!r}") from None


def load(profile: str, architecture: str) -> Recipe:
    """Ours of this name, beside this module. Raises: BuildFault, OSError."""
    room = Path(__file__).parent
    text = (room / f"{profile}.toml").read_text("utf-8")
    base = (room / f"{BASE}.toml").read_text("utf-8") if profile != BASE else ""
    return parse(text, architecture, f"{profile}.toml", base)


def _added(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Lists become longer, tables have both's keys, and anything else is replaced."""
    both = {**base, **more}
    for key in base.keys() & more.keys():
        if isinstance(more[key], list):
            both[key] = [*base[key], *more[key]]
        elif isinstance(more[key], dict):
            both[key] = _added(base[key], more[key])
    return both


def _filled(text: str, architecture: str) -> str:
    """The architecture as packages' names spell it: "amd64", and "x86-64" where it is a part of a GNU triplet."""
    return text.replace("{architecture}", architecture).replace("{machine}", _MACHINES[architecture].replace("_", "-"))
