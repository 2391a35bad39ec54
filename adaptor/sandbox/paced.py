"""A provider that heeds its cloud's limits as one: when any call is throttled, all wait, and come back one by one.

    throttled ──► nobody calls until a common moment ──► one call every `interval` ──► shorter with each success
                                                               ▲ doubled when throttled again

An account's limits are shared by all its nodes: pauses and intervals are jittered. Of those that wait, deletes go
before creates before reads: a delete makes room, a create has a pod behind it, a read is asked again anyway. Every
fourth turn goes to whoever has waited longest, so that nobody waits for ever. Throttled reaches the caller as ever:
whether to try again is its own decision.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from enum import IntEnum
from random import Random
from typing import Final, TypeVar

from adaptor.clock import Clock
from adaptor.telemetry import metrics
from providers.base import Instance, LaunchSpec, Offering, Provider
from providers.errors import ProviderError, Throttled, Transient

T = TypeVar("T")

# Calls under way at once. What is sent before the first refusal comes back is the herd; the smallest bucket we know
# (EC2's for RunInstances) holds 5 calls, and an SDK's pool of threads is 8.
AT_ONCE: Final = 16
# Seconds that all wait after a refusal, if the cloud does not say: 0 to 1, then 0 to 2, ... 0 to 20.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 20.0
# What a cloud says is heeded up to here: a wrong header must not stop deletes for the day. Seconds.
_LONGEST_ASKED: Final = 120.0
# Between two calls after a pause: 10 a second and slower with each refusal, down to one in 2 s. Below the shortest,
# pacing is over. Seconds.
_FIRST_INTERVAL, _LONGEST_INTERVAL, _SHORTEST_INTERVAL = 0.1, 2.0, 0.01
_FASTER: Final = 0.95  # per success: a refusal's doubling is made up for in fourteen
_QUIET: Final = 30.0  # seconds without a call after which the cloud's bucket is full again
_FAIR_TURN: Final = 4


class _Rank(IntEnum):
    DELETE = 0
    CREATE = 1
    READ = 2


class Paced:
    """`provider`, its calls held back while the cloud wants fewer of them. Waiting may be cancelled."""

    def __init__(self, provider: Provider, clock: Clock, random: Random) -> None:
        self._provider = provider
        self._clock = clock
        self._random = random
        self.name = provider.name
        self._waiting: dict[_Rank, deque[tuple[int, asyncio.Future[None]]]] = {rank: deque() for rank in _Rank}
        self._arrivals = 0
        self._turns = 0
        self._under_way = 0
        self._refusals = 0  # of late; successes take away from it
        self._refused_at = float("-inf")
        self._held_until = float("-inf")  # the common moment
        self._next_turn = float("-inf")
        self._interval = 0.0  # seconds between calls; 0 = not paced
        self._last_end = clock.now()
        self._dealer: asyncio.Task[None] | None = None

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        return await self._call(_Rank.CREATE, lambda: self._provider.create(spec, token))

    async def get(self, ids: Collection[str]) -> Mapping[str, Instance]:
        return await self._call(_Rank.READ, lambda: self._provider.get(ids))

    async def list(self) -> Sequence[Instance]:
        return await self._call(_Rank.READ, self._provider.list)

    async def delete(self, instance_id: str) -> None:
        await self._call(_Rank.DELETE, lambda: self._provider.delete(instance_id))

    async def offerings(self) -> Sequence[Offering]:
        """Waits for nothing: the provider knows the answer after the first time."""
        return await self._provider.offerings()

    async def aclose(self) -> None:
        if self._dealer is not None:
            self._dealer.cancel()
            await asyncio.gather(self._dealer, return_exceptions=True)
        await self._provider.aclose()

    async def _call(self, rank: _Rank, call: Callable[[], Awaitable[T]]) -> T:
        await self._turn(rank)
        sent = self._clock.now()
        try:
            result = await call()
        except Throttled as error:
            self._refused(sent, error.retry_after)
            raise
        except Transient:  # says nothing of the cloud's limits
            raise
        except ProviderError:
            self._taken(sent)
            raise
        else:
            self._taken(sent)
            return result
        finally:
            self._end()

    # -- the pace -------------------------------------------------------------------------------

    def _refused(self, sent: float, retry_after: float | None) -> None:
        now = self._clock.now()
        pause = 0.0
        if sent >= self._refused_at:  # else it was under way already when the others were stopped: no news
            self._refusals += 1
            self._refused_at = now
            self._interval = min(max(self._interval * 2, _FIRST_INTERVAL), _LONGEST_INTERVAL)
            pause = self._random.uniform(0, min(_FIRST_PAUSE * 2 ** (self._refusals - 1), _LONGEST_PAUSE))
            metrics.CLOUD_BACKOFFS.labels(cloud=self.name).inc()
        if retry_after is not None:
            pause = min(retry_after, _LONGEST_ASKED)
        self._held_until = max(self._held_until, now + pause)

    def _taken(self, sent: float) -> None:
        if sent < self._refused_at:
            return
        self._refusals = max(0, self._refusals - 1)
        self._interval *= _FASTER
        if self._interval < _SHORTEST_INTERVAL:
            self._interval = 0.0

    # -- who is next ----------------------------------------------------------------------------

    async def _turn(self, rank: _Rank) -> None:
        waiting = any(self._waiting.values())
        if not waiting and not self._under_way and self._clock.now() - self._last_end >= _QUIET:
            self._refusals, self._interval = 0, 0.0
        if not waiting and self._under_way < AT_ONCE and self._opens() <= self._clock.now():
            self._begin()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals += 1
        self._waiting[rank].append((self._arrivals, turn))
        self._deal()
        try:
            with metrics.CLOUD_WAITING.labels(cloud=self.name).track_inprogress():
                await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had just become ours
                self._end()
            raise

    def _opens(self) -> float:
        return max(self._held_until, self._next_turn)

    def _begin(self) -> None:
        self._under_way += 1
        self._next_turn = self._clock.now() + self._interval * self._random.uniform(0.5, 1.5)

    def _end(self) -> None:
        self._under_way -= 1
        self._last_end = self._clock.now()
        self._deal()

    def _deal(self) -> None:
        if any(self._waiting.values()) and (self._dealer is None or self._dealer.done()):
            self._dealer = asyncio.create_task(self._deal_out(), name="cloud-pace")

    async def _deal_out(self) -> None:
        while any(self._waiting.values()) and self._under_way < AT_ONCE:  # the next call that ends goes on here
            if (wait := self._opens() - self._clock.now()) > 0:
                await self._clock.sleep(wait)
                continue
            _, turn = self._pick()
            if not turn.cancelled():  # else its caller has given up
                self._begin()
                turn.set_result(None)

    def _pick(self) -> tuple[int, "asyncio.Future[None]"]:
        queues = [queue for queue in self._waiting.values() if queue]  # in the order of their rank
        self._turns += 1
        if self._turns % _FAIR_TURN == 0:
            queues.sort(key=lambda queue: queue[0][0])
        return queues[0].popleft()
