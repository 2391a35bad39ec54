"""A ttrpc peer that sends and receives whatever frames a test says, well-formed or not."""

import asyncio
from pathlib import Path
from typing import Self

from adaptor.errors import StatusError
from adaptor.protos.hypervisor_pb2 import CreateVMRequest
from adaptor.ttrpc import messages
from adaptor.ttrpc.frames import HEADER

SERVICE = "hypervisor.Hypervisor"


def frame(stream_id: int, type: int, payload: bytes, flags: int = 0) -> bytes:
    return HEADER.pack(len(payload), stream_id, type, flags) + payload


def call(stream_id: int, sandbox: str = "a", timeout: float | None = None, flags: int = 0) -> bytes:
    """The frame of a CreateVM call."""
    message = CreateVMRequest(id=sandbox).SerializeToString()
    return frame(stream_id, 1, messages.encode_request(SERVICE, "CreateVM", message, timeout, ()), flags)


class RawPeer:
    """One connection, read frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path) -> Self:
        return cls(*await asyncio.open_unix_connection(path))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def receive(self) -> tuple[int, int, bytes]:
        """(stream id, type, payload) of the next frame."""
        length, stream_id, type, _ = HEADER.unpack(await self.reader.readexactly(HEADER.size))
        return stream_id, type, await self.reader.readexactly(length)

    async def answer(self) -> tuple[int, bytes | StatusError]:
        """(stream id, payload or status) of the next answer."""
        stream_id, type, payload = await self.receive()
        assert type == 2
        try:
            return stream_id, messages.decode_response(payload)
        except StatusError as error:
            return stream_id, error

    async def refusal(self) -> tuple[int, int]:
        """(stream id, status code) of the next answer, which must be a refusal."""
        stream_id, error = await self.answer()
        assert isinstance(error, StatusError)
        return stream_id, error.code

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()  # what was not sent by now is not worth waiting for
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass  # the server may have ended it first: that is some tests' point
