"""SupportsSweep: everything of the cluster is found, and nothing but what is ours and free is removed."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from providers import tags
from providers.base import InstanceState, Ownership, Provider, Resource, ResourceKind, SupportsSweep
from providers.errors import Denied, InvalidSpec, ProviderError, Throttled, Transient
from tests.contract.world import Verb, World, kinds

FREE_KINDS = (ResourceKind.INTERFACE, ResourceKind.ADDRESS, ResourceKind.DISK)
EVERY_KIND = pytest.mark.parametrize("kind", list(ResourceKind))
EVERY_FREE_KIND = pytest.mark.parametrize("kind", FREE_KINDS)


@pytest.fixture
def cloud(provider: Provider) -> SupportsSweep:
    if not isinstance(provider, SupportsSweep):
        pytest.skip(f"the {provider.name} provider does not support the sweep")
    return provider


@pytest.fixture(autouse=True)
def has_kind(world: World, request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    kind = callspec.params.get("kind") if callspec else None
    if isinstance(kind, ResourceKind) and kind not in kinds(world):
        pytest.skip(f"{world.provider.name} has no {kind} by itself")


def ours(world: World) -> dict[str, str]:
    return {**tags.ownership(world.owner), "Name": "planted"}


async def found(cloud: SupportsSweep, resource_id: str) -> Resource:
    (one,) = [each for each in await cloud.resources() if each.id == resource_id]
    return one


def ids(resources: Sequence[Resource]) -> set[str]:
    return {each.id for each in resources}


async def test_all_that_a_create_makes_is_found_with_its_ownership_and_token(
    world: World, provider: Provider, cloud: SupportsSweep
) -> None:
    made = await provider.create(world.spec(), "token-1")
    listed = await cloud.resources()
    assert made.id in ids(listed)
    assert {ResourceKind.INSTANCE, ResourceKind.DISK} <= {each.kind for each in listed}
    expected = {**tags.ownership(world.owner), tags.TOKEN: "token-1"}
    for each in listed:
        assert expected.items() <= each.tags.items(), each
        assert each.attached_to == ("" if each.id == made.id else made.id), each
    assert len(listed) == len(ids(listed))


async def test_an_instance_is_listed_as_list_tells_of_it(
    world: World, provider: Provider, cloud: SupportsSweep
) -> None:
    made = await provider.create(world.spec(), "token-1")
    (told,) = await provider.list()
    seen = await found(cloud, made.id)
    assert (seen.name, seen.tags, seen.created_at) == (told.name, told.tags, told.launched_at)
    assert seen.addresses == told.addresses
    assert made.instance_type in seen.facts


@EVERY_KIND
async def test_what_was_planted_is_found_with_facts_for_who_pays(
    world: World, cloud: SupportsSweep, kind: ResourceKind
) -> None:
    planted = await world.plant(kind, ours(world))
    seen = await found(cloud, planted)
    assert (seen.kind, seen.name, seen.attached_to) == (kind, "planted", "")
    assert seen.facts
    assert ours(world).items() <= seen.tags.items()


@EVERY_FREE_KIND
async def test_what_is_attached_says_to_what(
    world: World, provider: Provider, cloud: SupportsSweep, kind: ResourceKind
) -> None:
    made = await provider.create(world.spec(), "token-1")
    planted = await world.plant(kind, ours(world))
    await world.attach(planted, kind, made.id)
    assert (await found(cloud, planted)).attached_to == made.id


async def test_other_nodes_of_the_cluster_are_listed_and_other_clusters_are_not(
    world: World, cloud: SupportsSweep
) -> None:
    sibling, stranger = Ownership(world.owner.cluster, "node-2"), Ownership("cluster-b", world.owner.node)
    for kind in kinds(world):
        theirs = await world.plant(kind, tags.ownership(sibling))
        others = await world.plant(kind, tags.ownership(stranger))
        untagged = await world.plant(kind, {})
        listed = ids(await cloud.resources())
        assert theirs in listed
        assert not {others, untagged} & listed


async def test_a_cluster_with_wildcards_in_its_name_sees_itself_only(world: World, cloud: SupportsSweep) -> None:
    await world.plant(ResourceKind.DISK, ours(world))
    stars = world.connect(Ownership("cluster-*", "node-?"))
    assert isinstance(stars, SupportsSweep)
    assert list(await stars.resources()) == []


async def test_many_of_each_kind_are_all_found_once(world: World, cloud: SupportsSweep) -> None:
    planted = [await world.plant(kind, ours(world)) for kind in FREE_KINDS if kind in kinds(world) for _ in range(8)]
    assert sorted(each.id for each in await cloud.resources()) == sorted(planted)


@EVERY_KIND
async def test_what_was_removed_is_gone(world: World, cloud: SupportsSweep, kind: ResourceKind) -> None:
    kept, doomed = await world.plant(kind, ours(world)), await world.plant(kind, ours(world))
    seen = await found(cloud, doomed)
    await cloud.remove(seen)
    assert not await world.exists(kind, doomed)
    assert await world.exists(kind, kept)
    assert doomed not in ids(await cloud.resources())
    await cloud.remove(seen)  # twice is once


@EVERY_KIND
async def test_removing_what_never_was_is_success(world: World, cloud: SupportsSweep, kind: ResourceKind) -> None:
    planted = await world.plant(kind, ours(world))
    seen = await found(cloud, planted)
    await cloud.remove(replace(seen, id=seen.id[:-4] + ("0000" if seen.id[-4:] != "0000" else "1111")))
    assert await world.exists(kind, planted)


@EVERY_FREE_KIND
async def test_what_was_attached_meanwhile_is_refused_and_left(
    world: World, provider: Provider, cloud: SupportsSweep, kind: ResourceKind
) -> None:
    made = await provider.create(world.spec(), "token-1")
    planted = await world.plant(kind, ours(world))
    seen = await found(cloud, planted)
    await world.attach(planted, kind, made.id)
    with pytest.raises(InvalidSpec, match=made.id):
        await cloud.remove(seen)
    assert await world.exists(kind, planted)
    assert (await found(cloud, planted)).attached_to == made.id


@EVERY_KIND
@pytest.mark.parametrize("whose", [Ownership("cluster-a", "node-2"), Ownership("cluster-b", "node-1"), None])
async def test_what_is_not_this_nodes_is_refused_and_left(
    world: World, cloud: SupportsSweep, kind: ResourceKind, whose: Ownership | None
) -> None:
    planted = await world.plant(kind, tags.ownership(whose) if whose else {})
    claimed = Resource(kind, planted, tags=tags.ownership(world.owner))  # what the caller believes does not count
    with pytest.raises(InvalidSpec, match=planted):
        await cloud.remove(claimed)
    assert await world.exists(kind, planted)


async def test_an_address_and_a_disk_outlive_their_instance_and_become_free(
    world: World, provider: Provider, cloud: SupportsSweep
) -> None:
    made = await provider.create(world.spec(), "token-1")
    planted = [await world.plant(kind, ours(world)) for kind in (ResourceKind.ADDRESS, ResourceKind.DISK)]
    for each, kind in zip(planted, (ResourceKind.ADDRESS, ResourceKind.DISK), strict=True):
        await world.attach(each, kind, made.id)
    await provider.delete(made.id)
    for _ in range(1000):
        listed = {each.id: each.attached_to for each in await cloud.resources()}
        if listed == dict.fromkeys(planted, ""):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"within ten seconds only this has become of it: {listed}")


async def test_a_terminated_instance_is_not_listed(world: World, provider: Provider, cloud: SupportsSweep) -> None:
    made = await provider.create(world.spec(), "token-1")
    await provider.delete(made.id)
    assert made.id not in ids(await cloud.resources())
    seen = (await provider.get([made.id])).get(made.id)
    assert seen is None or seen.state is InstanceState.GONE


@pytest.mark.parametrize("verb", [Verb.RESOURCES, Verb.REMOVE])
@pytest.mark.parametrize("kind", [Throttled, Denied, Transient])
async def test_a_refusal_is_of_its_kind_and_the_same_call_works_afterwards(
    world: World, cloud: SupportsSweep, verb: Verb, kind: type[ProviderError]
) -> None:
    seen = await found(cloud, await world.plant(ResourceKind.DISK, ours(world)))

    async def act() -> None:
        await (cloud.resources() if verb is Verb.RESOURCES else cloud.remove(seen))

    world.refuse(verb, kind)
    with pytest.raises(ProviderError) as caught:
        await act()
    assert type(caught.value) is kind
    assert await world.exists(ResourceKind.DISK, seen.id)
    await act()
    assert await world.exists(ResourceKind.DISK, seen.id) is (verb is Verb.RESOURCES)


async def test_a_removal_whose_reply_was_lost_may_be_repeated(world: World, cloud: SupportsSweep) -> None:
    seen = await found(cloud, await world.plant(ResourceKind.DISK, ours(world)))
    world.lose_reply(Verb.REMOVE)
    with pytest.raises(Transient):
        await cloud.remove(seen)
    await cloud.remove(seen)
    assert not await world.exists(ResourceKind.DISK, seen.id)


# -- a whole cluster's: Ownership without a node


async def test_a_whole_clusters_owner_removes_what_any_node_of_it_has(world: World, cloud: SupportsSweep) -> None:
    kind = ResourceKind.DISK
    theirs = await world.plant(kind, tags.ownership(Ownership(world.owner.cluster, "node-2")))
    strangers = await world.plant(kind, tags.ownership(Ownership("cluster-b", "node-1")))
    whole = world.connect(Ownership(world.owner.cluster, ""))
    assert isinstance(whole, SupportsSweep)
    await whole.remove(await found(whole, theirs))
    assert not await world.exists(kind, theirs)
    with pytest.raises(InvalidSpec, match=strangers):
        await whole.remove(Resource(kind, strangers, tags=tags.ownership(Ownership(world.owner.cluster, "node-2"))))
    assert await world.exists(kind, strangers)


async def test_a_whole_clusters_owner_lists_and_deletes_every_nodes_machines_and_launches_none(world: World) -> None:
    cluster = world.owner.cluster
    made = [
        await world.connect(Ownership(cluster, node)).create(world.spec(), f"token-{node}")
        for node in ("node-1", "node-2")
    ]
    await world.connect(Ownership("cluster-b", "node-1")).create(world.spec(), "token-b")
    whole = world.connect(Ownership(cluster, ""))
    listed = {each.id: each.tags[tags.NODE] for each in await whole.list()}
    assert listed == {made[0].id: "node-1", made[1].id: "node-2"}
    await whole.delete(made[1].id)
    assert {each.id for each in await whole.list()} == {made[0].id}
    with pytest.raises(InvalidSpec, match="as a whole"):
        await whole.create(world.spec(), "token-whole")
    assert {each.id for each in await whole.list()} == {made[0].id}
