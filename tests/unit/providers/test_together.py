"""Asks for single ids that share a call: who gets what of it, and who may leave, in virtual time."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from providers.batch import Together, sifted
from providers.errors import NotFound, ProviderError, Throttled, Transient
from providers.throttle import Rank, Rate, Throttle
from tests.worlds.loop import virtually


class Ids:
    """What Together calls."""

    def __init__(self, most: int = 100, **rates: Rate) -> None:
        self.calls: list[Sequence[str]] = []
        self.error: ProviderError | None = None
        self.together: Together[str] = Together(Throttle(rates), Rank.READ, self.call, most, "describe")

    async def call(self, ids: Sequence[str]) -> Mapping[str, str]:
        self.calls.append(ids)
        await asyncio.sleep(0.2)
        if self.error is not None:
            raise self.error
        return {id: f"what {id} is" for id in ids if id != "unknown"}


@virtually
async def test_asks_of_one_moment_are_one_call_and_each_gets_its_own_answer() -> None:
    ids = Ids()
    answers = await asyncio.gather(
        *(ids.together.ask([f"i-{n}", "i-0"]) for n in range(30)), ids.together.ask(["unknown"])
    )
    assert len(ids.calls) == 1
    assert answers[7] == {"i-0": "what i-0 is", "i-7": "what i-7 is"}
    assert answers[-1] == {}


@virtually
async def test_asks_that_wait_for_the_limit_join_and_later_ones_do_not() -> None:
    ids = Ids(describe=Rate(1, 0.1))
    await ids.together.ask(["i-0"])
    waiting = []
    for n in range(1, 20):
        waiting.append(asyncio.create_task(ids.together.ask([f"i-{n}"])))
        await asyncio.sleep(0.3)
    await asyncio.gather(*waiting)
    assert [len(each) for each in ids.calls] == [1, 19]


@virtually
async def test_one_who_comes_when_the_call_has_begun_has_a_call_of_his_own() -> None:
    ids = Ids()
    first = asyncio.create_task(ids.together.ask(["i-1"]))
    await asyncio.sleep(0.1)
    assert len(ids.calls) == 1
    assert await ids.together.ask(["i-2"]) == {"i-2": "what i-2 is"}
    assert await first
    assert ids.calls == [["i-1"], ["i-2"]]


@virtually
async def test_more_than_fit_into_a_call_are_several() -> None:
    ids = Ids(most=10)
    answer = await ids.together.ask([f"i-{n}" for n in range(25)])
    assert len(answer) == 25
    assert sorted(map(len, ids.calls)) == [5, 10, 10]
    assert await ids.together.ask([]) == {}


@virtually
async def test_each_waiter_cancels_alone_and_the_last_one_ends_the_call() -> None:
    ids = Ids()
    one, other = (asyncio.create_task(ids.together.ask([id])) for id in ("i-1", "i-2"))
    await asyncio.sleep(0.1)
    one.cancel()
    assert await other == {"i-2": "what i-2 is"}
    last = asyncio.create_task(ids.together.ask(["i-3"]))
    await asyncio.sleep(0.01)
    last.cancel()
    await asyncio.sleep(0)
    assert await ids.together.ask(["i-4"]) == {"i-4": "what i-4 is"}, "a round that was given up is nobody's"
    assert len(ids.calls) == 2


@virtually
async def test_an_error_is_everybodys() -> None:
    ids = Ids()
    ids.error = Transient("HTTP 503")
    asked = await asyncio.gather(*(ids.together.ask([f"i-{n}"]) for n in range(3)), return_exceptions=True)
    assert asked == [ids.error] * 3
    ids.error = None
    assert await ids.together.ask(["i-1"])


@pytest.mark.parametrize("named", [True, False])
@virtually
async def test_one_bad_id_fails_no_other(named: bool) -> None:
    calls: Counter[int] = Counter()

    async def terminate(ids: Sequence[str]) -> None:
        calls[len(ids)] += 1
        if bad := [id for id in ids if "bad" in id]:
            raise NotFound(f"The instance IDs '{', '.join(bad)}' do not exist" if named else "some do not exist")

    good = [f"i-{n:02}" for n in range(40)]
    outcome = await sifted([*good[:20], "i-bad-1", *good[20:], "i-bad-2"], terminate)
    assert {id for id, error in outcome.items() if error is not None} == {"i-bad-1", "i-bad-2"}
    assert outcome.keys() >= set(good)
    assert sum(calls.values()) <= (5 if named else 25)


@virtually
async def test_what_is_no_ids_fault_is_not_asked_again_for_each() -> None:
    calls = []

    async def terminate(ids: Sequence[str]) -> None:
        calls.append(ids)
        raise Throttled("slow down")

    with pytest.raises(Throttled):
        await sifted(["i-1", "i-2"], terminate)
    assert len(calls) == 1
