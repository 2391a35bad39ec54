"""One shared back-off for all calls of a cloud account, in virtual time."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from adaptor.sandbox import paced
from adaptor.sandbox.paced import Paced
from adaptor.telemetry import metrics
from providers.base import Instance, LaunchSpec, Provider
from providers.errors import Capacity, ProviderError, Throttled, Transient
from tests.worlds.clock import VirtualClock
from tests.worlds.cloud import Cloud


class Bucket(Cloud):
    """A cloud that takes `rate` calls a second, `burst` at once after a pause, and throttles the rest."""

    def __init__(self, clock: VirtualClock, rate: float, burst: float) -> None:
        super().__init__(clock)
        self.throttled = 0
        self.sent: list[tuple[float, str]] = []  # when, verb
        self.retry_after: float | None = None
        self._bucket = (rate, burst)
        self._tokens, self._filled = burst, clock.now()

    async def _call(self, verb: str) -> None:
        now = self._clock.now()
        self.sent.append((now, verb))
        rate, burst = self._bucket
        self._tokens = min(burst, self._tokens + (now - self._filled) * rate)
        self._filled = now
        if self._tokens < 1:
            self.throttled += 1
            await self._clock.sleep(0.05)
            raise Throttled("Request limit exceeded.", code="RequestLimitExceeded", retry_after=self.retry_after)
        self._tokens -= 1
        await super()._call(verb)


def request(number: int) -> LaunchSpec:
    return LaunchSpec(name=f"podvm-{number}", instance_type="m6a.large", user_data=b"x")


class Crowd:
    """`callers` that create a machine each, and try again as a start does when they are throttled."""

    def __init__(self, *, is_paced: bool, callers: int, rate: float = 5, burst: float = 20, seed: int = 1) -> None:
        self.clock = VirtualClock()
        self.cloud = Bucket(self.clock, rate, burst)
        self.provider: Provider = Paced(self.cloud, self.clock, random.Random(seed)) if is_paced else self.cloud
        self.ended: list[float] = []
        self._random = random.Random(seed)
        self._callers = callers

    async def run(self) -> None:
        began = self.clock.now()

        async def caller(number: int) -> None:
            await self.insist(lambda: self.provider.create(request(number), f"token-{number}"))
            self.ended.append(self.clock.now() - began)

        await asyncio.gather(*(caller(number) for number in range(self._callers)))

    async def insist(self, call: Callable[[], Awaitable[Any]]) -> None:
        for attempt in range(1000):
            try:
                await call()
            except Throttled:
                await self.clock.sleep(self._random.uniform(0, min(0.5 * 2**attempt, 20)))
            else:
                return


@pytest.mark.parametrize("seed", range(5))
async def test_two_hundred_callers_get_through_a_narrow_door_with_few_refusals(seed: int) -> None:
    ours, plain = (Crowd(is_paced=is_paced, callers=200, seed=seed) for is_paced in (True, False))
    await ours.run()
    await plain.run()
    assert len(ours.cloud.living) == len(plain.cloud.living) == 200
    assert ours.cloud.throttled <= 40
    assert plain.cloud.throttled >= 8 * ours.cloud.throttled
    least = (200 - 20) / 5  # seconds: what the bucket allows
    assert max(ours.ended) <= 2.5 * least, "nobody starves"


async def test_two_nodes_of_one_account_share_it_about_evenly() -> None:
    one = Crowd(is_paced=True, callers=60, seed=1)
    other = Crowd(is_paced=True, callers=60, seed=2)
    other.clock, other.cloud = one.clock, one.cloud
    other.provider = Paced(one.cloud, one.clock, random.Random(2))
    await asyncio.gather(one.run(), other.run())
    assert one.cloud.throttled < 60
    ends = sorted((max(one.ended), max(other.ended)))
    assert ends[0] > ends[1] / 3


class Door:
    """One provider over a cloud that is told what to refuse; `log` is the order in which calls reached it."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.cloud = Bucket(self.clock, rate=1e9, burst=1e9)
        self.paced = Paced(self.cloud, self.clock, random.Random(0))
        self._number = 0

    def create(self) -> "asyncio.Task[Instance]":
        self._number += 1
        return asyncio.ensure_future(self.paced.create(request(self._number), f"t{self._number}"))

    async def refused(self, error: ProviderError) -> None:
        """One call that this error ends."""
        self.cloud.refuse["get"].append(error)
        with pytest.raises(type(error)):
            await self.paced.get(["i-1"])
        self.cloud.sent.clear()

    @property
    def verbs(self) -> Sequence[str]:
        return [verb for _, verb in self.cloud.sent]


@pytest.fixture
def door() -> Door:
    return Door()


async def test_a_content_cloud_is_called_at_once(door: Door) -> None:
    began = door.clock.now()
    await asyncio.gather(*(door.create() for _ in range(paced.AT_ONCE)))
    assert {when for when, _ in door.cloud.sent} == {began}
    assert door.clock.now() - began == pytest.approx(0.1)


async def test_no_more_than_so_many_calls_are_under_way(door: Door) -> None:
    began = door.clock.now()
    await asyncio.gather(*(door.create() for _ in range(3 * paced.AT_ONCE)))
    assert Counter(round((when - began) * 10) for when, _ in door.cloud.sent) == dict.fromkeys(range(3), paced.AT_ONCE)


async def test_one_refusal_holds_back_every_call_until_the_moment_the_cloud_asked_for(door: Door) -> None:
    await door.refused(Throttled("slow down", retry_after=7))
    began = door.clock.now()
    await asyncio.gather(door.paced.delete("i-1"), door.create(), door.paced.list(), door.paced.get(["i-1"]))
    assert min(when for when, _ in door.cloud.sent) == pytest.approx(began + 7)
    gaps = [later - sooner for (sooner, _), (later, _) in zip(door.cloud.sent, door.cloud.sent[1:], strict=False)]
    assert all(gap >= 0.04 for gap in gaps), "one by one, not as a herd"


async def test_an_absurd_wish_of_the_cloud_does_not_stop_deletes_for_the_day(door: Door) -> None:
    await door.refused(Throttled("slow down", retry_after=86_400))
    began = door.clock.now()
    await door.paced.delete("i-1")
    assert door.clock.now() - began < 130


async def test_deletes_go_before_creates_before_reads(door: Door) -> None:
    await door.refused(Throttled("slow down", retry_after=1))
    await asyncio.gather(
        door.paced.list(), door.create(), door.paced.delete("i-1"), door.paced.get(["i-1"]), door.create()
    )
    assert door.verbs == ["delete", "create", "create", "list", "get"]


async def test_every_fourth_turn_is_that_of_who_waits_longest(door: Door) -> None:
    await door.refused(Throttled("slow down", retry_after=1))
    await asyncio.gather(door.paced.list(), *(door.paced.delete(f"i-{n}") for n in range(8)))
    assert door.verbs.index("list") == 3


async def test_a_herd_that_is_refused_at_once_is_one_refusal(door: Door) -> None:
    before = backoffs()
    door.cloud.refuse["create"] += [Throttled("slow down")] * paced.AT_ONCE
    refused = await asyncio.gather(*(door.create() for _ in range(paced.AT_ONCE)), return_exceptions=True)
    assert {type(error) for error in refused} == {Throttled}
    assert backoffs() == before + 1
    began = door.clock.now()
    await door.create()
    assert door.clock.now() - began <= 1.2


async def test_pauses_grow_with_each_refusal_up_to_a_limit_and_shrink_with_success(door: Door) -> None:
    async def pause() -> float:
        began = door.clock.now()
        await door.refused(Throttled("slow down"))
        return door.clock.now() - began

    pauses = [await pause() for _ in range(60)]
    assert max(pauses[:2]) < 2.5
    assert 10 < max(pauses) < 24
    for _ in range(60):
        await door.create()
    assert await pause() < 2.5


async def test_success_makes_it_faster_until_nothing_is_held_back(door: Door) -> None:
    for _ in range(8):
        await door.refused(Throttled("slow down"))
    began = door.clock.now()
    await asyncio.gather(*(door.create() for _ in range(150)))
    times = [when - began for when, _ in door.cloud.sent]
    assert times[10] - times[0] > 8
    assert times[-1] - times[-11] < 0.2


async def test_after_a_quiet_while_the_past_is_forgotten(door: Door) -> None:
    for _ in range(8):
        await door.refused(Throttled("slow down"))
    await door.clock.sleep(60)
    began = door.clock.now()
    await asyncio.gather(*(door.create() for _ in range(paced.AT_ONCE)))
    assert {when for when, _ in door.cloud.sent} == {began}


@pytest.mark.parametrize("other", [Transient("HTTP 503"), Capacity("no room"), ProviderError("what?")])
async def test_only_throttling_holds_calls_back(door: Door, other: ProviderError) -> None:
    await door.refused(other)
    began = door.clock.now()
    await asyncio.gather(*(door.create() for _ in range(5)))
    assert {when for when, _ in door.cloud.sent} == {began}


async def test_a_caller_that_gives_up_while_it_waits_has_sent_nothing_and_holds_up_nobody(door: Door) -> None:
    await door.refused(Throttled("slow down", retry_after=5))
    leaving, staying = door.create(), door.create()
    await door.clock.sleep(1)
    leaving.cancel()
    await staying
    assert leaving.cancelled()
    assert door.verbs == ["create"]


async def test_whoever_is_cancelled_whenever_no_turn_is_lost(door: Door) -> None:
    rng = random.Random(3)
    tasks = []
    for _ in range(300):
        if rng.random() < 0.1:
            door.cloud.refuse["create"].append(Throttled("slow down"))
        tasks.append(door.create())
        await door.clock.sleep(rng.random() / 10)
        if rng.random() < 0.4:
            rng.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert door.paced._under_way == 0
    assert not any(door.paced._waiting.values())
    door.cloud.refuse["create"].clear()
    await asyncio.gather(*(door.create() for _ in range(50)))


async def test_one_who_is_cancelled_in_the_moment_of_its_turn_hands_it_on(door: Door) -> None:
    await door.refused(Throttled("slow down", retry_after=1))
    late = door.create()
    for _ in range(5):  # so that this test's turns of the loop come behind the clock's and the dealer's
        await asyncio.sleep(0)
    ((_, turn),) = (place for queue in door.paced._waiting.values() for place in queue)
    while not turn.done():
        await asyncio.sleep(0)
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    assert door.verbs == [], "it was cancelled before it could use its turn"
    assert door.paced._under_way == 0


async def test_a_lost_answer_says_nothing_of_the_clouds_limits(door: Door) -> None:
    for _ in range(8):
        await door.refused(Throttled("slow down"))
    interval = door.paced._interval
    for _ in range(20):
        await door.refused(Transient("HTTP 503"))
    assert door.paced._interval == interval
    await door.refused(Capacity("no room"))
    assert door.paced._interval < interval, "this is an answer as good as any"


async def test_what_is_offered_is_told_while_calls_are_held_back(door: Door) -> None:
    await door.refused(Throttled("slow down", retry_after=100))
    began = door.clock.now()
    await door.paced.offerings()
    assert door.clock.now() - began < 1


async def test_calls_that_wait_are_counted(door: Door) -> None:
    waiting = metrics.CLOUD_WAITING.labels(cloud="memory")._value
    before = waiting.get()
    await door.refused(Throttled("slow down", retry_after=5))
    tasks = [door.create(), door.create()]
    await door.clock.sleep(1)
    assert waiting.get() == before + 2
    await asyncio.gather(*tasks)
    assert waiting.get() == before


def backoffs() -> float:
    return float(metrics.CLOUD_BACKOFFS.labels(cloud="memory")._value.get())
