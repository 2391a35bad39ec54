"""Turns at something scarce, dealt out fairly: a namespace that starts a thousand pods makes no other wait for them.

At most `limit` turns are held at once. A free one goes to the namespace whose last turn lies furthest back among those
that wait, and within it to whoever came first.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from adaptor.telemetry import metrics


class FairGate:
    """`async with gate.turn(namespace):` in one event loop."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # next namespace first

    @asynccontextmanager
    async def turn(self, namespace: str) -> AsyncIterator[None]:
        """Entered when it is this caller's turn. One that is cancelled while it waits has held up nobody."""
        began = monotonic()
        with metrics.CREATES_WAITING.track_inprogress():
            await self._take(namespace)
        metrics.CREATE_WAIT_SECONDS.observe(monotonic() - began)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, namespace: str) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(namespace, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._drop(namespace, turn)
            else:  # it had just become ours
                self._give_back()
            raise

    def _give_back(self) -> None:
        while self._waiting:
            namespace, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[namespace] = queue  # behind the others
            if not turn.cancelled():  # else its caller has not been woken yet to take it away
                turn.set_result(None)
                return
        self._free += 1

    def _drop(self, namespace: str, turn: "asyncio.Future[None]") -> None:
        queue = self._waiting.get(namespace, deque())
        if turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[namespace]
