"""How long, how often, and how far: waiting with an end, pauses between tries, deeds that are never left half done."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from adaptor.clock import Clock

T = TypeVar("T")


class Backoff:
    """Pauses in seconds between tries: full jitter under a bound that doubles from `first` to `cap`.

    The jitter spreads many nodes that share one account's bucket of calls.
    """

    def __init__(self, first: float, cap: float) -> None:
        self._bound = first
        self._cap = cap

    def next(self) -> float:
        bound, self._bound = self._bound, min(2 * self._bound, self._cap)
        return random.uniform(0.0, bound)  # noqa: S311 - it spreads load, and a seeded run must repeat


async def within(clock: Clock, seconds: float, doing: Awaitable[T]) -> T:
    """What `doing` returns or raises; after `seconds` it is cancelled. Raises TimeoutError then."""
    task = asyncio.ensure_future(doing)
    limit = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({task, limit}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise TimeoutError(f"no answer within {seconds:g} s")
    finally:
        for each in (task, limit):
            each.cancel()
        await asyncio.gather(task, limit, return_exceptions=True)


async def whole(deed: Coroutine[Any, Any, T], limit: Callable[[], Awaitable[None]] | None = None) -> T:
    """What `deed` returns or raises. A caller cancelled meanwhile stays until it has ended, and is cancelled then;
    where there is a `limit`, a sleep, not longer than that, and what has not ended by then is cancelled too."""
    task = asyncio.ensure_future(deed)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        waiting: set[asyncio.Future[Any]] = {task}
        if limit is not None:
            waiting.add(asyncio.ensure_future(limit()))
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        raise
