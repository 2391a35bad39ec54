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
_PER_BLOCK: Final = BLOCK // 32
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
        levels = tree(_blocks(file), salt)
    top = hashlib.sha256(salt + levels[-1]).hexdigest()
    with target.open("wb") as file:
        file.write(_superblock(size // BLOCK, salt, identity))
        for level in reversed(levels):
            file.write(level)
    return Verity(top, salt.hex(), size // BLOCK)


def tree(blocks: Iterable[bytes], salt: bytes) -> list[bytes]:
    """Levels of hashes, the data's first; the last one is a single block, whose hash is the root's."""
    levels = [_level(blocks, salt)]
    while len(levels[-1]) > BLOCK:
        below = levels[-1]
        levels.append(_level((below[at : at + BLOCK] for at in range(0, len(below), BLOCK)), salt))
    return levels


def _level(blocks: Iterable[bytes], salt: bytes) -> bytes:
    start = hashlib.sha256(salt)
    hashes = []
    for block in blocks:
        digest = start.copy()
        digest.update(block)
        hashes.append(digest.digest())
    level = b"".join(hashes)
    return level + bytes(-len(level) % BLOCK)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _superblock(blocks: int, salt: bytes, identity: uuid.UUID) -> bytes:
    fields = _SUPERBLOCK.pack(b"verity\0\0", 1, 1, identity.bytes, b"sha256", BLOCK, BLOCK, blocks, len(salt), salt)
    return fields + bytes(BLOCK - len(fields))
