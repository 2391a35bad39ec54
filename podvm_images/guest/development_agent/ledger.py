"""What the agent has made outside its own directory, written down before it is made.

After `kill -9` the next agent reads it and takes everything away. Mounts need no ledger: they are in a mount
namespace of the agent's own and vanish with it.
"""

import itertools
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Ledger:
    """Paths to remove at the end, one per line of `file`. Paths below an entered one are covered by it."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._paths = self._load()

    def add(self, path: str) -> None:
        """Enter `path` unless it, or a parent, is entered; what exists already is not ours, and stays out."""
        if self._covers(path) or os.path.lexists(path):
            return
        self._paths[path] = None
        self._write([path], "a")

    def drop(self, path: str) -> None:
        """Remove `path`, then the directories above it that were made for it and are empty now; only what is ours."""
        if not self._covers(path):
            return
        gone = remove(path)
        for place in _with_parents(path):
            if gone and place in self._paths:
                del self._paths[place]
                self._rewrite()
                return
            try:
                os.rmdir(os.path.dirname(place))
            except OSError:
                return

    def clear(self) -> list[str]:
        """Remove everything entered, the latest first; returns what could not be removed, and stays entered."""
        for path in reversed(list(self._paths)):
            if remove(path):
                del self._paths[path]
        self._rewrite()
        return list(self._paths)

    def _covers(self, path: str) -> bool:
        return any(covering in self._paths for covering in _with_parents(path))

    def _write(self, paths: Iterable[str], mode: str) -> None:
        with open(self._file, mode, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            file.writelines(path.replace("\n", "\0") + "\n" for path in paths)  # no path has a NUL of its own

    def _rewrite(self) -> None:
        if self._paths:
            self._write(self._paths, "w")
        else:
            with suppress(FileNotFoundError):
                os.unlink(self._file)

    def _load(self) -> dict[str, None]:
        try:
            with open(self._file, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                return dict.fromkeys(line.replace("\0", "\n") for line in file.read().split("\n") if line)
        except FileNotFoundError:
            return {}


def remove(path: str) -> bool:
    """Remove a file or a whole tree; False if something of it had to stay.

    What is mounted there is somebody else's data: it stays. Subdirectories are moved up before they are emptied, so
    that no depth of nesting exhausts our stack or our descriptors.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return True
        top = os.open(path, _DIRECTORY)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _empty(top: int) -> None:
    numbers = itertools.count()
    stuck: set[str] = set()
    while names := [name for name in os.listdir(top) if name not in stuck]:
        for name in names:
            try:
                if _is_directory(name, top):
                    _flatten(name, top, numbers)
                    os.rmdir(name, dir_fd=top)
                else:
                    os.unlink(name, dir_fd=top)
            except OSError:
                stuck.add(name)


def _flatten(name: str, top: int, numbers: "itertools.count[int]") -> None:
    """Leave directory `name` of `top` empty: what is in it is unlinked, or moved to `top` if it is a directory."""
    below = os.open(name, _DIRECTORY, dir_fd=top)
    try:
        if os.fstat(below).st_dev != os.fstat(top).st_dev:
            raise OSError("another file system")
        for inner in os.listdir(below):
            if _is_directory(inner, below):
                os.rename(inner, f".removing.{os.getpid()}.{next(numbers)}", src_dir_fd=below, dst_dir_fd=top)
            else:
                os.unlink(inner, dir_fd=below)
    finally:
        os.close(below)


def _is_directory(name: str, folder: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _with_parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 1, -1)]
