"""Which kernel modules an initrd must load, and in which order: what they need first; pure.

A module says of itself what it needs, in its .modinfo section: `depends=` with names by commas, among strings ended by
zeros. Names are written with `-` or `_`, which mean the same.
"""

import lzma
import re
from collections.abc import Callable, Collection, Mapping, Sequence

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


class ModuleMissing(ValueError):
    """A wanted module, or one that it needs, is not in the kernel's tree."""


def closure(
    wanted: Sequence[str], files: Mapping[str, str], builtin: Collection[str], read: Callable[[str], bytes]
) -> list[tuple[str, bytes]]:
    """(name, content) in the order in which to load them; those that are built in are left out.

    `files`: name as `canonical` makes it -> path; `builtin`: such names; `read`: a path's bytes, decompressed here.
    Raises: ModuleMissing.
    """
    loaded: dict[str, bytes] = {}
    under_way: list[str] = []

    def need(name: str) -> None:
        if name in builtin or name in loaded:
            return
        if name in under_way:
            raise ModuleMissing(f"the kernel modules {' -> '.join([*under_way, name])} need each other")
        if name not in files:
            asked = f", which {under_way[-1]} needs" if under_way else ""
            raise ModuleMissing(
                f"the kernel has no module {name}{asked}: is this a cloud kernel of the locked version?"
            )
        under_way.append(name)
        content = decompressed(files[name], read(files[name]))
        for other in depends(content):
            need(other)
        loaded[under_way.pop()] = content

    for name in wanted:
        need(canonical(name))
    return list(loaded.items())


def depends(content: bytes) -> list[str]:
    """What the module needs, by canonical names."""
    found = _DEPENDS.search(b"\0" + content)
    return [canonical(name) for name in found[1].decode("ascii").split(",") if name] if found else []


def canonical(name: str) -> str:
    """The name of a module, or of its file."""
    return re.sub(r"\.ko(\.xz)?$", "", name.rpartition("/")[2]).replace("-", "_")


def decompressed(path: str, content: bytes) -> bytes:
    """Raises: ValueError for one that is damaged."""
    if not path.endswith(".xz"):
        return content
    try:
        return lzma.decompress(content)
    except lzma.LZMAError as error:
        raise ValueError(f"the kernel module {path} is damaged: {error}") from error
