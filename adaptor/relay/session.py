"""One sandbox in the relay: its agent socket, its shim's connection and the link to its VM, through their `states`.

The shim may connect at any time; what it sends waits in the kernel until its sandbox is JOINED.
"""

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Awaitable, Callable

from adaptor.errors import AdaptorError, Conflict, InvalidRequest, LinkLost, StatusError
from adaptor.protos import relay_pb2
from adaptor.protos.relay_pb2 import BindRequest, DialRequest, DialResponse, OpenRequest
from adaptor.relay import rewrite
from adaptor.relay.link import Link, dial
from adaptor.relay.listener import AgentSocket, hung_up
from adaptor.relay.pump import End, Pump, Side, link_end
from adaptor.relay.splice import Splice
from adaptor.relay.states import OVER, TRANSITIONS, Event, SessionState
from adaptor.telemetry import logs
from adaptor.ttrpc.connection import ProtocolError
from adaptor.ttrpc.unix import peer_of

log = logs.get(__name__)


class Session:
    """Listens from construction on; raises what AgentSocket does.

    `changed` is called after every change that List would show, counters apart.
    """

    def __init__(self, request: OpenRequest, changed: Callable[[], None]) -> None:
        self.state = SessionState.LISTENING
        self.reason = ""  # why it is over, or back to LISTENING
        self.request = request
        self._changed = changed
        self._log = log.bind(sandbox=request.sandbox_id)
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()  # one Dial at a time
        self._dialling: asyncio.Task[None] | None = None
        self._binding: asyncio.Task[None] | None = None
        self._dialled: DialResponse | None = None
        self._link: Link | None = None  # until the pump owns it
        self._shim: socket.socket | None = None
        self._splice: Splice | None = None
        self._pump: Pump | None = None
        self._closed = False
        self._agent_socket = AgentSocket(request.socket_path, self._shim_connected, self._log)

    async def dial(self, request: DialRequest) -> DialResponse:
        """Reach the VM; once that is done, the same answer again. Cancelling it stops the dialling.

        Raises InvalidRequest, GuestUnreachable, and Conflict for a session that is over or gets closed.
        """
        async with self._turn:
            if self._dialled is None:
                self._expect(SessionState.LISTENING, "Dial")
                self._dialling = self._loop.create_task(self._dial(request))
                await self._unless_closed(self._dialling)
            if self._dialled is None:
                raise self._conflict("Dial")
            return self._dialled

    async def bind(self, request: BindRequest) -> None:
        """Make the VM this pod's and let agent calls flow; a repeat joins the first. Cancelling it stops nothing.

        Raises InvalidRequest; Conflict when nothing is dialled; StatusError, the guest's own, after which it may be
        repeated; LinkLost, after which it may not: the VM may have carried it out.
        """
        if self.state is SessionState.JOINED:
            return
        if self._binding is None:
            self._expect(SessionState.DIALLED, "Bind")
            self._binding = self._loop.create_task(self._bind(request))
            self._binding.add_done_callback(self._bind_done)
        await self._unless_closed(asyncio.shield(self._binding))

    def close(self) -> None:
        """End whatever runs, close whatever is open, remove the socket file. May be repeated."""
        self._closed = True
        for task in (self._dialling, self._binding):
            if task:
                task.cancel()
        if self._pump:
            self._pump.close()
        if not self._binding or self._binding.done():  # else it closes the link that it is using
            self._drop_link()
        if self._shim:
            self._shim.close()
        self._agent_socket.close()

    def describe(self) -> relay_pb2.Session:
        return relay_pb2.Session(
            sandbox_id=self.request.sandbox_id,
            socket_path=self.request.socket_path,
            state=self.state.name,
            address=self._dialled.address if self._dialled else "",
            certificate_sha256=hashlib.sha256(self._dialled.certificate).digest() if self._dialled else b"",
            shim_connected=self._shim is not None and self.state not in OVER,
            bytes_to_guest=self._pump.bytes_to_link if self._pump else 0,
            bytes_from_guest=self._pump.bytes_from_link if self._pump else 0,
            requests=self._splice.requests_seen if self._splice else 0,
            reason=self.reason,
        )

    async def _dial(self, request: DialRequest) -> None:
        self._move(Event.DIAL)
        try:
            link = await dial(request)
        except BaseException as error:
            self._move(Event.GAVE_UP, str(error) if isinstance(error, AdaptorError) else "the caller went away")
            raise
        self._link = link
        self._dialled = DialResponse(
            address=link.address,
            certificate=link.certificate,
            hello=link.hello,
            attempts=link.attempts,
            connect_seconds=link.connect_seconds,
            handshake_seconds=link.handshake_seconds,
        )
        self._move(Event.REACHED)
        self._watch_link()

    async def _bind(self, request: BindRequest) -> None:
        link = self._link
        assert link is not None, "DIALLED, and no link"
        if link.ours != bool(request.bind) or not request.timeout > 0:
            raise InvalidRequest(
                "Bind needs a timeout, and `bind` for our own guest, which an upstream guest can not take"
            )
        self._unwatch_link()
        try:
            if link.ours:
                await link.call("Bind", request.bind, request.timeout)
        except StatusError:
            self._watch_link()
            raise
        except asyncio.CancelledError:
            self._drop_link()
            raise
        except (OSError, ProtocolError) as error:
            what = f"no answer within {request.timeout:g} s" if isinstance(error, TimeoutError) else str(error)
            reason = f"the VM at {link.address} was told to become this pod's and did not confirm it: {what}"
            self._link_ended(Event.BIND_UNKNOWN, reason)
            raise LinkLost(reason) from error
        self._move(Event.BOUND)
        if self._shim:
            self._join(self._shim)
        else:
            self._watch_link()

    def _bind_done(self, task: asyncio.Task[None]) -> None:
        failed = task.cancelled() or task.exception()  # asked here, for there may be no caller left to hear of it
        if failed:
            self._binding = None

    def _shim_connected(self, connection: socket.socket) -> None:
        peer = peer_of(connection)
        pid = peer.pid if peer else 0
        if self.state in OVER or (self._shim and (self._pump or not hung_up(self._shim))):
            self._log.warning("closed a connection that is not the shim's only one", pid=pid, state=self.state.name)
            connection.close()
            return
        if self._shim:
            self._shim.close()
        self._log.info("the shim has connected", pid=pid)
        self._shim = connection
        if self.state is SessionState.JOINED:
            self._join(connection)
        self._changed()

    def _join(self, shim: socket.socket) -> None:
        assert self._link is not None, "JOINED, and no link"
        self._unwatch_link()
        link, self._link = self._link, None
        self._splice = Splice(rewrite.rules(self.request.rewrites))
        self._pump = Pump(shim, link.tls, self._pump_ended, self._splice)
        self._pump.start()

    def _pump_ended(self, end: End) -> None:
        if end.side is Side.UNIX:
            self._move(Event.SHIM_CLOSED, f"the shim's connection: {end.reason}")
        else:
            self._move(Event.LINK_ENDED, f"the link: {end.reason}")

    def _watch_link(self) -> None:
        """Notice the end of a link that nothing is asked of."""
        if self._link:
            self._loop.add_reader(self._link.tls.fileno(), self._link_spoke, self._link.tls)

    def _unwatch_link(self) -> None:
        if self._link:
            self._loop.remove_reader(self._link.tls.fileno())

    def _drop_link(self) -> None:
        self._unwatch_link()
        if self._link:
            self._link.tls.close()
            self._link = None

    def _link_spoke(self, link: ssl.SSLSocket) -> None:
        try:
            said = link.recv(1)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return  # TLS's own business: a session ticket, a new key
        except OSError as error:
            reason = link_end(error).reason
        else:
            reason = "the VM spoke before it was asked" if said else link_end(None).reason
        self._link_ended(Event.LINK_ENDED, f"the link: {reason}")

    def _link_ended(self, event: Event, reason: str) -> None:
        self._drop_link()
        self._move(event, reason)
        if self.state is SessionState.LISTENING:
            self._dialled = None
        elif self._shim:
            self._shim.close()

    def _move(self, event: Event, reason: str = "") -> None:
        if self._closed:
            return
        self.state = TRANSITIONS[self.state, event]
        self.reason = reason
        self._log.info("a session has changed", state=self.state.name, reason=reason)
        self._changed()

    def _expect(self, state: SessionState, verb: str) -> None:
        if self._closed or self.state is not state:
            raise self._conflict(verb)

    def _conflict(self, verb: str) -> Conflict:
        state = "closed" if self._closed else f"{self.state.name}{f' ({self.reason})' if self.reason else ''}"
        return Conflict(f"{verb}: the session of sandbox {self.request.sandbox_id} is {state}")

    async def _unless_closed(self, work: Awaitable[None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            if self._closed:
                raise self._conflict("The call ended early") from None
            raise
