"""Virtual time: sleeping takes none, and the order of what happens is that of the deadlines."""

import asyncio
import heapq
import itertools
from collections.abc import Iterator
from contextlib import contextmanager


class VirtualClock:
    """A Clock that jumps to the next deadline whenever nothing else can happen.

    What the clock cannot see (a thread writing to a disk) must be announced with `busy`, so that no deadline passes
    while it is under way.
    """

    def __init__(self, start: float = 1_000_000.0) -> None:
        self._now = start
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._busy = 0
        self._ticker: asyncio.Task[None] | None = None

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + max(seconds, 0.0), next(self._order), wake))
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.create_task(self._tick())
        await wake

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While entered, time stands still."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    async def _tick(self) -> None:
        while self._sleepers:
            await self._idle()
            deadline, _, wake = heapq.heappop(self._sleepers)
            if not wake.done():
                self._now = max(self._now, deadline)
                wake.set_result(None)

    async def _idle(self) -> None:
        """Until every task has had its turns and no thread is at work."""
        turns = 0
        while turns < 20:  # more than the longest chain of awaits between two things that happen
            await asyncio.sleep(0)
            turns = 0 if self._busy else turns + 1
            if self._busy:
                await asyncio.sleep(0.0005)
