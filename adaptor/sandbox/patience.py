"""How long and how far: waiting with an end, deeds that are never left half done. How often: `providers.retry`."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from adaptor.clock import Clock

T = TypeVar("T")


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
