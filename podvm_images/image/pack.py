"""From a finished tree to a disk: file system, hashes, UKI, partitions. No loop device, no mount, no root.

Every id and every time follows from the lock, so that the same tree gives the same bytes.
"""

import hashlib
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from podvm_images.image import gpt, uki, verity
from podvm_images.image.gpt import MIB
from podvm_images.image.recipe import Recipe
from podvm_images.image.tools import Tools
from podvm_images.image.verity import Verity

_NAMES: Final = uuid.UUID("7f3b2a4e-1c5d-4b8a-9a53-0d6c1f0e2b97")  # whence all ids of an image follow
_BOOT: Final = {"amd64": "BOOTX64.EFI", "arm64": "BOOTAA64.EFI"}
_FAT_ROOM: Final = 2 * MIB  # for the tables of the EFI partition's file system
_FAT32: Final = 256 * MIB  # from here on FAT16 has no clusters of a sane size


def identity(name: str) -> uuid.UUID:
    return uuid.uuid5(_NAMES, name)


def root(tree: Path, target: Path, tools: Tools, epoch: int) -> None:
    """The read-only file system: everything in it is root's and of the same age. Raises: BuildFault."""
    words = [
        "-zlz4hc,12",
        "-C65536",
        "-Eztailpacking,fragments",
        "-x-1",
        "--all-root",
        "--quiet",
        f"-T{epoch}",
        f"-U{identity('root')}",
    ]
    tools.run("mkfs.erofs", *words, str(target), str(tree))


def hashes(data: Path, target: Path, epoch: int) -> Verity:
    """dm-verity's tree for `data`. The salt is fixed: it guards against nothing here, for the root is no secret."""
    salt = hashlib.sha256(f"podvm {epoch}".encode()).digest()
    return verity.write(data, target, salt, identity("verity"))


def command_line(recipe: Recipe, found: Verity) -> str:
    """The kernel's, in the UKI and in a direct boot alike."""
    return f"{recipe.command_line} podvm.roothash={found.root_hash} podvm.salt={found.salt} podvm.blocks={found.blocks}"


def unified(stub: bytes, kernel: bytes, initrd: bytes, texts: Mapping[str, str]) -> bytes:
    """The UKI; `texts`: of its sections .osrel, .cmdline and .uname. Raises: ValueError."""
    sections = [(name, texts[name].encode()) for name in (".osrel", ".cmdline", ".uname")]
    return uki.unite(stub, [*sections, (".linux", kernel), (".initrd", initrd)])


def boot_partition(executable: Path, target: Path, recipe: Recipe, tools: Tools, epoch: int) -> None:
    """A FAT file system with the UKI where firmware looks for one. Raises: BuildFault."""
    size = -(-(executable.stat().st_size + _FAT_ROOM) // MIB) * MIB
    with target.open("wb") as file:
        file.truncate(size)
    environment = {"SOURCE_DATE_EPOCH": str(epoch), "MTOOLS_SKIP_CHECK": "1"}
    width = "32" if size >= _FAT32 else "16"
    serial = f"{identity('esp').time_low:08x}"
    words = ["--invariant", "-i", serial, "-n", "ESP", "-F", width, str(target)]
    tools.run("mkfs.fat", *words, environment=environment)
    os.utime(executable, (epoch, epoch))
    tools.run("mtools", "-i", str(target), "::/EFI", "::/EFI/BOOT", argv0="mmd", environment=environment)
    place = f"::/EFI/BOOT/{_BOOT[recipe.architecture]}"
    tools.run("mtools", "-m", "-i", str(target), str(executable), place, argv0="mcopy", environment=environment)


def disk(parts: Sequence[tuple[str, uuid.UUID, Path]], target: Path) -> None:
    """A disk of these partitions: name, kind, content."""
    wanted = [(name, kind, identity(name), path.stat().st_size) for name, kind, path in parts]
    partitions, size = gpt.place(wanted)
    head, tail = gpt.write(size, identity("disk"), partitions)
    with target.open("wb") as file:
        file.write(head)
        for partition, (_, _, path) in zip(partitions, parts, strict=True):
            file.seek(partition.start)
            with path.open("rb") as content:
                while chunk := content.read(MIB):
                    file.write(chunk)
        file.truncate(size)
        file.seek(size - len(tail))
        file.write(tail)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()
