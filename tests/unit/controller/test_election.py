"""One leader at a time, in virtual time: contenders whose clocks differ, an API server that is away, lost replies."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from adaptor.controller import tenure
from adaptor.controller.api import LEASE
from adaptor.controller.election import Election
from adaptor.controller.tenure import Record, Sighting
from adaptor.errors import Unavailable
from adaptor.kube.errors import KubernetesError, Outdated
from tests.worlds.loop import VirtualLoop, virtually
from tests.worlds.objects import Objects

D = 15.0


class Skewed:
    """A machine whose clocks show something else."""

    def __init__(self, loop: VirtualLoop, skew: float) -> None:
        self._loop, self._skew = loop, skew

    def now(self) -> float:
        return self._loop.now() + self._skew

    def wall(self) -> float:
        return self._loop.wall() + self._skew

    async def sleep(self, seconds: float) -> None:
        await self._loop.sleep(seconds)


class Contenders:
    """Each with its own way to the API server; `acting` is who acts now, and two at once is a failure."""

    def __init__(self) -> None:
        self.loop = VirtualLoop.running()
        self.server = Objects(self.loop)
        self.acting: set[str] = set()
        self.history: list[tuple[float, str, str]] = []
        self.apis: dict[str, Objects] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.elections: dict[str, Election] = {}

    def join(self, me: str, skew: float = 0.0) -> Objects:
        api = self.apis[me] = Objects(self.loop)
        api.held = self.server.held  # one server, and each contender's own faults on the way to it
        api._version = (len(self.apis)) * 1_000_000  # versions of one are never taken for another's
        election = Election(api, "peerpods", "peerpods-controller", me, D, Skewed(self.loop, skew))
        self.elections[me] = election
        self.tasks[me] = asyncio.create_task(election.lead(self._work(me)))
        return api

    def _work(self, me: str) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            self.acting.add(me)
            self.history.append((self.loop.now(), me, "begins"))
            assert self.acting == {me}, self.history
            try:
                while True:
                    await self.loop.sleep(0.5)
                    assert self.acting == {me}, self.history
            finally:
                self.acting.discard(me)
                self.history.append((self.loop.now(), me, "ends"))

        return work

    def who(self) -> set[str]:
        for task in self.tasks.values():
            if task.done() and not task.cancelled():
                task.result()
        return set(self.acting)

    async def end(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


@virtually
async def test_one_of_two_leads_and_keeps_leading() -> None:
    world = Contenders()
    world.join("a")
    world.join("b", skew=3600.0)
    for _ in range(100):
        await world.loop.sleep(3)
        assert len(world.who()) == 1
    assert [what for *_, what in world.history] == ["begins"]
    await world.end()


@virtually
async def test_a_leader_that_ends_hands_over_at_once() -> None:
    world = Contenders()
    world.join("a")
    await world.loop.sleep(1)
    world.join("b", skew=-7200.0)
    await world.loop.sleep(10)
    world.tasks["a"].cancel()
    await world.loop.sleep(3)
    assert world.who() == {"b"}
    await world.end()


@virtually
async def test_a_leader_that_dies_is_followed_after_the_leases_duration() -> None:
    world = Contenders()
    api = world.join("a")
    await world.loop.sleep(1)
    world.join("b", skew=86_400.0)
    await world.loop.sleep(20)
    api.away = True  # and never comes back: what it renewed last was up to two seconds ago
    began = world.loop.now()
    while world.who() != {"b"}:
        await world.loop.sleep(0.1)
    assert D - 2 <= world.loop.now() - began <= D + 3
    await world.end()


@pytest.mark.parametrize("fault", ["away", "hangs"])
@pytest.mark.parametrize("skew", [-86_400.0, 0.0, 86_400.0])
def test_a_leader_that_cannot_renew_stops_before_another_may_start(fault: str, skew: float) -> None:
    @virtually
    async def run() -> None:
        world = Contenders()
        api = world.join("a")
        await world.loop.sleep(1)
        world.join("b", skew=skew)
        await world.loop.sleep(20)
        setattr(api, fault, True)
        cut = world.loop.now()
        while world.acting == {"a"}:
            await world.loop.sleep(0.1)
        assert world.loop.now() - cut <= D * tenure.DEADLINE + 0.2
        while not world.acting:
            await world.loop.sleep(0.1)
        assert world.who() == {"b"}
        ended = next(at for at, who, what in world.history if (who, what) == ("a", "ends"))
        begun = next(at for at, who, what in world.history if (who, what) == ("b", "begins"))
        assert begun - ended >= D * (1 - tenure.DEADLINE) - 1
        assert not world.elections["a"].leading
        await world.end()

    run()


@virtually
async def test_a_short_outage_of_the_api_server_ends_nobodys_lead() -> None:
    world = Contenders()
    a, b = world.join("a"), world.join("b")
    await world.loop.sleep(10)
    (leader,) = world.who()
    for each in (a, b):
        each.away = True
    await world.loop.sleep(D * tenure.DEADLINE - 4)
    assert world.elections[leader].trouble == "the API server is away"
    for each in (a, b):
        each.away = False
    await world.loop.sleep(60)
    assert world.who() == {leader}
    assert [what for *_, what in world.history] == ["begins"]
    assert not world.elections[leader].trouble
    await world.end()


@virtually
async def test_a_lost_reply_to_the_first_claim_makes_the_claimant_lead_all_the_same() -> None:
    world = Contenders()
    api = world.join("a")
    api.lose["create"] = 1
    await world.loop.sleep(5)
    assert world.who() == {"a"}
    await world.end()


@virtually
async def test_lost_replies_to_renewals_are_renewals_all_the_same() -> None:
    world = Contenders()
    api = world.join("a")
    world.join("b")
    await world.loop.sleep(10)
    if world.who() != {"a"}:
        api = world.apis["b"]
    api.lose["replace"] = 3
    await world.loop.sleep(60)
    assert [what for *_, what in world.history] == ["begins"]
    await world.end()


@virtually
async def test_a_lease_that_another_took_is_noticed_at_the_next_renewal_and_left_alone() -> None:
    world = Contenders()
    world.join("a")
    await world.loop.sleep(10)
    lease = world.server.at(LEASE, "peerpods-controller", "peerpods")
    assert lease is not None
    lease["spec"] |= {"holderIdentity": "stranger", "renewTime": "x"}
    lease["metadata"]["resourceVersion"] = "7"
    await world.loop.sleep(D * tenure.RETRY + 0.5)
    assert world.who() == set()
    taken = world.server.at(LEASE, "peerpods-controller", "peerpods")
    assert taken is not None
    assert taken["spec"]["holderIdentity"] == "stranger"
    await world.loop.sleep(D + 3)
    assert world.who() == {"a"}
    await world.end()


@virtually
async def test_two_who_find_no_lease_at_the_same_moment_do_not_both_lead() -> None:
    for _ in range(20):
        world = Contenders()
        for name in "abcde":
            world.join(name)
        await world.loop.sleep(30)
        assert len(world.who()) == 1
        assert [what for *_, what in world.history] == ["begins"]
        await world.end()


@virtually
async def test_work_that_does_not_end_with_the_lease_ends_the_process() -> None:
    loop = VirtualLoop.running()
    api = Objects(loop)

    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await loop.sleep(1000)
        await loop.sleep(1000)

    election = Election(api, "peerpods", "lease", "a", D, loop)
    leading = asyncio.create_task(election.lead(stubborn))
    await loop.sleep(5)
    api.away = True
    with pytest.raises(Unavailable, match="does not end"):
        await leading


@virtually
async def test_work_that_fails_gives_the_lease_back_and_fails() -> None:
    loop = VirtualLoop.running()
    api = Objects(loop)

    async def failing() -> None:
        raise KubernetesError("broken")

    with pytest.raises(KubernetesError, match="broken"):
        await Election(api, "peerpods", "lease", "a", D, loop).lead(failing)
    lease = api.at(LEASE, "lease", "peerpods")
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == ""


def test_a_lease_full_of_nonsense_is_as_good_as_none() -> None:
    found = tenure.read({"spec": {"leaseDurationSeconds": "x", "holderIdentity": None, "leaseTransitions": []}})
    assert found == Record()
    assert tenure.read({}) == Record()


def test_what_counts_is_when_this_process_saw_the_change_not_what_the_lease_says() -> None:
    first = tenure.seen(None, Record("b", 15, "2020-01-01"), 100.0)
    again = tenure.seen(first, Record("b", 15, "2020-01-01", version="9"), 110.0)
    assert again.at == 100.0
    assert not tenure.may_take(again, "a", 114.9)
    assert tenure.may_take(again, "a", 115.0)
    renewed = tenure.seen(again, Record("b", 15, "2020-01-02"), 114.0)
    assert renewed.at == 114.0
    assert tenure.may_take(Sighting(Record("", 15), 0.0), "a", 0.0)


def test_the_lease_counts_changes_of_leader_and_not_renewals() -> None:
    fresh = tenure.spec(Record("b", 15, "x", transitions=4), "a", 15.0, "now")
    assert fresh == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "renewTime": "now",
        "acquireTime": "now",
        "leaseTransitions": 5,
    }
    assert "leaseTransitions" not in tenure.spec(Record("a", 15, "x", transitions=5), "a", 15.0, "now")


@virtually
async def test_what_a_leader_remembers_travels_with_the_lease_to_the_next_one() -> None:
    world = Contenders()
    world.join("a")
    await world.loop.sleep(5)
    world.elections["a"].memory["kata.peerpods.io/nodes"] = "node-1"
    await world.loop.sleep(5)
    world.tasks["a"].cancel()
    world.join("b")
    await world.loop.sleep(5)
    assert world.who() == {"b"}
    assert world.elections["b"].memory == {"kata.peerpods.io/nodes": "node-1"}
    await world.end()


@virtually
async def test_somebody_who_touches_the_lease_ends_nobodys_lead() -> None:
    world = Contenders()
    api = world.join("a")
    await world.loop.sleep(5)
    for _ in range(3):
        api.refuse["replace"].append(Outdated("409"))
        await world.loop.sleep(20)
    assert [what for *_, what in world.history] == ["begins"]
    await world.end()
