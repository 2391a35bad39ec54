"""Time as a parameter: the daemon gets the real clock, tests a virtual one."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds for decisions, wall seconds for people, and sleeping."""

    def now(self) -> float:
        """Seconds on a monotonic scale; only differences mean anything."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch; for logs and journal rows, never for correctness."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; cancel-safe."""
        ...


class RealClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
