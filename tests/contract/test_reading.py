"""Provider.get, list and offerings: what is seen, by whom, in how many calls."""

import asyncio
from dataclasses import replace

import pytest

from providers.base import InstanceState, Ownership, Provider
from providers.errors import Throttled
from tests.contract.world import Verb, World


async def test_get_describes_the_known_and_leaves_out_the_unknown(world: World, provider: Provider) -> None:
    one, two = await asyncio.gather(
        provider.create(world.spec(), "token-1"), provider.create(world.spec(name="podvm-two"), "token-2")
    )
    seen = await provider.get([one.id, world.unknown_id, two.id])
    assert set(seen) == {one.id, two.id}
    assert seen[two.id].name == "podvm-two"
    assert seen[one.id].id == one.id


async def test_get_of_nothing_asks_nothing(world: World, provider: Provider) -> None:
    assert dict(await provider.get([])) == {}
    assert world.calls(Verb.GET) == 0


async def test_get_of_only_unknown_ids_is_empty(world: World, provider: Provider) -> None:
    assert dict(await provider.get([world.unknown_id])) == {}


async def test_get_of_a_hundred_costs_no_more_calls_than_get_of_one(world: World, provider: Provider) -> None:
    one = await provider.create(world.spec(), "token-1")
    await provider.get([one.id])
    for_one = world.calls(Verb.GET)
    unknown = [f"{world.unknown_id[:-3]}{number:03x}" for number in range(100)]
    assert set(await provider.get([one.id, *unknown])) == {one.id}
    assert world.calls(Verb.GET) == 2 * for_one


async def test_get_of_more_than_one_call_can_take_still_finds_all(world: World, provider: Provider) -> None:
    made = [await provider.create(world.spec(), f"token-{number}") for number in range(2)]
    unknown = [f"{world.unknown_id[:-3]}{number:03x}" for number in range(450)]
    assert set(await provider.get([made[0].id, *unknown, made[1].id])) == {made[0].id, made[1].id}


async def test_list_sees_this_nodes_instances_only(world: World, provider: Provider) -> None:
    mine = await provider.create(world.spec(), "token-1")
    for number, owner in enumerate((Ownership("cluster-a", "node-2"), Ownership("cluster-b", "node-1"))):
        other = world.connect(owner)
        theirs = await other.create(world.spec(), f"token-other-{number}")
        assert [instance.id for instance in await other.list()] == [theirs.id]
    assert [instance.id for instance in await provider.list()] == [mine.id]


async def test_a_name_with_wildcards_matches_itself_only(world: World, provider: Provider) -> None:
    await provider.create(world.spec(), "token-1")
    stars = world.connect(Ownership("cluster-*", "node-?"))
    assert list(await stars.list()) == []


async def test_a_list_of_nothing_is_empty(world: World, provider: Provider) -> None:
    assert list(await provider.list()) == []


async def test_list_goes_through_every_page(world: World, provider: Provider) -> None:
    made = [await provider.create(world.spec(), f"token-{number}") for number in range(12)]
    assert {instance.id for instance in await provider.list()} == {instance.id for instance in made}


async def test_list_and_get_tell_the_same_of_an_instance(world: World, provider: Provider) -> None:
    made = await provider.create(world.spec(), "token-1")
    assert (await provider.get([made.id]))[made.id] == (await provider.list())[0]


async def test_a_deleted_instance_is_gone_or_absent(world: World, provider: Provider) -> None:
    made = await provider.create(world.spec(), "token-1")
    await provider.delete(made.id)
    seen = (await provider.get([made.id])).get(made.id)
    assert seen is None or seen.state is InstanceState.GONE
    assert list(await provider.list()) == []


async def test_deleting_twice_is_success(world: World, provider: Provider) -> None:
    made = await provider.create(world.spec(), "token-1")
    await provider.delete(made.id)
    await provider.delete(made.id)
    assert world.calls(Verb.DELETE) == 2


@pytest.mark.parametrize("strange", [False, True])
async def test_deleting_what_never_was_is_success(world: World, provider: Provider, strange: bool) -> None:
    await provider.delete("not an id at all" if strange else world.unknown_id)


async def test_deleting_one_leaves_the_others(world: World, provider: Provider) -> None:
    kept = await provider.create(world.spec(), "token-1")
    doomed = await provider.create(world.spec(), "token-2")
    await provider.delete(doomed.id)
    assert [instance.id for instance in await provider.list()] == [kept.id]


async def test_a_delete_whose_reply_was_lost_can_be_repeated(world: World, provider: Provider) -> None:
    made = await provider.create(world.spec(), "token-1")
    world.refuse(Verb.DELETE, Throttled)
    with pytest.raises(Throttled):
        await provider.delete(made.id)
    assert len(await provider.list()) == 1
    await provider.delete(made.id)
    assert list(await provider.list()) == []


async def test_offerings_tell_the_truth(world: World, provider: Provider) -> None:
    offered = {replace(offer, zone="", price=None) for offer in await provider.offerings()}
    assert set(world.truths) <= offered


async def test_offerings_are_asked_for_once(world: World, provider: Provider) -> None:
    first, second = await asyncio.gather(provider.offerings(), provider.offerings())
    assert list(first) == list(second) == list(await provider.offerings())
    assert world.calls(Verb.OFFERINGS) == 1


async def test_a_failure_to_read_offerings_is_not_kept(world: World, provider: Provider) -> None:
    world.refuse(Verb.OFFERINGS, Throttled)
    with pytest.raises(Throttled):
        await provider.offerings()
    assert await provider.offerings()
