"""The image that `peerpods demo --vmm qemu` boots: the given one, the cache's, or one built now."""

import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from adaptor.errors import AdaptorError

_FILE: Final = "image.json"
_TOOLS: Final = {"qemu-system-x86_64": "qemu-system-x86"}


class NoImage(AdaptorError):
    """There is nothing to boot, or nothing to boot it with; says what to do."""


def ready(given: str) -> str:
    """The image's directory. Builds one where there is none. Raises NoImage."""
    if missing := [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]:
        raise NoImage(f"a real VM needs {' and '.join(missing)}; as root: apt-get install {' '.join(missing)}")
    place = Path(given) if given else cached()
    if (place / _FILE).exists():
        return str(place.resolve())
    if given:
        raise NoImage(f"there is no image in {given} (no {_FILE}); make one with: peerpods image build --out {given}")
    print(f"There is no pod VM image in {place} yet: building one, once (a minute or two).", flush=True)
    began = time.monotonic()
    built = subprocess.run([sys.executable, "-m", "adaptor", "image", "build", "--out", str(place)], check=False)
    if built.returncode != 0:
        raise NoImage("the pod VM image could not be built: see above")
    print(f"Built in {time.monotonic() - began:.0f} s.\n", flush=True)
    return str(place)


def cached() -> Path:
    """Where `peerpods image build` leaves a debug image of this machine's architecture."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    architecture = {"aarch64": "arm64"}.get(platform.machine(), "amd64")
    return cache / "peerpods" / "image" / f"min-{architecture}"
