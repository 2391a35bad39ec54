"""One shared back-off for all calls of a cloud account, in virtual time."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Final

import pytest

from providers.errors import Capacity, ProviderError, Throttled, Transient
from providers.simcloud.buckets import Bucket
from providers.simcloud.buckets import Rate as CloudRate
from providers.throttle import AT_ONCE, Observer, Rank, Rate, Throttle
from tests.worlds.loop import virtually

_CALL: Final = 0.1  # seconds that the cloud takes to answer


def now() -> float:
    return asyncio.get_running_loop().time()


class Account:
    """The cloud's own bucket, shared by all who call; `sent` is when which call reached it."""

    def __init__(self, rate: float = 1e9, burst: float = 1e9) -> None:
        self.throttled = 0
        self.sent: list[tuple[float, str]] = []
        self.refuse: list[ProviderError] = []
        self._bucket = Bucket(CloudRate(burst, rate), now())

    async def call(self, what: str) -> None:
        self.sent.append((now(), what))
        refusal = self.refuse.pop(0) if self.refuse else None
        admitted = self._bucket.holds(1, now())
        if admitted:
            self._bucket.take(1, now())
        await asyncio.sleep(_CALL)
        if refusal is not None:
            raise refusal
        if not admitted:
            self.throttled += 1
            raise Throttled("Request limit exceeded.", code="RequestLimitExceeded")


class Crowd:
    """`callers` of one node that make a call each, and try again when they are throttled."""

    def __init__(self, account: Account, throttle: Throttle | None, callers: int, seed: int = 1) -> None:
        self.ended: list[float] = []
        self._account, self._throttle, self._callers = account, throttle, callers
        self._random = random.Random(seed)

    async def run(self) -> None:
        began = now()

        async def caller() -> None:
            for attempt in range(1000):
                try:
                    await self._once(attempt)
                except Throttled:
                    continue
                self.ended.append(now() - began)
                return

        await asyncio.gather(*(caller() for _ in range(self._callers)))

    async def _once(self, attempt: int) -> None:
        if self._throttle is not None:
            async with self._throttle.turn("create", Rank.CREATE):
                await self._account.call("create")
            return
        await asyncio.sleep(self._random.uniform(0, min(0.5 * 2**attempt, 20)) if attempt else 0)
        await self._account.call("create")


class Door:
    """One node's throttle over an account that is told what to refuse."""

    def __init__(self, rates: dict[str, Rate] | None = None) -> None:
        self.account = Account()
        self.throttle = Throttle(rates or {}, random=random.Random(0))
        self.began = now()

    def call(self, what: str = "create", rank: Rank | None = None, bucket: str = "") -> "asyncio.Task[None]":
        ranks = {"delete": Rank.DELETE, "create": Rank.CREATE, "read": Rank.READ, "tag": Rank.LAST}

        async def turn() -> None:
            async with self.throttle.turn(bucket, ranks[what] if rank is None else rank):
                await self.account.call(what)

        return asyncio.ensure_future(turn())

    async def calls(self, *what: str) -> None:
        await asyncio.gather(*map(self.call, what))

    async def refused(self, error: ProviderError, times: int = 1) -> None:
        """So many calls, one after the other, that this error ends."""
        for _ in range(times):
            self.account.refuse.append(error)
            with pytest.raises(type(error)):
                await self.call("read")
        self.account.sent.clear()
        self.began = now()

    @property
    def order(self) -> Sequence[str]:
        return [what for _, what in self.account.sent]

    @property
    def moments(self) -> Sequence[float]:
        return [when - self.began for when, _ in self.account.sent]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rates", [{}, {"create": Rate(20, 5)}], ids=["unknown", "published"])
@virtually
async def test_two_hundred_callers_get_through_a_narrow_door_with_few_refusals(
    seed: int, rates: dict[str, Rate]
) -> None:
    narrow, same = Account(rate=5, burst=20), Account(rate=5, burst=20)
    ours = Crowd(narrow, Throttle(rates, random=random.Random(seed)), 200)
    plain = Crowd(same, None, 200, seed)
    await ours.run()
    await plain.run()
    assert len(ours.ended) == len(plain.ended) == 200
    assert narrow.throttled <= (2 if rates else 40)
    assert same.throttled >= 8 * narrow.throttled
    least = (200 - 20) / 5  # seconds: what the bucket allows
    assert max(ours.ended) <= (1.1 if rates else 2.5) * least, "nobody starves"


@pytest.mark.parametrize("seed", range(5))
@virtually
async def test_two_nodes_of_one_account_share_it_about_evenly(seed: int) -> None:
    account = Account(rate=5, burst=20)
    one, other = (Crowd(account, Throttle(random=random.Random(f"{seed}{n}")), 60) for n in (1, 2))
    await asyncio.gather(one.run(), other.run())
    assert account.throttled < 60
    ends = sorted((max(one.ended), max(other.ended)))
    assert ends[0] > ends[1] / 3


@virtually
async def test_fifty_nodes_use_up_a_narrow_bucket_and_none_waits_for_long() -> None:
    account = Account(rate=2, burst=5)
    nodes = [Crowd(account, Throttle({"create": Rate(5, 2)}, random=random.Random(n)), 1) for n in range(50)]
    await asyncio.gather(*(node.run() for node in nodes))
    assert max(max(node.ended) for node in nodes) < (50 - 5) / 2 + 4
    assert account.throttled < 50 * 20


@virtually
async def test_a_content_cloud_is_called_at_once() -> None:
    door = Door()
    await door.calls(*["create"] * AT_ONCE)
    assert set(door.moments) == {0.0}
    assert now() - door.began == pytest.approx(_CALL)


@virtually
async def test_no_more_than_so_many_calls_are_under_way() -> None:
    door = Door()
    await door.calls(*["create"] * (3 * AT_ONCE))
    assert Counter(round(when * 10) for when in door.moments) == dict.fromkeys(range(3), AT_ONCE)


@virtually
async def test_a_published_limit_is_kept_before_the_cloud_says_a_word() -> None:
    door = Door({"": Rate(burst=5, refill=2)})
    await door.calls(*["create"] * 9)
    assert [round(when, 3) for when in door.moments] == [0, 0, 0, 0, 0, 0.5, 1, 1.5, 2]


@virtually
async def test_a_call_that_counts_for_many_waits_for_as_many_tokens() -> None:
    throttle = Throttle({"calls": Rate(10, 10), "machines": Rate(100, 5)})
    began = now()
    async with throttle.turn({"calls": 1, "machines": 100}):
        pass
    async with throttle.turn({"calls": 1, "machines": 10}) as turn:
        assert now() - began == pytest.approx(2)
        throttle.take(turn, "machines", 20)
    async with throttle.turn({"calls": 1, "machines": 1}):
        assert now() - began == pytest.approx(2 + 21 / 5), "what was taken on credit is paid first"


@virtually
async def test_who_waits_for_one_bucket_keeps_nobody_from_another() -> None:
    door = Door({"narrow": Rate(1, 0.1), "wide": Rate(100, 100)})
    door.call("delete", bucket="narrow")
    stuck = door.call("delete", bucket="narrow")
    await door.call("read", bucket="wide")
    assert now() - door.began == pytest.approx(_CALL)
    await stuck


@virtually
async def test_one_refusal_holds_back_every_call_until_after_the_moment_the_cloud_asked_for() -> None:
    door = Door()
    await door.refused(Throttled("slow down", retry_after=7))
    await door.calls("delete", "create", "read", "read")
    assert 7 <= min(door.moments) <= 7.2
    gaps = [later - sooner for sooner, later in zip(door.moments, door.moments[1:], strict=False)]
    assert all(gap >= 0.04 for gap in gaps), "one by one, not as a herd"


@virtually
async def test_an_absurd_wish_of_the_cloud_does_not_stop_deletes_for_the_day() -> None:
    door = Door()
    await door.refused(Throttled("slow down", retry_after=86_400))
    await door.calls("delete")
    assert now() - door.began < 130


@virtually
async def test_deletes_go_before_creates_before_reads_before_what_nobody_waits_for() -> None:
    door = Door()
    await door.refused(Throttled("slow down", retry_after=1))
    await door.calls("tag", "create", "delete", "read", "create", "tag")
    assert door.order == ["delete", "create", "create", "tag", "read", "tag"]


@virtually
async def test_every_fourth_turn_is_that_of_who_waits_longest() -> None:
    door = Door()
    await door.refused(Throttled("slow down", retry_after=1))
    await door.calls("read", *["delete"] * 8)
    assert door.order.index("read") == 3


@virtually
async def test_a_herd_that_is_refused_at_once_is_one_refusal() -> None:
    door = Door()
    backoffs: list[str] = []
    door.throttle.observer = type("Seen", (Observer,), {"backed_off": lambda _, bucket: backoffs.append(bucket)})()
    door.account.refuse += [Throttled("slow down")] * AT_ONCE
    refused = await asyncio.gather(*(door.call() for _ in range(AT_ONCE)), return_exceptions=True)
    assert {type(error) for error in refused} == {Throttled}
    assert backoffs == [""]
    door.began = now()
    await door.calls("create")
    assert now() - door.began <= 0.3


@virtually
async def test_it_gets_slower_with_each_refusal_down_to_a_limit_and_faster_with_success() -> None:
    async def pause() -> float:
        began = now()
        await door.refused(Throttled("slow down"))
        return now() - began

    door = Door()
    pauses = [await pause() for _ in range(40)]
    assert max(pauses[:3]) < 0.6
    assert 1.5 < max(pauses[10:]) < 3.5
    for _ in range(60):
        await door.call()
    assert await pause() < 0.5


@pytest.mark.parametrize("published", [Rate(), Rate(burst=50, refill=20)], ids=["unknown", "published"])
@virtually
async def test_success_makes_it_faster_until_it_is_as_published(published: Rate) -> None:
    door = Door({"": published})
    await door.refused(Throttled("slow down"), times=4)
    await door.calls(*["create"] * 200)
    assert door.moments[10] > 1
    assert door.moments[-1] - door.moments[-21] <= 1.1


@virtually
async def test_half_a_minute_after_the_last_refusal_the_past_is_forgotten() -> None:
    door = Door()
    await door.refused(Throttled("slow down"), times=8)
    await asyncio.sleep(25)
    await door.calls("create", "create")
    assert door.moments[1] - door.moments[0] > 0.5, "not yet"
    await asyncio.sleep(5)
    door.account.sent.clear()
    door.began = now()
    await door.calls(*["create"] * AT_ONCE)
    assert set(door.moments) == {0.0}


@pytest.mark.parametrize("other", [Transient("HTTP 503"), Capacity("no room"), ProviderError("what?")])
@virtually
async def test_only_throttling_holds_calls_back(other: ProviderError) -> None:
    door = Door()
    await door.refused(other)
    await door.calls(*["create"] * 5)
    assert set(door.moments) == {0.0}


@virtually
async def test_a_caller_that_gives_up_while_it_waits_has_sent_nothing_and_holds_up_nobody() -> None:
    door = Door({"": Rate(1, 0.1)})
    await door.call()
    leaving, staying = door.call("delete"), door.call("create")
    await asyncio.sleep(1)
    leaving.cancel()
    await staying
    assert leaving.cancelled()
    assert door.order == ["create", "create"]
    assert now() - door.began == pytest.approx(10 + _CALL)


@virtually
async def test_whoever_is_cancelled_whenever_no_turn_is_lost() -> None:
    door = Door({"": Rate(3, 20)})
    rng = random.Random(3)
    tasks = []
    for _ in range(300):
        if rng.random() < 0.1:
            door.account.refuse.append(Throttled("slow down"))
        tasks.append(door.call(rng.choice(("create", "delete"))))
        await asyncio.sleep(rng.random() / 10)
        if rng.random() < 0.4:
            rng.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert door.throttle._under_way == 0
    assert not door.throttle._waiting
    door.account.refuse.clear()
    await door.calls(*["create"] * 50)


@virtually
async def test_one_who_is_cancelled_in_the_moment_of_its_turn_hands_it_on() -> None:
    door = Door({"": Rate(1, 1)})
    await door.call()
    late = door.call()
    await asyncio.sleep(0)
    door.throttle._bucket("").take(-1, now())
    door.throttle._deal()  # it is its turn, and it has not been woken yet
    assert not door.throttle._waiting
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    assert door.order == ["create"], "it was cancelled before it could use its turn"
    assert door.throttle._under_way == 0
    assert door.throttle.free(), "and its token is there for the next"


@virtually
async def test_a_lost_answer_says_nothing_of_the_clouds_limits() -> None:
    door = Door({"": Rate(50, 20)})
    await door.refused(Throttled("slow down"), times=5)
    rate = door.throttle._bucket("")._refill
    await door.refused(Transient("HTTP 503"), times=3)
    assert door.throttle._bucket("")._refill == rate
    await door.refused(Capacity("no room"))
    assert door.throttle._bucket("")._refill > rate, "this is an answer as good as any"


@virtually
async def test_calls_that_wait_are_counted() -> None:
    waiting = [0]
    door = Door({"": Rate(1, 1)})

    class Seen(Observer):
        def waiting(self, change: int) -> None:
            waiting.append(waiting[-1] + change)

    door.throttle.observer = Seen()
    await door.calls("create", "create", "create")
    assert waiting == [0, 1, 2, 1, 0]


@virtually
async def test_of_two_limits_the_one_that_is_nearly_used_up_is_blamed() -> None:
    throttle = Throttle({"calls": Rate(5, 2), "machines": Rate(1000, 2)}, random=random.Random(0))
    with pytest.raises(Throttled):
        async with throttle.turn({"calls": 1, "machines": 20}):
            raise Throttled("slow down")
    assert throttle._bucket("calls").part_left(now()) < 0.2
    assert throttle._bucket("machines").part_left(now()) == 0.98


@virtually
async def test_what_the_cloud_says_is_left_counts_if_it_is_less_than_was_reckoned() -> None:
    throttle = Throttle({"create": Rate(10, 2)})
    throttle.told("create", 100)  # calls under way are not in it
    throttle.told("create", 1)
    began = now()
    for _ in range(3):
        async with throttle.turn("create"):
            pass
    assert now() - began == pytest.approx(1.0)
