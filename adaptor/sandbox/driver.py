"""One task per sandbox: the sole writer of its state.

Callers put calls into its mailbox and await the reply; `lifecycle.decide` says what each means now. A start runs as
a child task so that a stop can pre-empt it, and so does a teardown, so that calls are answered meanwhile; the driver
never writes state while a child lives. The one event that comes from elsewhere is Adopted: written by the driver that
gives its VM away, in one transaction with its own, while the child that asked for it waits.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from adaptor.errors import AdaptorError, Conflict, StartFailed, UnknownSandbox
from adaptor.sandbox.adoption import keepable
from adaptor.sandbox.lifecycle import Answer, Call, decide
from adaptor.sandbox.model import (
    Adopted,
    Created,
    Event,
    GivenAway,
    Kept,
    Phase,
    SandboxSpec,
    SandboxState,
    StartRequested,
    StopDecided,
    apply,
)
from adaptor.sandbox.patience import whole
from adaptor.sandbox.rooms import Rooms
from adaptor.sandbox.steps import CHAIN, open_socket
from adaptor.sandbox.teardown import vm_gone
from adaptor.sandbox.work import Work
from adaptor.telemetry import logs, metrics
from adaptor.telemetry.spans import span

# How long StopVM waits for the teardown before it answers and lets the rest go on behind. The shim keeps living
# until the answer, and containerd's own wait is 3 s (4.1.0); an accepted delete needs one cloud call. Seconds.
STOP_PATIENCE: Final = 10.0
# How long a created sandbox waits for its StartVM, which kata calls within seconds, and never later than this: as long
# as its own limit for StartVM. Seconds.
_START_PATIENCE: Final = 600.0

log = logs.get("sandbox")


@dataclass(slots=True)
class _Message:
    call: Call
    reply: "asyncio.Future[None]"
    reason: str = ""
    taker: "Driver | None" = None  # of ADOPT
    asked: bool = False  # of STOP: the shim wants it, and its pod did not end before
    withdrawn: bool = False  # the taker no longer waits
    decided: bool = False  # too late to withdraw: the transaction is being written


class Driver:
    """A sandbox. `create`, `start`, `stop` and `caller_gone` may be called from any task.

    `givers`: the drivers that may have a VM for this sandbox, asked when its start needs one.
    """

    def __init__(
        self,
        state: SandboxState,
        rooms: Rooms,
        on_gone: Callable[[str], None],
        givers: Callable[[SandboxSpec], Sequence["Driver"]],
    ) -> None:
        self.state = state
        self._rooms = rooms
        self._on_gone = on_gone
        self._givers = givers
        self._mailbox: asyncio.Queue[_Message | None] = asyncio.Queue()  # None: the teardown has ended
        self._starting: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._grace: asyncio.Task[None] | None = None
        self._failed = False  # the start under way has come to a bad end
        self._undone = False  # nothing is left but to see the cloud call the VM gone
        self._waiting: list[_Message] = []  # for the start under way
        self._leaving: list[_Message] = []  # for the teardown under way
        self._log = log.bind(sandbox=state.spec.id, pod=state.spec.pod)
        self._task: asyncio.Task[None] | None = None

    @property
    def may_give(self) -> bool:
        """Its VM is kept, or will be: nobody waits for the start, and its end is in the mailbox."""
        return self.state.phase is Phase.KEPT or (self.state.phase is Phase.STARTING and not self._somebody_waits())

    @property
    def has_begun(self) -> bool:
        return self._task is not None

    def begin(self, first: Call | None = None, reason: str = "") -> None:
        """Start the driver's task; `first` is what recovery wants done before anything else."""
        if first is not None:
            self._mailbox.put_nowait(_Message(first, self._future(), reason))
        self._task = asyncio.create_task(self._run(), name=f"sandbox-{self.state.spec.id[:12]}")

    async def create(self) -> None:
        """Journal the sandbox and have its socket listen; raises what prevented it. Then it has not begun and nothing is
        left, or it has begun and is being taken down."""
        created = Created(self.state.spec)
        await self._rooms.journal.append(self.state.spec.id, created)
        metrics.sandbox_moved(None, self.state.phase)
        self._rooms.cluster.changed(self.state, created)
        try:
            await open_socket(self._work())
        except AdaptorError:
            self.begin(Call.STOP, "its agent socket could not be opened")
            raise
        self.begin()

    async def start(self) -> None:
        """Return once the VM is bound. Raises StartFailed (and kin), Conflict."""
        await self._ask(Call.START)

    async def stop(self, reason: str, *, lost: bool = False) -> None:
        """Take everything down; return when that is done, or after STOP_PATIENCE while it goes on behind.

        Done is: the cloud has accepted the VM's deletion. The journal remembers the sandbox until the VM is gone.
        `lost`: its VM had ended before, so that the shim had no choice.
        """
        asked = asyncio.ensure_future(self._ask(Call.STOP, reason, asked=not lost))
        patience = asyncio.ensure_future(self._rooms.clock.sleep(STOP_PATIENCE))
        try:
            await asyncio.wait({asked, patience}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                asked.result()
            else:
                self._log.warning("teardown goes on behind the answer", patience=STOP_PATIENCE)
        finally:
            patience.cancel()
            asked.add_done_callback(_looked_at)

    def caller_gone(self) -> None:
        """The connection that waited for StartVM has closed: nobody will call StopVM."""
        self._post(Call.CALLER_GONE, "kubelet gave up waiting for the VM (the shim's connection closed)")

    def abandon(self, reason: str) -> None:
        """Take everything down; nobody waits for it."""
        self._post(Call.STOP, reason)

    async def give(self, taker: "Driver") -> bool:
        """Hand the VM kept here to `taker`, whose start waits for the answer; False if there is none any more.

        A cancelled caller either has the VM by then or has withdrawn.
        """
        message = _Message(Call.ADOPT, self._future(), taker=taker)
        self._mailbox.put_nowait(message)
        try:
            await asyncio.shield(message.reply)
        except Conflict:
            return False
        except asyncio.CancelledError:
            message.withdrawn = True
            if message.decided:
                await asyncio.wait({message.reply})
            raise
        return True

    def took(self, event: Adopted, state: SandboxState) -> None:
        """What `give` has journalled for this taker has happened to it."""
        self._become(state, event)
        self._log.info("adopted the VM of the pod's last attempt", instance=event.instance_id, source=event.source)

    async def aclose(self) -> None:
        """End the task, not the sandbox: the next adaptor goes on from the journal."""
        tasks = [task for task in (self._starting, self._ending, self._grace, self._task) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        left = [self._mailbox.get_nowait() for _ in range(self._mailbox.qsize())]
        for message in [*left, *self._waiting, *self._leaving]:
            if message is not None:
                message.reply.cancel()

    # -- the driver's own task ------------------------------------------------------------------

    async def _run(self) -> None:
        self._watch_grace()
        while (message := await self._mailbox.get()) is not None:
            if self.state.phase is Phase.GONE:  # it came while the journal forgot
                self._mailbox.put_nowait(message)
                break
            edge = decide(self.state, message.call)
            self._log.debug("call decided", call=message.call.value, phase=self.state.phase, answer=edge.answer.name)
            match edge.answer:
                case Answer.BEGIN_START:
                    await self._begin_start(message)
                case Answer.JOIN_START:
                    self._waiting.append(message)
                case Answer.KEEP if self._somebody_waits():
                    pass  # another StartVM of the same sandbox still wants it
                case Answer.KEEP:
                    await self._keep(message)
                case Answer.GIVE:
                    await self._give(message)
                case Answer.BEGIN_STOP | Answer.JOIN_STOP:
                    await self._stop(message)
                case Answer.DONE | Answer.IGNORE:
                    _answer(message, None)
                case Answer.REFUSE:
                    _answer(message, Conflict(f"{message.call.value} of {self.state.spec.pod}: {edge.why}"))
        self._end()

    async def _begin_start(self, message: _Message) -> None:
        try:
            await self._record(StartRequested(self._rooms.guest.adopt_grace))
        except AdaptorError as error:  # nothing has begun; the shim hears why and calls StopVM
            _answer(message, error)
            return
        self._forget_grace()
        self._failed = False
        self._waiting.append(message)
        self._starting = asyncio.create_task(self._bring_up(), name=f"start-{self.state.spec.id[:12]}")

    async def _bring_up(self) -> None:
        """The start: the chain's deeds in order. Its failure is a message to the driver like any other."""
        work = self._work()
        try:
            with span(self._log, "sandbox.start"):
                for step in CHAIN:  # from the socket on: it is open, unless a relay died or the VM was kept
                    await step.do(work)
        except asyncio.CancelledError:
            raise
        except AdaptorError as error:
            consoles = self._rooms.consoles
            self._fail_start(error if consoles is None else await consoles.explained(self.state, error))
        except Exception as error:  # a bug must still end in a clean node and a readable event
            self._log.exception("start failed unexpectedly")
            self._fail_start(StartFailed(f"internal error while starting the VM: {type(error).__name__}: {error}"))
        else:
            self._answer_waiting(None)

    def _fail_start(self, error: AdaptorError) -> None:
        self._failed = True
        self._rooms.cluster.failed(self.state, error)
        self._answer_waiting(error)
        self._post(Call.START_FAILED, str(error))

    async def _end_start(self) -> None:
        """Pre-empt the start under way; a create call under way ends first, and its answer is written down."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)

    async def _keep(self, message: _Message) -> None:
        """Leave the VM to the pod's next sandbox, for a while."""
        await self._end_start()
        if self._failed or not keepable(self.state):
            await self._stop(message)
            return
        until = self._rooms.clock.wall() + self.state.adopt_grace
        await self._insist(partial(self._record, Kept(message.reason, until)))
        self._log.info(
            "the VM is kept for the pod's next attempt",
            reason=message.reason,
            instance=self.state.instance_id,
            seconds=self.state.adopt_grace,
        )
        self._watch_grace()
        try:
            await self._rooms.relay.close(self.state.spec.id)  # a dial under way would hold on to the guest
        except AdaptorError as error:
            self._log.warning("the relay could not be told; the teardown will", error=str(error))

    async def _give(self, message: _Message) -> None:
        """Hand the launch to the taker: two events, one transaction."""
        taker, launch = message.taker, self.state.launch
        assert taker is not None, "ADOPT comes from a driver"
        assert launch is not None, "it is kept"
        if message.withdrawn:
            return
        message.decided = True
        mine, other = self.state.spec.id, taker.state.spec.id
        given, adopted = GivenAway(other), Adopted(mine, launch, self.state.instance_id, self.state.addresses)
        try:
            after = apply(self.state, given), apply(taker.state, adopted)
            await self._rooms.journal.append_all([(mine, given), (other, adopted)])
        except AdaptorError as error:
            _answer(message, Conflict(f"the VM of {self.state.spec.pod} cannot be handed over: {error}"))
            return
        except asyncio.CancelledError:
            message.reply.cancel()
            raise
        taker.took(adopted, after[1])  # first: at no moment is the VM nobody's, for whoever is told
        self._become(after[0], given)
        _answer(message, None)
        await self._stop(_Message(Call.STOP, self._future(), self.state.stop_reason, asked=True))

    async def _stop(self, message: _Message) -> None:
        """Have everything undone, after the start under way has ended; `message` is answered when it is."""
        await self._end_start()
        self._forget_grace()
        reason = message.reason or message.call.value
        self._answer_waiting(StartFailed(f"the start of {self.state.spec.pod} was ended: {reason}"))
        if self.state.phase is Phase.RUNNING and not message.asked:
            self._rooms.cluster.lost(self.state, reason)
        if self.state.phase not in (Phase.STOPPING, Phase.GONE):  # GONE: forgotten while the start was being ended
            await self._insist(partial(self._record, StopDecided(reason)))
        if self._undone:
            _answer(message, None)
            return
        self._leaving.append(message)
        if self._ending is None:  # also when the last process died tearing down
            self._ending = asyncio.create_task(self._take_down(reason), name=f"stop-{self.state.spec.id[:12]}")

    async def _take_down(self, reason: str) -> None:
        """The undos, and the end of everything that knows of this sandbox."""
        with span(self._log, "sandbox.stop", reason=reason):
            await self._undo_all()
        self._undone = True
        leaving, self._leaving = self._leaving, []
        for message in leaving:
            _answer(message, None)
        await vm_gone(self._work())
        await self._insist(partial(self._rooms.journal.forget, self.state.spec.id))
        self._become(SandboxState(self.state.spec, Phase.GONE), None)
        self._mailbox.put_nowait(None)

    async def _undo_all(self) -> None:
        """Every undo, in reverse; one that fails holds up no other, and is tried again after them."""
        work = self._work()
        left = list(reversed(CHAIN))
        while left:
            failed = []
            for step in left:
                try:
                    await step.undo(work)
                except AdaptorError as error:
                    self._log.error("teardown is held up; trying again", step=step.name, error=str(error))
                    failed.append(step)
                except Exception:  # a bug must not make a VM forgotten
                    self._log.exception("teardown failed unexpectedly; trying again", step=step.name)
                    failed.append(step)
            left = failed
            if left:
                await self._rooms.clock.sleep(1.0)

    async def _insist(self, deed: Callable[[], Awaitable[None]]) -> None:
        """A deed until it succeeds: what is away now (relay, disk) comes back, and nothing may be lost."""
        while True:
            try:
                await deed()
            except AdaptorError as error:
                self._log.error("held up; trying again", error=str(error))
                await self._rooms.clock.sleep(1.0)
            else:
                return

    def _end(self) -> None:
        self._on_gone(self.state.spec.id)
        while not self._mailbox.empty():
            message = self._mailbox.get_nowait()
            gone = UnknownSandbox(f"sandbox {self.state.spec.id} is gone")
            if message is not None:
                _answer(message, gone if message.call is Call.START else None)

    # -- helpers --------------------------------------------------------------------------------

    def _work(self) -> Work:
        return Work(self._rooms, lambda: self.state, self._record, self._adopt, self._log)

    async def _record(self, event: Event) -> None:
        """Journal, then state: what is not durable has not happened, and what is has, whoever is cancelled."""
        await whole(self._write(event))

    async def _write(self, event: Event) -> None:
        await self._rooms.journal.append(self.state.spec.id, event)
        self._become(apply(self.state, event), event)

    async def _adopt(self) -> bool:
        """Take over the VM that an earlier sandbox of this pod was left with; False when there is none."""
        for giver in self._givers(self.state.spec):
            if await giver.give(self):
                return True
        return False

    def _become(self, state: SandboxState, event: Event | None) -> None:
        if state.phase is not self.state.phase:
            metrics.sandbox_moved(self.state.phase, None if state.phase is Phase.GONE else state.phase)
        metrics.tunnel_moved(self.state.network, state.network)
        self.state = state
        self._rooms.cluster.changed(state, event)

    def _watch_grace(self) -> None:
        """In the two phases that wait for somebody, have the wait end."""
        if self.state.phase is Phase.CREATED:
            why = "StartVM did not follow CreateVM: the shim must have died in between"
            self._grace = asyncio.create_task(self._grace_over(_START_PATIENCE, why))
        elif self.state.phase is Phase.KEPT:
            left = self.state.kept_until - self._rooms.clock.wall()
            why = "kubelet gave up waiting for the VM, and the pod was not tried again in time"
            # The lesser, for a clock that was set back must not make it longer.
            self._grace = asyncio.create_task(self._grace_over(min(left, self.state.adopt_grace), why))

    async def _grace_over(self, seconds: float, reason: str) -> None:
        await self._rooms.clock.sleep(seconds)
        self._post(Call.GRACE_OVER, reason)

    def _forget_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    async def _ask(self, call: Call, reason: str = "", *, asked: bool = False) -> None:
        message = _Message(call, self._future(), reason, asked=asked)
        self._mailbox.put_nowait(message)
        await message.reply

    def _post(self, call: Call, reason: str) -> None:
        self._mailbox.put_nowait(_Message(call, self._future(), reason))

    def _somebody_waits(self) -> bool:
        return any(not message.reply.done() for message in self._waiting)

    def _answer_waiting(self, error: AdaptorError | None) -> None:
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            _answer(message, error)

    def _future(self) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_looked_at)
        return future


def _answer(message: _Message, error: AdaptorError | None) -> None:
    if message.reply.done():  # its caller has gone
        return
    if error is None:
        message.reply.set_result(None)
    else:
        message.reply.set_exception(error)


def _looked_at(future: "asyncio.Future[None]") -> None:
    """An error that nobody awaits any more has been logged by the driver; asyncio need not warn."""
    if not future.cancelled():
        future.exception()
