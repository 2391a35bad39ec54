"""One end of a connection, as a test holds it: whole frames go in, whole frames come out."""

import asyncio
import os
from typing import Final, Self

from adaptor.ttrpc.frames import HEADER

PATIENCE: Final = 20.0  # seconds; only a failing test waits that long


class Wire:
    """Every wait is bounded: TimeoutError when nothing comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: str | os.PathLike[str]) -> Self:
        return cls(*await asyncio.open_unix_connection(path))

    async def send(self, frame: bytes) -> None:
        self.writer.write(frame)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def receive(self) -> bytes:
        """The next whole frame, header included; raises IncompleteReadError where the connection ends before."""
        async with asyncio.timeout(PATIENCE):
            header = await self.reader.readexactly(HEADER.size)
            return header + await self.reader.readexactly(HEADER.unpack(header)[0])

    async def ended(self) -> bool:
        """Wait for what comes next: True for the connection's end, False for anything else."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read(1) == b""

    def close(self) -> None:
        self.writer.close()
