"""What all parts of a run share: the clock, the timeline, the tally, and the points at which the adaptor is killed."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, TypeVar

from tests.sim.faults.process import Process
from tests.sim.faults.scenario import Crash, Scenario
from tests.worlds.loop import VirtualLoop

T = TypeVar("T")


def short(sandbox_id: str) -> str:
    """As people read it: `pod-attempt`, without what makes it as long as CRI's."""
    return sandbox_id.partition(".")[0]


class Stage:
    """One run's. `calm` once no more faults may strike."""

    def __init__(self, scenario: Scenario, loop: VirtualLoop) -> None:
        self.scenario = scenario
        self.clock = loop
        self.rng = random.Random(f"stage {scenario.chance}")
        self.timeline: list[str] = []
        self.violations: list[str] = []
        self.tally: Counter[str] = Counter()  # how often each kind of fault really struck
        self.passed: Counter[str] = Counter()  # by border, and by border and what passed it
        self.calm = False
        self.kill_adaptor: Callable[[str, float], None] = lambda why, away: None
        self._began = loop.now()
        self._context = copy_context()
        self._crashes = {(crash.border, crash.nth): crash for crash in scenario.crashes}

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self.clock.now() - self._began

    def tell(self, what: str) -> None:
        self.timeline.append(f"{self.now:9.3f}  {what}")

    def happened(self, kind: str, what: str) -> None:
        """Something that is no fault, and that enough runs must meet: counted and told."""
        self.tally[kind] += 1
        self.tell(f"{kind}: {what}")

    def strike(self, kind: str, what: str = "") -> None:
        """A fault happens: `kind` is counted, the rest is for people."""
        self.tally[kind] += 1
        self.tell(f"FAULT {kind}{what and f': {what}'}")

    def violated(self, what: str) -> None:
        self.violations.append(f"at {self.now:.3f} s: {what}")
        self.tell(f"VIOLATION {what}")

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """A task of the world's: no adaptor's death ends it, whoever caused it."""
        return self.clock.create_task(work, context=self._context.copy())

    async def sleep(self, seconds: float) -> None:
        await self.clock.sleep(seconds)

    def pass_border(self, border: str, process: Process, what: str) -> Crash | None:
        """Count something on its way out of the adaptor; the crash that is planned for it, if any.

        Raises CancelledError when that is to happen before it passes.
        """
        process.check()
        self.passed[border] += 1
        self.passed[f"{border} {what}"] += 1
        crash = None if self.calm else self._crashes.get((border, self.passed[border]))
        if crash is not None and crash.side == "before":
            self.crash(crash, what)
            process.check()
        return crash

    def crash(self, crash: Crash, what: str) -> None:
        """The moment has come."""
        self.strike(f"killed at {crash.border}: {crash.side} {what}")
        self.kill_adaptor(f"{crash.side} {what}", crash.away)
