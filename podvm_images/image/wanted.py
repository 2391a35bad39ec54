"""What a build is asked for, and what can be known to be wrong with it before anything is fetched."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from podvm_images.image import elf, packages
from podvm_images.image.faults import BuildFault
from podvm_images.image.lock import Lock
from podvm_images.image.recipe import Recipe

AGENT: Final = "kata-agent"
SLOTS: Final = (AGENT, "attestation-agent", "confidential-data-hub", "api-server-rest")
_MACHINES: Final = {"amd64": 62, "arm64": 183}  # e_machine
# Programs of the host, and the packages that bring them. All others come with the lock.
_HOST: Final = {"apt-get": "apt", "apt-cache": "apt", "apt-config": "apt", "dpkg-deb": "dpkg"}


@dataclass(frozen=True, slots=True)
class Slot:
    """A program that the builder gives: `sha256` is what he says its hash is."""

    name: str
    path: Path
    sha256: str
    version: str

    def check(self, recipe: Recipe) -> None:
        """Raises: BuildFault when it is another file, or no program for this machine."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise BuildFault(f"--{self.name} {self.path} cannot be read: {error.strerror}") from None
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256.lower():
            raise BuildFault(f"--{self.name} {self.path} has the SHA-256 {found}, and not {self.sha256} as was said")
        if not elf.is_for(content, _MACHINES[recipe.architecture]):
            raise BuildFault(f"--{self.name} {self.path} is no program for {recipe.architecture}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """`slots`: programs given by the builder; what is no release has a shell."""

    recipe: Recipe
    lock: Lock
    profile: str
    release: bool
    slots: tuple[Slot, ...] = ()

    @property
    def development_agent(self) -> bool:
        return all(slot.name != AGENT for slot in self.slots)

    def check(self) -> None:
        """Raises: BuildFault."""
        check_host(self.recipe)
        if self.lock.suite != self.recipe.suite or self.lock.architecture != self.recipe.architecture:
            raise BuildFault(
                f"the lock is for {self.lock.suite} on {self.lock.architecture}, the recipe for {self.recipe.suite} on "
                f"{self.recipe.architecture}: take the lock anew (peerpods image lock)"
            )
        if self.release and self.development_agent:
            raise BuildFault(
                "an image with the development agent is never a release: it attests nothing. Give it a kata-agent "
                "(--kata-agent FILE --kata-agent-sha256 HASH --kata-agent-version TEXT), or leave --release out"
            )
        packages.locked_kernel(self.lock)
        packages.room(self.recipe, self.lock, *self.recipe.packages)
        for slot in self.slots:
            slot.check(self.recipe)


def check_host(recipe: Recipe) -> None:
    """Whether this machine can build it. Raises: BuildFault with everything that is missing, at once."""
    missing = sorted({package for program, package in _HOST.items() if shutil.which(program) is None})
    if missing:
        raise BuildFault(
            f"this host lacks {', '.join(missing)} (Debian's packages of that name): an image is built on Debian or one of "
            "its kin, in a container for example; it needs no privileges there"
        )
    if os.uname().machine != recipe.machine:
        raise BuildFault(
            f"an image for {recipe.architecture} is built on a machine of that kind, for its own Python compiles what is in "
            f"it; this one is {os.uname().machine}"
        )
