"""The initrd: what finds the root, checks it against the hash in the command line, and starts its init."""

import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from podvm_images.image import cpio, elf, modules
from podvm_images.image.faults import BuildFault

FILES: Final = Path(__file__).parent / "files"
_MODULES: Final = "lib/initmod"  # flat; "order" says in which order
_PROGRAMS: Final = ("usr/bin/busybox", "usr/sbin/dmsetup")
_FOLDERS: Final = ("dev", "new", "proc", "run", "sys", "tmp")


def kernel_modules(kernel: Path, version: str, wanted: Sequence[str]) -> list[tuple[str, str, bytes]]:
    """(name, path below the modules' directory, content) of these and what they need, in the order to load them.

    Raises: BuildFault for one that this kernel does not have.
    """
    base = folder(kernel, version)
    files = {modules.canonical(str(path)): str(path) for path in sorted(base.rglob("*.ko*"))}
    builtin = {modules.canonical(line) for line in (base / "modules.builtin").read_text("ascii").splitlines()}
    try:
        found = modules.closure(wanted, files, builtin, lambda path: Path(path).read_bytes())
    except (ValueError, lzma.LZMAError) as error:
        raise BuildFault(f"kernel {version}: {error}") from None
    return [(name, str(Path(files[name]).relative_to(base)).removesuffix(".xz"), content) for name, content in found]


def folder(kernel: Path, version: str) -> Path:
    """Where an unpacked kernel package has its modules. Raises: BuildFault."""
    found = [path for each in ("usr/lib", "lib") if (path := kernel / each / "modules" / version).is_dir()]
    if not found:
        raise BuildFault(f"the kernel's package has no modules of version {version}")
    return found[0]


def build(tree: Path, triplet: str, loaded: Sequence[tuple[str, str, bytes]], init: bytes) -> bytes:
    """The archive, not compressed. `tree`: the packages that its programs come from. Raises: BuildFault."""
    entries: dict[str, cpio.Entry] = {name: cpio.directory() for name in _FOLDERS}
    entries["init"] = cpio.file(init, 0o755)
    entries["dev/console"] = cpio.character_device(5, 1)
    entries |= _programs(tree, triplet)
    for name, _, content in loaded:
        entries[f"{_MODULES}/{name}.ko"] = cpio.file(content)
    entries[f"{_MODULES}/order"] = cpio.file("".join(f"{name}\n" for name, _, _ in loaded).encode())
    return cpio.archive(entries)


def _programs(tree: Path, triplet: str) -> Mapping[str, cpio.Entry]:
    """Each program in bin/, and the libraries that they need, under the paths that the loader looks at."""
    entries = {}
    waiting = []
    for program in _PROGRAMS:
        content = (tree / program).read_bytes()
        entries[f"bin/{Path(program).name}"] = cpio.file(content, 0o755)
        waiting += elf.needed(content)
    while waiting:
        library = waiting.pop()
        name = library.lstrip("/") if "/" in library else f"lib/{triplet}/{library}"
        if name in entries:
            continue
        path = (tree / "usr/lib" / triplet / Path(library).name).resolve()
        if not path.is_file():
            raise BuildFault(f"the initrd needs the library {library}: its package must be among the recipe's (initrd)")
        content = path.read_bytes()
        entries[name] = cpio.file(content, 0o755)
        waiting += elf.needed(content)
    return entries
