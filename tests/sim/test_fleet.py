"""Many pods at once, in virtual time: nodes of one account at EC2's published limits, and the day when a cloud is full."""

import logging
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from adaptor.errors import NoCapacity
from providers.base import Offering, Purchase
from tests.sim.fleet import Account, Batching, Fleet, Single, pod, thousand
from tests.worlds.loop import VirtualLoop, virtually

ZONES = ("us-east-2a", "us-east-2b", "us-east-2c")
# Cheapest first, so that every pod asks for them in this order.
TYPES = {"m6a.large": 0.08, "m6i.large": 0.09, "m5.large": 0.10, "m7a.large": 0.11}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Of thousands of lines nobody reads one."""
    log = logging.getLogger("peerpods")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    yield
    log.setLevel(before)


@virtually
async def test_a_thousand_pods_on_fifty_nodes_are_admitted_within_thirty_seconds_and_two_calls_each() -> None:
    figures = await thousand(Batching)
    assert figures.last <= 30
    assert figures.creates <= 0.3
    assert figures.in_all <= 2


@virtually
async def test_without_batching_the_limit_of_the_create_call_rules() -> None:
    """The baseline of the test above, at a fifth of its size: one call per pod, two calls a second."""
    figures = await thousand(Single, pods=200, nodes=10)
    assert (200 - 5) / 2 <= figures.last <= 1.1 * (200 - 5) / 2


@virtually
async def test_pods_that_arrive_in_the_course_of_some_seconds_are_batched_too() -> None:
    figures = await thousand(Batching, pods=200, nodes=10, spread=2.0)
    assert figures.last <= 15
    assert figures.creates <= 0.4


async def full_cloud(loop: VirtualLoop) -> Account:
    """Two of three zones and the first two types are exhausted; 30 % of all calls are throttled."""
    account = Account(loop, also_throttled=0.3)
    account.offered = tuple(
        Offering(kind, 2, 8192, zone=zone, price=price) for kind, price in TYPES.items() for zone in ZONES
    )
    for kind in TYPES:
        for zone in ZONES:
            if zone != ZONES[2] or kind in list(TYPES)[:2]:
                account.room[kind, zone, Purchase.ON_DEMAND] = 0
    return account


@virtually
async def test_three_hundred_pods_all_start_while_most_of_the_cloud_is_full_and_calls_are_throttled() -> None:
    loop = VirtualLoop.running()
    account = await full_cloud(loop)
    async with Fleet(account, 10) as fleet:
        await fleet.start([pod(number) for number in range(300)], spread=5.0)
        assert not fleet.failed, next(iter(fleet.failed.values()))
        assert len(fleet.ready) == 300
        living = [account.instances[each] for each in account.living]
        assert len(living) == 300, "no duplicates"
        assert Counter((each.instance_type, each.zone) for each in map(account.specs.__getitem__, account.living)) == {
            ("m5.large", ZONES[2]): 300
        }
        assert len(fleet.relay.bound) == len(set(fleet.relay.bound.values())) == 300, "each is one pod's"
        assert max(fleet.admitted.values()) < 120
        assert fleet.per_pod("RunInstances") <= 1
        await fleet.stop()
        assert not account.living
        assert fleet.per_pod() <= 4, "and 30 % of these were refused"
        assert account.throttled.total() > 100, "the drill was one"


@virtually
async def test_where_nothing_is_left_the_event_says_what_was_tried_and_why_each_failed() -> None:
    account = await full_cloud(VirtualLoop.running())
    for zone in ZONES:
        for kind in TYPES:
            account.room[kind, zone, Purchase.ON_DEMAND] = 0
    async with Fleet(account, 1) as fleet:
        await fleet.start([pod(number) for number in range(3)])
        assert len(fleet.failed) == 3
        for error in fleet.failed.values():
            assert isinstance(error, NoCapacity)
            assert re.search(r"Tried 1\d offerings", str(error))
            for kind in list(TYPES)[:2]:
                zones = ", ".join(ZONES)
                assert f"{kind} in {zones}: no {kind} left in {ZONES[0]} (InsufficientInstanceCapacity)" in str(error)
        assert not account.living
