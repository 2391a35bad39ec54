"""Links: accepted, shaken hands with, listened to until one asks for the agent, then handed to the forwarder.

    accept ─► TLS handshake ─► Hello … ─► Bind or Resume ─► forwarder: the link is the agent's
       │            │            │ no call in time, or not our protocol: dropped
       └ too many ──┴────────────┘

Bind and Resume are answered in the moment in which the forwarder takes the link, so that what the answer says of the
bytes that have arrived stays true. A peer without a certificate from `worker_ca` ends in the handshake. Frames are read one by one, and not one byte
further, so nothing that is the agent's is ever taken by this phase, and nothing sent before Bind reaches the agent.
"""

import asyncio
import socket
import ssl
from typing import Any, Final

from adaptor import names
from adaptor.errors import AdaptorError, Code, code_of
from adaptor.protos.guest_pb2 import ResumeResponse
from adaptor.relay import tls
from adaptor.telemetry import logs
from adaptor.ttrpc.connection import RequestReceived, ServerConnection
from adaptor.ttrpc.frames import HEADER
from podvm_images.guest.control import Bound, Control
from podvm_images.guest.forwarder import Forwarder

# Seconds from accepting a link to its first whole call. A worker calls as soon as it can; its handshake costs it
# milliseconds. Afterwards it may wait as long as it likes: a warm VM waits for its pod.
PATIENCE: Final = 10.0
# Links that are not the agent's, at a time. One worker needs one; the rest is for its re-dials that died unseen. When all
# are taken the oldest without a certificate makes room, so that strangers cannot lock the worker out.
MOST_LINKS: Final = 32
# A silent peer is asked whether it still lives: after so many seconds, so many seconds apart, so many times.
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
_CHUNK: Final = 65536  # bytes of a long frame that are taken at a time
_BREATH: Final = 0.1  # seconds without accepting, when there is no descriptor left to accept with

log = logs.get(__name__)


class Service:
    """Serves `control` on `listener` (bound, listening)."""

    def __init__(
        self, listener: socket.socket, context: ssl.SSLContext, control: Control, patience: float = PATIENCE
    ) -> None:
        self.address = "{}:{}".format(*listener.getsockname())
        self._listener = listener
        self._context = context
        self._control = control
        self._patience = patience
        self._links: dict[asyncio.Task[None], _Link] = {}  # oldest first

    async def serve(self) -> None:
        """Accept links for ever; cancelling closes every link, the agent's in order, and the listener."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        try:
            while True:
                try:
                    connection, address = await loop.sock_accept(self._listener)
                except OSError as error:  # out of descriptors, or the peer is gone already: others must still get in
                    log.warning("a link could not be accepted", error=error)
                    await asyncio.sleep(_BREATH)
                else:
                    self._take(connection, address)
                    await asyncio.sleep(0)  # accepting does not wait while others do, and they must get their turn
        finally:
            self._listener.close()
            for task in self._links:
                task.cancel()
            await asyncio.gather(*self._links, return_exceptions=True)
            await self._control.aclose()

    def _take(self, connection: socket.socket, address: tuple[str, int]) -> None:
        waiting = [(task, link) for task, link in self._links.items() if not task.cancelling()]
        if len(waiting) >= MOST_LINKS:
            stranger = next((task for task, link in waiting if not link.trusted), None)
            if stranger is None:
                log.warning("a link was refused: too many are open", peer=address[0], open=len(waiting))
                connection.close()
                return
            stranger.cancel()
        link = _Link(self._control, log.bind(peer=f"{address[0]}:{address[1]}"))
        task = asyncio.get_running_loop().create_task(link.run(connection, self._context, self._patience), name="link")
        self._links[task] = link
        task.add_done_callback(self._links.pop)


class _Link:
    """One connection to a worker, from accept until it has ended or is the agent's."""

    def __init__(self, control: Control, log: logs.Log) -> None:
        self.trusted = False  # it has shown a certificate that worker_ca issued
        self._given = False  # it is the forwarder's
        self._control = control
        self._log = log
        self._calls = ServerConnection()
        self._bind: asyncio.Task[Bound] | None = None  # the one under way that was asked for here,
        self._binds: list[int] = []  # on these streams

    async def run(self, connection: socket.socket, context: ssl.SSLContext, patience: float) -> None:
        """Returns when the link has ended, whatever ended it, or been given to the forwarder."""
        limit = asyncio.timeout(patience)
        try:
            _prepare(connection)
            connection = link = tls.wrap(context, connection)
            async with limit:
                await self._shake_hands(link)
                await self._until_given(link, limit)
        except OSError as error:
            self._log.info("link ended", reason="no call in time" if limit.expired() else error)
        except Exception:  # whatever one link does, the next must find this VM serving
            self._log.exception("link dropped: the guest program failed")
        finally:
            if not self._given:
                connection.close()

    async def _shake_hands(self, link: ssl.SSLSocket) -> None:
        await tls.handshake(link)
        self.trusted = True
        if not tls.speaks_our_protocol(link):
            raise ConnectionAbortedError(
                f"its client did not offer ALPN {names.GUEST_ALPN!r}: it is no peerpods worker"
            )

    async def _until_given(self, link: ssl.SSLSocket, limit: asyncio.Timeout) -> None:
        """Answer calls until a Bind or Resume succeeds. Raises OSError at the link's end."""
        while True:
            first = await self._first_byte(link)
            if first is None:
                self._finish_bind(link)
            else:
                for request in await self._rest_of_frame(link, first):
                    limit.reschedule(None)
                    self._answer(request, link)
            if self._given:
                return
            await tls.write_all(link, self._calls.data_to_send())

    async def _first_byte(self, link: ssl.SSLSocket) -> bytes | None:
        """The next frame's first byte; None when the Bind under way ended before one came.

        Only this wait is given up when Bind ends: nothing has been taken from the link by then.
        """
        if self._bind is None:
            return await tls.read_exactly(link, 1)
        reading = asyncio.ensure_future(tls.read_exactly(link, 1))
        try:
            waited: list[asyncio.Future[Any]] = [reading, self._bind]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else None
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    async def _rest_of_frame(self, link: ssl.SSLSocket, first: bytes) -> list[RequestReceived]:
        header = first + await tls.read_exactly(link, HEADER.size - len(first))
        calls = self._calls.receive(header)
        left: int = HEADER.unpack(header)[0]
        while left:
            piece = await tls.read_exactly(link, min(left, _CHUNK))
            calls += self._calls.receive(piece)
            left -= len(piece)
        return calls

    def _answer(self, request: RequestReceived, link: ssl.SSLSocket) -> None:
        try:
            match request.service, request.method:
                case names.GUEST_SERVICE, "Hello":
                    self._calls.respond(request.stream_id, self._control.hello(request.payload))
                case names.GUEST_SERVICE, "Bind":
                    self._bind = self._control.bind(request.payload, request.timeout, self)
                    self._binds.append(request.stream_id)
                case names.GUEST_SERVICE, "Resume":
                    forwarder, first = self._control.resume(request.payload, self)
                    answer = ResumeResponse(received=forwarder.received).SerializeToString()
                    self._calls.respond(request.stream_id, answer)
                    self._give(link, forwarder, first)
                case _:
                    raise self._control.refuse(request.service, request.method)
        except AdaptorError as error:
            self._fail(request.stream_id, request.method, error)

    def _finish_bind(self, link: ssl.SSLSocket) -> None:
        """Answer the Bind that has ended; where it succeeded the link is the agent's.

        Raises ConnectionAbortedError where the agent is another link's meanwhile.
        """
        assert self._bind is not None
        bind, self._bind = self._bind, None
        streams, self._binds = self._binds, []
        if bind.exception() is None and not self._control.is_newest(self):
            raise ConnectionAbortedError("the agent's link is another one by now")
        try:
            bound = bind.result()
            first = bound.forwarder.begin()
        except AdaptorError as error:
            for stream in streams:
                self._fail(stream, "Bind", error)
        except Exception as error:
            self._log.exception("Bind failed in the guest program")
            for stream in streams:
                self._calls.fail(stream, Code.INTERNAL, f"Bind failed in the guest program: {type(error).__name__}")
        else:
            for stream in streams:
                self._calls.respond(stream, bound.answer)
            self._give(link, bound.forwarder, first)

    def _give(self, link: ssl.SSLSocket, forwarder: Forwarder, first: bytes) -> None:
        self._given = True
        forwarder.attach(link, self._calls.data_to_send() + first, self._log)

    def _fail(self, stream: int, method: str, error: AdaptorError) -> None:
        self._log.warning("call refused", method=method, reason=error)
        self._calls.fail(stream, code_of(error), str(error))


def _prepare(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
