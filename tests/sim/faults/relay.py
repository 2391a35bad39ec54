"""The relay, its links to VMs and its shims' connections, through every state that `adaptor.relay.states` knows."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from adaptor.errors import Conflict, GuestUnreachable, LinkLost, Unavailable, UnknownSandbox
from adaptor.relay.client import Dialled, Identity, Listing, OwnGuest, Session, UpstreamGuest
from adaptor.relay.states import OVER, TRANSITIONS, Event, SessionState
from providers.base import InstanceState
from tests.sim.faults.cloud import SimCloud
from tests.sim.faults.process import Process
from tests.sim.faults.stage import Stage, short
from tests.worlds import relay as worlds

T = TypeVar("T")

LINK_GRACE = 120.0  # seconds a broken link is re-dialled for, as by default
_RE_DIAL = 0.5  # seconds
_ALIVE = (InstanceState.PENDING, InstanceState.RUNNING)


@dataclasses.dataclass
class _Link:
    """A session, and what the relay holds for it."""

    session: Session
    instance: str = ""
    dialled: Dialled | None = None
    hang_up: Callable[[str], None] | None = None  # tells the connected shim that its connection has closed
    dial: "asyncio.Task[Any] | None" = None
    cut_until: float = 0.0  # no packet passes before


class SimRelay(worlds.Relay):
    """`boots` says when an instance's guest listens; None: never."""

    def __init__(self, cloud: SimCloud, stage: Stage, boots: Callable[[str], float | None]) -> None:
        super().__init__(cloud, stage.clock)
        self.up = True
        self.links: dict[str, _Link] = {}
        self.bound: dict[str, str] = {}  # instance id -> the sandbox it was given to, once
        self.under_way: dict[asyncio.Task[Any], None] = {}
        self._boots = boots
        self._stage = stage
        self._generation = 1
        self._changed = asyncio.Event()
        cloud.ended = self.vm_ended

    # -- what an adaptor may call ---------------------------------------------------------------

    async def open(self, sandbox_id: str, socket_path: str, **rewrites: Any) -> None:
        if sandbox_id not in self.links:
            self.links[sandbox_id] = _Link(worlds._session(sandbox_id, socket_path))
            self._note()

    async def dial(
        self,
        sandbox_id: str,
        addresses: Sequence[str],
        port: int,
        timeout: float,
        identity: Identity,
        trust: OwnGuest | UpstreamGuest,
        link_grace: float = 120.0,
    ) -> Dialled:
        link = self._link(sandbox_id)
        if link.dialled is not None:
            return link.dialled
        if link.dial is not None or link.session.state is not SessionState.LISTENING:
            raise Conflict(f"Dial: the session is {link.session.state.name}")
        self._move(link, Event.DIAL)
        link.dial = asyncio.current_task()
        try:
            link.dialled = await self._reach(link, addresses[0], timeout, trust)
        except BaseException as error:
            if self.links.get(sandbox_id) is not link and isinstance(error, asyncio.CancelledError):
                raise Conflict("Dial: the session is closed") from None
            self._move(link, Event.GAVE_UP, str(error))
            raise
        finally:
            link.dial = None
        self._move(link, Event.REACHED)
        return link.dialled

    async def bind(self, sandbox_id: str, bind: bytes, timeout: float) -> bytes:
        link = self._link(sandbox_id)
        if link.session.state is SessionState.JOINED:
            return self._bound(sandbox_id, link.instance, bind)
        self._expect_dialled(link)
        await self._stage.sleep(0.2)
        self._expect_dialled(link)
        if link.instance in self.bound:
            raise Conflict(f"{link.instance} is bound already")
        self.bound[link.instance] = sandbox_id
        answer = self._bound(sandbox_id, link.instance, bind)
        self._move(link, Event.BOUND)
        return answer

    async def close(self, sandbox_id: str) -> None:
        link = self.links.pop(sandbox_id, None)
        if link is not None:
            if link.dial is not None:
                link.dial.cancel()
            self._hang_up(link, "the adaptor had the session closed")
            self._note()

    async def list(self) -> Listing:
        return Listing(tuple(link.session for link in self.links.values()), self._generation, "sim", 1)

    async def watch(self, generation: int) -> Listing:
        while generation == self._generation:
            await self._changed.wait()
        return await self.list()

    # -- what a shim does -----------------------------------------------------------------------

    def shim_connects(self, sandbox_id: str, hang_up: Callable[[str], None]) -> bool:
        link = self.links.get(sandbox_id)
        if link is None or link.session.state in OVER or link.hang_up is not None:
            return False
        link.hang_up = hang_up
        link.session = dataclasses.replace(link.session, shim_connected=True)
        self._note()
        return True

    def shim_closes(self, sandbox_id: str) -> None:
        link = self.links.get(sandbox_id)
        if link is not None and link.hang_up is not None:
            link.hang_up = None
            link.session = dataclasses.replace(link.session, shim_connected=False)
            if (link.session.state, Event.SHIM_CLOSED) in TRANSITIONS:
                self._move(link, Event.SHIM_CLOSED, "the shim's connection: closed")

    # -- what befalls it ------------------------------------------------------------------------

    def start(self) -> None:
        """One that is up stays as it is."""
        self.up = True

    def kill(self, why: str) -> None:
        """Its sockets close with it; a new one knows nothing."""
        links, self.links, self.up = self.links, {}, False
        for task in list(self.under_way):
            task.cancel()
        for link in links.values():
            self._hang_up(link, why)
        self._note()

    def hand_over(self) -> None:
        """To a successor: links are re-dialled, calls under way break, links without a pod are dropped."""
        for link in self.links.values():
            if link.dial is not None:
                link.dial.cancel()
            elif link.session.state is SessionState.DIALLED:
                self._drop(link, "handed over")
            elif link.session.state is SessionState.JOINED:
                self._break(link, "handed over")
        for task in list(self.under_way):
            task.cancel()
        self._generation += 1000
        self._note()

    def cut(self, sandbox_id: str, seconds: float) -> None:
        """No packet passes to its VM for a while."""
        link = self.links.get(sandbox_id)
        if link is not None and link.session.state is SessionState.JOINED:
            link.cut_until = self._stage.clock.now() + seconds
            self._break(link, "no packet passes")

    def vm_ended(self, instance_id: str) -> None:
        """Its link ends at once (a reset), or falls silent."""
        for link in [each for each in self.links.values() if each.instance == instance_id]:
            if link.session.state is SessionState.DIALLED:
                self._drop(link, "the VM is gone")
            elif link.session.state is SessionState.JOINED and self._stage.rng.random() < 0.5:
                self._lose(link, Event.LINK_ENDED, "the VM ended it")
            elif link.session.state is SessionState.JOINED:
                self._break(link, "the VM is silent")

    # -- helpers --------------------------------------------------------------------------------

    async def _reach(self, link: _Link, address: str, timeout: float, trust: OwnGuest | UpstreamGuest) -> Dialled:
        found = next((each for each in self._cloud.instances.values() if address in each.addresses), None)
        ready_at = self._boots(found.id) if found is not None else None
        wait = timeout if ready_at is None else min(max(ready_at - self._stage.clock.now(), 0.05), timeout)
        await self._stage.sleep(wait)
        if found is not None and wait < timeout and self._cloud.instances[found.id].state in _ALIVE:
            assert isinstance(trust, OwnGuest)
            link.instance = found.id
            hello = self._hello(found.id, trust.nonce)
            hello.bound = found.id in self.bound
            return Dialled(f"{address}:15150", worlds.CERTIFICATE, hello, 3, wait, 0.01)
        await self._stage.sleep(timeout - wait)
        raise GuestUnreachable(f"no guest answered at {address} within {timeout:g} s")

    def _link(self, sandbox_id: str) -> _Link:
        if sandbox_id not in self.links:
            raise UnknownSandbox(f"the relay has no session of sandbox {sandbox_id}")
        return self.links[sandbox_id]

    def _expect_dialled(self, link: _Link) -> None:
        if link.session.state is not SessionState.DIALLED or self.links.get(link.session.sandbox_id) is not link:
            raise LinkLost(f"the session is {link.session.state.name}: {link.session.reason}")

    def _drop(self, link: _Link, reason: str) -> None:
        link.dialled, link.instance = None, ""
        self._move(link, Event.LINK_ENDED, reason)

    def _lose(self, link: _Link, event: Event, reason: str) -> None:
        self._move(link, event, reason)
        self._hang_up(link, reason)

    def _break(self, link: _Link, reason: str) -> None:
        self._move(link, Event.LINK_BROKE, reason)
        self._stage.spawn(self._resume(link, reason))

    async def _resume(self, link: _Link, reason: str) -> None:
        until = self._stage.clock.now() + LINK_GRACE
        alive = self._cloud.instances[link.instance].state in _ALIVE
        back = max(self._stage.clock.now() + _RE_DIAL, link.cut_until) if alive else until
        await self._stage.sleep(min(back, until) - self._stage.clock.now())
        if link.session.state is not SessionState.RESUMING:
            return
        if back < until and self._cloud.instances[link.instance].state in _ALIVE:
            self._move(link, Event.RESUMED)
            self._stage.tell(f"relay: {short(link.session.sandbox_id)} is resumed")
        else:
            await self._stage.sleep(until - self._stage.clock.now())
            if link.session.state is SessionState.RESUMING:
                self._lose(link, Event.GAVE_UP, f"{reason} for {LINK_GRACE:g} s")

    def _hang_up(self, link: _Link, reason: str) -> None:
        if link.hang_up is not None:
            hang_up, link.hang_up = link.hang_up, None
            link.session = dataclasses.replace(link.session, shim_connected=False)
            hang_up(reason)

    def _move(self, link: _Link, event: Event, reason: str = "") -> None:  # type: ignore[override]
        state = TRANSITIONS[link.session.state, event]
        link.session = dataclasses.replace(link.session, state=state, reason=reason)
        if self.links.get(link.session.sandbox_id) is link:
            self._stage.tell(f"relay: {short(link.session.sandbox_id)} {state.name}{reason and f': {reason}'}")
            self._note()

    def _note(self) -> None:
        self._generation += 1
        self._changed.set()
        self._changed = asyncio.Event()


class RelayLine:
    """One adaptor's side of relay.sock: every method of the relay, and the ways in which a call of it can end."""

    def __init__(self, relay: SimRelay, stage: Stage, process: Process) -> None:
        self._relay = relay
        self._stage = stage
        self._process = process

    def __getattr__(self, verb: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **more: Any) -> Any:
            crash = None if verb == "watch" else self._stage.pass_border("relay", self._process, verb)
            if not self._relay.up:
                raise Unavailable("the relay does not answer")
            answer = await self._carry(verb, self._relay_call(verb, args, more))
            if crash is not None and crash.side == "after":
                self._stage.crash(crash, verb)
            self._process.check()
            return answer

        return call

    async def sessions(self) -> Sequence[Session]:
        listing: Listing = await self.list()
        return listing.sessions

    async def _relay_call(self, verb: str, args: Any, more: Any) -> Any:
        await self._stage.sleep(0.001)
        return await getattr(self._relay, verb)(*args, **more)

    async def _carry(self, verb: str, work: Any) -> Any:
        task = self._stage.spawn(work)
        self._relay.under_way[task] = None
        task.add_done_callback(lambda done: self._relay.under_way.pop(done, None))
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            if verb in ("dial", "watch"):  # the relay sees the connection close; other calls it carries out
                task.cancel()
            raise
        if task.cancelled():
            raise Unavailable("the relay closed the connection")
        return task.result()
