"""The lives of all instances, whatever their cloud: one task each, the only one that moves it on.

    launch ─► PENDING ─boot_delay─► RUNNING ─os_delay─► its program ─┬─ restarts ─► its program
                 │ dies booting         │ stop, its own shutdown     │
                 │                      ▼                            │ terminate, kill, its own shutdown
                 │                   STOPPING ─► STOPPED ─start─► PENDING
                 ▼                      │ terminate
           SHUTTING_DOWN ◄──────────────┘◄───────────────────────────┘
                 │ shutdown_delay
                 ▼
            TERMINATED

Verbs take effect at once for whoever reads the state; ending a program and its network follows behind.
"""

import asyncio
import logging
import random
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Any, Final

from providers.simcloud.faults import Fate, Faults
from providers.simcloud.machines.base import Host, Machine
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
    state: State = State.PENDING
    cause: Cause = Cause.NONE
    reason: str = ""
    task: asyncio.Task[None] | None = None
    released: bool = False  # its capacity has been given back


Changed = Callable[[Life], None]
_Work = Callable[[Life, asyncio.Task[None] | None], Coroutine[Any, Any, None]]


class Fleet:
    """All instances of one simulated cloud."""

    def __init__(self, host: Host, faults: Faults, options: Options, changed: Changed) -> None:
        self._host = host
        self._faults = faults
        self._options = options
        self._changed = changed
        self._random = random.Random(options.seed)  # noqa: S311 - spreads delays
        self.lives: dict[str, Life] = {}
        faults.kill_instance = self.kill

    def launch(self, machine: Machine) -> Life:
        """A new instance: pending, and on its way up."""
        life = self.lives[machine.id] = Life(machine)
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
            self._replace(life, self._again)

    def kill(self, machine_id: str, reason: str = "") -> None:
        """End one as a failing host does. Raises KeyError for an unknown one."""
        self._end(self.lives[machine_id], State.TERMINATED, Cause.HOST, reason)

    async def aclose(self) -> None:
        """End every run, without a word to anybody about states."""
        tasks = [life.task for life in self.lives.values() if life.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _go(self, life: Life) -> None:
        life.cause, life.reason = Cause.NONE, ""
        self._set(life, State.PENDING)
        life.task = asyncio.create_task(self._live(life), name=f"simcloud {life.machine.id}")

    def _replace(self, life: Life, work: _Work) -> None:
        life.task = asyncio.create_task(work(life, life.task), name=f"simcloud {life.machine.id}")

    def _end(self, life: Life, final: State, cause: Cause, reason: str = "") -> None:
        if life.state in (ENDED if final is State.TERMINATED else OFF):
            return
        life.cause, life.reason = cause, reason
        if life.state is State.STOPPED:  # there is nothing left to shut down
            self._set(life, State.TERMINATED)
            return
        self._set(life, State.SHUTTING_DOWN if final is State.TERMINATED else State.STOPPING)

        async def wind_up(life: Life, before: asyncio.Task[None] | None) -> None:
            await _cancelled(before)
            await asyncio.sleep(self._options.shutdown_delay.draw(self._random))
            self._set(life, final)

        self._replace(life, wind_up)

    async def _again(self, life: Life, before: asyncio.Task[None] | None) -> None:
        await _cancelled(before)
        await self._run(life, Fate.LIVES)

    async def _live(self, life: Life) -> None:
        birth = self._faults.take_birth()
        await asyncio.sleep(self._options.boot_delay.draw(self._random))
        if birth.fate is Fate.DIES:
            self._end(life, State.TERMINATED, Cause.HOST, birth.reason)
            return
        self._set(life, State.RUNNING)
        await self._run(life, birth.fate)

    async def _run(self, life: Life, fate: Fate) -> None:
        """Its programs, one boot after the other, until it shuts itself down or this task is cancelled."""
        try:
            await asyncio.sleep(self._options.os_delay.draw(self._random))
            while await self._one_boot(life, fate) == _RESTART:
                LOG.info("%s restarts itself", life.machine.id)
        except SimcloudError as error:
            LOG.error("%s cannot boot: %s", life.machine.id, error)
            self._end(life, State.TERMINATED, Cause.HOST, str(error))
            return
        self._end(life, State.STOPPED if life.machine.stops_itself else State.TERMINATED, Cause.ITSELF)

    async def _one_boot(self, life: Life, fate: Fate) -> int:
        run = await self._host.boot(life.machine, fate)
        try:
            code = await run.wait()
            LOG.info("%s: its program has ended with %d", life.machine.id, code)
            return code
        finally:
            await run.end()

    def _set(self, life: Life, state: State) -> None:
        life.state = state
        if state is State.TERMINATED and not life.released:
            life.released = True
            self._faults.release(life.machine.pools)
        LOG.info("%s is %s", life.machine.id, state)
        self._changed(life)


async def _cancelled(task: asyncio.Task[None] | None) -> None:
    """End a task and wait until it has. The caller's own cancellation comes through afterwards, not before:
    whoever waits for the caller must find nothing left of the task either.
    """
    if task is None or task.done():
        return
    task.cancel()
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
