"""SupportsVolumes: a pod's disks are described before anything is spent, attached once, and outlive the machine."""

import asyncio

import pytest

from providers.base import InstanceState, LaunchSpec, Provider, ResourceKind, SupportsVolumes, Volume
from providers.errors import Denied, InvalidSpec, NotFound, ProviderError, Throttled, Transient
from tests.contract.world import Verb, World, needs, until_running


@pytest.fixture
def cloud(provider: Provider) -> SupportsVolumes:
    if not isinstance(provider, SupportsVolumes):
        pytest.skip(f"the {provider.name} provider does not support volumes")
    return provider


async def machine(world: World, provider: Provider, token: str, *volumes: Volume) -> tuple[LaunchSpec, str]:
    """A running machine in the first zone that was launched for these volumes; they are not attached by hand."""
    spec = world.spec(zone=world.zones[0], volumes=volumes)
    made = await provider.create(spec, token)
    await until_running(provider, made.id)
    return spec, made.id


async def test_a_disk_is_described_with_where_it_is_and_how_large(world: World, cloud: SupportsVolumes) -> None:
    here, there = [await world.disk(zone) for zone in world.zones]
    found = await cloud.disks([here, there])
    assert {id: found[id].zone for id in found} == {here: world.zones[0], there: world.zones[1]}
    assert {(each.size_gib, each.attached_to, each.shareable) for each in found.values()} == {
        (world.disk_gib, (), False)
    }


async def test_a_disk_that_does_not_exist_is_left_out(world: World, cloud: SupportsVolumes) -> None:
    lost = await world.disk(world.zones[0])
    kept = await world.disk(world.zones[0])
    unknown = lost[:-4] + "".join("0" if c != "0" else "1" for c in lost[-4:])
    assert set(await cloud.disks([kept, unknown])) == {kept}
    assert await cloud.disks([]) == {}


async def test_attached_disks_are_held_by_their_machine(
    world: World, provider: Provider, cloud: SupportsVolumes
) -> None:
    volumes = [Volume(await world.disk(world.zones[0])) for _ in range(2)]
    _, made = await machine(world, provider, "token-1", *volumes)
    await cloud.attach(made, volumes)
    found = await cloud.disks([volume.id for volume in volumes])
    assert [found[volume.id].attached_to for volume in volumes] == [(made,), (made,)]


async def test_attaching_again_changes_nothing(world: World, provider: Provider, cloud: SupportsVolumes) -> None:
    volume = Volume(await world.disk(world.zones[0]))
    _, made = await machine(world, provider, "token-1", volume)
    await cloud.attach(made, [volume])
    await cloud.attach(made, [volume])
    await asyncio.gather(*(cloud.attach(made, [volume]) for _ in range(3)))
    assert (await cloud.disks([volume.id]))[volume.id].attached_to == (made,)


async def test_attaching_again_after_a_lost_reply_succeeds(
    world: World, provider: Provider, cloud: SupportsVolumes
) -> None:
    volume = Volume(await world.disk(world.zones[0]))
    _, made = await machine(world, provider, "token-1", volume)
    if world.calls(Verb.ATTACH) == 0 and (await cloud.disks([volume.id]))[volume.id].attached_to:
        pytest.skip("this cloud attaches with the create")
    world.lose_reply(Verb.ATTACH)
    with pytest.raises(Transient):
        await cloud.attach(made, [volume])
    await cloud.attach(made, [volume])
    assert (await cloud.disks([volume.id]))[volume.id].attached_to == (made,)


async def test_a_disk_that_another_machine_has_is_refused_by_its_name(
    world: World, provider: Provider, cloud: SupportsVolumes
) -> None:
    volume = Volume(await world.disk(world.zones[0]))
    _, holder = await machine(world, provider, "token-1", volume)
    await cloud.attach(holder, [volume])
    other = await provider.create(world.spec(zone=world.zones[0]), "token-2")
    await until_running(provider, other.id)
    with pytest.raises(InvalidSpec) as caught:
        await cloud.attach(other.id, [volume])
    assert volume.id in caught.value.message
    assert holder in caught.value.message
    assert (await cloud.disks([volume.id]))[volume.id].attached_to == (holder,)


async def test_a_disk_in_another_zone_is_refused_by_name(
    world: World, provider: Provider, cloud: SupportsVolumes
) -> None:
    volume = Volume(await world.disk(world.zones[1]))
    made = await provider.create(world.spec(zone=world.zones[0]), "token-1")
    await until_running(provider, made.id)
    with pytest.raises(InvalidSpec) as caught:
        await cloud.attach(made.id, [volume])
    assert volume.id in caught.value.message
    assert world.zones[1] in caught.value.message


async def test_a_disk_outlives_its_machine(world: World, provider: Provider, cloud: SupportsVolumes) -> None:
    volume = Volume(await world.disk(world.zones[0]))
    _, made = await machine(world, provider, "token-1", volume)
    await cloud.attach(made, [volume])
    await provider.delete(made)
    for _ in range(1000):
        seen = (await provider.get([made])).get(made)
        if seen is None or seen.state is InstanceState.GONE:
            break
        await asyncio.sleep(0.01)
    assert await world.exists(ResourceKind.DISK, volume.id)


async def test_every_volume_can_be_told_from_the_others_in_the_machine(world: World, cloud: SupportsVolumes) -> None:
    volumes = tuple([Volume(await world.disk(world.zones[0])) for _ in range(3)])
    spec = world.spec(zone=world.zones[0], volumes=volumes)
    devices = [cloud.device(spec, index) for index in range(3)]
    assert len({(each.lun, each.serial) for each in devices}) == 3
    assert all(each.serial or each.lun is not None for each in devices)
    assert devices == [cloud.device(spec, index) for index in range(3)]


async def test_attaching_to_no_machine_is_not_found(world: World, cloud: SupportsVolumes) -> None:
    volume = Volume(await world.disk(world.zones[0]))
    with pytest.raises(NotFound):
        await cloud.attach(world.unknown_id, [volume])


@pytest.mark.parametrize("kind", [Throttled, Denied, Transient])
async def test_refused_descriptions_of_disks_are_of_their_kind(
    world: World, cloud: SupportsVolumes, kind: type[ProviderError]
) -> None:
    volume = await world.disk(world.zones[0])
    world.refuse(Verb.DISKS, kind)
    with pytest.raises(ProviderError) as caught:
        await cloud.disks([volume])
    assert type(caught.value) is kind
    assert set(await cloud.disks([volume])) == {volume}


async def test_a_larger_root_volume_is_taken_and_a_smaller_one_is_the_images(world: World, provider: Provider) -> None:
    needs(world, "root volumes")
    small = await provider.create(world.spec(root_volume_gib=1), "token-1")
    large = await provider.create(world.spec(root_volume_gib=40, scratch_gib=10), "token-2")
    assert await world.root_gib(large.id) == 50
    assert 1 <= await world.root_gib(small.id) < 40
