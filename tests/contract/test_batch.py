"""Provider.seat: pods that start together share a call, of clouds that can."""

import asyncio

import pytest

from providers import tags
from providers.base import Instance, InstanceState, LaunchSpec, Provider, Seat, SupportsBatchCreate, SupportsSweep
from providers.errors import Capacity, InvalidSpec, Throttled, Transient
from tests.contract.world import Verb, World, needs


@pytest.fixture
def seats(provider: Provider) -> SupportsBatchCreate:
    if not isinstance(provider, SupportsBatchCreate):
        pytest.skip(f"{provider.name} launches one machine with one call")
    return provider


def spec(world: World, pod: int) -> LaunchSpec:
    return world.spec(name=f"podvm-{pod}", tags={tags.POD_NAME: f"pod-{pod}", tags.SANDBOX: f"sandbox-{pod}"})


async def seated(world: World, seats: SupportsBatchCreate, count: int) -> list[str]:
    return await asyncio.gather(*(seats.seat(spec(world, pod), f"token-{pod}") for pod in range(count)))


async def created(world: World, provider: Provider, tokens: list[str]) -> list[Instance]:
    return await asyncio.gather(*(provider.create(spec(world, pod), token) for pod, token in enumerate(tokens)))


async def test_pods_that_start_together_are_one_call(
    world: World, provider: Provider, seats: SupportsBatchCreate
) -> None:
    tokens = await seated(world, seats, 5)
    assert len({Seat.parse(token) for token in tokens} - {None}) == 5
    assert world.calls(Verb.CREATE) == 0
    made = await created(world, provider, tokens)
    assert len({instance.id for instance in made}) == 5
    assert world.calls(Verb.CREATE) == 1
    assert [instance.name for instance in made] == [f"podvm-{pod}" for pod in range(5)]


async def test_each_machine_carries_its_seat_from_the_first_moment_and_its_own_tags_soon(
    world: World, provider: Provider, seats: SupportsBatchCreate
) -> None:
    tokens = await seated(world, seats, 3)
    made = await created(world, provider, tokens)
    listed = {instance.id: instance for instance in await provider.list()}
    assert [listed[each.id].tags[tags.TOKEN] for each in made] == tokens
    for _ in range(100):
        seen = await provider.get([each.id for each in made])
        if all(tags.POD_NAME in instance.tags for instance in seen.values()):
            break
        await asyncio.sleep(0.05)
    assert [seen[each.id].tags[tags.SANDBOX] for each in made] == [f"sandbox-{pod}" for pod in range(3)]
    assert [seen[each.id].name for each in made] == [f"podvm-{pod}" for pod in range(3)]
    assert [seen[each.id].tags[tags.TOKEN] for each in made] == tokens
    if isinstance(provider, SupportsSweep):
        found = {each.id: each for each in await provider.resources()}
        assert [found[each.id].tags[tags.TOKEN] for each in made] == tokens


async def test_a_restarted_node_finds_each_machine_by_its_seat(
    world: World, provider: Provider, seats: SupportsBatchCreate
) -> None:
    tokens = await seated(world, seats, 3)
    made = await created(world, provider, tokens)
    successor = world.connect(world.owner)
    again = await successor.create(spec(world, 1), tokens[1])
    assert again.id == made[1].id
    assert len(await provider.list()) == 3


async def test_after_a_lost_reply_every_seat_finds_what_was_made(
    world: World, provider: Provider, seats: SupportsBatchCreate
) -> None:
    tokens = await seated(world, seats, 3)
    world.lose_reply(Verb.CREATE)
    with pytest.raises(Transient):
        await created(world, provider, tokens)
    made = await created(world, provider, tokens)
    assert {instance.id for instance in await provider.list()} == {each.id for each in made}
    assert len(made) == 3


@pytest.mark.parametrize("refusal", [Capacity, Throttled])
async def test_a_refused_call_made_nothing_and_can_be_repeated(
    world: World, provider: Provider, seats: SupportsBatchCreate, refusal: type[Capacity | Throttled]
) -> None:
    tokens = await seated(world, seats, 2)
    world.refuse(Verb.CREATE, refusal)
    with pytest.raises(refusal):
        await created(world, provider, tokens)
    assert len({each.id for each in await created(world, provider, tokens)}) == 2


async def test_who_leaves_has_nothing(world: World, provider: Provider, seats: SupportsBatchCreate) -> None:
    tokens = await seated(world, seats, 3)
    seats.leave(tokens[1])
    made = [await provider.create(spec(world, 0), tokens[0]), await provider.create(spec(world, 2), tokens[2])]
    for _ in range(100):
        left = {instance.id for instance in await provider.list()}
        if left == {each.id for each in made}:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{left} are left")


async def test_a_seat_whose_machine_has_died_makes_no_second_one(
    world: World, provider: Provider, seats: SupportsBatchCreate
) -> None:
    tokens = await seated(world, seats, 2)
    made = await created(world, provider, tokens)
    await provider.delete(made[0].id)
    again = await world.connect(world.owner).create(spec(world, 0), tokens[0])
    assert (again.id, again.state) == (made[0].id, InstanceState.GONE)
    assert [each.id for each in await provider.list()] == [made[1].id]


async def test_a_call_made_again_with_another_count_or_machine_is_refused(
    world: World, provider: Provider, seats: SupportsBatchCreate
) -> None:
    tokens = await seated(world, seats, 2)
    await created(world, provider, tokens)
    seat = Seat.parse(tokens[0])
    assert seat is not None
    with pytest.raises(InvalidSpec):
        await provider.create(spec(world, 0), str(Seat(seat.call, 0, 3)))
    with pytest.raises(InvalidSpec):
        await provider.create(world.spec(user_data=b"other"), tokens[0])
    assert len(await provider.list()) == 2


async def test_deletes_that_come_together_are_one_call_and_a_stranger_fails_none(
    world: World, provider: Provider, seats: SupportsBatchCreate
) -> None:
    made = await created(world, provider, await seated(world, seats, 4))
    before = world.calls(Verb.DELETE)
    await asyncio.gather(*(provider.delete(each.id) for each in made[:3]))
    assert world.calls(Verb.DELETE) == before + 1
    await asyncio.gather(provider.delete(made[3].id), provider.delete(world.unknown_id))
    assert list(await provider.list()) == []


async def test_looks_that_come_together_are_one_call(world: World, provider: Provider) -> None:
    needs(world, "calls worth saving")
    made = [await provider.create(world.spec(), f"token-{number}") for number in range(2)]
    before = world.calls(Verb.GET)
    seen = await asyncio.gather(*(provider.get([each.id]) for each in made), provider.get([world.unknown_id]))
    assert [list(each) for each in seen] == [[made[0].id], [made[1].id], []]
    assert world.calls(Verb.GET) <= before + len(made)
