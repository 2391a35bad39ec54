"""Provider.create: once only, whatever happens to the calls."""

import asyncio

import pytest

from providers import tags
from providers.base import InstanceState, Provider, Tee
from providers.errors import Capacity, InvalidSpec, NotFound, Transient
from tests.contract.world import Verb, World, arrival, needs


async def test_a_create_returns_an_accepted_instance_with_what_was_asked(world: World, provider: Provider) -> None:
    spec = world.spec()
    made = await provider.create(spec, "token-1")
    assert made.id
    assert made.state in (InstanceState.PENDING, InstanceState.RUNNING)
    assert (made.name, made.instance_type, made.image) == (spec.name, spec.instance_type, spec.image)
    assert made.launched_at is not None


async def test_an_address_is_known_once_the_instance_runs(world: World, provider: Provider) -> None:
    made = await provider.create(world.spec(), "token-1")
    seen = (await provider.get([made.id]))[made.id]
    assert seen.state is not InstanceState.RUNNING or seen.addresses


async def test_the_tags_say_whose_it_is_and_which_call_made_it(world: World, provider: Provider) -> None:
    made = await provider.create(world.spec(tags={"team": "blue", tags.POD_NAME: "nginx"}), "token-1")
    expected = {
        tags.CLUSTER: world.owner.cluster,
        tags.NODE: world.owner.node,
        tags.TOKEN: "token-1",
        tags.POD_NAME: "nginx",
        "team": "blue",
    }
    seen = (await provider.get([made.id]))[made.id]
    assert expected.items() <= seen.tags.items()


async def test_a_specs_tags_cannot_claim_another_node(world: World, provider: Provider) -> None:
    made = await provider.create(world.spec(tags={tags.NODE: "node-2"}), "token-1")
    assert made.tags[tags.NODE] == world.owner.node


@pytest.mark.parametrize("length", [0, 1, 3000])
async def test_user_data_arrives_byte_for_byte(world: World, provider: Provider, length: int) -> None:
    data = (b"{\n\xc3\xa9\x00\xff'\"}&%=+ " * length)[:length]
    made = await provider.create(world.spec(user_data=data), "token-1")
    assert await world.user_data(made.id) == data


async def test_user_data_of_exactly_the_limit_arrives(world: World, provider: Provider) -> None:
    data = b"x" * world.user_data_limit
    made = await provider.create(world.spec(user_data=data), "token-1")
    assert await world.user_data(made.id) == data


async def test_the_same_token_again_returns_the_same_instance(world: World, provider: Provider) -> None:
    first = await provider.create(world.spec(), "token-1")
    again = await provider.create(world.spec(), "token-1")
    assert again.id == first.id
    assert len(await provider.list()) == 1


async def test_the_same_token_many_times_at_once_makes_one_instance(world: World, provider: Provider) -> None:
    made = await asyncio.gather(*(provider.create(world.spec(), "token-1") for _ in range(5)))
    assert len({instance.id for instance in made}) == 1
    assert len(await provider.list()) == 1


async def test_another_token_makes_another_instance(world: World, provider: Provider) -> None:
    first, second = await asyncio.gather(
        provider.create(world.spec(), "token-1"), provider.create(world.spec(), "token-2")
    )
    assert first.id != second.id


async def test_after_a_lost_reply_the_same_token_finds_what_was_made(world: World, provider: Provider) -> None:
    world.lose_reply(Verb.CREATE)
    with pytest.raises(Transient):
        await provider.create(world.spec(), "token-1")
    again = await provider.create(world.spec(), "token-1")
    assert [instance.id for instance in await provider.list()] == [again.id]


async def test_a_restarted_node_finds_its_instance_by_the_token(world: World, provider: Provider) -> None:
    first = await provider.create(world.spec(), "token-1")
    successor = world.connect(world.owner)
    assert (await successor.create(world.spec(), "token-1")).id == first.id


async def test_a_cancelled_create_is_found_again(world: World, provider: Provider) -> None:
    world.hold_reply(Verb.CREATE)
    waiting = asyncio.create_task(provider.create(world.spec(), "token-1"))
    await arrival(world, Verb.CREATE)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    again = await provider.create(world.spec(), "token-1")
    assert [(i.id, i.tags[tags.TOKEN]) for i in await provider.list()] == [(again.id, "token-1")]


async def test_a_token_whose_instance_has_died_makes_no_second_one(world: World, provider: Provider) -> None:
    first = await provider.create(world.spec(), "token-1")
    await provider.delete(first.id)
    again = await provider.create(world.spec(), "token-1")
    assert (again.id, again.state) == (first.id, InstanceState.GONE)
    assert list(await provider.list()) == []


async def test_a_token_with_another_spec_is_refused(world: World, provider: Provider) -> None:
    first = await provider.create(world.spec(), "token-1")
    with pytest.raises(InvalidSpec):
        await provider.create(world.spec(user_data=b"other"), "token-1")
    assert [instance.id for instance in await provider.list()] == [first.id]


async def test_a_create_refused_for_capacity_can_be_repeated_with_its_token(world: World, provider: Provider) -> None:
    world.refuse(Verb.CREATE, Capacity)
    with pytest.raises(Capacity):
        await provider.create(world.spec(), "token-1")
    assert (await provider.create(world.spec(), "token-1")).id


async def test_a_confidential_instance_is_one_if_the_type_can(world: World, provider: Provider) -> None:
    needs(world, "TEEs")
    able, _ = world.confidential
    tee = next(offer.tee for offer in world.truths if offer.instance_type == able and offer.tee is not Tee.NONE)
    assert (await provider.create(world.spec(instance_type=able, tee=tee), "token-1")).instance_type == able


async def test_a_tee_that_the_type_cannot_give_is_refused_before_any_launch(world: World, provider: Provider) -> None:
    _, unable = world.confidential
    for tee in (Tee.SNP, Tee.TDX):
        with pytest.raises(InvalidSpec, match=tee.value):
            await provider.create(world.spec(instance_type=unable, tee=tee), "token-1")
    assert world.calls(Verb.CREATE) == 0


async def test_what_no_cloud_could_accept_costs_no_call(world: World, provider: Provider) -> None:
    hopeless = [
        world.spec(user_data=b"x" * (world.user_data_limit + 1)),
        world.spec(name=""),
        world.spec(name="Pod_VM"),
        world.spec(name="a" * 64),
        world.spec(instance_type="enormous.9xlarge"),
        world.spec(tags={"k" * 600: "value"}),
        world.spec(tags={"key": "v" * 300}),
    ]
    for spec in hopeless:
        with pytest.raises(InvalidSpec):
            await provider.create(spec, "token-1")
    for token in ("", "t" * 65):
        with pytest.raises(InvalidSpec):
            await provider.create(world.spec(), token)
    assert world.calls(Verb.CREATE) == 0


async def test_an_image_that_does_not_exist_is_not_found(world: World, provider: Provider) -> None:
    image = world.spec().image
    missing = image[:-4] + ("0000" if not image.endswith("0000") else "1111")
    with pytest.raises(NotFound, match=missing):
        await provider.create(world.spec(image=missing), "token-1")


async def test_a_zone_the_configuration_does_not_reach_is_refused(world: World, provider: Provider) -> None:
    with pytest.raises(InvalidSpec, match="nowhere-1z"):
        await provider.create(world.spec(zone="nowhere-1z"), "token-1")
    assert world.calls(Verb.CREATE) == 0


async def test_every_offered_zone_can_be_asked_for(world: World, provider: Provider) -> None:
    offers = [o for o in await provider.offerings() if o.instance_type == world.spec().instance_type]
    for number, offer in enumerate(offers):
        made = await provider.create(world.spec(zone=offer.zone), f"token-{number}")
        assert made.zone == offer.zone or not offer.zone
    assert offers
