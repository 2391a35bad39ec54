"""Programs that make an image, out of the lock like the image itself: the same bytes whatever the host has installed."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from podvm_images.image.faults import BuildFault
from podvm_images.image.recipe import Recipe

_LOADERS: Final = {"amd64": "ld-linux-x86-64.so.2", "arm64": "ld-linux-aarch64.so.1"}
_UMASK: Final = 0o022  # mkfs.erofs writes it into the image: an inode of its own has the mode of a temporary file
_PATHS: Final = ("usr/bin", "usr/sbin")


class Tools:
    """Programs of a tree that is not the host's, run through the tree's own loader and libraries. No chroot, no root."""

    def __init__(self, tree: Path, recipe: Recipe) -> None:
        self.tree = tree
        self._libraries = tree / "usr/lib" / recipe.triplet
        self._loader = self._libraries / _LOADERS[recipe.architecture]
        self._gconv = self._libraries / "gconv"

    def run(
        self,
        name: str,
        *words: str,
        argv0: str = "",
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> str:
        """What it prints. Raises: BuildFault with its words."""
        program = next((path for each in _PATHS if (path := self.tree / each / name).exists()), None)
        if program is None:
            raise BuildFault(f"the packages of this lock bring no program {name}: the recipe must name its package")
        command = [str(self._loader), "--argv0", argv0 or name, "--library-path", str(self._libraries), str(program)]
        return call([*command, *words], {"GCONV_PATH": str(self._gconv), **(environment or {})}, cwd, argv0 or name)


def call(
    command: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path | None = None, name: str = ""
) -> str:
    """Run a program whose output depends on nothing of its caller's. Raises: BuildFault with its words."""
    name = name or command[0]
    clean = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/nonexistent"}
    try:
        done = subprocess.run(
            command,
            env={**clean, **(environment or {})},
            cwd=cwd,
            umask=_UMASK,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise BuildFault(f"{name} cannot be run: {error.strerror}") from None
    if done.returncode:
        words = " ".join(f"{done.stderr} {done.stdout}".split())[-1200:]
        if "No space left" in words:
            raise BuildFault(f"no space left in {cwd or 'the work directory'}: free some, or name another (--work DIR)")
        raise BuildFault(f"{name} ended with status {done.returncode}: {words}")
    return done.stdout
