"""Calls that are shared: who gets what of them, and who may leave, in virtual time."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import pytest

from providers import tags
from providers.base import Instance, InstanceState, LaunchSpec, Seat
from providers.batch import MOST, WINDOW, Seats
from providers.errors import Capacity, Denied, InvalidSpec, ProviderError, Throttled, Transient
from providers.throttle import Rate, Throttle
from tests.worlds.loop import virtually

_CALL: Final = 1.0  # seconds that a launch takes to be answered


class Account:
    """A cloud that launches as many as are asked for at once, and is as strict about tokens as EC2."""

    def __init__(self) -> None:
        self.launches: list[tuple[float, str, int]] = []  # when, token, count
        self.made: dict[str, dict[int, Instance]] = {}
        self.asked: dict[str, tuple[LaunchSpec, int]] = {}
        self.labels: dict[str, Instance] = {}
        self.deleted: list[str] = []
        self.tagging: list[float] = []  # when it was tried
        self.untaggable: list[ProviderError] = []
        self.refuse: list[ProviderError] = []
        self.lose: list[ProviderError] = []
        self.room = 10_000
        self._began = now()

    async def launch(self, spec: LaunchSpec, token: str, count: int) -> Mapping[int, Instance]:
        self.launches.append((round(now() - self._began, 3), token, count))
        await asyncio.sleep(_CALL)
        if self.refuse:
            raise self.refuse.pop(0)
        assert self.asked.setdefault(token, (spec, count)) == (spec, count), "IdempotentParameterMismatch"
        if token not in self.made:
            room = min(count, self.room - len(self.ids))
            if not room:
                raise Capacity("no room")
            self.made[token] = {
                index: Instance(f"i-{token[:8]}-{index}", InstanceState.PENDING, tags={"peerpods-node": "node"})
                for index in range(room)
            }
        if self.lose:
            raise self.lose.pop(0)
        return self.made[token]

    async def label(self, instance: Instance) -> None:
        self.tagging.append(round(now() - self._began, 3))
        if self.untaggable:
            raise self.untaggable.pop(0)
        self.labels[instance.id] = instance

    async def delete(self, instance_id: str) -> None:
        self.deleted.append(instance_id)

    @property
    def ids(self) -> list[str]:
        return [each.id for made in self.made.values() for each in made.values()]

    @property
    def living(self) -> set[str]:
        return set(self.ids) - set(self.deleted)


class Node:
    """A node's Seats at an account; `start` is what the adaptor does for a pod."""

    def __init__(self, account: Account, rates: Mapping[str, Rate] | None = None) -> None:
        self.account = account
        self.throttle = Throttle(rates or {}, random=random.Random(1))
        self.seats = Seats(self.throttle, account, "RunInstances", "machines")
        self.tokens: dict[int, str] = {}
        self.writing = 0.01  # seconds to write a seat down

    async def start(self, pod: int, **changes: Any) -> Instance:
        wanted = spec(pod, **changes)
        seat = self.tokens[pod] = await self.seats.seat(wanted, f"token-{pod}")
        came = False
        try:
            await asyncio.sleep(self.writing)
            came = True
            return await self.seats.create(wanted, seat)
        finally:
            if not came:
                self.seats.leave(seat)

    def starts(self, *pods: int) -> "list[asyncio.Task[Instance]]":
        return [asyncio.create_task(self.start(pod)) for pod in pods]


def now() -> float:
    return asyncio.get_running_loop().time()


def spec(pod: int, **changes: Any) -> LaunchSpec:
    own = {tags.POD_NAME: f"pod-{pod}", tags.POD_NAMESPACE: "shop"}
    return replace(LaunchSpec(f"podvm-{pod}", "m6a.large", b"the same for all", tags=own), **changes)


@virtually
async def test_pods_that_start_together_are_one_call_and_each_has_its_own_machine() -> None:
    node = Node(Account())
    made = await asyncio.gather(*node.starts(*range(20)))
    assert [(when, count) for when, _, count in node.account.launches] == [(WINDOW + 0.01, 20)]
    assert len({instance.id for instance in made}) == 20
    await asyncio.sleep(1)  # tags are written behind
    for pod, instance in enumerate(made):
        seat = Seat.parse(node.tokens[pod])
        assert seat is not None
        assert instance.id.endswith(f"-{seat.index}")
        assert (instance.name, instance.tags[tags.POD_NAME]) == (f"podvm-{pod}", f"pod-{pod}")
        assert instance.tags["peerpods-node"] == "node"
        assert node.account.labels[instance.id].tags[tags.TOKEN] == node.tokens[pod]
        assert len(node.tokens[pod]) <= 64
    assert not node.seats._calls
    assert not node.seats._pools


@virtually
async def test_a_pod_that_starts_alone_keeps_its_own_token_and_hardly_waits() -> None:
    node = Node(Account())
    await node.start(7)
    assert node.account.launches == [(WINDOW + 0.01, "token-7", 1)]
    assert node.account.labels == {}, "its call has written its tags"


@virtually
async def test_different_machines_are_different_calls() -> None:
    node = Node(Account())
    await asyncio.gather(node.start(1), node.start(2, instance_type="m6a.xlarge"), node.start(3, user_data=b"other"))
    assert sorted(token for _, token, _ in node.account.launches) == ["token-1", "token-2", "token-3"]


@virtually
async def test_who_comes_while_a_call_is_under_way_gathers_but_not_for_long() -> None:
    node = Node(Account())
    starts = node.starts(0)
    for pod in range(1, 20):
        await asyncio.sleep(0.05)
        starts += node.starts(pod)
    await asyncio.gather(*starts)
    assert len(node.account.launches) <= 4
    assert node.account.launches[1][0] < 0.7


@virtually
async def test_creates_that_wait_for_the_clouds_limit_gather_into_one_call() -> None:
    node = Node(Account(), {"RunInstances": Rate(1, 0.1)})
    await node.start(0)
    starts = []
    for pod in range(1, 31):
        starts += node.starts(pod)
        await asyncio.sleep(0.3)
    await asyncio.gather(*starts)
    assert [(round(when), count) for when, _, count in node.account.launches] == [(0, 1), (10, 30)]


@virtually
async def test_no_call_is_for_more_than_the_most_and_no_namespace_waits_for_anothers_thousand() -> None:
    node = Node(Account(), {"RunInstances": Rate(1, 1)})
    crowd = [asyncio.create_task(node.start(pod)) for pod in range(1000)]
    other = asyncio.create_task(node.start(2000, tags={tags.POD_NAMESPACE: "bank"}))
    await other
    assert sum(task.done() for task in crowd) <= MOST
    await asyncio.gather(*crowd)
    assert max(count for _, _, count in node.account.launches) == MOST
    assert len(node.account.launches) == 21


@virtually
async def test_the_call_goes_out_when_everybody_has_come_or_left() -> None:
    node = Node(Account())
    starts = node.starts(0, 1, 2)
    await asyncio.sleep(WINDOW + 0.005)  # dealt, not written down yet
    starts[1].cancel()
    made = await asyncio.gather(*starts, return_exceptions=True)
    assert [count for _, _, count in node.account.launches] == [3], "the token says three"
    await asyncio.sleep(1)
    kept = {each.id for each in made if isinstance(each, Instance)}
    assert len(kept) == 2
    assert node.account.living == kept, "nobody wants the third one's"


@virtually
async def test_who_leaves_after_the_call_was_made_has_its_machine_deleted() -> None:
    node = Node(Account())
    a, b = await asyncio.gather(*(node.seats.seat(spec(pod), f"token-{pod}") for pod in (0, 1)))
    one, other = asyncio.create_task(node.seats.create(spec(0), a)), asyncio.create_task(node.seats.create(spec(1), b))
    await asyncio.sleep(0.5)
    other.cancel()
    node.seats.leave(b)
    made = await one
    await asyncio.sleep(0.1)
    assert node.account.living == {made.id}


@virtually
async def test_a_seat_whose_create_was_answered_is_not_left_any_more() -> None:
    node = Node(Account())
    node.writing = 0.0
    slow = asyncio.create_task(node.seats.seat(spec(9), "token-9"))
    made = await asyncio.gather(*node.starts(0, 1))
    seat = await slow
    node.seats.leave(node.tokens[0])
    await asyncio.sleep(1)
    assert made[0].id in node.account.living
    assert (await node.seats.create(spec(9), seat)).id in node.account.living


@virtually
async def test_one_who_gives_up_waiting_may_come_again_and_gets_the_same_machine() -> None:
    node = Node(Account())
    starts = node.starts(0, 1)
    await asyncio.sleep(0.5)
    starts[0].cancel()
    await starts[1]
    again = await node.seats.create(spec(0), node.tokens[0])
    assert again.id in node.account.living
    assert len(node.account.living) == 2


@virtually
async def test_if_all_give_up_before_anything_was_sent_nothing_is() -> None:
    node = Node(Account(), {"RunInstances": Rate(1, 0.1)})
    await node.start(9)
    starts = node.starts(0, 1)
    await asyncio.sleep(1)
    for start in starts:
        start.cancel()
    await asyncio.gather(*starts, return_exceptions=True)
    await asyncio.sleep(30)
    assert len(node.account.launches) == 1
    assert node.throttle.free("RunInstances"), "and its turn is there for the next"


@virtually
async def test_where_fewer_came_than_were_asked_for_the_last_hear_that_there_is_no_room() -> None:
    node = Node(Account())
    node.account.room = 3
    made = await asyncio.gather(*node.starts(*range(5)), return_exceptions=True)
    assert [type(each) for each in made] == [Instance] * 3 + [Capacity] * 2
    assert "3 came" in str(made[4])


@virtually
async def test_who_waits_for_what_the_cloud_has_no_room_for_hears_it_without_a_call_of_his_own() -> None:
    node = Node(Account())
    node.account.refuse.append(Capacity("full"))
    starts = node.starts(0, 1)
    await asyncio.sleep(_CALL)
    starts += node.starts(2, 3)  # they gather while the first two are being refused
    made = await asyncio.gather(*starts, return_exceptions=True)
    assert [str(each) for each in made] == ["full"] * 4
    assert len(node.account.launches) == 1


@virtually
async def test_after_a_refusal_for_lack_of_room_one_machine_is_asked_for_until_there_is_some() -> None:
    node = Node(Account())
    node.account.refuse += [Capacity("full"), Capacity("full")]
    for zone in "ab":
        await asyncio.gather(*(node.start(pod, zone=zone) for pod in range(20)), return_exceptions=True)
    await asyncio.gather(*(node.start(pod, zone="c") for pod in range(20)))
    assert [count for _, _, count in node.account.launches] == [20, 1, 1, 19]


@virtually
async def test_tags_are_written_the_slower_the_more_the_cloud_refuses_and_in_the_end_not_at_all() -> None:
    node = Node(Account())
    node.account.untaggable = [*[Throttled("slow down")] * 6, Denied("may not be tagged"), *[Transient("HTTP 503")] * 8]
    made = await asyncio.gather(*node.starts(*range(4)))
    await asyncio.sleep(1000)
    pauses = [later - sooner for sooner, later in zip(node.account.tagging, node.account.tagging[1:], strict=False)]
    assert [2**n / 2 <= pause <= 2**n * 1.5 for n, pause in enumerate(pauses[:6])] == [True] * 6
    assert max(pauses) <= 90
    assert len(node.account.labels) == 2, "of four: one may not be tagged, one was tried often enough"
    assert node.account.living == {each.id for each in made}


@pytest.mark.parametrize("error", [Capacity("full"), Denied("no"), InvalidSpec("bad")])
@virtually
async def test_a_refusal_is_everybodys(error: ProviderError) -> None:
    node = Node(Account())
    node.account.refuse.append(error)
    made = await asyncio.gather(*node.starts(0, 1), return_exceptions=True)
    assert made == [error, error]
    assert not node.seats._calls


@virtually
async def test_after_throttling_the_same_call_is_made_again_by_whoever_comes_first_and_for_all() -> None:
    node = Node(Account())
    node.account.refuse.append(Throttled("slow down", retry_after=3))
    await asyncio.gather(*node.starts(*range(5)), return_exceptions=True)
    made = await asyncio.gather(*(node.seats.create(spec(pod), node.tokens[pod]) for pod in range(5)))
    assert len({each.id for each in made}) == 5
    (_, first, _), (when, again, count) = node.account.launches
    assert (first, 5) == (again, count)
    assert when >= 4


@virtually
async def test_after_a_lost_answer_the_same_call_finds_what_it_made() -> None:
    node = Node(Account())
    node.account.lose.append(Transient("no answer"))
    await asyncio.gather(*node.starts(0, 1), return_exceptions=True)
    made = await asyncio.gather(*(node.seats.create(spec(pod), node.tokens[pod]) for pod in (0, 1)))
    assert {each.id for each in made} == node.account.living
    assert len(node.account.living) == 2


@pytest.mark.parametrize(("refusal", "told"), [(Capacity("full"), ProviderError), (Throttled("slow"), Transient)])
@virtually
async def test_a_refusal_after_a_lost_answer_is_no_proof_for_one_who_comes_only_now(
    refusal: ProviderError, told: type[ProviderError]
) -> None:
    node = Node(Account())
    node.account.lose.append(Transient("no answer"))
    a, b = await asyncio.gather(*(node.seats.seat(spec(pod), f"token-{pod}") for pod in (0, 1)))
    with pytest.raises(Transient):
        await node.seats.create(spec(0), a)  # the other's journal is slow
    node.account.refuse.append(refusal)
    with pytest.raises(ProviderError) as caught:
        await node.seats.create(spec(1), b)
    assert type(caught.value) is told


@virtually
async def test_any_one_of_a_call_can_repeat_all_of_it_after_a_crash() -> None:
    account = Account()
    before = Node(account)
    first = await asyncio.gather(*before.starts(*range(4)))
    after = Node(account)
    again = await after.seats.create(spec(2), before.tokens[2])
    assert again.id == first[2].id
    assert {count for _, _, count in account.launches} == {4}
    assert account.living == {each.id for each in first}, "what others have is not touched"


@virtually
async def test_the_token_of_another_launch_is_refused() -> None:
    node = Node(Account())
    seat, _ = await asyncio.gather(*(node.seats.seat(spec(pod), f"token-{pod}") for pod in (0, 1)))
    coming = asyncio.create_task(node.seats.create(spec(0), seat))
    await asyncio.sleep(0)
    for wrong in (spec(0, user_data=b"other"), spec(0, name="podvm-other")):
        with pytest.raises(InvalidSpec, match="another launch"):
            await node.seats.create(wrong, seat)
    with pytest.raises(InvalidSpec, match="another launch"):
        await node.seats.create(spec(1), seat.removesuffix("2") + "3")
    assert (await coming).id in node.account.living


@virtually
async def test_whoever_is_cancelled_whenever_every_machine_is_somebodys_or_deleted() -> None:
    for seed in range(40):
        rng = random.Random(seed)
        node = Node(Account(), {"RunInstances": Rate(2, 1)})
        node.writing = rng.choice((0.0, 0.01, 0.3))
        tasks: list[asyncio.Task[Instance]] = []
        for pod in range(30):
            if rng.random() < 0.1:
                node.account.refuse.append(Capacity("full"))
            tasks += node.starts(pod)
            await asyncio.sleep(rng.choice((0, 0.01, 0.2)))
            if rng.random() < 0.4:
                rng.choice(tasks).cancel()
        made = await asyncio.gather(*tasks, return_exceptions=True)
        for pod, each in enumerate(made):  # as the adaptor does for one that was cancelled in its create
            if not isinstance(each, Instance) and pod in node.tokens:
                node.seats.leave(node.tokens[pod])
        await asyncio.sleep(100)
        assert node.account.living == {each.id for each in made if isinstance(each, Instance)}, f"seed {seed}"
        assert not node.seats._calls
        assert not node.seats._pools
        assert node.throttle._under_way == 0


def test_a_seat_is_its_token() -> None:
    seat = Seat("a" * 32, 4, 50)
    assert Seat.parse(str(seat)) == seat
    for strange in (
        "",
        "a" * 64,
        "x.1",
        "x.1.1",
        "x.2.2",
        "x.-1.2",
        "x.01.2",
        "x.1.2.3",
        "x y.1.2",
        "é.0.2",
        "x.0.1000",
    ):
        assert Seat.parse(strange) is None
