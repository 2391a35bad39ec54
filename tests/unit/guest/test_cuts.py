"""Links between worker and guest are cut anywhere, again and again, under bulk traffic: every byte arrives once.

test: worker ── TLS ── test: network that cuts ── guest's service ── agent.sock ── test: agent
"""

import asyncio
import contextlib
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from adaptor import names
from adaptor.pki import NodePki
from adaptor.protos.ttrpc_pb2 import Request, Response
from adaptor.ttrpc.frames import MessageType
from tests.unit.guest.peers import DEADLINE, Dial, Streams, Worker, client, guest, pod, raw_frame, until

SEEDS = 300 if os.environ.get("PEERPODS_NIGHTLY") else 12
BULK = 1 << 20  # bytes, and a bit more, each way
CUTS = 14  # after them the network is sound
# Handshake, Bind and Resume pass within this many bytes of a connection.
GREETING = 4000


@dataclass
class Fate:
    """How a connection ends: after so many bytes from the worker, or from the guest, whichever comes first."""

    up: int
    down: int
    how: str  # "reset", "close", or "silence": later the guest gets what the worker had sent all the same


class Network:
    """A TCP proxy in front of the guest. `silenced` is set while a connection is dead and nobody can see it."""

    def __init__(self, port: int, fates: Iterator[Fate]) -> None:
        self.port = 0
        self.silenced = asyncio.Event()
        self.cuts = 0
        self._guest = port
        self._fates = fates
        self._next_link = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Network"]:
        connections: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await self._serve(reader, writer, next(self._fates, None))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections)

    def link_has_come(self) -> None:
        """The worker has a sound link again: what an older one held back reaches the guest only now."""
        self.silenced.clear()
        self._next_link.set()
        self._next_link = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fate: Fate | None) -> None:
        guest_reader, guest_writer = await asyncio.open_connection("127.0.0.1", self._guest)
        up = asyncio.ensure_future(_copy(reader, guest_writer, fate.up if fate else None))
        down = asyncio.ensure_future(_copy(guest_reader, writer, fate.down if fate else None))
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
            self.cuts += 1
            if fate and fate.how == "silence":
                later = self._next_link
                await _cancelled(up, down)
                self.silenced.set()
                await later.wait()
                await _copy(reader, guest_writer, None)
        finally:
            await _cancelled(up, down)
            for each in (writer, guest_writer):
                if fate and fate.how == "reset":
                    connection = each.get_extra_info("socket")
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    each.transport.abort()
                else:
                    each.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None) -> None:
    """Until `most` bytes have passed, or either side ends."""
    left = most if most is not None else 1 << 62
    with contextlib.suppress(ConnectionError):
        while left and (data := await reader.read(min(left, 1 << 16))):
            left -= len(data)
            writer.write(data)
            await writer.drain()


async def _cancelled(*tasks: "asyncio.Future[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Chatterer:
    """An agent that, once spoken to, says all that it has to say whatever it hears."""

    def __init__(self, says: bytes, rng: random.Random) -> None:
        self.says = says
        self.heard = bytearray()
        self.connections = 0
        self._rng = rng
        self._done = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.heard += await reader.read(1 << 16)
        talking = asyncio.ensure_future(self._talk(writer))
        while data := await reader.read(1 << 16):
            self.heard += data
        await talking
        writer.close()
        self._done.set()

    async def hung_up_on(self) -> None:
        async with asyncio.timeout(DEADLINE):
            await self._done.wait()

    async def _talk(self, writer: asyncio.StreamWriter) -> None:
        for piece in chopped(self.says, self._rng):
            writer.write(piece)
            await writer.drain()


def chopped(data: bytes, rng: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = int(2 ** rng.uniform(0, 18))
        yield data[at : at + size]
        at += size


def frames(kind: MessageType, rng: random.Random) -> bytes:
    """Agent calls, or answers, of all sizes."""
    out = bytearray()
    stream = 1
    while len(out) < BULK:
        payload = rng.randbytes(int(2 ** rng.uniform(0, 19)))
        if kind is MessageType.REQUEST:
            message = Request(service=names.AGENT_SERVICE, method="WriteStdin", payload=payload).SerializeToString()
        else:
            message = Response(payload=payload).SerializeToString()
        out += raw_frame(stream, kind, message)
        stream += 2
    return bytes(out)


def fates(rng: random.Random) -> Iterator[Fate]:
    for _ in range(CUTS):
        most = GREETING if rng.random() < 0.4 else BULK // 2
        up, down = (int(most ** rng.random()) for _ in range(2))
        if rng.random() < 0.5:
            up, down = rng.choice([(up, 1 << 40), (1 << 40, down)])
        yield Fate(up, down, rng.choice(["reset", "close", "silence"]))


class Talker:
    """The worker, which dials again whenever a link is of no use any more."""

    def __init__(self, network: Network, pki: NodePki, says: bytes, rng: random.Random) -> None:
        self.streams = Streams()
        self.resumes = 0
        self._bound = False
        self._network = network
        self._context = client(pki.worker)
        self._says = says
        self._rng = rng

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._network.silenced.clear()
            silenced = asyncio.ensure_future(self._network.silenced.wait())
            attempt = asyncio.ensure_future(self._attempt())
            try:
                await asyncio.wait([attempt, silenced], return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _cancelled(attempt, silenced)
            error = None if attempt.cancelled() else attempt.exception()
            if error and (isinstance(error, TimeoutError) or not isinstance(error, OSError)):
                raise error

    async def _attempt(self) -> None:
        worker = await Worker.dial(self._network.port, self._context)
        try:
            if self._bound:
                await worker.resume(self.streams)
                self.resumes += 1
            else:
                await worker.bind(pod())
                worker.bound(self.streams)
                self._bound = True
            self._network.link_has_come()
            await self._talk(worker)
        finally:
            worker.close()

    async def _talk(self, worker: Worker) -> None:
        saying = asyncio.ensure_future(self._say(worker))
        try:
            while await worker.receive():
                if self._rng.random() < 0.2:
                    await worker.send(b"")  # tells what has arrived
        finally:
            await _cancelled(saying)

    async def _say(self, worker: Worker) -> None:
        for piece in chopped(self._says[len(self.streams.sent) :], self._rng):
            await worker.send(piece)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_every_byte_arrives_once_and_in_order_however_often_the_link_is_cut(
    tmp_path: Path, pki: NodePki, dial: Dial, seed: int
) -> None:
    rng = random.Random(seed)
    calls, answers = frames(MessageType.REQUEST, rng), frames(MessageType.RESPONSE, rng)
    agent = Chatterer(answers, rng)
    async with AsyncExitStack() as stack:
        server = await asyncio.start_unix_server(agent.serve, tmp_path / "agent.sock")
        stack.callback(server.close)
        world = await stack.enter_async_context(guest(tmp_path, pki.ca_pem, agent=False))
        network = await stack.enter_async_context(Network(world.port, fates(rng)).running())
        talker = Talker(network, pki, calls, rng)
        streams = await until_all_is_heard(talker, agent, len(calls), len(answers))
        assert streams.received == answers
        worker = await dial(world)
        await worker.resume(streams)
        worker.say_goodbye()
        await agent.hung_up_on()
    assert agent.heard == calls
    assert agent.connections == 1
    assert talker.resumes > 0, "this seed cuts nothing"


async def until_all_is_heard(talker: Talker, agent: Chatterer, calls: int, answers: int) -> Streams:
    running = asyncio.ensure_future(talker.run())

    def done() -> bool:
        if running.done():
            running.result()
        return len(talker.streams.received) >= answers and len(agent.heard) >= calls

    try:
        await until(done)
    finally:
        await _cancelled(running)
    return talker.streams
