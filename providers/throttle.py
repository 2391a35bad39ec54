"""Calls held back before the cloud refuses them: a token bucket for each of its limits, shared by all tasks of a node.

    throttle = Throttle({"create": Rate(burst=5, refill=2)})
    async with throttle.turn("create", Rank.CREATE):
        ...                                          # the call; it raises Throttled when the cloud refuses it

An account's limits are shared by all its nodes, so the published rate is only where a bucket begins: a call that is
throttled all the same empties it and halves its rate, successes raise that again, and half a minute without a refusal
makes it the published one. Every wait is jittered. Whoever waits for the same bucket goes by rank: a delete makes
room, a create has a pod behind it, a read is asked again anyway. Every fourth turn goes to whoever has waited longest,
so that nobody waits for ever. Throttled reaches the caller as ever, whose decision it is to try again (`retry`), but
for `retry_after`: that is heeded here.

Time is the running loop's. A Throttle belongs to one loop.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum
from random import Random, SystemRandom
from types import MappingProxyType
from typing import Final

from providers.errors import ProviderError, Throttled, Transient

# Calls under way at once. What is sent before the first refusal comes back is the herd; the smallest bucket we know
# (EC2's for RunInstances) holds 5 calls, and an SDK's pool of threads is 8.
AT_ONCE: Final = 16
# What a cloud says is heeded up to here: a wrong header must not stop deletes for the day. Seconds.
_LONGEST_ASKED: Final = 120.0
# The least that a bucket's rate is learned down to: an eighth of what is published. Fifty nodes that share a bucket of
# two calls a second then try twelve times a second: it is never left unused, and a last node waits four seconds.
_LEAST_PART: Final = 1 / 8
_BETTER_PART: Final = 1 / 16  # of the published rate, per success
# Of a bucket whose rate nobody publishes, once it has refused a call. Calls per second.
_FIRST_RATE, _LEAST_RATE, _HIGHEST_RATE = 10.0, 0.5, 100.0
_FASTER: Final = 0.05  # per success, and at least _STEP: halving all and adding the same to all makes nodes alike
_STEP: Final = 0.2
_FORGOTTEN: Final = 30.0  # seconds without a refusal after which the last one says nothing any more
_FAIR_TURN: Final = 4
_MOMENT: Final = 1e-6  # seconds: less than this is rounding


class Rank(IntEnum):
    """Who goes first."""

    DELETE = 0
    CREATE = 1
    READ = 2
    LAST = 3  # nobody waits for it: tags, the sweep


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit as the cloud publishes it: `burst` calls (or machines) at once, `refill` of them more per second."""

    burst: float = math.inf
    refill: float = math.inf


class Observer:
    """What a Throttle tells whoever counts; override what is of interest."""

    def waiting(self, change: int) -> None:
        """So many calls more, or less, wait for their turn."""

    def backed_off(self, bucket: str) -> None:
        """The cloud has refused a call that this bucket let pass."""


@dataclass(slots=True, eq=False)
class Turn:
    """The right to make one call."""

    takes: dict[str, float]
    rank: Rank
    began: float = 0.0  # the loop's time
    granted: "asyncio.Future[None] | None" = None  # None: it did not have to wait


class Throttle:
    """The limits of one account as one node sees them.

    `rates`: by bucket, as a mapping or a function. One that is not in the mapping, or for which the function returns
    `Rate()`, lets everything pass until the cloud refuses a call.
    """

    def __init__(
        self,
        rates: Mapping[str, Rate] | Callable[[str], Rate] = MappingProxyType({}),
        *,
        at_once: int = AT_ONCE,
        random: Random | None = None,
    ) -> None:
        self.observer = Observer()
        self._rate = rates if callable(rates) else lambda bucket: rates.get(bucket, Rate())
        self._at_once = at_once
        self.random = random or SystemRandom()
        self._buckets: dict[str, _Bucket] = {}
        self._waiting: list[Turn] = []  # in the order of their arrival
        self._under_way = 0
        self._turns = 0
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def turn(self, takes: str | Mapping[str, float] = "", rank: Rank = Rank.READ) -> AsyncIterator[Turn]:
        """A turn at one call. `takes`: the bucket, or how many tokens of which.

        Waiting for it may be cancelled. What leaves the block tells how the call went: Throttled, Transient (says
        nothing of the limits), anything else (an answer as good as any).
        """
        turn = Turn({takes: 1.0} if isinstance(takes, str) else dict(takes), rank)
        await self._enter(turn)
        try:
            yield turn
        except Throttled as error:
            self._refused(turn, error.retry_after)
            error.retry_after = 0.0  # the next turn comes when it is right: nobody need wait before asking for it
            raise
        except Transient:
            raise
        except ProviderError:
            self._answered(turn)
            raise
        else:
            self._answered(turn)
        finally:
            self._end()

    def take(self, turn: Turn, bucket: str, tokens: float) -> None:
        """Take more, now that it is known how many: a debt if the bucket does not hold them, and the next turn waits."""
        turn.takes[bucket] = turn.takes.get(bucket, 0.0) + tokens
        self._bucket(bucket).take(tokens, _now())

    def give_back(self, turn: Turn) -> None:
        """No call was made."""
        for name, tokens in turn.takes.items():
            self._bucket(name).take(-tokens, _now())
        turn.takes = {}

    def free(self, takes: str | Mapping[str, float] = "") -> bool:
        """Whether a turn asked for now would begin now."""
        wanted = {takes: 1.0} if isinstance(takes, str) else takes
        return not self._waiting and self._under_way < self._at_once and self._opens(wanted) <= 0

    async def _enter(self, turn: Turn) -> None:
        if self.free(turn.takes):
            self._begin(turn)
            return
        turn.granted = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._deal()
        self.observer.waiting(1)
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.cancelled():
                self._deal()  # it may have kept others waiting
            else:  # it had just become ours
                self.give_back(turn)
                self._end()
            raise
        finally:
            self.observer.waiting(-1)

    def _opens(self, takes: Mapping[str, float]) -> float:
        """Seconds until every bucket holds what is wanted of it."""
        now = _now()
        return max((self._bucket(name).opens(tokens, now) for name, tokens in takes.items()), default=0.0)

    def _bucket(self, name: str) -> "_Bucket":
        if name not in self._buckets:
            self._buckets[name] = _Bucket(self._rate(name), _now(), self.random)
        return self._buckets[name]

    def _begin(self, turn: Turn) -> None:
        self._under_way += 1
        turn.began = _now()
        for name, tokens in turn.takes.items():
            self._bucket(name).take(tokens, turn.began)

    def _answered(self, turn: Turn) -> None:
        for name in turn.takes:
            self._bucket(name).answered(turn.began)

    def _refused(self, turn: Turn, retry_after: float | None) -> None:
        """The cloud does not say which of its limits it was: most likely that of which least was left."""
        now = _now()
        name = min(turn.takes, key=lambda name: self._bucket(name).part_left(now), default=None)
        if name is not None and self._bucket(name).refused(turn.began, now, retry_after):
            self.observer.backed_off(name)

    def _end(self) -> None:
        self._under_way -= 1
        self._deal()

    def _deal(self) -> None:
        """Give every turn that can be given now, and come back when the next can."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting = [turn for turn in self._waiting if turn.granted and not turn.granted.done()]
        while self._under_way < self._at_once and (turn := self._next()):
            self._waiting.remove(turn)
            self._turns += 1
            self._begin(turn)
            assert turn.granted is not None
            turn.granted.set_result(None)
        if self._waiting and self._under_way < self._at_once:  # else the next call that ends goes on here
            loop = asyncio.get_running_loop()
            soonest = min(max(self._opens(turn.takes), _MOMENT) for turn in self._waiting)
            self._timer = loop.call_later(soonest, self._deal)

    def _next(self) -> Turn | None:
        """Who is first of those that can go; who cannot keeps what it lacks from those behind."""
        fair = (self._turns + 1) % _FAIR_TURN == 0
        lacking: set[str] = set()
        now = _now()
        for turn in self._waiting if fair else sorted(self._waiting, key=lambda turn: turn.rank):
            lacks = {name for name, tokens in turn.takes.items() if self._bucket(name).opens(tokens, now) > 0}
            if not lacks and not lacking & turn.takes.keys():
                return turn
            lacking |= lacks
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()


class _Bucket:
    """Starts full. `rate`: what is published; `_refill`: what is believed now."""

    def __init__(self, rate: Rate, now: float, random: Random) -> None:
        self._rate = rate
        self._random = random
        self._refill = rate.refill
        self._tokens = rate.burst
        self._filled_at = now
        self._refused_at = -math.inf
        self._held_until = -math.inf  # nothing flows in before

    def opens(self, tokens: float, now: float) -> float:
        """Seconds until it holds so many, at least. A wish beyond the burst is met by a full bucket, as in the cloud."""
        self._fill(now)
        held = max(self._held_until - now, 0.0)
        lacks = max(min(tokens, self._burst) - self._tokens, 0.0)
        wait = held + lacks / self._refill
        return wait if wait > _MOMENT else 0.0

    def part_left(self, now: float) -> float:
        """0 to 1; below for a debt."""
        self._fill(now)
        return 1.0 if math.isinf(self._tokens) else self._tokens / self._burst

    def take(self, tokens: float, now: float) -> None:
        """Take them; may leave a debt."""
        self._fill(now)
        # A rate that was learned is one that others use up too: nobody shall keep step with them.
        self._tokens -= tokens * (self._random.uniform(0.5, 1.5) if self._is_learned and tokens > 0 else 1.0)

    def refused(self, sent: float, now: float, retry_after: float | None) -> bool:
        """A call that was sent then was throttled; whether that is news."""
        self._fill(now)
        if retry_after is not None:
            self._held_until = max(self._held_until, now + min(retry_after, _LONGEST_ASKED))
        if sent < self._refused_at:  # it was under way already when the others were stopped
            return False
        self._refused_at = now
        self._refill = self._slower()
        self._tokens = min(self._tokens, self._random.random())
        return True

    def answered(self, sent: float) -> None:
        """A call that was sent then was not throttled."""
        if sent < self._refused_at or not self._is_learned:
            return
        if math.isinf(self._rate.refill):
            self._refill += max(self._refill * _FASTER, _STEP)
            if self._refill > _HIGHEST_RATE:
                self._forget()
        else:
            self._refill = min(self._refill + self._rate.refill * _BETTER_PART, self._rate.refill)

    @property
    def _is_learned(self) -> bool:
        return self._refill < self._rate.refill

    @property
    def _burst(self) -> float:
        return 1.0 if math.isinf(self._rate.burst) and self._is_learned else self._rate.burst

    def _slower(self) -> float:
        if math.isinf(self._rate.refill):
            return max(self._refill / 2, _LEAST_RATE) if self._is_learned else _FIRST_RATE
        return max(self._refill / 2, self._rate.refill * _LEAST_PART)

    def _forget(self) -> None:
        self._refill = self._rate.refill
        self._tokens = self._rate.burst if math.isinf(self._rate.burst) else self._tokens

    def _fill(self, now: float) -> None:
        since = max(self._filled_at, self._held_until)
        if now > since:
            more = 0.0 if math.isinf(self._tokens) else (now - since) * self._refill
            self._tokens = min(self._burst, self._tokens + more)
        self._filled_at = max(self._filled_at, now)
        if self._is_learned and now - max(self._refused_at, self._held_until) >= _FORGOTTEN:
            self._forget()
