"""One relay hands its sessions to the next, and no pod notices more than a short silence.

    old relay                                           successor (`--takeover`), started and imported
                                                        listens at relay.sock.next
      ◄──────────── HandOver, a call to relay.sock ───
      connects there; freezes ──────────────────────►
      HandedRelay, HandedSession … with descriptors ►   makes the same sessions of them, and touches nothing
      ◄──────────────────────────────────── Ready ───
      HandedOver ───────────────────────────────────►   serves relay.sock, dials every VM again and resumes
      ends at once, and ends nothing in order

Until HandedOver all is the old relay's: if the successor fails, is too slow or dies, it goes on as if nothing had
been. At no moment do both touch a socket. While it is frozen it waits for the successor and does nothing else, so
these exchanges block.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from struct import Struct
from typing import Final, NoReturn, TypeVar

from google.protobuf.message import DecodeError, Message

from adaptor import names
from adaptor.errors import AdaptorError, Code, StatusError, Unavailable
from adaptor.protos.handover_pb2 import HandedOver, HandedRelay, HandedSession, Ready
from adaptor.protos.relay_pb2 import HandOverRequest, HandOverResponse
from adaptor.relay.listener import alone_at
from adaptor.telemetry import logs
from adaptor.ttrpc import unix
from adaptor.ttrpc.aio import Client

M = TypeVar("M", bound=Message)
T = TypeVar("T")
Handed = tuple[HandedSession, list[socket.socket]]  # with the agent socket's listener, and the shim's connection

log = logs.get(__name__)

_LENGTH: Final = Struct(">I")
# Bytes of one message: a session's two streams keep 4 MiB each at most, and some more of what is under way.
_LARGEST: Final = 64 << 20
_MOST_SOCKETS: Final = 2  # with one message
# Seconds that pods may stand still for a successor that does not come up. A kata shim gives its agent's answer to a
# Health.Check 30; a thousand sessions take less than one.
FROZEN: Final = 5.0
# Seconds that a successor waits for the old relay, which lets a Bind under way end first.
_PATIENCE: Final = 20.0
_WHY: Final = 2.0  # seconds for the old relay to tell why it did not come to it


class HandOverFailed(AdaptorError):
    """The sessions stay with the relay that has them."""


class Line:
    """Messages with descriptors over a unix stream, blocking, `patience` seconds for all of them together.

    Raises HandOverFailed.
    """

    def __init__(self, connection: socket.socket, patience: float) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + patience

    def send(self, message: Message, sockets: Sequence[socket.socket] = ()) -> None:
        """A message without sockets, if it is short, goes out in one piece or raises: never both."""
        data = message.SerializeToString()
        head = _LENGTH.pack(len(data))
        if sockets:
            descriptors = [each.fileno() for each in sockets]
            self._do(lambda: socket.send_fds(self._connection, [head], descriptors))
            head = b""
        self._do(lambda: self._connection.sendall(head + data))

    def receive(self, kind: type[M]) -> tuple[M, list[socket.socket]]:
        head, sockets = self._head()
        (length,) = _LENGTH.unpack(head)
        if length > _LARGEST:
            raise HandOverFailed(f"the other relay announced {length} bytes: it is no relay, or of another kind")
        try:
            return kind.FromString(bytes(self._exactly(length))), sockets
        except DecodeError as error:
            raise HandOverFailed(f"the other relay sent what is no {kind.DESCRIPTOR.name}") from error

    def close(self) -> None:
        self._connection.close()

    def _head(self) -> tuple[bytes, list[socket.socket]]:
        """The four bytes that the descriptors came with, and only those: so these cannot be another message's."""
        flags = socket.MSG_CMSG_CLOEXEC
        head, descriptors, came, _ = self._do(
            lambda: socket.recv_fds(self._connection, _LENGTH.size, _MOST_SOCKETS, flags)
        )
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        if came & socket.MSG_CTRUNC:
            raise HandOverFailed("this process may not have as many descriptors as there are sessions")
        if not head:
            raise HandOverFailed("the other relay has broken it off")
        return head + self._exactly(_LENGTH.size - len(head)), sockets

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = self._do(lambda into=view: self._connection.recv_into(into))  # type: ignore[misc]
            if not got:
                raise HandOverFailed("the other relay has broken it off")
            view = view[got:]
        return data

    def _do(self, work: Callable[[], T]) -> T:
        try:
            self._connection.settimeout(max(self._deadline - time.monotonic(), 0.001))
            return work()
        except TimeoutError as error:
            raise HandOverFailed("the other relay takes too long") from error
        except OSError as error:
            raise HandOverFailed(f"the other relay has gone: {error.strerror or error}") from error


def reach(path: str) -> Line:
    """The old relay's line to a successor, which is of the same user."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise HandOverFailed(f"the successor cannot be reached at {path}: {error.strerror}") from error
    _same_user(connection)
    return Line(connection, FROZEN)


def hand_over(
    line: Line, relay: HandedRelay, listener: socket.socket, sessions: Iterable[Handed], leave: Callable[[], NoReturn]
) -> NoReturn:
    """Give all this away and `leave`; raises HandOverFailed where it comes to nothing.

    The caller has frozen everything, and must not let its event loop run until this has ended one way or the other.
    """
    began = time.monotonic()
    line.send(relay, [listener])
    for handed, sockets in sessions:
        line.send(handed, sockets)
    line.receive(Ready)
    line.send(HandedOver())  # once it is sent the successor may serve, so nothing that can fail may follow
    log.info(
        "everything is the successor's; this relay ends",
        sessions=relay.sessions,
        seconds=round(time.monotonic() - began, 3),
    )
    leave()


@dataclass(frozen=True, slots=True)
class Taken:
    """What the old relay has handed over, and is still its own until `confirm` returns."""

    relay: HandedRelay
    listener: socket.socket  # relay.sock's
    sessions: list[Handed]
    line: Line

    def confirm(self) -> None:
        """Take it. Raises HandOverFailed."""
        self.line.send(Ready())
        self.line.receive(HandedOver)
        self.line.close()


@asynccontextmanager
async def taken_over(path: str) -> AsyncIterator[Taken]:
    """Ask the relay at `path` for everything; leaving with an exception before `confirm` leaves it to that one.

    Raises Unavailable where no relay runs, HandOverFailed with the old relay's reason where it comes to nothing.
    """
    async with AsyncExitStack() as stack:
        try:
            stack.enter_context(alone_at(path, wait=False))
        except BlockingIOError as error:
            raise HandOverFailed(f"another relay is starting at {path}, or taking over, at this moment") from error
        private = f"{path}.next"
        listener = stack.enter_context(unix.bind(private, 0o600))
        stack.callback(unix.remove, private, os.stat(private).st_ino)
        listener.listen(1)
        listener.setblocking(False)
        asking = asyncio.get_running_loop().create_task(_ask(path, private))
        stack.push_async_callback(_stop, asking)
        line = await _until_called(listener, asking)
        stack.callback(line.close)
        try:
            yield _received(line)
        except HandOverFailed as error:
            line.close()
            why = await _told(asking)
            raise HandOverFailed(f"{error}{f' ({why})' if why else ''}; the old relay keeps its pods") from error


async def _ask(path: str, private: str) -> HandOverResponse:
    try:
        client = await Client.connect_unix(path)
    except StatusError as error:
        raise Unavailable(str(error)) from error
    async with client:
        request = HandOverRequest(socket_path=private)
        return await client.call(names.RELAY_SERVICE, "HandOver", request, HandOverResponse, _PATIENCE)


async def _stop(task: asyncio.Task[HandOverResponse]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _until_called(listener: socket.socket, asking: asyncio.Task[HandOverResponse]) -> Line:
    accepting = asyncio.ensure_future(asyncio.get_running_loop().sock_accept(listener))
    try:
        await asyncio.wait([accepting, asking], return_when=asyncio.FIRST_COMPLETED)
        if not accepting.done():
            asking.result()
            raise HandOverFailed("the relay answered HandOver and handed nothing over")
    except StatusError as error:
        if error.code == Code.UNIMPLEMENTED:
            raise HandOverFailed(
                "the relay that runs is too old to hand its sessions over; it has to end by itself, with its pods"
            ) from error
        raise HandOverFailed(f"the relay that runs did not hand its sessions over: {error}") from error
    finally:
        accepting.cancel()
    connection, _ = accepting.result()
    _same_user(connection)
    return Line(connection, _PATIENCE)


def _received(line: Line) -> Taken:
    relay, listeners = line.receive(HandedRelay)
    if len(listeners) != 1:
        raise HandOverFailed("the other relay sent no listener of relay.sock")
    sessions = []
    for _ in range(relay.sessions):
        handed, sockets = line.receive(HandedSession)
        if len(sockets) != 1 + handed.shim:
            raise HandOverFailed(f"{len(sockets)} sockets came with the session of sandbox {handed.open.sandbox_id}")
        sessions.append((handed, sockets))
    return Taken(relay, listeners[0], sessions, line)


async def _told(asking: asyncio.Task[HandOverResponse]) -> str:
    """Why the old relay broke it off; nothing if it does not say."""
    await asyncio.wait([asking], timeout=_WHY)
    if not asking.done() or asking.cancelled():
        return ""
    return str(asking.exception() or "")


def _same_user(connection: socket.socket) -> None:
    peer = unix.peer_of(connection)
    if peer is None or peer.uid != os.geteuid():
        connection.close()
        raise HandOverFailed(f"user {peer.uid if peer else '?'} may not take part in a hand-over between relays")
