"""Launches of Azure's provider, with the real SDK against simcloud: what they cost, and that nothing of them is left."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from providers import tags
from providers.azure import launch, requests
from providers.azure.arm import WRITE_NETWORK
from providers.azure.provider import AzureProvider
from providers.base import Instance, InstanceState, ResourceKind, Volume
from providers.errors import Capacity, InvalidSpec, ProviderError, Quota, Transient
from tests.contract import azure_world
from tests.contract.azure_world import AzureWorld
from tests.contract.world import Verb, arrival

NIC, VM, LOOK = "NetworkInterfaces.CreateOrUpdate", "VirtualMachines.CreateOrUpdate", "VirtualMachines.InstanceView"
MADE = (ResourceKind.INSTANCE, ResourceKind.INTERFACE, ResourceKind.ADDRESS, ResourceKind.DISK)


@pytest.fixture
async def world() -> AsyncIterator[AzureWorld]:
    async with azure_world.world() as made:
        yield made


def opened(world: AzureWorld, **settings: Any) -> AzureProvider:
    provider = world.opened(replace(world.config, **settings), world.owner)
    assert isinstance(provider, AzureProvider)
    return provider


async def left(world: AzureWorld) -> dict[ResourceKind, list[str]]:
    """All that there is in the resource group, however it came there."""
    found = {kind: await world.names(kind) for kind in MADE}
    return {kind: names for kind, names in found.items() if names}


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(500):
        if await condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within five seconds")


async def called(world: AzureWorld, action: str) -> None:
    async def seen() -> bool:
        return action in world.cloud.calls

    await eventually(seen)


def counted(world: AzureWorld) -> list[str]:
    return [call for call in world.cloud.calls if call not in ("Identity.Token", "ResourceSkus.List")]


# -- what it costs ----------------------------------------------------------------------------------


async def test_a_pods_start_and_stop_cost_four_calls(world: AzureWorld) -> None:
    made = await world.provider.create(world.spec(), "token-1")
    await world.provider.delete(made.id)
    assert counted(world) == [NIC, VM, LOOK, "VirtualMachines.Delete"]
    assert list(world.cloud.calls).count("ResourceSkus.List") == 1


async def test_the_address_is_known_when_the_create_returns_and_is_the_interfaces() -> None:
    async with azure_world.world(boot_delay="30s") as world:
        made = await world.provider.create(world.spec(), "token-1")
        nic = await world.seen(ResourceKind.INTERFACE, requests.nic_name(made.id))
        assert made.state is InstanceState.PENDING
        assert made.addresses == requests.addresses(nic) != ()


async def test_a_create_does_not_wait_for_the_guest_to_report() -> None:
    async with azure_world.world(boot_delay="1h", agent_delay="1h") as world:
        async with asyncio.timeout(2):
            await opened(world, allocation_check=0.5).create(world.spec(), "token-1")
    assert list(world.cloud.calls).count(LOOK) == 1


async def test_disk_interface_and_public_address_go_with_the_vm(world: AzureWorld) -> None:
    provider = opened(world, public_ip=True)
    made = await provider.create(world.spec(), "token-1")
    assert set(await left(world)) == set(MADE)
    assert len(made.addresses) == 2
    await provider.delete(made.id)
    assert await left(world) == {}


async def test_all_that_a_launch_makes_carries_its_tags(world: AzureWorld) -> None:
    made = await opened(world, public_ip=True, tags=(("cost-centre", "42"),)).create(world.spec(), "token-1")
    expected = {**tags.ownership(world.owner), tags.TOKEN: "token-1", "cost-centre": "42", "team": "blue"}
    for kind in MADE:
        (name,) = await world.names(kind)
        assert expected.items() <= (await world.seen(kind, name))["tags"].items(), kind
    assert expected.items() <= made.tags.items()


async def test_a_pods_disks_are_attached_by_their_place_and_outlive_the_vm(world: AzureWorld) -> None:
    names = [await world.plant(ResourceKind.DISK, {}) for _ in range(2)]
    ids = [requests.resource_id(world.config, "Microsoft.Compute/disks", name) for name in names]
    provider = opened(world)
    spec = world.spec(volumes=tuple(Volume(id) for id in reversed(ids)))
    made = await provider.create(spec, "token-1")
    disks = (await world.seen(ResourceKind.INSTANCE, made.id))["properties"]["storageProfile"]["dataDisks"]
    luns = {disk["managedDisk"]["id"]: disk["lun"] for disk in disks}
    assert luns == {ids[1]: provider.device(spec, 0).lun, ids[0]: provider.device(spec, 1).lun}
    assert {disk.attached_to for disk in (await provider.disks(ids)).values()} == {(made.id,)}
    await provider.delete(made.id)
    assert await left(world) == {ResourceKind.DISK: names}
    assert {disk.attached_to for disk in (await provider.disks(ids)).values()} == {()}


# -- nothing is left ----------------------------------------------------------------------------------

REFUSALS = ["AuthorizationFailed", "SkuNotAvailable", "QuotaExceeded", "TooManyRequests", "InvalidParameter", "Novelty"]


@pytest.mark.parametrize("code", REFUSALS)
async def test_a_refused_vm_leaves_no_interface(world: AzureWorld, code: str) -> None:
    world.cloud.faults.next(action=VM, error=code)
    provider = opened(world, public_ip=True)
    with pytest.raises(ProviderError) as caught:
        await provider.create(world.spec(), "token-1")
    assert caught.value.code == code
    assert await left(world) == {}
    assert (await provider.create(world.spec(), "token-1")).id


async def test_a_refused_interface_leaves_no_public_address(world: AzureWorld) -> None:
    world.cloud.faults.next(action=NIC, error="SubnetIsFull")
    with pytest.raises(Capacity):
        await opened(world, public_ip=True).create(world.spec(), "token-1")
    assert await left(world) == {}
    assert world.calls(Verb.CREATE) == 0


@pytest.mark.parametrize("action", [NIC, VM, LOOK])
async def test_after_a_lost_reply_a_repeat_makes_nothing_twice(world: AzureWorld, action: str) -> None:
    world.cloud.faults.next(action=action, lose_reply=True)
    if action == LOOK:  # the VM is accepted: that look decides nothing
        made = await world.provider.create(world.spec(), "token-1")
    else:
        with pytest.raises(Transient):
            await world.provider.create(world.spec(), "token-1")
        made = await world.provider.create(world.spec(), "token-1")
    assert {kind: len(names) for kind, names in (await left(world)).items()} == {
        ResourceKind.INSTANCE: 1,
        ResourceKind.INTERFACE: 1,
        ResourceKind.DISK: 1,
    }
    await world.provider.delete(made.id)
    assert await left(world) == {}


@pytest.mark.parametrize("action", [NIC, "VirtualMachines.Get", VM, LOOK])
async def test_a_create_given_up_at_any_call_is_undone_or_found_again(world: AzureWorld, action: str) -> None:
    if action == "VirtualMachines.Get":  # which only a repeat asks
        world.cloud.faults.next(action=VM, lose_reply=True)
        with pytest.raises(Transient):
            await world.provider.create(world.spec(), "token-1")
    world.cloud.faults.next(action=action, delay_reply=0.2)
    waiting = asyncio.create_task(world.provider.create(world.spec(), "token-1"))
    await called(world, action)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if action == NIC:

        async def nothing() -> bool:
            return await left(world) == {}

        await asyncio.sleep(0.25)
        await eventually(nothing)
        assert world.calls(Verb.CREATE) == 0
    made = await world.provider.create(world.spec(), "token-1")
    assert await world.names(ResourceKind.INSTANCE) == [made.id]
    await world.provider.delete(made.id)
    assert await left(world) == {}


async def test_taking_back_does_not_overtake_what_it_takes_back(world: AzureWorld) -> None:
    world.cloud.faults.next(action=NIC, delay=0.2)  # Azure is slow to make the interface, and it is given up meanwhile
    waiting = asyncio.create_task(world.provider.create(world.spec(), "token-1"))
    await called(world, NIC)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await world.provider.aclose()  # which waits for what is under way
    await asyncio.sleep(0.3)
    assert await left(world) == {}


async def test_a_create_given_up_before_its_turn_asks_nothing(world: AzureWorld) -> None:
    provider = opened(world)
    await provider.offerings()
    provider.throttle.told(WRITE_NETWORK, -10)
    waiting = asyncio.create_task(provider.create(world.spec(), "token-1"))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    provider.throttle._bucket(WRITE_NETWORK).take(-20, asyncio.get_running_loop().time())
    await provider.create(world.spec(), "token-2")
    assert list(world.cloud.calls).count(NIC) == 1


async def test_one_who_gives_up_does_not_spoil_it_for_others(world: AzureWorld) -> None:
    world.hold_reply(Verb.CREATE)
    impatient = asyncio.create_task(world.provider.create(world.spec(), "token-1"))
    patient = asyncio.create_task(world.provider.create(world.spec(), "token-1"))
    await arrival(world, Verb.CREATE)
    impatient.cancel()
    assert (await patient).id
    assert impatient.cancelled()
    assert world.calls(Verb.CREATE) == 1


async def test_a_crash_between_interface_and_vm_is_healed_by_a_repeat(world: AzureWorld) -> None:
    world.cloud.faults.next(action=VM, http_status=503)
    with pytest.raises(Transient):
        await world.provider.create(world.spec(), "token-1")
    assert set(await left(world)) == {ResourceKind.INTERFACE}
    made = await world.connect(world.owner).create(world.spec(), "token-1")
    assert await world.names(ResourceKind.INTERFACE) == [requests.nic_name(made.id)]


async def test_a_crash_between_interface_and_vm_is_healed_by_a_delete(world: AzureWorld) -> None:
    world.cloud.faults.next(action=VM, http_status=503)
    with pytest.raises(Transient):
        await world.provider.create(world.spec(), "token-1")
    await world.connect(world.owner).delete(requests.vm_name(world.spec(), "token-1", world.owner))
    assert await left(world) == {}


async def test_a_delete_of_what_never_was_leaves_other_peoples_interfaces(world: AzureWorld) -> None:
    other = await world.connect(replace(world.owner, node="node-2")).create(world.spec(), "token-1")
    await world.connect(replace(world.owner, node="node-2")).delete("nobody")
    world.cloud.faults.next(action=VM, http_status=503)
    stranger = world.connect(replace(world.owner, node="node-3"))
    with pytest.raises(Transient):
        await stranger.create(world.spec(), "token-2")
    await world.provider.delete(requests.vm_name(world.spec(), "token-2", replace(world.owner, node="node-3")))
    assert len(await world.names(ResourceKind.INTERFACE)) == 2
    assert await world.names(ResourceKind.INSTANCE) == [other.id]


async def test_an_interface_that_azure_keeps_for_a_failed_vm_is_deleted_when_it_lets_go(
    world: AzureWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "RESERVED", 0.2)
    world.cloud.faults.quota(1)
    with pytest.raises(Quota, match="higher limit"):
        await world.provider.create(world.spec(), "token-1")
    (name,) = await world.names(ResourceKind.INTERFACE)
    world.cloud.age(requests.resource_id(world.config, launch.NIC, name), 200)

    async def nothing() -> bool:
        return await left(world) == {}

    await eventually(nothing)


# -- room that is not found -----------------------------------------------------------------------------


async def scarce(world: AzureWorld) -> Instance:
    """The last VM that there is room for; that there is none for the next shows only after its PUT."""
    world.cloud.faults.capacity("Standard_D2s_v5", free=1)
    return await world.provider.create(world.spec(), "token-1")


async def test_an_allocation_that_fails_after_acceptance_fails_the_create_and_leaves_nothing(world: AzureWorld) -> None:
    first = await scarce(world)
    with pytest.raises(Capacity) as caught:
        await world.provider.create(world.spec(), "token-2")
    assert caught.value.code in ("AllocationFailed", "ZonalAllocationFailed")
    assert await world.names(ResourceKind.INSTANCE) == [first.id]
    assert len(await world.names(ResourceKind.INTERFACE)) == 1


async def test_the_look_comes_as_late_as_the_settings_say() -> None:
    async with azure_world.world(boot_delay="0.2s") as world:
        await scarce(world)
        made = await world.provider.create(world.spec(), "token-2")  # the look came too early
        assert made.state is InstanceState.PENDING
        with pytest.raises(Capacity):
            await opened(world, allocation_check=0.3).create(world.spec(), "token-3")


async def test_a_vm_without_a_place_is_looked_at_until_it_has_one_or_never_will() -> None:
    async with azure_world.world(boot_delay="0.2s") as world:
        await scarce(world)
        with pytest.raises(Capacity):
            await opened(world, allocation_check=0.04).create(world.spec(), "token-2")
        assert list(world.cloud.calls).count(LOOK) > 2
    async with azure_world.world(boot_delay="1h") as world:
        await scarce(world)
        provider = opened(world, allocation_check=0.02)
        assert (await provider.create(world.spec(), "token-2")).state is InstanceState.PENDING  # no longer than that
        assert list(world.cloud.calls).count(LOOK) < launch.LOOKING


async def test_an_allocation_that_fails_after_the_look_shows_as_a_stopped_machine_with_the_reason() -> None:
    async with azure_world.world(boot_delay="0.1s") as world:
        await scarce(world)
        made = await world.provider.create(world.spec(), "token-2")
        await asyncio.sleep(0.15)
        seen = (await world.provider.get([made.id]))[made.id]
        assert seen.state is InstanceState.STOPPED
        assert "capacity" in seen.reason
        listed = {each.id: each for each in await world.provider.list()}
        assert listed[made.id] == seen
        await world.provider.delete(made.id)
        assert made.id not in {each.id for each in await world.provider.list()}


async def test_a_guest_that_never_reports_is_alive_though_azure_calls_it_failed(world: AzureWorld) -> None:
    made = await world.provider.create(world.spec(), "token-1")
    shape = await world.seen(ResourceKind.INSTANCE, made.id, **{"$expand": "instanceView"})
    shape["properties"]["provisioningState"] = "Failed"
    shape["properties"]["instanceView"]["statuses"] = [
        {"code": "ProvisioningState/failed/OSProvisioningTimedOut", "level": "Error", "message": "timed out"},
        {"code": "PowerState/running", "level": "Info"},
    ]
    assert requests.instance(shape).state is InstanceState.RUNNING


# -- whose token it is ------------------------------------------------------------------------------------


async def test_a_restarted_node_refuses_a_token_with_another_spec_and_touches_nothing(world: AzureWorld) -> None:
    made = await world.provider.create(world.spec(), "token-1")
    with pytest.raises(InvalidSpec, match="other parameters"):
        await world.connect(world.owner).create(world.spec(user_data=b"other"), "token-1")
    assert await world.names(ResourceKind.INSTANCE) == [made.id]
    assert await world.names(ResourceKind.INTERFACE) == [requests.nic_name(made.id)]


async def test_nodes_with_the_same_token_get_machines_of_their_own(world: AzureWorld) -> None:
    first = await world.provider.create(world.spec(), "token-1")
    second = await world.connect(replace(world.owner, node="node-2")).create(world.spec(), "token-1")
    assert first.id != second.id


async def test_closing_does_not_wait_for_news_of_room() -> None:
    async with azure_world.world(boot_delay="1h") as world:
        await scarce(world)
        provider = opened(world, allocation_check=60.0)
        under_way = asyncio.create_task(provider.create(world.spec(), "token-2"))

        async def accepted() -> bool:
            return world.calls(Verb.CREATE) == 2

        await eventually(accepted)
        async with asyncio.timeout(2):
            await provider.aclose()
        assert (await under_way).id


async def test_closing_lets_the_launch_under_way_finish(world: AzureWorld) -> None:
    provider = opened(world)
    world.hold_reply(Verb.CREATE)
    under_way = asyncio.create_task(provider.create(world.spec(), "token-1"))
    await arrival(world, Verb.CREATE)
    await provider.aclose()
    assert (await under_way).id
    with pytest.raises(ProviderError, match="closed"):
        await provider.create(world.spec(), "token-2")


@pytest.mark.parametrize("code", ["TooManyRequests", "AuthorizationFailed", "InternalServerError"])
async def test_a_failed_vm_that_cannot_be_deleted_is_no_refusal_and_is_found_by_the_repeat(
    world: AzureWorld, code: str
) -> None:
    await scarce(world)
    world.cloud.faults.next(action="VirtualMachines.Delete", error=code)
    with pytest.raises(Transient, match="could not be deleted yet"):  # Throttled or Denied would say: nothing was made
        await world.provider.create(world.spec(), "token-2")
    found = await world.provider.create(world.spec(), "token-2")
    assert found.state is InstanceState.STOPPED
    await world.provider.delete(found.id)
    assert len(await world.names(ResourceKind.INTERFACE)) == 1
