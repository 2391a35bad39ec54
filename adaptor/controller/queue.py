"""Work by key: each key at most once at a time, not before it is due, again after a pause when it fails."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from adaptor.clock import Clock
from adaptor.errors import AdaptorError
from adaptor.telemetry import logs
from providers.errors import ProviderError, Throttled

# Seconds until a key that failed is tried again: the first time, and at the longest.
_PAUSE: Final = 5.0
_LONGEST: Final = 300.0

log = logs.get("controller.queue")


class Queue:
    """`handle` returns in how many seconds it wants to see the key again; None: when it is put again."""

    def __init__(self, handle: Callable[[str], Awaitable[float | None]], clock: Clock, workers: int) -> None:
        self._handle = handle
        self._clock = clock
        self._workers = workers
        self._due: dict[str, float] = {}
        self._busy: set[str] = set()
        self._failures: dict[str, int] = {}
        self._wake = asyncio.Event()

    def put(self, key: str, delay: float = 0.0) -> None:
        """See to it in `delay` seconds, or earlier if that was planned."""
        at = self._clock.now() + delay
        self._due[key] = min(at, self._due.get(key, at))
        self._wake.set()

    async def run(self) -> None:
        """For ever; what is under way when it is cancelled is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                now = self._clock.now()
                for key in sorted(self._due, key=lambda each: self._due[each]):
                    if len(self._busy) >= self._workers or self._due[key] > now:
                        break
                    if key not in self._busy:
                        del self._due[key]
                        self._busy.add(key)
                        tasks.create_task(self._see_to(key))
                await self._until_due()

    async def _until_due(self) -> None:
        waiting = [at for key, at in self._due.items() if key not in self._busy]
        if len(self._busy) >= self._workers or not waiting:
            await self._wake.wait()
            return
        try:
            async with asyncio.timeout(max(0.0, min(waiting) - self._clock.now())):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _see_to(self, key: str) -> None:
        try:
            again = await self._handle(key)
            self._failures.pop(key, None)
        except (AdaptorError, ProviderError) as error:
            again = self._pause(key, error)
            log.warning("failed; it is tried again", key=key, error=str(error), seconds=again)
        except Exception as error:  # a bug that one object meets must not end the work on the others
            again = self._pause(key, error)
            log.exception("failed unexpectedly; it is tried again", key=key, seconds=again)
        finally:
            self._busy.discard(key)
            self._wake.set()
        if again is not None:
            self.put(key, again)

    def _pause(self, key: str, error: Exception) -> float:
        self._failures[key] = failures = self._failures.get(key, 0) + 1
        told = error.retry_after if isinstance(error, Throttled) else None
        return max(told or 0.0, min(_PAUSE * 2 ** min(failures - 1, 10), _LONGEST))
