"""Every sandbox of this node: id -> driver. Calls find, join or make one here."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from adaptor import names
from adaptor.errors import AdaptorError, Conflict, InvalidRequest, Unavailable, UnknownSandbox
from adaptor.relay.client import Session, SessionState
from adaptor.sandbox import adoption, recovery
from adaptor.sandbox.driver import Driver
from adaptor.sandbox.lifecycle import Answer, Call, decide
from adaptor.sandbox.model import Phase, SandboxSpec, SandboxState
from adaptor.sandbox.patience import within
from adaptor.sandbox.patrol import EVERY, Patrol, Unclaimed
from adaptor.sandbox.recovery import Adopt, CloseSession, Keep, Plan, TearDown
from adaptor.sandbox.rooms import Rooms
from adaptor.telemetry import logs, metrics

# The id becomes a directory's name. CRI ids are 64 hex characters, `ctr run` takes what people type.
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
# struct sockaddr_un's path, less its closing zero byte.
_SOCKET_PATH_LIMIT: Final = 107
# Seconds that StopVM gives the relay to say how the pod ended. It answers in milliseconds, or is away.
_LAST_WORDS: Final = 1.0
# Seconds that the cloud gets to say that a VM has ended which closed its link.
_EXAMINATION: Final = 3.0

log = logs.get("registry")


class Registry:
    """The sandboxes of this node."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._drivers: dict[str, Driver] = {}
        self._creating: dict[str, asyncio.Task[None]] = {}
        self._listing: asyncio.Task[Sequence[Session]] | None = None
        self._unclaimed = Unclaimed(rooms.clock)
        self._examined: dict[str, asyncio.Task[None]] = {}
        self._patrol = Patrol(rooms, lambda: self.sandboxes, self._condemn)

    @property
    def sandboxes(self) -> Mapping[str, SandboxState]:
        """Every sandbox's state now."""
        return {sandbox_id: driver.state for sandbox_id, driver in self._drivers.items()}

    async def create(self, spec: SandboxSpec) -> str:
        """The path the shim shall dial, its listener bound. Repeating it with the same spec changes nothing.

        Raises: InvalidRequest, Conflict (the id lives with another spec, or is being taken down), Unavailable.
        """
        path = self._socket_path(spec.id)
        known = self._drivers.get(spec.id)
        if known is not None:
            self._check_repeat(known, spec)
        else:
            known = self._driver(SandboxState(spec))
            self._creating[spec.id] = asyncio.create_task(self._create(known), name=f"create-{spec.id[:12]}")
        if creating := self._creating.get(spec.id):
            try:
                await asyncio.shield(creating)
            except asyncio.CancelledError:
                creating.add_done_callback(lambda task: self._abandon(spec.id, task))
                raise
        return path

    async def start(self, sandbox_id: str) -> None:
        """Return once its VM is bound. A cancelled caller counts as gone: the VM is kept for the pod's next sandbox
        where it may be, else taken down.

        Raises: UnknownSandbox, Conflict, StartFailed.
        """
        driver = self._drivers.get(sandbox_id)
        if driver is None:
            raise UnknownSandbox(f"sandbox {sandbox_id} is not known on this node: CreateVM comes first")
        try:
            await driver.start()
        except asyncio.CancelledError:
            driver.caller_gone()
            raise

    async def stop(self, sandbox_id: str, reason: str) -> None:
        """Take a sandbox down; one that is unknown is down already."""
        if creating := self._creating.get(sandbox_id):
            await asyncio.wait({creating})
        driver = self._drivers.get(sandbox_id)
        if driver is not None:
            explained = await self._explained(driver, reason)
            await driver.stop(explained, lost=explained != reason)

    async def reap(self) -> None:
        """Take down what has ended without StopVM. Raises Unavailable when the relay does not answer."""
        running = self.sandboxes  # before the relay is asked: what runs now had its session then
        sessions = await self._rooms.relay.sessions()
        lost = {each.sandbox_id for each in sessions if each.state is SessionState.LINK_LOST}
        for action in recovery.ended(running, sessions):
            if action.state.spec.id in lost:
                self._examine(action)
            else:
                log.warning("reaping", **action.fields())
                self._condemn(action.state.spec.id, action.reason)
        for sandbox_id, reason in self._unclaimed.overdue(running, sessions):
            log.warning("reaping", sandbox=sandbox_id, reason=reason)
            self._condemn(sandbox_id, reason)
        self._patrol.cut_off({each.sandbox_id for each in sessions if each.state is SessionState.RESUMING})
        for session in sessions:
            if session.sandbox_id not in self._drivers:
                await self._close_stranger(CloseSession(session.sandbox_id))

    async def patrol(self) -> None:
        """For ever: notice VMs that died, and sandboxes that nobody came for."""
        while True:
            await self._patrol.look()
            with suppress(Unavailable):  # the daemon says so, and brings one up
                await self.reap()
            await self._rooms.clock.sleep(EVERY)

    async def recover(self, plan: Plan) -> None:
        """Go on where the last adaptor stopped; every sandbox is known when this returns, and worked on behind."""
        await self._recall([each.state for each in plan if not isinstance(each, CloseSession)])
        for action in plan:
            log.info("recovering", **action.fields())
            match action:
                case Adopt(state):
                    self._resume(state).begin()
                case Keep(state, reason) if state.phase is Phase.STARTING:
                    self._resume(state).begin(Call.CALLER_GONE, reason)
                case Keep(state):
                    self._resume(state).begin()
                case TearDown(state, reason):
                    self._resume(state).begin(Call.STOP, reason)
        await asyncio.gather(*(self._close_stranger(each) for each in plan if isinstance(each, CloseSession)))

    async def aclose(self) -> None:
        """End every driver's task; the sandboxes live on in journal, relay and cloud."""
        await self._patrol.aclose()
        examined = list(self._examined.values())
        for task in examined:
            task.cancel()
        await asyncio.gather(*examined, return_exceptions=True)
        await asyncio.gather(*(driver.aclose() for driver in self._drivers.values()))

    async def _recall(self, states: Sequence[SandboxState]) -> None:
        """Before a tunnel gets a number or goes away: which there are. Those of running pods are not touched."""
        tunnels = [state.network for state in states if state.network is not None]
        self._rooms.networks.recall(tunnels)
        unknown = [state.spec.pod for state in states if state.phase is Phase.RUNNING and state.network is None]
        if unknown:  # started by an older version, or their journal was rebuilt: what is nobody's may be theirs
            log.warning(
                "nothing is known of these pods' tunnels; what older adaptors left is not looked for", pods=unknown
            )
            return
        try:
            await self._rooms.networks.keep_only(tunnels)
        except AdaptorError as error:
            log.warning("what older adaptors left of tunnels could not be looked for", error=str(error))

    def _resume(self, state: SandboxState) -> Driver:
        metrics.sandbox_moved(None, state.phase)
        metrics.tunnel_moved(None, state.network)
        return self._driver(state)

    def _driver(self, state: SandboxState) -> Driver:
        driver = self._drivers[state.spec.id] = Driver(state, self._rooms, self._forget, self._givers)
        return driver

    def _givers(self, spec: SandboxSpec) -> Sequence[Driver]:
        """The drivers that may have a VM for a new sandbox of this pod."""
        ca, port = self._rooms.pki.ca_pem, self._rooms.guest.port
        return [
            driver
            for driver in self._drivers.values()
            if driver.may_give and adoption.fits(spec, driver.state, ca, port)
        ]

    def _condemn(self, sandbox_id: str, reason: str) -> None:
        if driver := self._drivers.get(sandbox_id):
            driver.abandon(reason)

    async def _close_stranger(self, action: CloseSession) -> None:
        try:
            await self._rooms.relay.close(action.sandbox_id)
        except AdaptorError as error:
            log.warning("a session that is nobody's could not be closed; trying again later", error=str(error))

    async def _explained(self, driver: Driver, reason: str) -> str:
        """`reason`, and what the relay knows better: the shim stops a pod within milliseconds of losing its VM."""
        if driver.state.phase is not Phase.RUNNING:
            return reason
        try:
            sessions = await within(self._rooms.clock, _LAST_WORDS, self._sessions())
        except (AdaptorError, TimeoutError):
            return reason
        mine = next((each for each in sessions if each.sandbox_id == driver.state.spec.id), None)
        if mine is None or mine.state is not SessionState.LINK_LOST:
            return reason
        return f"{reason}, after its VM was lost: {await self._cause(driver.state, mine.reason)}"

    def _examine(self, action: TearDown) -> None:
        """Reap a sandbox whose VM was lost, with what the cloud says of it."""
        sandbox_id = action.state.spec.id
        if sandbox_id in self._examined:
            return

        async def examine() -> None:
            reason = await self._cause(action.state, action.reason)
            log.warning("reaping", **{**action.fields(), "reason": reason})
            self._condemn(sandbox_id, reason)

        task = self._examined[sandbox_id] = asyncio.create_task(examine(), name="examine")
        task.add_done_callback(lambda _: self._examined.pop(sandbox_id, None))

    async def _cause(self, state: SandboxState, reason: str) -> str:
        """`reason`, or the cloud's where it calls the VM ended: a VM that shuts down leaves before the cloud says so."""
        death = within(self._rooms.clock, _EXAMINATION, self._rooms.watch.death(state.instance_id))
        words = self._rooms.consoles.keep(state, reason, _EXAMINATION) if self._rooms.consoles else asyncio.sleep(0)
        dead, _ = await asyncio.gather(death, words, return_exceptions=True)
        if isinstance(dead, TimeoutError):
            return reason
        if isinstance(dead, BaseException):
            raise dead
        return recovery.death(dead) or reason

    async def _sessions(self) -> Sequence[Session]:
        """The relay's list, asked once for all who want it at the same moment."""
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._list(), name="list-sessions")
        return await asyncio.shield(self._listing)

    async def _list(self) -> Sequence[Session]:
        return await self._rooms.relay.sessions()

    async def _create(self, driver: Driver) -> None:
        try:
            await driver.create()
        except BaseException:
            if not driver.has_begun:
                del self._drivers[driver.state.spec.id]
            raise
        finally:
            del self._creating[driver.state.spec.id]

    def _abandon(self, sandbox_id: str, creating: asyncio.Task[None]) -> None:
        """CreateVM's caller died before the answer: no StopVM will come."""
        failed = creating.cancelled() or creating.exception() is not None
        if not failed and (driver := self._drivers.get(sandbox_id)):
            driver.abandon("the shim's connection closed during CreateVM")

    def _check_repeat(self, driver: Driver, spec: SandboxSpec) -> None:
        edge = decide(driver.state, Call.CREATE)
        if edge.answer is Answer.REFUSE:
            raise Conflict(f"sandbox {spec.id} is being taken down: {edge.why}")
        if not driver.state.spec.asks_for_the_same(spec):
            raise Conflict(
                f"sandbox {spec.id} exists already, for {driver.state.spec.pod}, and was created differently"
            )

    def _forget(self, sandbox_id: str) -> None:
        self._drivers.pop(sandbox_id, None)

    def _socket_path(self, sandbox_id: str) -> str:
        if not _ID.fullmatch(sandbox_id):
            raise InvalidRequest(f"sandbox id {sandbox_id[:140]!r} cannot be used: letters, digits, '.', '_', '-' only")
        path = f"{self._rooms.pods_dir}/{sandbox_id}/{names.AGENT_SOCKET}"
        if len(path.encode()) > _SOCKET_PATH_LIMIT:
            raise InvalidRequest(
                f"the agent socket's path {path} is longer than a unix socket's may be ({_SOCKET_PATH_LIMIT} bytes): "
                "choose a shorter pods_dir"
            )
        return path
