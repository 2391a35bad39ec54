"""Disks to be uploaded, and somebody who watches how that goes."""

import asyncio
import hashlib
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from providers.base import ImageFile


@dataclass
class Watched:
    """A Progress that remembers."""

    told: list[tuple[str, int, int]] = field(default_factory=list)

    def __call__(self, what: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        self.told.append((what, done, total))

    def of(self, what: str) -> list[tuple[int, int]]:
        return [(done, total) for each, done, total in self.told if each == what]


def disk(path: Path, size: int, filled: tuple[tuple[int, int], ...]) -> ImageFile:
    """A file of `size` bytes with noise at these (offset, length), and nothing written elsewhere."""
    noise = random.Random(7)
    with path.open("wb") as file:
        file.truncate(size)
        for offset, length in filled:
            os.pwrite(file.fileno(), noise.randbytes(length), offset)
    return ImageFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), "peerpods-podvm-test")


async def in_haste(seconds: float) -> None:
    """A sleep for those who wait for a simulated cloud only."""
    await asyncio.sleep(min(seconds, 0.02))
