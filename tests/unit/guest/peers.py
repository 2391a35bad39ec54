"""Who the guest talks to: a worker on TLS, and an agent on a unix socket."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from struct import Struct
from typing import Any, Final, Self, TypeVar

from google.protobuf.message import Message

from adaptor import names
from adaptor.errors import StatusError
from adaptor.pki import Identity
from adaptor.protos.guest_pb2 import (
    BindRequest,
    BindResponse,
    HelloRequest,
    HelloResponse,
    ResumeRequest,
    ResumeResponse,
)
from adaptor.relay import tls
from adaptor.ttrpc.connection import ClientConnection, ResponseReceived, ServerConnection
from adaptor.ttrpc.frames import HEADER, Frame, encode
from podvm_images.guest import identity
from podvm_images.guest.agent import Agent
from podvm_images.guest.control import Control
from podvm_images.guest.network import Network
from podvm_images.guest.programs import Programs
from podvm_images.guest.service import PATIENCE, Service
from podvm_images.guest.volumes import Volumes

M = TypeVar("M", bound=Message)

TOKEN = bytes(range(32))
SANDBOX = "f00d" * 16
# No test waits that long for what should come: it is the difference between a failing test and a hanging one.
DEADLINE = 20.0


def pod(**fields: Any) -> BindRequest:
    given: dict[str, Any] = {"sandbox_id": SANDBOX, "pod_namespace": "shop", "pod_name": "web-0"}
    return BindRequest(**given | fields)


class Streams:
    """A bound VM's two byte streams as its worker keeps them. Unlike relay/records.py it keeps everything, for ever."""

    HEAD: Final = Struct(">II")

    def __init__(self) -> None:
        self.calls = ClientConnection()
        self.sent = bytearray()
        self.received = bytearray()
        self.confirmed = 0  # of `sent`, what the guest says it has taken
        self._untold = 0  # of `received`, what the guest has not been told
        self._link = bytearray()  # what came of the link and is no whole head
        self._left = 0  # bytes to come of the record under way

    def join(self, taken: int) -> bytes:
        """Go on over a new link with a guest that has taken so much; returns what to send first."""
        assert self.confirmed <= taken <= len(self.sent), (self.confirmed, taken, len(self.sent))
        self.confirmed, self._untold, self._left = taken, 0, 0
        self._link.clear()
        rest = self.sent[taken:]
        return self.HEAD.pack(0, len(rest)) + rest if rest else b""

    def pack(self, data: bytes) -> bytes:
        self.sent += data
        untold, self._untold = self._untold, 0
        return self.HEAD.pack(untold, len(data)) + data

    def unpack(self, data: bytes) -> bytes:
        self._link += data
        came = bytearray()
        while self._left or len(self._link) >= self.HEAD.size:
            if not self._left:
                taken, self._left = self.HEAD.unpack_from(self._link)
                self.confirmed += taken
                assert self.confirmed <= len(self.sent), "the guest claims to have taken what was never sent"
                del self._link[: self.HEAD.size]
            piece = self._link[: self._left]
            if not piece and self._left:
                break
            del self._link[: self._left]
            self._left -= len(piece)
            came += piece
        self.received += came
        self._untold += len(came)
        return bytes(came)


class Worker:
    """One TLS link from a worker to the guest, and the calls on it.

    `streams`: the agent's, once Bind or Resume has succeeded on this link.
    """

    def __init__(self, link: ssl.SSLSocket) -> None:
        self.link = link
        self.certificate = link.getpeercert(binary_form=True) or b""
        self.streams: Streams | None = None
        self._calls = ClientConnection()
        self._answers: dict[int, ResponseReceived] = {}
        self._writing = asyncio.Lock()

    @classmethod
    async def dial(cls, port: int, context: ssl.SSLContext, server_name: str = "podvm") -> Self:
        """Raises OSError when the guest does not let this client in."""
        connection = socket.socket()
        link: socket.socket = connection
        try:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
            link = wrapped = tls.wrap(context, connection, server_name)
            async with asyncio.timeout(DEADLINE):
                await tls.handshake(wrapped)
        except BaseException:
            link.close()
            raise
        return cls(wrapped)

    def begin(self, service: str, method: str, request: Message | bytes = b"", timeout: float | None = None) -> int:
        """Queue a call without waiting; `flush` sends it, `answer` takes its answer."""
        payload = request if isinstance(request, bytes) else request.SerializeToString()
        return self._calls.request(service, method, payload, timeout)

    async def flush(self) -> None:
        await self.send(self._calls.data_to_send())

    async def answer(self, stream: int) -> bytes:
        while stream not in self._answers:
            data = await (self.receive() if self.streams else self._frame())
            if not data:
                raise ConnectionError("the guest closed the link")
            self._answers |= {answer.stream_id: answer for answer in self._calls.receive(data)}
        answer = self._answers.pop(stream)
        if answer.error is not None:
            raise answer.error
        return answer.payload

    async def call(
        self, service: str, method: str, request: Message | bytes = b"", timeout: float | None = None
    ) -> bytes:
        stream = self.begin(service, method, request, timeout)
        await self.flush()
        return await self.answer(stream)

    async def hello(self, nonce: bytes = b"n" * 16, protocol: int = names.GUEST_PROTOCOL) -> HelloResponse:
        request = HelloRequest(protocol=protocol, nonce=nonce)
        return HelloResponse.FromString(await self.call(names.GUEST_SERVICE, "Hello", request))

    async def bind(self, request: BindRequest | bytes, timeout: float | None = None) -> BindResponse:
        """After this the link is the agent's, whose stream ids start anew."""
        answer = BindResponse.FromString(await self.call(names.GUEST_SERVICE, "Bind", request, timeout))
        self.bound()
        return answer

    def bound(self, streams: Streams | None = None) -> None:
        """From here on the link carries records."""
        self.streams = streams or Streams()
        self._calls = self.streams.calls

    async def resume(self, streams: Streams, sandbox: str = SANDBOX) -> None:
        """After this the link is the agent's again, and what the last one lost is on its way."""
        request = ResumeRequest(sandbox_id=sandbox, received=len(streams.received))
        stream = self.begin(names.GUEST_SERVICE, "Resume", request)
        await self.flush()
        await self.resumed(stream, streams)

    async def resumed(self, stream: int, streams: Streams) -> None:
        """The second half of `resume`."""
        answer = ResumeResponse.FromString(await self.answer(stream))
        self.bound(streams)
        await self.send_raw(streams.join(answer.received))

    async def send(self, data: bytes) -> None:
        async with self._writing:
            await self.send_raw(self.streams.pack(data) if self.streams else data)

    async def send_raw(self, data: bytes) -> None:
        """Past the streams, if the link carries them."""
        async with asyncio.timeout(DEADLINE):
            await tls.write_all(self.link, data)

    async def receive(self) -> bytes:
        """Whatever comes next; empty once the guest has closed the link."""
        try:
            while True:
                data = await self.receive_raw()
                if self.streams is None or (data := self.streams.unpack(data)):
                    return data
        except OSError as error:
            if _is_end(error):
                return b""
            raise

    async def _frame(self) -> bytes:
        """The next frame before Bind, and not one byte more. Empty once the guest has closed the link."""
        try:
            async with asyncio.timeout(DEADLINE):
                header = await tls.read_exactly(self.link, HEADER.size)
                return header + await tls.read_exactly(self.link, HEADER.unpack(header)[0])
        except OSError as error:
            if _is_end(error):
                return b""
            raise

    async def receive_raw(self) -> bytes:
        """Whatever comes next, past the streams. Raises OSError at the link's end; see tls.read_exactly."""
        async with asyncio.timeout(DEADLINE):
            first = await tls.read_exactly(self.link, 1)
        with contextlib.suppress(ssl.SSLWantReadError):
            return first + self.link.recv(1 << 20)
        return first

    async def dropped(self) -> bool:
        """Wait until the guest closes the link; False if it says something first."""
        return await self.receive() == b""

    def say_goodbye(self) -> None:
        """End the link in order, and close it when the guest has heard; `close` alone cuts it."""
        with contextlib.suppress(ssl.SSLError):  # that it is said, and something of the guest's lies before its answer
            self.link.unwrap()

    def close(self) -> None:
        self.link.close()


class AgentWorld:
    """An agent that answers every call with the call's own payload, and remembers what reached it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: list[tuple[int, str, str]] = []  # stream id, service, method
        self.connections = 0
        self.silent = False  # it answers no call any more
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Condition()

    async def start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        """Hang up on everybody and listen no more."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.close()
        await self.left_alone()

    async def left_alone(self) -> None:
        """Wait until nobody is connected."""
        async with asyncio.timeout(DEADLINE), self._changed:
            await self._changed.wait_for(lambda: not self._writers)

    async def called(self) -> None:
        """Wait until a call has come."""
        async with asyncio.timeout(DEADLINE), self._changed:
            await self._changed.wait_for(lambda: self.calls)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        calls = ServerConnection()
        try:
            while data := await reader.read(1 << 20):
                for request in calls.receive(data):
                    self.calls.append((request.stream_id, request.service, request.method))
                    if not self.silent:
                        calls.respond(request.stream_id, request.payload)
                await self._tell()
                writer.write(calls.data_to_send())
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            self._writers.discard(writer)
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class GuestWorld:
    """The guest's service in this process, with its agent and its run directory, on a loopback port."""

    def __init__(
        self,
        root: Path,
        worker_ca: bytes,
        patience: float,
        command: tuple[str, ...],
        volumes: Volumes | None,
        network: Network | None,
    ) -> None:
        self.run_dir = root / "peerpod"
        self.me = identity.generate()
        self.agent = AgentWorld(root / "agent.sock")
        self.launcher = Agent(str(self.agent.path), command)
        self.control = Control(
            TOKEN, self.me.der, self.run_dir, self.launcher, volumes or Volumes(Programs()), network or Network()
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        context = tls.guest_server(self.me.certificate, self.me.key, worker_ca)
        self.service = Service(listener, context, self.control, patience)
        self.task = asyncio.ensure_future(self.service.serve())

    def files(self) -> set[str]:
        return set(os.listdir(self.run_dir)) if self.run_dir.exists() else set()

    async def aclose(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.launcher.stop()
        await self.agent.stop()


@contextlib.asynccontextmanager
async def guest(
    root: Path,
    worker_ca: bytes,
    patience: float = PATIENCE,
    command: tuple[str, ...] = (),
    *,
    agent: bool = True,
    volumes: Volumes | None = None,
    network: Network | None = None,
) -> AsyncIterator[GuestWorld]:
    """A guest whose agent listens (unless `agent` is false, or `command` is to start it)."""
    world = GuestWorld(root, worker_ca, patience, command, volumes, network)
    try:
        if agent and not command:
            await world.agent.start()
        yield world
    finally:
        await world.aclose()


Dial = Callable[..., Awaitable[Worker]]  # the fixture `dial`: of a GuestWorld, with a context if not the worker's own


def _is_end(error: OSError) -> bool:
    ends = ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError
    return isinstance(error, ends) or (isinstance(error, ssl.SSLError) and error.reason == tls.CUT)


def client(identity: Identity) -> ssl.SSLContext:
    """The relay's own context for this worker."""
    return tls.own_client(identity.certificate, identity.key)


async def refusal(call: Any) -> StatusError:
    """The status that this call is refused with."""
    try:
        answer = await call
    except StatusError as error:
        return error
    raise AssertionError(f"not refused, but answered {answer!r}")


async def until(condition: Callable[[], object]) -> None:
    """Wait for what another process or task does."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)


def raw_frame(stream: int, type: int, payload: bytes, flags: int = 0) -> bytes:
    return encode(Frame(stream, type, flags, payload))
