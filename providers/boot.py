"""The first steps of an instance, before its program: a shell script, and what the program finds around it."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# Where an instance must not see the host's files, nor the host the instance's.
PRIVATE: Final = ("/run", "/tmp", "/var/tmp", "/var/log", "/media", "/mnt", "/dev/shm")  # noqa: S108
_FIRST_FD: Final = 3
KEPT_LIMIT: Final = 7  # descriptors 3 to 9: POSIX shells redirect single digits only

GUEST: Final = (sys.executable, "-m", "podvm_images.guest", "--agent", "development")


def script(banner: str, kept: Sequence[str]) -> str:
    """For `sh -c <script> <name> <program> ...`.

    Private places become empty tmpfs, but for the `kept` files and folders in them, and the rest read-only, as the
    image of a pod VM is. Then it prints `banner`, if there is one, waits for a line on its input (none comes from a simcloud that
    has died meanwhile), and becomes the program.
    """
    private = [place for place in PRIVATE if Path(place).is_dir() and not Path(place).is_symlink()]
    # What is kept is held open while its place is covered, and bound into the cover.
    opened = {path: fd for fd, path in enumerate(kept, start=_FIRST_FD)}
    lines = [
        "set -e",
        *(f"exec {fd}<{shlex.quote(path)}" for path, fd in opened.items()),
        *(f"mount -n -t tmpfs -o mode={_mode(place):o} instance {place}" for place in private),
        *(line for path, fd in opened.items() for line in _bind(path, fd)),
        "mount -n -t sysfs sysfs /sys 2>/dev/null || :",  # to show its own links; some containers forbid it
        "mount -n -o remount,bind,ro / 2>/dev/null || :",  # and some this
        *([f"echo {shlex.quote(banner)}"] if banner else []),
        "read -r go",
        'exec "$@" </dev/null',
    ]
    return "\n".join(lines)


def kept(program: Sequence[str]) -> list[str]:
    """What the program needs although it lies in a private place: itself, Python, our own code. At most KEPT_LIMIT
    of them fit into a script.
    """
    wanted = {sys.prefix, sys.base_prefix, str(_OURS), *(word for word in program if word.startswith("/"))}
    inside = {path for path in wanted if os.path.exists(path) and any(_is_in(path, place) for place in PRIVATE)}
    return sorted(path for path in inside if not any(_is_in(path, other) for other in inside))


def environment() -> dict[str, str]:
    """An instance's own: nothing of the host's, whose environment may hold credentials."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/run",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(_OURS),  # the default program also runs from a source tree
        "PYTHONUNBUFFERED": "1",  # so that the console shows a crash's last words
        "PYTHONDONTWRITEBYTECODE": "1",  # the root is read-only
    }


_OURS: Final = Path(__file__).resolve().parents[1]


def _bind(path: str, fd: int) -> list[str]:
    where = shlex.quote(path)
    make = f"mkdir -p {where}" if os.path.isdir(path) else f"mkdir -p {shlex.quote(str(Path(path).parent))}; : >{where}"
    # -n everywhere: mount must keep no books in /run. -c: nor resolve the descriptor's link to the covered path.
    return [make, f"mount -n -c --bind /proc/self/fd/{fd} {where}", f"exec {fd}<&-"]


def _mode(place: str) -> int:
    return os.stat(place).st_mode & 0o7777


def _is_in(path: str, place: str) -> bool:
    return Path(path) != Path(place) and Path(path).is_relative_to(place)
