"""The first steps of an instance, before its program: a shell script, and what the program finds around it."""

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

# Where an instance must not see the host's files, nor the host the instance's.
PRIVATE: Final = ("/run", "/tmp", "/var/tmp", "/var/log", "/media", "/mnt", "/dev/shm")  # noqa: S108
_FIRST_FD: Final = 3
_LAST_FD: Final = 9  # POSIX shells redirect single digits only

GUEST: Final = (sys.executable, "-m", "podvm_images.guest", "--agent", "development")


def script(banner: str, kept: Sequence[str]) -> str:
    """For `sh -c <script> <name> <program> ...`.

    Private places become empty tmpfs, but for the `kept` files and folders in them, and the rest read-only, as the
    image of a pod VM is. Then it prints `banner`, waits for a line on its input (none comes from a simcloud that
    has died meanwhile), and becomes the program.
    """
    private = [place for place in PRIVATE if Path(place).is_dir() and not Path(place).is_symlink()]
    inside = [path for path in kept if any(_is_in(path, place) for place in private)]
    # What is kept is held open while its place is covered, and bound into the cover.
    opened = {path: fd for fd, path in enumerate(inside, start=_FIRST_FD)}
    lines = [
        "set -e",
        *(f"exec {fd}<{shlex.quote(path)}" for path, fd in opened.items()),
        *(f"mount -n -t tmpfs -o mode={_mode(place):o} simcloud {place}" for place in private),
        *(line for path, fd in opened.items() for line in _bind(path, fd)),
        "mount -n -t sysfs sysfs /sys 2>/dev/null || :",  # to show its own links; some containers forbid it
        "mount -n -o remount,bind,ro / 2>/dev/null || :",  # and some this
        f"echo {shlex.quote(banner)}",
        "read -r go",
        'exec "$@" </dev/null',
    ]
    return "\n".join(lines)


def kept(program: Sequence[str]) -> list[str]:
    """What the program needs of the host although it may lie in a private place: itself, Python, our own code."""
    wanted = [sys.prefix, sys.base_prefix, str(_OURS), *(word for word in program if word.startswith("/"))]
    paths = sorted({path for path in wanted if os.path.exists(path)})
    outer = [p for p in paths if not any(_is_in(p, q) for q in paths if q != p)]
    return [path for path in outer if path not in PRIVATE]


def too_many(paths: Iterable[str]) -> bool:
    """Whether the script could not keep so many apart."""
    inside = [path for path in paths if any(_is_in(path, place) for place in PRIVATE)]
    return len(inside) > _LAST_FD - _FIRST_FD + 1


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


_OURS: Final = Path(__file__).resolve().parents[3]


def _bind(path: str, fd: int) -> list[str]:
    where = shlex.quote(path)
    make = f"mkdir -p {where}" if os.path.isdir(path) else f"mkdir -p {shlex.quote(str(Path(path).parent))}; : >{where}"
    # -n everywhere: mount keeps no books in /run. -c: it must not resolve the descriptor's link to the path that is covered by now.
    return [make, f"mount -n -c --bind /proc/self/fd/{fd} {where}", f"exec {fd}<&-"]


def _mode(place: str) -> int:
    return os.stat(place).st_mode & 0o7777


def _is_in(path: str, place: str) -> bool:
    return Path(path) != Path(place) and Path(path).is_relative_to(place)
