"""Turns among namespaces."""

import asyncio
import random
from collections import Counter

import pytest

from adaptor.sandbox.fair import FairGate
from adaptor.telemetry import metrics


class Crowd:
    """Callers of one gate; `order` is who has had a turn, in that order. A turn lasts until `end` is called."""

    def __init__(self, limit: int) -> None:
        self.gate = FairGate(limit)
        self.order: list[str] = []
        self.holding: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.most = 0

    async def come(self, *names: str) -> None:
        """`a1` is a caller of namespace a."""
        for name in names:
            self.tasks[name] = asyncio.create_task(self._caller(name))
        await settle()

    async def end(self, *names: str) -> None:
        for name in names or tuple(self.holding):
            self.holding[name].set()
        await settle()

    async def leave(self, name: str) -> None:
        self.tasks[name].cancel()
        await settle()

    async def _caller(self, name: str) -> None:
        async with self.gate.turn(name[0]):
            self.order.append(name)
            self.holding[name] = asyncio.Event()
            self.most = max(self.most, len(self.holding))
            try:
                await self.holding[name].wait()
            finally:
                del self.holding[name]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_turns_go_round_the_namespaces_and_in_order_within_one() -> None:
    crowd = Crowd(1)
    await crowd.come("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    while crowd.holding:
        await crowd.end()
    assert crowd.order == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_a_small_namespace_waits_for_one_turn_however_many_pods_a_large_one_starts() -> None:
    crowd = Crowd(4)
    await crowd.come(*(f"a{n}" for n in range(1000)))
    await crowd.come("b1")
    assert len(crowd.holding) == 4
    await crowd.end("a0", "a1")
    assert "b1" in crowd.holding
    for task in crowd.tasks.values():
        task.cancel()


async def test_no_more_than_the_limit_are_ever_held_and_all_of_it_is_used() -> None:
    crowd = Crowd(3)
    await crowd.come(*(f"{namespace}{n}" for n in range(5) for namespace in "abc"))
    while crowd.holding:
        assert len(crowd.holding) == min(3, 15 - len(crowd.order) + len(crowd.holding))
        await crowd.end(next(iter(crowd.holding)))
    assert (crowd.most, len(crowd.order)) == (3, 15)


async def test_one_who_leaves_while_waiting_has_no_turn_and_keeps_none_from_others() -> None:
    crowd = Crowd(1)
    await crowd.come("a1", "a2", "b1", "a3")
    await crowd.leave("a2")
    await crowd.leave("b1")
    await crowd.end()
    assert crowd.order == ["a1", "a3"]
    await crowd.end()
    await crowd.come("c1")
    assert crowd.order == ["a1", "a3", "c1"]


async def test_one_who_is_cancelled_in_the_moment_of_its_turn_hands_it_on() -> None:
    crowd = Crowd(1)
    await crowd.come("a1", "a2", "b1")
    crowd.holding["a1"].set()
    for _ in range(20):  # wherever in the hand-over it is
        await asyncio.sleep(0)
        crowd.tasks["a2"].cancel()
        if crowd.tasks["a2"].done():
            break
    await settle()
    assert list(crowd.holding) == ["b1"]


async def test_a_thousand_who_leave_at_once_leave_the_turn_to_the_one_who_stays() -> None:
    crowd = Crowd(1)
    await crowd.come("a0", *(f"a{n}" for n in range(1, 2001)), "b1")
    crowd.holding["a0"].set()
    for number in range(1, 2001):
        crowd.tasks[f"a{number}"].cancel()
    await settle()
    assert crowd.order == ["a0", "b1"]


async def test_an_error_in_a_turn_ends_it() -> None:
    gate = FairGate(1)
    with pytest.raises(ValueError, match="broken"):
        async with gate.turn("a"):
            raise ValueError("broken")
    async with asyncio.timeout(1), gate.turn("a"):
        pass


@pytest.mark.parametrize("seed", range(20))
async def test_no_turn_is_lost_or_doubled_whoever_leaves_whenever(seed: int) -> None:
    rng = random.Random(seed)
    crowd = Crowd(3)
    for number in range(200):
        name = f"{rng.choice('aaab')}{number}"
        crowd.tasks[name] = asyncio.create_task(crowd._caller(name))
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
        if rng.random() < 0.4:
            rng.choice(list(crowd.tasks.values())).cancel()
        if crowd.holding and rng.random() < 0.5:
            crowd.holding[rng.choice(list(crowd.holding))].set()
    await settle()
    while crowd.holding:
        await crowd.end()
    assert crowd.most <= 3
    assert all(task.done() for task in crowd.tasks.values())
    assert max(Counter(crowd.order).values()) == 1
    await crowd.come("x1", "x2", "x3", "x4")
    assert len(crowd.holding) == 3
    await crowd.end()
    await crowd.end()


async def test_who_waits_is_counted_and_for_how_long() -> None:
    def figures() -> tuple[float, float]:
        waiting = metrics.CREATES_WAITING._value.get()
        (family,) = metrics.CREATE_WAIT_SECONDS.collect()
        waits = next(sample.value for sample in family.samples if sample.name.endswith("_count"))
        return waiting, waits

    waiting, waits = figures()
    crowd = Crowd(1)
    await crowd.come("a1", "a2", "a3")
    assert figures() == (waiting + 2, waits + 1)
    await crowd.leave("a3")
    assert figures() == (waiting + 1, waits + 1)
    await crowd.end()
    await crowd.end()
    assert figures() == (waiting, waits + 2)
