"""The lives of all instances, whatever their cloud.

    launch ─► PENDING ──boot_delay──► RUNNING ──os_delay──► its program, again after a restart from inside
                 ▲                       │
               start                     ├─ stop, or a shutdown from inside ─► STOPPING ─► STOPPED
                 │                       │
              STOPPED                    └─ terminate, kill, or a shutdown from inside
                                            (from any state that is not the end) ─► SHUTTING_DOWN ─► TERMINATED

Verbs take effect at once for whoever reads the state. The program and its network end behind; STOPPED and TERMINATED
say that they have. One task at a time moves an instance on: a new one begins when all before it have ended.
"""

import asyncio
import logging
import random
import signal
import threading
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Any, Final

from providers.simcloud.faults import Fate, Faults
from providers.simcloud.machines.base import Host, Machine, Run
from providers.simcloud.options import Options, SimcloudError

LOG: Final = logging.getLogger("providers.simcloud")

# What the kernel tells the parent of a PID namespace whose init asks for a restart; halt and poweroff are SIGINT.
_RESTART: Final = -signal.SIGHUP


class State(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    SHUTTING_DOWN = "shutting-down"
    TERMINATED = "terminated"


ENDED: Final = frozenset({State.SHUTTING_DOWN, State.TERMINATED})
OFF: Final = ENDED | {State.STOPPING, State.STOPPED}


class Cause(Enum):
    """Why an instance stopped or ended; each cloud has its own words for these."""

    NONE = auto()
    ASKED = auto()  # by a call of the API
    ITSELF = auto()  # its program ended, or shut the machine down
    HOST = auto()  # the host, or the launch, failed


@dataclass(eq=False)
class Life:
    """Where an instance is in its life. `cause` and `reason` (a cloud's own words, often empty) say why it is off."""

    machine: Machine
    rng: random.Random  # its own, so that a seed gives it the same delays whatever the others do
    state: State = State.PENDING
    cause: Cause = Cause.NONE
    reason: str = ""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)  # the last one lives it, the others are ending
    run: Run | None = None  # the boot under way
    released: bool = False  # its capacity has been given back


Changed = Callable[[Life], None]


class Fleet:
    """All instances of one simulated cloud."""

    def __init__(self, host: Host, faults: Faults, options: Options, changed: Changed) -> None:
        self._host = host
        self._faults = faults
        self._options = options
        self._changed = changed
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self.lives: dict[str, Life] = {}
        self._cuts: set[asyncio.Task[None]] = set()
        faults.kill_instance = self.kill
        faults.cut_instance = self.cut

    def launch(self, machine: Machine) -> Life:
        """A new instance: pending, and on its way up."""
        seed = None if self._options.seed is None else f"{self._options.seed}/{len(self.lives)}"
        life = self.lives[machine.id] = Life(machine, random.Random(seed))  # noqa: S311 - spreads delays
        self._go(life)
        return life

    def start(self, machine_id: str) -> None:
        """Start one that is stopped; otherwise nothing."""
        life = self.lives[machine_id]
        if life.state is State.STOPPED:
            self._go(life)

    def stop(self, machine_id: str) -> None:
        """Stop one that is up; otherwise nothing."""
        self._end(self.lives[machine_id], State.STOPPED, Cause.ASKED)

    def terminate(self, machine_id: str) -> None:
        """End one for good; one that has ended stays as it is."""
        self._end(self.lives[machine_id], State.TERMINATED, Cause.ASKED)

    def reboot(self, machine_id: str) -> None:
        """Begin its program anew; the state does not show it, nor does a stopped one notice."""
        life = self.lives[machine_id]
        if life.state is State.RUNNING:
            self._instead(life, lambda: self._run(life, Fate.LIVES))

    def kill(self, machine_id: str, reason: str = "") -> None:
        """End one as a failing host does; may be called from any thread. Raises KeyError for an unknown one."""
        life = self.lives[machine_id]
        if threading.get_ident() == self._thread:
            self._end(life, State.TERMINATED, Cause.HOST, reason)
        else:
            self._loop.call_soon_threadsafe(self._end, life, State.TERMINATED, Cause.HOST, reason)

    def cut(self, machine_id: str, seconds: float) -> None:
        """Take one's network cable out for so long; any thread. Raises KeyError for an unknown one."""
        life = self.lives[machine_id]

        def begin() -> None:
            task = self._loop.create_task(self._cut(life, seconds))
            self._cuts.add(task)
            task.add_done_callback(self._cuts.discard)

        self._loop.call_soon_threadsafe(begin)

    async def aclose(self) -> None:
        """End every run, without a word to anybody about states."""
        tasks = [*self._cuts, *(task for life in self.lives.values() for task in life.tasks)]
        _cancel(tasks)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _go(self, life: Life) -> None:
        life.cause, life.reason = Cause.NONE, ""
        self._set(life, State.PENDING)
        self._instead(life, lambda: self._live(life))

    def _instead(self, life: Life, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have `work` done instead of whatever is being done, once all of that has ended."""
        before = set(life.tasks)
        _cancel(before)

        async def afterwards() -> None:
            if before:
                await asyncio.wait(before)
            try:
                await work()
            except Exception:  # whoever waits for this instance must hear of it, whatever has gone wrong
                LOG.exception("%s: a fault of simcloud", life.machine.id)
                self._end(life, State.TERMINATED, Cause.HOST, "simcloud has failed; its log says how")

        task = asyncio.create_task(afterwards(), name=f"simcloud {life.machine.id}")
        life.tasks.add(task)
        task.add_done_callback(life.tasks.discard)

    def _end(self, life: Life, final: State, cause: Cause, reason: str = "") -> None:
        if life.state in (ENDED if final is State.TERMINATED else OFF):
            return
        life.cause, life.reason = cause, reason
        if life.state is State.STOPPED:  # there is nothing left to shut down
            self._set(life, State.TERMINATED)
            return
        self._set(life, State.SHUTTING_DOWN if final is State.TERMINATED else State.STOPPING)
        self._instead(life, lambda: self._shut_down(life, final))

    async def _shut_down(self, life: Life, final: State) -> None:
        await asyncio.sleep(self._options.shutdown_delay.draw(life.rng))
        self._set(life, final)

    async def _live(self, life: Life) -> None:
        birth = self._faults.take_birth()
        await asyncio.sleep(self._options.boot_delay.draw(life.rng))
        if birth.fate is Fate.DIES:
            self._end(life, State.TERMINATED, Cause.HOST, birth.reason)
            return
        self._set(life, State.RUNNING)
        await self._run(life, birth.fate)

    async def _run(self, life: Life, fate: Fate) -> None:
        """Its programs, one boot after the other, until it shuts itself down or this task is cancelled."""
        try:
            await asyncio.sleep(self._options.os_delay.draw(life.rng))
            while await self._one_boot(life, fate) == _RESTART:
                LOG.info("%s restarts itself", life.machine.id)
        except SimcloudError as error:
            LOG.error("%s cannot boot: %s", life.machine.id, error)
            self._end(life, State.TERMINATED, Cause.HOST, str(error))
            return
        self._end(life, State.STOPPED if life.machine.stops_itself else State.TERMINATED, Cause.ITSELF)

    async def _one_boot(self, life: Life, fate: Fate) -> int:
        run = life.run = await self._host.boot(life.machine, fate)
        try:
            code = await run.wait()
            LOG.info("%s: its program has ended with %d", life.machine.id, code)
            return code
        finally:
            life.run = None
            await run.end()

    async def _cut(self, life: Life, seconds: float) -> None:
        if run := life.run:
            await run.plug(connected=False)
            await asyncio.sleep(seconds)
            await run.plug(connected=True)

    def _set(self, life: Life, state: State) -> None:
        life.state = state
        if state is State.TERMINATED and not life.released:
            life.released = True
            self._faults.release(life.machine.pools)
        LOG.info("%s is %s", life.machine.id, state)
        self._changed(life)


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Once each: a second cancellation would interrupt what the first one has set going, the end of a program."""
    for task in tasks:
        if not task.cancelling():
            task.cancel()
