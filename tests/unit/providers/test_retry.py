"""When a call is made again: by the class of its error, on the caller's clock."""

from collections.abc import Sequence

import pytest

from providers.errors import Capacity, Denied, InvalidSpec, NotFound, ProviderError, Quota, Throttled, Transient
from providers.retry import attempts, insisting, retrying, until
from tests.worlds.clock import VirtualClock


class Call:
    """One that fails in these ways, then succeeds; when it was made."""

    def __init__(self, *errors: ProviderError) -> None:
        self.clock = VirtualClock()
        self.began = self.clock.now()
        self.made: list[float] = []
        self._errors = list(errors)

    async def __call__(self) -> str:
        self.made.append(self.clock.now() - self.began)
        if self._errors:
            raise self._errors.pop(0)
        return "done"

    @property
    def pauses(self) -> Sequence[float]:
        return [later - sooner for sooner, later in zip(self.made, self.made[1:], strict=False)]


@pytest.mark.parametrize(
    ("error", "bounds"),
    [
        (Transient("HTTP 503"), [0.5, 1, 2, 4, 8, 16, 20, 20]),
        (Throttled("slow down"), [1, 2, 4, 8, 16, 30, 30, 30]),
    ],
)
async def test_pauses_spread_over_a_range_that_doubles_up_to_its_cap(error: ProviderError, bounds: list[float]) -> None:
    most = [0.0] * len(bounds)
    for _ in range(200):
        call = Call(*[error] * len(bounds))
        assert await retrying(call.clock.sleep)(call) == "done"
        most = [max(old, new) for old, new in zip(most, call.pauses, strict=True)]
    assert all(0.7 * bound < seen <= bound for seen, bound in zip(most, bounds, strict=True)), most


@pytest.mark.parametrize("asked", [0.0, 7.0, 100.0])
async def test_what_the_cloud_or_a_throttle_asks_for_is_waited_for(asked: float) -> None:
    call = Call(*[Throttled("slow down", retry_after=asked)] * 3)
    await retrying(call.clock.sleep)(call)
    assert call.pauses == pytest.approx([asked] * 3)


@pytest.mark.parametrize("kind", [Capacity, Quota, Denied, InvalidSpec, NotFound, ProviderError])
async def test_what_repeating_does_not_mend_is_not_repeated(kind: type[ProviderError]) -> None:
    call = Call(kind("no"))
    with pytest.raises(kind):
        await retrying(call.clock.sleep)(call)
    assert len(call.made) == 1


async def test_no_attempt_is_made_after_the_deadline_and_the_last_error_is_told() -> None:
    call = Call(*[Transient(f"HTTP 503, number {number}") for number in range(99)])
    with pytest.raises(Transient, match="number 0"):
        await retrying(call.clock.sleep, until(call.clock.now, call.began))(call)
    assert len(call.made) == 1
    with pytest.raises(Transient):
        await retrying(call.clock.sleep, until(call.clock.now, call.began + 60))(call)
    assert 3 < len(call.made) < 30
    assert max(call.made) < 60


async def test_so_many_attempts_and_no_more() -> None:
    call = Call(*[Throttled("slow down")] * 99)
    with pytest.raises(Throttled):
        await retrying(call.clock.sleep, attempts(4))(call)
    assert len(call.made) == 4


async def test_a_deed_that_must_be_done_is_tried_whatever_the_cloud_says_and_seldom_if_a_person_must_act() -> None:
    errors = [Transient("HTTP 503"), Denied("credentials have expired"), *[Denied("still")] * 20]
    call = Call(*errors)
    heard: list[BaseException] = []
    assert await insisting(call.clock.sleep, heard.append)(call) == "done"
    assert heard == errors
    assert max(call.pauses) > 20
    assert max(call.pauses) <= 60


async def test_an_error_of_another_kind_is_a_bug_and_is_not_repeated() -> None:
    made = []

    async def broken() -> None:
        made.append(1)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await insisting(VirtualClock().sleep)(broken)
    assert made == [1]
