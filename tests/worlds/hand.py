"""A clock that a test moves by hand, beside real sockets: who sleeps, sleeps until the test says so."""

import asyncio


class HandClock:
    """`advance` lets time pass; what is due wakes, in order."""

    def __init__(self, start: float = 1_000_000.0) -> None:
        self._now = start
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + seconds, wake))
        await wake

    def advance(self, seconds: float) -> None:
        self._now += seconds
        for due, wake in sorted(self._sleepers, key=lambda each: each[0]):
            if due <= self._now and not wake.done():
                wake.set_result(None)
        self._sleepers = [each for each in self._sleepers if not each[1].done()]

    @property
    def sleeping(self) -> list[float]:
        """Seconds that those who sleep still have."""
        return sorted(due - self._now for due, wake in self._sleepers if not wake.done())


class HastyClock:
    """Fifty times as fast as the wall's, for what waits on files and processes, which have no virtual time."""

    _TIMES = 50

    def now(self) -> float:
        return asyncio.get_running_loop().time() * self._TIMES

    def wall(self) -> float:
        return self.now()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._TIMES)
