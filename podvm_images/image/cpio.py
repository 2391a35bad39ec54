"""An initrd: a cpio archive ("newc"), the same bytes for the same files; pure.

Source: the kernel's documentation of the initramfs buffer format.
"""

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

_TRAILER: Final = "TRAILER!!!"
_MOST: Final = 0xFFFFFFFF  # bytes of one file: eight hex digits hold its size


@dataclass(frozen=True, slots=True)
class Entry:
    """`mode` with its type bits; `content` is a link's target, and empty for directories and devices."""

    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)  # major, minor


def file(content: bytes, permissions: int = 0o644) -> Entry:
    return Entry(stat.S_IFREG | permissions, content)


def directory(permissions: int = 0o755) -> Entry:
    return Entry(stat.S_IFDIR | permissions)


def link(target: str) -> Entry:
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def character_device(major: int, minor: int, permissions: int = 0o600) -> Entry:
    return Entry(stat.S_IFCHR | permissions, device=(major, minor))


def archive(entries: Mapping[str, Entry]) -> bytes:
    """Of paths without a leading slash; missing parents are added. Owner root, time 0, sorted by path.

    Raises: ValueError for a path that is absolute, leaves the archive or lies below a file.
    """
    whole = _with_parents(entries)
    records = [_record(number, path, whole[path]) for number, path in enumerate(sorted(whole), start=1)]
    return b"".join([*records, _record(0, _TRAILER, Entry(0))])


def _with_parents(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    whole = dict(entries)
    for path in entries:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or str(PurePosixPath(path)) != path:
            raise ValueError(f"{path!r} cannot be a path in an initrd: it must be relative, and as short as it can be")
        for parent in _parents(path):
            if not stat.S_ISDIR(whole.setdefault(parent, directory()).mode):
                raise ValueError(f"{path!r} lies below {parent!r}, which is no directory")
    return whole


def _parents(path: str) -> Iterator[str]:
    return (str(each) for each in PurePosixPath(path).parents if str(each) != ".")


def _record(number: int, path: str, entry: Entry) -> bytes:
    if len(entry.content) > _MOST:
        raise ValueError(f"{path!r} has {len(entry.content)} bytes; an initrd holds files of {_MOST} at most")
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
