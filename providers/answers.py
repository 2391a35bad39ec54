"""Questions to a cloud whose answers are worth keeping."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Answers(Generic[T]):
    """Answers by key, kept for `life` seconds. Who asks while the question is under way waits for the same answer, and
    may give up waiting without harm to the others; a failure goes to all who wait and is not kept.
    """

    def __init__(self, life: float = float("inf")) -> None:
        self._life = life
        self._asked: dict[str, tuple[float, asyncio.Future[T]]] = {}

    async def get(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer kept for `key`, or what `ask` gives now."""
        now = asyncio.get_running_loop().time()
        at, asked = self._asked.get(key, (now, None))
        if asked is None or failed(asked) or now - at >= self._life:
            asked = asyncio.ensure_future(ask())
            asked.add_done_callback(failed)  # looked at: else asyncio complains of an error that nobody fetched
            self._asked[key] = (now, asked)
        return await asyncio.shield(asked)


def failed(asked: "asyncio.Future[T]") -> bool:
    """Whether it has ended without an answer."""
    return asked.done() and (asked.cancelled() or asked.exception() is not None)
