"""Zones and ways to pay: what is offered can be launched there and so, and nowhere else."""

import pytest

from providers.base import Provider, Purchase
from providers.errors import InvalidSpec
from tests.contract.world import World, needs


async def test_every_zone_that_the_settings_allow_is_offered(world: World, provider: Provider) -> None:
    needs(world, "zones")
    offers = await provider.offerings()
    default = offers[0]
    assert set(world.zones) <= {each.zone for each in offers if each.instance_type == default.instance_type}
    assert default.zone == world.zones[0]


@pytest.mark.parametrize("position", [0, 1])
async def test_a_launch_goes_to_the_zone_that_was_chosen(world: World, provider: Provider, position: int) -> None:
    needs(world, "zones")
    zone = world.zones[position]
    made = await provider.create(world.spec(zone=zone), "token-1")
    assert (await provider.get([made.id]))[made.id].zone == zone


async def test_a_zone_that_the_settings_do_not_allow_is_refused_by_name(world: World, provider: Provider) -> None:
    with pytest.raises(InvalidSpec, match="nowhere-1x"):
        await provider.create(world.spec(zone="nowhere-1x"), "token-1")
    assert list(await provider.list()) == []


async def test_an_offering_is_there_once(world: World, provider: Provider) -> None:
    offers = [(each.instance_type, each.zone, each.purchase, each.tee) for each in await world.spot().offerings()]
    assert len(set(offers)) == len(offers)


async def test_spot_capacity_is_offered_only_where_the_settings_allow_it(world: World, provider: Provider) -> None:
    needs(world, "spot")
    assert {each.purchase for each in await provider.offerings()} == {Purchase.ON_DEMAND}
    offers = await world.spot().offerings()
    assert offers[0].purchase is Purchase.ON_DEMAND
    assert {each.purchase for each in offers} == {Purchase.ON_DEMAND, Purchase.SPOT}


async def test_a_machine_is_paid_for_as_was_chosen(world: World) -> None:
    needs(world, "spot")
    provider = world.spot()
    for token, purchase in (("token-1", Purchase.ON_DEMAND), ("token-2", Purchase.SPOT)):
        made = await provider.create(world.spec(purchase=purchase), token)
        assert await world.purchase(made.id) is purchase


async def test_spot_is_refused_where_the_settings_do_not_allow_it(world: World, provider: Provider) -> None:
    with pytest.raises(InvalidSpec, match="spot"):
        await provider.create(world.spec(purchase=Purchase.SPOT), "token-1")
    assert list(await provider.list()) == []
