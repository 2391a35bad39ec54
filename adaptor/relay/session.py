"""One sandbox in the relay: its agent socket, its shim's connection and the links to its VM, through their `states`.

The shim may connect at any time; what it sends waits in the kernel until its sandbox is JOINED. From then on a link
that breaks is replaced, and neither shim nor agent loses a byte; only an end in order, or a VM that stays away, ends
the session. What a session holds can be handed to another process (handover.py).
"""

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Self

from adaptor.errors import AdaptorError, Conflict, InvalidRequest, LinkLost
from adaptor.protos import relay_pb2
from adaptor.protos.handover_pb2 import HandedPump, HandedSession
from adaptor.protos.relay_pb2 import BindRequest, DialRequest, DialResponse, OpenRequest
from adaptor.relay import redial, rewrite
from adaptor.relay.link import GAP, Link, dial
from adaptor.relay.listener import AgentSocket, hung_up
from adaptor.relay.pump import End, Pump, Side, link_end
from adaptor.relay.records import Records
from adaptor.relay.reissue import Reissue
from adaptor.relay.splice import Splice
from adaptor.relay.states import OVER, TRANSITIONS, Event, SessionState
from adaptor.telemetry import logs
from adaptor.ttrpc.connection import ProtocolError
from adaptor.ttrpc.unix import peer_of

log = logs.get(__name__)


class Session:
    """Listens from construction on, with another process's `listener` from `thaw` on; raises what AgentSocket does.

    `changed` is called after every change that List would show, counters apart.
    """

    def __init__(
        self, request: OpenRequest, changed: Callable[[], None], listener: socket.socket | None = None
    ) -> None:
        self.state = SessionState.LISTENING
        self.reason = ""  # why it is over, being resumed, or back to LISTENING
        self.resumes = 0  # links after the first
        self.request = request
        self._changed = changed
        self._log = log.bind(sandbox=request.sandbox_id)
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()  # one Dial at a time
        self._dialling: asyncio.Task[None] | None = None
        self._binding: asyncio.Task[None] | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._dial_request: DialRequest | None = None  # what has led to `_dialled`
        self._dialled: DialResponse | None = None
        self._answer = b""  # the VM's to Bind
        self._link: Link | None = None  # until the pump owns it
        self._shim: socket.socket | None = None
        self._splice = Splice({**rewrite.rules(request.rewrites), **rewrite.check_answers(self._is_away)})
        self._carrier: Records | Reissue | None = None  # from BOUND on
        self._pump: Pump | None = None
        self._closed = False
        self._agent_socket = AgentSocket(request.socket_path, self._shim_connected, self._log, listener)

    @classmethod
    def restored(
        cls, handed: HandedSession, listener: socket.socket, shim: socket.socket | None, changed: Callable[[], None]
    ) -> Self:
        """The session of another relay as `export` has told it. It touches nothing before `take_up`."""
        session = cls(handed.open, changed, listener)
        session.state, session.reason, session.resumes = SessionState(handed.state), handed.reason, handed.resumes
        session._shim = shim
        if handed.HasField("dialled"):
            session._dial_request, session._dialled = handed.dial, handed.dialled
        session._answer = handed.answer
        if handed.HasField("pump"):
            state = handed.pump
            session._carrier = Reissue(state.reissue) if state.HasField("reissue") else Records(state.records)
            if shim:
                session._make_pump(shim).restore(state)
        return session

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

    async def bind(self, request: BindRequest) -> bytes:
        """Make the VM this pod's and let agent calls flow; its answer. A repeat joins the first. Cancelling it stops nothing.

        Raises InvalidRequest; Conflict when nothing is dialled; StatusError, the guest's own, after which it may be
        repeated; LinkLost, after which it may not: the VM may have carried it out.
        """
        if self.state in (SessionState.JOINED, SessionState.RESUMING):
            return self._answer
        if self._binding is None:
            self._expect(SessionState.DIALLED, "Bind")
            self._binding = self._loop.create_task(self._bind(request))
            self._binding.add_done_callback(self._bind_done)
        await self._unless_closed(asyncio.shield(self._binding))
        return self._answer

    def close(self) -> None:
        """End whatever runs, close whatever is open, remove the socket file. May be repeated."""
        self._closed = True
        self._cancel()
        if self._pump:
            self._pump.close()
        if not self._binding or self._binding.done():  # else it closes the link that it is using
            self._drop_link()
        if self._shim:
            self._shim.close()
        self._agent_socket.close()

    @property
    def binding(self) -> asyncio.Task[None] | None:
        """The Bind under way."""
        return self._binding

    def freeze(self) -> None:
        """Touch nothing until `thaw`; what is under way is given up, and may be asked for again.

        Bytes that other tasks' callbacks would move are safe only if none runs until then.
        """
        self._cancel()
        self._agent_socket.pause()
        self._unwatch_link()
        if self._pump:
            self._pump.freeze()

    def thaw(self) -> None:
        """Go on as if nothing had been."""
        self._agent_socket.resume()
        if self._pump:
            self._pump.thaw()
        if self.state is SessionState.RESUMING:
            self._resume(self.reason)
        elif not self._binding:  # one that was given up closes the link
            self._watch_link()

    def export(self) -> tuple[HandedSession, list[socket.socket]]:
        """Everything another process needs to go on from here, and the sockets of it that live on."""
        dialling = self.state is SessionState.DIALLING
        state = SessionState.LISTENING if dialling else self.state
        handed = HandedSession(
            open=self.request, state=state.name, reason=self.reason, resumes=self.resumes, answer=self._answer
        )
        sockets = [self._agent_socket.listener]
        if self._dialled and self._dial_request:
            handed.dial.CopyFrom(self._dial_request)
            handed.dialled.CopyFrom(self._dialled)
        if self._shim and state not in OVER:
            handed.shim = True
            sockets.append(self._shim)
        if self._carrier and state not in OVER:
            handed.pump.CopyFrom(self._pump.export() if self._pump else HandedPump())
            if isinstance(self._carrier, Records):
                handed.pump.records.CopyFrom(self._carrier.export())
            else:
                handed.pump.reissue.CopyFrom(self._carrier.export())
        return handed, sockets

    def take_up(self, why: str) -> None:
        """Begin to serve what was restored; a running pod's link is dialled anew, as it stayed with the old relay."""
        self._agent_socket.resume()
        if self._pump:
            self._pump.start()
        if self.state is SessionState.JOINED:
            self._link_broke(why)
        elif self.state is SessionState.RESUMING:
            self._resume(self.reason)

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
            requests=self._splice.requests_seen,
            reason=self.reason,
            resumes=self.resumes,
        )

    async def _dial(self, request: DialRequest) -> None:
        self._move(Event.DIAL)
        try:
            link = await dial(request)
        except BaseException as error:
            self._move(Event.GAVE_UP, str(error) if isinstance(error, AdaptorError) else "the caller went away")
            raise
        self._link = link
        self._dial_request = request
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
        ours = self._dial_request is not None and self._dial_request.HasField("own")
        if ours != bool(request.bind) or not request.timeout > 0:
            raise InvalidRequest(
                "Bind needs a timeout, and `bind` for our own guest, which an upstream guest can not take"
            )
        self._unwatch_link()
        try:
            self._answer = await self._confirmed(request)
        except LinkLost as error:
            assert self._dialled is not None, "DIALLED, and no answer of Dial's"
            reason = f"the VM at {self._dialled.address} was told to become this pod's and did not confirm it: {error}"
            self._link_ended(Event.BIND_UNKNOWN, reason)
            raise LinkLost(reason) from error
        except asyncio.CancelledError:
            self._drop_link()
            raise
        except AdaptorError:
            self._watch_link()
            raise
        assert self._link is not None, "bound, and no link"
        self._carrier = Records() if ours else Reissue()
        self._move(Event.BOUND)
        self._attach(redial.Resumed(self._link))

    async def _confirmed(self, request: BindRequest) -> bytes:
        """Have the VM bound at the other end of `_link`, and what it answers; where the link breaks, or is not there, a new
        one takes its place.

        The guest answers a repeat like the first. Raises its StatusError; LinkLost when the time is up.
        """
        deadline = self._loop.time() + request.timeout
        while True:
            left = max(deadline - self._loop.time(), GAP)
            try:
                link = self._link = self._link or await dial(self._again(left))
            except AdaptorError as error:
                raise LinkLost(str(error)) from error
            try:
                return await link.call("Bind", request.bind, left) if link.ours else b""
            except (OSError, ProtocolError) as error:
                what = redial.no_answer(error)
            self._drop_link()
            if self._loop.time() + GAP >= deadline:
                raise LinkLost(f"{what}, within {request.timeout:g} s")
            self._log.info("the link broke during Bind; the VM is dialled again", address=link.address, reason=what)
            await asyncio.sleep(GAP)

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
        if self._carrier:
            self._unwatch_link()
            self._make_pump(connection).start()
            if self._link:
                self._attach(redial.Resumed(self._link))
        self._changed()

    def _make_pump(self, shim: socket.socket) -> Pump:
        assert self._carrier is not None, "agent calls flow before Bind"
        self._pump = Pump(shim, self._carrier, self._splice, self._pump_ended, self._pump_broke)
        return self._pump

    def _attach(self, found: redial.Resumed) -> None:
        """Let agent calls flow over this link, as soon as the shim is there."""
        if self._shim and not self._pump:
            self._make_pump(self._shim)
        if self._pump:
            self._link = None
            self._pump.attach(found.link.tls, found.first, found.answers)
        else:
            self._link = found.link  # nothing has ever flowed, so nothing is to be sent first
            self._watch_link()

    def _pump_ended(self, end: End) -> None:
        if self._resuming:
            self._resuming.cancel()
        if self.state in OVER:  # given up on before, and the last words have reached the shim now
            return
        if end.side is Side.UNIX:
            self._move(Event.SHIM_CLOSED, f"the shim's connection: {end.reason}")
        else:
            self._move(Event.LINK_ENDED, f"the link: {end.reason}")

    def _pump_broke(self, end: End) -> None:
        self._link_broke(f"the link: {end.reason}")

    def _link_broke(self, reason: str) -> None:
        self._drop_link()
        if isinstance(self._carrier, Reissue):
            self._carrier.broke()
        self._move(Event.LINK_BROKE, reason)
        if self._pump:
            self._pump.answer_watched()
        self._resume(reason)

    def _resume(self, why: str) -> None:
        self._resuming = self._loop.create_task(self._until_resumed(why))

    async def _until_resumed(self, why: str) -> None:
        assert self._carrier is not None, "RESUMING, and nothing ever flowed"
        address = self._dialled.address if self._dialled else ""
        try:
            found = await redial.resume(self._again(), self._carrier, why, address)
        except LinkLost as error:
            self._give_up(str(error))
        except Exception as error:  # whatever it is, the shim must not wait for ever
            self._log.exception("a link could not be resumed: the relay failed")
            self._give_up(f"{why}; the relay failed to resume it: {type(error).__name__}")
        else:
            self.resumes += 1
            self._move(Event.RESUMED)
            self._attach(found)

    def _give_up(self, reason: str) -> None:
        self._move(Event.GAVE_UP, reason)
        if self._pump:
            self._pump.give_up(reason)
        elif self._shim:
            self._shim.close()

    def _again(self, timeout: float = 0.0) -> DialRequest:
        """How to reach the VM that was dialled, and no other."""
        assert self._dial_request is not None, "nothing was dialled"
        assert self._dialled is not None, "nothing was reached"
        return redial.same_vm(self._dial_request, self._dialled, timeout)

    def _is_away(self) -> bool:
        return self.state is SessionState.RESUMING

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
            reason = f"the link: {link_end(error).reason}"
            if self._carrier and not isinstance(error, ssl.SSLZeroReturnError):
                self._link_broke(reason)
                return
        else:
            reason = "the link: " + ("the VM spoke before it was asked" if said else link_end(None).reason)
        self._link_ended(Event.LINK_ENDED, reason)

    def _link_ended(self, event: Event, reason: str) -> None:
        self._drop_link()
        self._move(event, reason)
        if self.state is SessionState.LISTENING:
            self._dialled = None
        elif self._shim:
            self._shim.close()

    def _cancel(self) -> None:
        for task in (self._dialling, self._binding, self._resuming):
            if task:
                task.cancel()

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
