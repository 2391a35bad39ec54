"""dm-verity: a tree of hashes over a file system, whose root stands for all of it; the same for the same bytes.

Source: the kernel's documentation of dm-verity, cryptsetup's of the superblock. SHA-256, blocks of 4096 bytes, version 1
(the salt comes first), as the command line tells the initrd.
"""

import hashlib
import struct
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

BLOCK: Final = 4096
_SUPERBLOCK: Final = struct.Struct("<8sII16s32sIIQH6x256s168x")


@dataclass(frozen=True, slots=True)
class Verity:
    """What the initrd needs to know. `blocks`: of data."""

    root_hash: str
    salt: str
    blocks: int


def write(data: Path, target: Path, salt: bytes, identity: uuid.UUID) -> Verity:
    """The hashes of `data` into `target`: a superblock, then the tree from its top. Raises: OSError, ValueError."""
    size = data.stat().st_size
    if size == 0 or size % BLOCK:
        raise ValueError(f"{data} has {size} bytes: dm-verity covers whole blocks of {BLOCK}")
    with data.open("rb") as file:
        root, levels = tree(_blocks(file), salt)
    with target.open("wb") as file:
        file.write(_superblock(size // BLOCK, salt, identity))
        for level in reversed(levels):
            file.write(level)
    return Verity(root.hex(), salt.hex(), size // BLOCK)


def tree(blocks: Iterable[bytes], salt: bytes) -> tuple[bytes, list[bytes]]:
    """The root's hash, and the levels of hashes below it, the data's first; each is whole blocks."""
    levels: list[bytes] = []
    hashes = _hashes(blocks, salt)
    while len(hashes) > 1:
        level = b"".join(hashes)
        levels.append(level + bytes(-len(level) % BLOCK))
        hashes = _hashes((levels[-1][at : at + BLOCK] for at in range(0, len(levels[-1]), BLOCK)), salt)
    return hashes[0], levels


def _hashes(blocks: Iterable[bytes], salt: bytes) -> list[bytes]:
    start = hashlib.sha256(salt)
    hashes = []
    for block in blocks:
        digest = start.copy()
        digest.update(block)
        hashes.append(digest.digest())
    return hashes


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _superblock(blocks: int, salt: bytes, identity: uuid.UUID) -> bytes:
    fields = _SUPERBLOCK.pack(b"verity\0\0", 1, 1, identity.bytes, b"sha256", BLOCK, BLOCK, blocks, len(salt), salt)
    return fields + bytes(BLOCK - len(fields))
