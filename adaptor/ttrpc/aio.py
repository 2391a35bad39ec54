"""ttrpc on unix sockets: `Server` for handlers, `Client` for calls.

    server = Server([Service(hypervisor_pb2.DESCRIPTOR.services_by_name["Hypervisor"], {"StopVM": stop_vm})])
    await server.listen_unix(path)

    async with await Client.connect_unix(path) as client:
        await client.call("hypervisor.Hypervisor", "StopVM", StopVMRequest(id="a"), StopVMResponse, timeout=5)

ttrpc knows no cancel message: a call given up here runs on over there, and its late answer is dropped.
"""

import asyncio
import os
import select
import socket
import sys
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from adaptor.errors import Code, StatusError
from adaptor.telemetry import logs
from adaptor.ttrpc import unix
from adaptor.ttrpc.connection import ClientConnection, ProtocolError, RequestReceived, ServerConnection
from adaptor.ttrpc.messages import Metadata
from adaptor.ttrpc.service import Call, Handler, Service, Services, name_of
from adaptor.ttrpc.unix import ListenError, Peer

__all__ = ["Call", "Client", "Handler", "Limits", "ListenError", "Peer", "Server", "Service"]

log = logs.get("ttrpc")

M = TypeVar("M", bound=Message)

# Connections that may wait to be accepted. Go's dial fails at once when this is full, and the shim dials once: a
# node's whole load of pods may start together. The kernel cuts it to net.core.somaxconn (4096).
_BACKLOG: Final = 4096
_CANCEL_PATIENCE: Final = 5.0  # seconds that cancelled handlers get to clean up before aclose goes on without them
_FLUSH_PATIENCE: Final = 1.0  # seconds for a peer to take the last answers; one that does not read would hold us up
_KEEP_FILE: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
_HANGUP_INTERVAL: Final = 1.0  # seconds between looks whether a client that is not being read has gone away


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may hold of the server; beyond it the connection is not read until calls are answered."""

    # kata has at most 8 calls open on one connection; relay.sock has one open Dial per starting pod of a node, and
    # kubelet runs at most some hundreds. A call that never ends (a long poll) keeps its place.
    calls: int = 1024
    # Bytes of unanswered requests: four of the largest possible.
    request_bytes: int = 16 << 20
    # Bytes of answers that the client has not read yet, two of the largest possible; calls already running add theirs.
    unsent_bytes: int = 8 << 20


class Server:
    """Serves `services` on any number of unix sockets.

    Calls of one connection run beside each other and are answered as they finish.
    """

    def __init__(self, services: Iterable[Service], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.stopping = False
        self.links: set[_ServerLink] = set()
        self.services = Services(services)
        self._listeners: list[_Listener] = []

    async def listen_unix(self, path: str | os.PathLike[str], mode: int = 0o600) -> None:
        """Serve at `path`, which has `mode` from its first moment on; a socket file that nothing serves is replaced.

        Raises ListenError: something answers there already, it is no socket, or the file can not be made.
        """
        target = os.fspath(path)
        await self.listen_on(unix.bind(target, mode), target)

    async def listen_on(self, listener: socket.socket, path: str) -> None:
        """Serve on a socket that is bound at `path` already; the file is this server's to remove in the end."""
        found = _Listener(listener, path)
        with suppress(FileNotFoundError):  # somebody removed it while it was another process's
            found.inode = os.stat(path).st_ino
        self._listeners.append(found)
        await self._accept(found)

    @property
    def listeners(self) -> list[socket.socket]:
        """What clients connect to; they wait in its queue while nobody accepts them."""
        return [each.socket for each in self._listeners]

    def pause(self) -> None:
        """Cut every connection but that of the running call, and leave clients waiting until `resume`."""
        caller = asyncio.current_task()
        for listener in self._listeners:
            if listener.serving:
                listener.serving.close()
        for link in list(self.links):
            if caller not in link.tasks:
                link.abort()

    async def resume(self) -> None:
        """Accept clients again after `pause`."""
        for listener in self._listeners:
            await self._accept(listener)

    async def aclose(self, grace: float = 0.0) -> None:
        """Stop accepting, give running handlers `grace` seconds, cancel the rest, close every connection.

        Calls that arrive meanwhile, and those cancelled, are answered UNAVAILABLE. May be repeated; not from a handler.
        """
        self.stopping = True
        while self._listeners:
            listener = self._listeners.pop()
            if listener.serving:
                listener.serving.close()
            listener.socket.close()
            unix.remove(listener.path, listener.inode)
        if tasks := [task for link in self.links for task in link.tasks]:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            _, stuck = await asyncio.wait(late, timeout=_CANCEL_PATIENCE) if late else ((), ())
            for task in stuck:
                log.error("a handler ignores its cancellation; left behind", call=task.get_name())
        await asyncio.gather(*(link.aclose() for link in list(self.links)))

    async def _accept(self, listener: "_Listener") -> None:
        copy = listener.socket.dup()  # the loop closes what it serves on, and the queue must outlive that
        listener.serving = await asyncio.get_running_loop().create_unix_server(
            lambda: _ServerLink(self), sock=copy, backlog=_BACKLOG, **_KEEP_FILE
        )


@dataclass(slots=True)
class _Listener:
    socket: socket.socket
    path: str
    inode: int = 0
    serving: asyncio.Server | None = None


class _ServerLink(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection = ServerConnection()
        self._loop = asyncio.get_running_loop()
        self._closed = self._loop.create_future()
        self._waiting: deque[tuple[RequestReceived, float | None]] = deque()  # arrived, not started; with deadlines
        self._calls: dict[int, asyncio.Task[bytes | StatusError]] = {}
        self._request_bytes = 0
        self._unread = False  # the client has more answers to read than the limit allows
        self._hangup_timer: asyncio.TimerHandle | None = None

    @property
    def tasks(self) -> list[asyncio.Task[bytes | StatusError]]:
        return list(self._calls.values())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._server.limits.unsent_bytes)
        self._peer = unix.peer_of(self._transport.get_extra_info("socket"))
        self._server.links.add(self)
        if self._server.stopping:  # it was in the backlog when the listener closed
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        now = self._loop.time()
        for request in self._connection.receive(data):
            self._waiting.append((request, None if request.timeout is None else now + request.timeout))
        self.advance()

    def eof_received(self) -> None:
        """A client that ends its side has gone, as with containerd's server: the transport closes when this returns."""
        try:
            self._connection.receive_eof()
        except ProtocolError as error:
            log.warning("a client broke off", reason=error, peer=self._peer)

    def connection_lost(self, error: Exception | None) -> None:
        self._waiting.clear()
        for task in self.tasks:
            task.cancel()
        self._closed.set_result(None)
        self.advance()

    def pause_writing(self) -> None:
        self._unread = True
        self.advance()

    def resume_writing(self) -> None:
        self._unread = False
        self.advance()

    def advance(self) -> None:
        """Start what may start, send what is ready, and read on only if there is room for more."""
        while self._waiting and (self._server.stopping or not self._full):
            self._start(*self._waiting.popleft())
        if self._closed.done():
            if not self._calls:
                self._server.links.discard(self)
            return
        if data := self._connection.data_to_send():
            self._transport.write(data)
        if self._transport.is_closing():
            return
        if self._full:
            self._transport.pause_reading()
            self._watch_for_hangup()
        else:
            self._transport.resume_reading()

    def abort(self) -> None:
        self._transport.abort()

    async def aclose(self) -> None:
        if not self._closed.done():
            self._transport.close()
            await asyncio.wait([self._closed], timeout=_FLUSH_PATIENCE)
            self._transport.abort()
            await self._closed

    @property
    def _full(self) -> bool:
        limits = self._server.limits
        return self._unread or len(self._calls) >= limits.calls or self._request_bytes >= limits.request_bytes

    def _start(self, request: RequestReceived, deadline: float | None) -> None:
        if self._server.stopping:
            self._fail(request, Code.UNAVAILABLE, "the server is stopping")
            return
        if deadline is not None and deadline <= self._loop.time():
            self._expire(request)
            return
        task = self._loop.create_task(self._server.services.answer(request, self._peer), name=name_of(request))
        timer = None if deadline is None else self._loop.call_at(deadline, self._expire, request)
        self._calls[request.stream_id] = task
        self._request_bytes += request.size
        task.add_done_callback(partial(self._finish, request, timer))

    def _finish(
        self, request: RequestReceived, timer: asyncio.TimerHandle | None, task: asyncio.Task[bytes | StatusError]
    ) -> None:
        if timer is not None:
            timer.cancel()
        del self._calls[request.stream_id]
        self._request_bytes -= request.size
        if task.cancelled():
            stopping = self._server.stopping
            code = Code.UNAVAILABLE if stopping else Code.CANCELLED
            self._fail(request, code, "the server is stopping" if stopping else "cancelled by the server")
        else:
            outcome = task.result()
            if isinstance(outcome, StatusError):
                self._connection.fail(request.stream_id, outcome.code, outcome.message, outcome.details)
            else:
                self._connection.respond(request.stream_id, outcome)
        self.advance()

    def _expire(self, request: RequestReceived) -> None:
        """Answer first: the handler may take its time to clean up, and what it answers then is too late."""
        self._fail(request, Code.DEADLINE_EXCEEDED, f"not finished within {request.timeout:g} s")
        if task := self._calls.get(request.stream_id):
            task.cancel()
            self.advance()

    def _fail(self, request: RequestReceived, code: Code, reason: str) -> None:
        self._connection.fail(request.stream_id, code, f"{name_of(request)}: {reason}")

    def _watch_for_hangup(self) -> None:
        """While a client is not read its end goes unnoticed, and it may be what the calls in the way are waiting for."""
        if self._hangup_timer is None:
            self._hangup_timer = self._loop.call_later(_HANGUP_INTERVAL, self._look_for_hangup)

    def _look_for_hangup(self) -> None:
        self._hangup_timer = None
        if self._transport.is_closing() or not self._full:
            return
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        if poll.poll(0):
            self._transport.abort()
        else:
            self._watch_for_hangup()


class Client:
    """One connection to a ttrpc server, for any number of calls at once."""

    def __init__(self, link: "_ClientLink") -> None:
        self._link = link

    @classmethod
    async def connect_unix(cls, path: str | os.PathLike[str]) -> Self:
        """Raises StatusError UNAVAILABLE where nothing answers at `path`; one attempt, no retry."""
        target = os.fspath(path)
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_unix_connection(lambda: _ClientLink(target), target)
        except OSError as error:
            reason = f"nothing can be reached at {target}: {error.strerror or error}"
            raise StatusError(Code.UNAVAILABLE, reason) from error
        return cls(link)

    @property
    def closed(self) -> bool:
        """No further call can be made, whoever ended the connection."""
        return self._link.lost is not None

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        response_type: type[M],
        timeout: float | None = None,
        metadata: Iterable[tuple[str, str]] = (),
    ) -> M:
        """Make one call and wait for its answer, `timeout` seconds at most; cancelling it gives the answer up.

        Raises StatusError: the server's own; DEADLINE_EXCEEDED after `timeout`; UNAVAILABLE when the connection is or
        gets lost (the call may have been carried out); RESOURCE_EXHAUSTED for a message over the limit, either way;
        INTERNAL for an answer that can not be decoded.
        """
        name = f"{service}/{method}"
        if timeout is not None and timeout <= 0:
            raise StatusError(Code.DEADLINE_EXCEEDED, f"{name}: not sent, its time was up before it began")
        try:
            async with asyncio.timeout(timeout) as scope:
                await self._link.writable.wait()
                left = None if timeout is None else cast(float, scope.when()) - asyncio.get_running_loop().time()
                payload = await self._link.call(service, method, request.SerializeToString(), left, tuple(metadata))
        except TimeoutError:
            raise StatusError(Code.DEADLINE_EXCEEDED, f"{name}: no answer within {timeout:g} s") from None
        try:
            return response_type.FromString(payload)
        except DecodeError as error:
            wanted = response_type.DESCRIPTOR.full_name
            raise StatusError(Code.INTERNAL, f"{name}: the answer is no {wanted}") from error

    async def wait_closed(self) -> None:
        """Return once the connection has ended."""
        await self._link.gone.wait()

    async def aclose(self) -> None:
        """End the connection; calls still waiting fail with UNAVAILABLE. May be repeated."""
        await self._link.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _ClientLink(asyncio.Protocol):
    def __init__(self, path: str) -> None:
        self.lost: str | None = None  # why no further call can be made
        self.gone = asyncio.Event()
        self.writable = asyncio.Event()
        self._path = path
        self._connection = ClientConnection()
        self._calls: dict[int, asyncio.Future[bytes]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        for response in self._connection.receive(data):
            waiting = self._calls.get(response.stream_id)
            if waiting is None or waiting.done():
                log.debug("dropped an answer that nobody waits for", stream=response.stream_id, socket=self._path)
            elif response.error is not None:
                waiting.set_exception(response.error)
            else:
                waiting.set_result(response.payload)

    def eof_received(self) -> None:
        try:
            self._connection.receive_eof()
            self.lost = self.lost or "closed by the server"
        except ProtocolError:
            self.lost = self.lost or "broken off by the server in the middle of an answer"

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = self.lost or f"lost: {error}"
        for waiting in self._calls.values():
            if not waiting.done():
                waiting.set_exception(self._lost_error())
        self.writable.set()
        self.gone.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    async def call(self, service: str, method: str, payload: bytes, timeout: float | None, metadata: Metadata) -> bytes:
        if self.lost is not None:
            raise self._lost_error()
        stream_id = self._connection.request(service, method, payload, timeout, metadata)
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[stream_id] = waiting
        self._transport.write(self._connection.data_to_send())
        try:
            return await waiting
        finally:
            del self._calls[stream_id]

    async def aclose(self) -> None:
        self.lost = self.lost or "closed by this side"
        if not self.gone.is_set():
            self._transport.close()
            try:
                async with asyncio.timeout(_FLUSH_PATIENCE):  # wait_for would swallow a cancellation that meets the end
                    await self.gone.wait()
            except TimeoutError:
                self._transport.abort()
                await self.gone.wait()

    def _lost_error(self) -> StatusError:
        return StatusError(Code.UNAVAILABLE, f"the connection to {self._path} was {self.lost}")
