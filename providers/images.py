"""What uploads of images to all clouds share: a disk in pieces, and a record of those that have arrived.

The record is a text file beside the disk, so that an upload that was cut off sends only what is missing:

    {"cloud": "aws", "digest": "5f0c...", "size": 54525952, "token": "9a41...", "target": "snap-0123..."}
    0 8f1d...        piece 0 has arrived, and this is the SHA-256 of its bytes
    7 03ac...

It is a note, not a proof: of another disk's, another size's or a damaged one nothing is believed, and a piece counts
only where its hash is that of the disk's own. What a forged line claims to have arrived is missed by the cloud, whose
last step counts and hashes the whole.
"""

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from providers.base import ImageFile, Progress
from providers.errors import InvalidSpec, ProviderError

_LINE: Final = re.compile(r"(0|[1-9]\d{0,9}) ([0-9a-f]{64})\n")
_READ: Final = 4 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Pieces:
    """A disk cut into pieces of `length` bytes; the last one is filled up with zeros.

    `hashes`: the SHA-256 of each that is not all zeros, by its number, in order.
    """

    path: Path
    size: int
    length: int
    hashes: Mapping[int, bytes]

    def read(self, index: int) -> bytes:
        """One piece. Raises: InvalidSpec when it is not what it was when the upload began."""
        with _readable(self.path) as file:
            data = os.pread(file, self.length, index * self.length).ljust(self.length, b"\0")
        if hashlib.sha256(data).digest() != self.hashes.get(index):
            raise InvalidSpec(f"{self.path} has changed while it was being uploaded: build it anew, and upload that")
        return data

    def data(self) -> int:
        """Bytes that are to be sent in all."""
        return len(self.hashes) * self.length


def survey(path: Path, length: int, progress: Progress) -> Pieces:
    """Read all of the disk; what its file system never wrote is zero. Raises: InvalidSpec."""
    hashes = {}
    with _readable(path) as file:
        size = os.fstat(file).st_size
        at = 0
        while (at := _next_data(file, at)) < size:
            index = at // length
            data = os.pread(file, length, index * length)
            if data.strip(b"\0"):
                hashes[index] = hashlib.sha256(data.ljust(length, b"\0")).digest()
            at = (index + 1) * length
            progress("reading the disk", min(at, size), size)
    if not hashes:
        raise InvalidSpec(f"{path} is empty: it is no disk image")
    return Pieces(path, size, length, hashes)


@dataclass(slots=True)
class Ledger:
    """The record of one upload. `token` is the upload's own, for calls that shall be done once; `target` is what the
    pieces go to, empty while that is not known.
    """

    file: Path
    cloud: str
    digest: str
    size: int
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    target: str = ""
    arrived: dict[int, str] = field(default_factory=dict)

    @classmethod
    def open(cls, image: ImageFile, cloud: str) -> "Ledger":
        """What was written for this image; a new one, not on disk yet, where there is nothing to be believed.

        Raises: InvalidSpec when there is no such disk.
        """
        file = image.path.with_name(f"{image.path.name}.{cloud}-upload")
        try:
            size = image.path.stat().st_size
        except OSError as error:
            raise InvalidSpec(f"cannot read {image.path}: {error.strerror}") from None
        with contextlib.suppress(OSError, ValueError):
            lines = file.read_text("ascii").splitlines(keepends=True)
            head = json.loads(lines[0])
            known = {"cloud": cloud, "digest": image.digest, "size": size}
            if known.items() <= head.items() and head.keys() == {*known, "token", "target"}:
                told = [found for line in lines[1:] if (found := _LINE.fullmatch(line))]
                arrived = {int(found[1]): found[2] for found in told}
                return cls(file, cloud, image.digest, size, str(head["token"]), str(head["target"]), arrived)
        return cls(file, cloud, image.digest, size)

    def write(self) -> None:
        """Have it all on disk. Raises: InvalidSpec when that cannot be."""
        head = {key: value for key, value in asdict(self).items() if key not in ("file", "arrived")}
        lines = [f"{index} {digest}\n" for index, digest in self.arrived.items()]
        draft = self.file.with_name(f"{self.file.name}.new")
        try:
            draft.touch(0o600)
            draft.write_text(json.dumps(head) + "\n" + "".join(lines), "ascii")
            draft.replace(self.file)
        except OSError as error:
            raise InvalidSpec(f"cannot write {self.file}, which says how far the upload is: {error.strerror}") from None

    def note(self, index: int, digest: str) -> None:
        """A piece has arrived. A line that is lost costs one piece sent again."""
        self.arrived[index] = digest
        with contextlib.suppress(OSError), self.file.open("a", encoding="ascii") as file:
            file.write(f"{index} {digest}\n")

    def missing(self, pieces: Pieces) -> list[int]:
        """What is still to be sent."""
        return [index for index, digest in pieces.hashes.items() if self.arrived.get(index) != digest.hex()]

    def remove(self) -> None:
        """The upload is over."""
        with contextlib.suppress(OSError):
            self.file.unlink()


async def send_missing(
    ledger: Ledger,
    pieces: Pieces,
    put: Callable[[int], Awaitable[None]],
    told: Callable[[int, int], None],
    *,
    length: int,
    workers: int,
) -> None:
    """`put` every piece that has not arrived, `workers` at a time, and note each. The first that cannot be sent ends it.

    `told`: bytes sent, of so many; `length`: of a piece. Raises: ProviderError.
    """
    missing, total = ledger.missing(pieces), pieces.data()
    sent = total - len(missing) * length
    told(sent, total)

    async def send_each(waiting: Iterator[int]) -> None:
        nonlocal sent
        for index in waiting:
            await put(index)
            ledger.note(index, pieces.hashes[index].hex())
            sent += length
            told(sent, total)

    waiting = iter(missing)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(send_each(waiting))
    except* ProviderError as failed:
        raise failed.exceptions[0] from None


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InvalidSpec(f"cannot read {path}: {error.strerror}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _next_data(descriptor: int, at: int) -> int:
    """The first byte from here on that the file system has written; the file's end where there is none."""
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return os.fstat(descriptor).st_size
