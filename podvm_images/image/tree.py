"""The root file system as a directory: packages unpacked, trimmed, and what is ours put in.

No package's scripts run and nothing needs root: owners, times and modes are set when it is packed, or here, so that they
do not depend on who builds.
"""

import fnmatch
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from podvm_images.image import elf
from podvm_images.image.faults import BuildFault
from podvm_images.image.tools import call

# Directories that something is mounted on, or that programs expect.
_MOUNT_POINTS: Final = ("dev", "proc", "sys", "run", "tmp", "var", "etc", "opt", "root", "mnt", "usr/local/bin")
_LIBRARIES: Final = ("usr/lib/{triplet}", "usr/lib/{triplet}/systemd", "usr/lib", "usr/lib64")
_CERTIFICATES: Final = "usr/share/ca-certificates"


def unpack(archives: Iterable[tuple[str, Path]], tree: Path, only: Mapping[str, Sequence[str]]) -> None:
    """(package's name, its .deb) into `tree`. Raises: BuildFault for one that is damaged."""
    tree.mkdir(parents=True, exist_ok=True)
    for name, path in archives:
        if name not in only:
            call(["dpkg-deb", "--extract", str(path), str(tree)])
            continue
        part = tree.parent / f"{tree.name}.part"
        call(["dpkg-deb", "--extract", str(path), str(part)])
        _move(part, tree, only[name], name)
        shutil.rmtree(part)


def trim(tree: Path, patterns: Sequence[str]) -> None:
    """Delete what matches one of them (* crosses directories), and the directories that are empty then."""
    matches = re.compile("|".join(fnmatch.translate(each) for each in patterns)).match
    for path in sorted(_below(tree), reverse=True):
        name = str(path.relative_to(tree))
        if path.is_dir() and not path.is_symlink():
            if name.startswith(("usr/", "etc/")) and not any(path.iterdir()):
                path.rmdir()
        elif matches(name):
            path.unlink()


def overlay(source: Path, tree: Path) -> None:
    """Files of ours, as they lie in `source`."""
    for path in sorted(_below(source)):
        target = tree / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif path.suffix != ".pyc":
            put(
                tree,
                str(path.relative_to(source)),
                path.read_bytes(),
                executable=bool(path.stat().st_mode & stat.S_IXUSR),
            )


def put(tree: Path, name: str, content: bytes, *, executable: bool = False) -> None:
    """One file, in place of what is there."""
    target = tree / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.write_bytes(content)
    target.chmod(0o755 if executable else 0o644)


def link(tree: Path, name: str, target: str) -> None:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def settle(tree: Path) -> None:
    """Mount points, and modes that no umask and no set-user-id bit shows in."""
    for name in _MOUNT_POINTS:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for path in _below(tree):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and mode & 0o111):
            path.chmod(0o755)
        elif stat.S_ISREG(mode):
            path.chmod(0o644)
        elif not stat.S_ISLNK(mode):
            raise BuildFault(f"{path.relative_to(tree)} is neither file, directory nor link: it cannot be in an image")
    tree.chmod(0o755)


def trust(tree: Path) -> None:
    """The bundle of certificate authorities, which ca-certificates' script would have made."""
    found = sorted((tree / _CERTIFICATES).rglob("*.crt"))
    put(tree, "etc/ssl/certs/ca-certificates.crt", b"".join(path.read_bytes() for path in found))
    shutil.rmtree(tree / _CERTIFICATES)


def lacking(tree: Path, triplet: str) -> list[str]:
    """Libraries that something in the tree needs and that are not there: "library (needed by one of them)"."""
    folders = [tree / each.format(triplet=triplet) for each in _LIBRARIES]
    there = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}
    wrong: dict[str, str] = {}
    for path in sorted(_below(tree)):
        if path.is_symlink() or not path.is_file():
            continue
        for library in _needed(path, tree):
            name = library.rpartition("/")[2]
            if name not in there and not (path.parent / name).exists():
                wrong.setdefault(name, f"{name} (needed by {path.relative_to(tree)})")
    return list(wrong.values())


def _needed(path: Path, tree: Path) -> list[str]:
    try:
        return elf.needed(path.read_bytes())
    except ValueError as error:
        raise BuildFault(f"{path.relative_to(tree)}: {error}") from None


def _move(source: Path, target: Path, patterns: Sequence[str], package: str) -> None:
    files = [str(path.relative_to(source)) for path in _below(source) if path.is_symlink() or not path.is_dir()]
    for pattern in patterns:
        found = fnmatch.filter(files, pattern)
        if not found:
            raise BuildFault(f"the package {package} has no {pattern}: the recipe ([only]) must name what it has")
        for name in found:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(source / name, target / name)


def _below(tree: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(tree):
        folders.sort()
        yield from (Path(folder, name) for name in sorted([*folders, *files]))
