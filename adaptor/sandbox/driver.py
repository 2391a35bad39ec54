"""One task per sandbox: the sole writer of its state.

Callers put calls into its mailbox and await the reply; `lifecycle.decide` says what each means now. A start runs as
a child task so that a stop can pre-empt it; the driver never writes state while that child lives.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from adaptor.errors import AdaptorError, Conflict, StartFailed, UnknownSandbox
from adaptor.sandbox.lifecycle import Answer, Call, decide
from adaptor.sandbox.model import Created, Event, Phase, SandboxState, StartRequested, StopDecided, apply
from adaptor.sandbox.rooms import Rooms
from adaptor.sandbox.steps import CHAIN, Work, open_socket
from adaptor.telemetry import logs, metrics
from adaptor.telemetry.spans import span

# How long StopVM waits for the teardown before it answers and lets the rest go on behind. The shim keeps living
# until the answer, and containerd's own wait is 3 s (4.1.0); an accepted delete needs one cloud call. Seconds.
STOP_PATIENCE: Final = 10.0

log = logs.get("sandbox")


@dataclass(slots=True)
class _Message:
    call: Call
    reply: "asyncio.Future[None]"
    reason: str = ""


class Driver:
    """A sandbox. `create`, `start`, `stop` and `caller_gone` may be called from any task."""

    def __init__(self, state: SandboxState, rooms: Rooms, on_gone: Callable[[str], None]) -> None:
        self.state = state
        self._rooms = rooms
        self._on_gone = on_gone
        self._mailbox: asyncio.Queue[_Message] = asyncio.Queue()
        self._starting: asyncio.Task[None] | None = None
        self._waiting: list[_Message] = []  # for the start or the teardown under way
        self._log = log.bind(sandbox=state.spec.id, pod=state.spec.pod)
        self._task: asyncio.Task[None] | None = None

    def begin(self, first: Call | None = None, reason: str = "") -> None:
        """Start the driver's task; `first` is what recovery wants done before anything else."""
        if first is not None:
            self._mailbox.put_nowait(_Message(first, self._future(), reason))
        self._task = asyncio.create_task(self._run(), name=f"sandbox-{self.state.spec.id[:12]}")

    async def create(self) -> None:
        """Journal the sandbox and have its socket listen; raises what prevented it, with nothing left behind."""
        try:
            await self._rooms.journal.append(self.state.spec.id, Created(self.state.spec))
            await open_socket(self._work())
        except AdaptorError:
            await self._undo_create()
            raise
        self.begin()

    async def start(self) -> None:
        """Return once the VM is bound. Raises StartFailed (and kin), Conflict."""
        await self._ask(Call.START)

    async def stop(self, reason: str) -> None:
        """Take everything down; return when that is done, or after STOP_PATIENCE while it goes on behind."""
        asked = asyncio.ensure_future(self._ask(Call.STOP, reason))
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

    async def aclose(self) -> None:
        """End the task, not the sandbox: the next adaptor goes on from the journal."""
        tasks = [task for task in (self._starting, self._task) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the driver's own task ------------------------------------------------------------------

    async def _run(self) -> None:
        while self.state.phase is not Phase.GONE:
            message = await self._mailbox.get()
            edge = decide(self.state, message.call)
            self._log.debug("call decided", call=message.call.value, phase=self.state.phase, answer=edge.answer.name)
            match edge.answer:
                case Answer.BEGIN_START:
                    await self._begin_start(message)
                case Answer.JOIN_START:
                    self._waiting.append(message)
                case Answer.BEGIN_STOP if message.call is Call.CALLER_GONE and self._somebody_waits():
                    pass  # another StartVM of the same sandbox still wants it
                case Answer.BEGIN_STOP | Answer.JOIN_STOP:  # joined here: the last process died tearing down
                    await self._tear_down(message)
                case Answer.DONE | Answer.IGNORE:
                    _answer(message, None)
                case Answer.REFUSE:
                    _answer(message, Conflict(f"{message.call.value} of {self.state.spec.pod}: {edge.why}"))
        self._end()

    async def _begin_start(self, message: _Message) -> None:
        try:
            await self._record(StartRequested())
        except AdaptorError as error:  # nothing has begun; the shim hears why and calls StopVM
            _answer(message, error)
            return
        self._waiting.append(message)
        self._starting = asyncio.create_task(self._bring_up(), name=f"start-{self.state.spec.id[:12]}")

    async def _bring_up(self) -> None:
        """The start: the chain's deeds in order. Its failure is a message to the driver like any other."""
        work = self._work()
        try:
            with span(self._log, "sandbox.start"):
                for step in CHAIN[1:]:
                    await step.do(work)
        except asyncio.CancelledError:
            raise
        except AdaptorError as error:
            self._fail_start(error)
        except Exception as error:  # a bug must still end in a clean node and a readable event
            self._log.exception("start failed unexpectedly")
            self._fail_start(StartFailed(f"internal error while starting the VM: {type(error).__name__}: {error}"))
        else:
            self._answer_waiting(None)

    def _fail_start(self, error: AdaptorError) -> None:
        self._answer_waiting(error)
        self._post(Call.START_FAILED, str(error))

    async def _tear_down(self, message: _Message) -> None:
        """The undos in reverse, after the start under way has ended."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        reason = message.reason or message.call.value
        self._answer_waiting(StartFailed(f"the start of {self.state.spec.pod} was ended: {reason}"))
        if self.state.phase is not Phase.STOPPING:
            await self._insist(partial(self._record, StopDecided(reason)))
        with span(self._log, "sandbox.stop", reason=reason):
            await self._undo_all()
            await self._insist(partial(self._rooms.journal.forget, self.state.spec.id))
        self._become(SandboxState(self.state.spec, Phase.GONE))
        _answer(message, None)

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
            left = failed
            if left:
                await self._rooms.clock.sleep(1.0)

    async def _insist(self, deed: Callable[[], Awaitable[None]]) -> None:
        """A teardown step until it succeeds: what is away now (relay, disk) comes back, and nothing may be lost."""
        while True:
            try:
                await deed()
            except AdaptorError as error:
                self._log.error("teardown is held up; trying again", error=str(error))
                await self._rooms.clock.sleep(1.0)
            else:
                return

    def _end(self) -> None:
        self._on_gone(self.state.spec.id)
        while not self._mailbox.empty():
            message = self._mailbox.get_nowait()
            gone = UnknownSandbox(f"sandbox {self.state.spec.id} is gone")
            _answer(message, gone if message.call is Call.START else None)

    # -- helpers --------------------------------------------------------------------------------

    def _work(self) -> Work:
        return Work(self._rooms, lambda: self.state, self._record, self._log)

    async def _record(self, event: Event) -> None:
        """Journal, then state: what is not durable has not happened."""
        await self._rooms.journal.append(self.state.spec.id, event)
        self._become(apply(self.state, event))

    def _become(self, state: SandboxState) -> None:
        if state.phase is not self.state.phase:
            metrics.sandbox_moved(self.state.phase, None if state.phase is Phase.GONE else state.phase)
        self.state = state

    async def _undo_create(self) -> None:
        try:
            await self._rooms.relay.close(self.state.spec.id)
            await self._rooms.journal.forget(self.state.spec.id)
        except AdaptorError as error:
            self._log.warning("a refused CreateVM could not be cleaned up; the next start will", error=str(error))

    async def _ask(self, call: Call, reason: str = "") -> None:
        message = _Message(call, self._future(), reason)
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
