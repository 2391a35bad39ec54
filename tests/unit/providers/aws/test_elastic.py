"""Elastic addresses: each VM has one, and none stays behind, whatever becomes of the calls."""

import asyncio
from typing import Any

import pytest

from providers import tags
from providers.aws import elastic
from providers.aws.provider import AwsProvider
from providers.base import InstanceState, ResourceKind
from providers.errors import Denied, NotFound, ProviderError, Quota, Transient
from tests.contract.aws_world import AwsWorld
from tests.contract.simulated import HELD
from tests.contract.world import until_running
from tests.unit.providers.aws.conftest import Opened

STEPS = ("DescribeAddresses", "AllocateAddress", "AssociateAddress")
ENDS = ("DescribeAddresses", "DisassociateAddress", "ReleaseAddress", "TerminateInstances")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic, "POLL", 0.01)


@pytest.fixture
def provider(opened: Opened) -> AwsProvider:
    return opened(public_ip="elastic")


async def addresses(world: AwsWorld) -> list[dict[str, Any]]:
    return list((await world.ask("describe_addresses"))["Addresses"])


async def create(world: AwsWorld, provider: AwsProvider) -> str:
    """Once more where that may help."""
    for _ in range(3):
        try:
            return (await provider.create(world.spec(), "token-1")).id
        except Transient:
            continue
    raise AssertionError("three creates of the same token have failed")


async def delete(provider: AwsProvider, instance_id: str) -> None:
    for _ in range(3):
        try:
            return await provider.delete(instance_id)
        except Transient:
            continue
    raise AssertionError("three deletes have failed")


async def test_a_create_returns_with_an_address_that_says_whose_it_is(world: AwsWorld, provider: AwsProvider) -> None:
    made = await provider.create(world.spec(), "token-1")
    (address,) = await addresses(world)
    assert address["InstanceId"] == made.id
    marks = {each["Key"]: each["Value"] for each in address["Tags"]}
    assert marks.items() >= {**tags.ownership(world.owner), elastic.INSTANCE: made.id}.items()


async def test_it_goes_to_the_second_interface_where_there_is_one(world: AwsWorld, opened: Opened) -> None:
    provider = opened(public_ip="elastic", secondary_interface=True)
    made = await provider.create(world.spec(), "token-1")
    (address,) = await addresses(world)
    seen = (await world.ask("describe_instances", InstanceIds=[made.id]))["Reservations"][0]["Instances"][0]
    by_index = {each["Attachment"]["DeviceIndex"]: each["NetworkInterfaceId"] for each in seen["NetworkInterfaces"]}
    assert address["NetworkInterfaceId"] == by_index[1]
    await provider.delete(made.id)
    assert await addresses(world) == []


async def test_a_delete_releases_it_before_it_is_accepted(world: AwsWorld, provider: AwsProvider) -> None:
    made = await provider.create(world.spec(), "token-1")
    await provider.delete(made.id)
    assert await addresses(world) == []
    await provider.delete(made.id)


@pytest.mark.parametrize("action", STEPS)
async def test_a_lost_reply_while_giving_it_makes_no_second_one(
    world: AwsWorld, provider: AwsProvider, action: str
) -> None:
    world.cloud.faults.next(action=action, lose_reply=True)
    made = await create(world, provider)
    (address,) = await addresses(world)
    assert address["InstanceId"] == made
    await provider.delete(made)
    assert await addresses(world) == []


@pytest.mark.parametrize("action", STEPS)
async def test_a_create_given_up_in_the_middle_leaves_nothing_after_the_delete(
    world: AwsWorld, provider: AwsProvider, action: str
) -> None:
    world.cloud.faults.next(action=action, delay_reply=HELD)
    creating = asyncio.create_task(provider.create(world.spec(), "token-1"))
    while action not in list(world.cloud.calls):
        await asyncio.sleep(0.01)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    (made,) = await provider.list()
    await provider.delete(made.id)
    assert await addresses(world) == []


async def test_an_allocation_whose_call_is_late_is_waited_for_by_the_delete(
    world: AwsWorld, provider: AwsProvider
) -> None:
    world.cloud.faults.next(action="AllocateAddress", delay=HELD)  # the deed itself comes late
    creating = asyncio.create_task(provider.create(world.spec(), "token-1"))
    while "AllocateAddress" not in list(world.cloud.calls):
        await asyncio.sleep(0.01)
    creating.cancel()
    (made,) = await provider.list()
    await provider.delete(made.id)
    await asyncio.gather(creating, return_exceptions=True)
    await asyncio.sleep(HELD)  # by now the deed is done, whether the delete waited for it or not
    assert await addresses(world) == []


@pytest.mark.parametrize("action", ENDS)
async def test_a_lost_reply_while_taking_it_back_is_asked_for_again(
    world: AwsWorld, provider: AwsProvider, action: str
) -> None:
    made = await provider.create(world.spec(), "token-1")
    world.cloud.faults.next(action=action, lose_reply=True)
    await delete(provider, made.id)
    assert await addresses(world) == []
    assert list(await provider.list()) == []


@pytest.mark.parametrize(("code", "kind"), [("AddressLimitExceeded", Quota), ("UnauthorizedOperation", Denied)])
async def test_without_an_address_there_is_no_instance_either(
    world: AwsWorld, provider: AwsProvider, code: str, kind: type[ProviderError]
) -> None:
    world.cloud.faults.next(action="AllocateAddress", error=code)
    with pytest.raises(kind, match="elastic address"):
        await provider.create(world.spec(), "token-1")
    assert list(await provider.list()) == []
    assert await addresses(world) == []


async def test_where_the_instance_cannot_be_taken_back_now_the_create_may_be_repeated(
    world: AwsWorld, provider: AwsProvider
) -> None:
    world.cloud.faults.next(action="AllocateAddress", error="AddressLimitExceeded")
    world.cloud.faults.next(action="TerminateInstances", error="UnauthorizedOperation")
    with pytest.raises(Transient, match="cannot be deleted now"):
        await provider.create(world.spec(), "token-1")
    made = await provider.create(world.spec(), "token-1")
    assert [each["InstanceId"] for each in await addresses(world)] == [made.id]


async def test_what_a_crash_left_is_free_and_the_sweeps(world: AwsWorld, provider: AwsProvider) -> None:
    """The adaptor that allocated it is gone, and so is its instance."""
    marks = {**tags.ownership(world.owner), elastic.INSTANCE: world.unknown_id}
    planted = await world.plant(ResourceKind.ADDRESS, marks)
    (found,) = [each for each in await provider.resources() if each.kind is ResourceKind.ADDRESS]
    assert (found.id, found.attached_to) == (planted, "")
    await provider.remove(found)
    assert await addresses(world) == []


async def test_an_instance_that_dies_while_it_waits_is_told_as_gone(world: AwsWorld, provider: AwsProvider) -> None:
    world.cloud.faults.boot("dies")
    made = await provider.create(world.spec(), "token-1")
    assert made.state is InstanceState.GONE
    assert await addresses(world) == []


async def test_addresses_of_other_instances_are_left_alone(world: AwsWorld, provider: AwsProvider) -> None:
    one, two = [await provider.create(world.spec(), token) for token in ("token-1", "token-2")]
    await provider.delete(one.id)
    assert [each["InstanceId"] for each in await addresses(world)] == [two.id]


async def test_a_lent_address_is_known_once_it_runs_and_goes_with_the_instance(world: AwsWorld, opened: Opened) -> None:
    provider = opened(public_ip="auto")
    made = await provider.create(world.spec(), "token-1")
    assert made.addresses == () or made.state is not InstanceState.PENDING
    await until_running(provider, made.id)
    seen = (await provider.get([made.id]))[made.id]
    assert len(seen.addresses) == 2
    assert seen.addresses[0].startswith("172.31.")
    assert await addresses(world) == []


async def test_giving_to_what_has_ended_is_not_found(world: AwsWorld, provider: AwsProvider, opened: Opened) -> None:
    plain = opened()
    made = await plain.create(world.spec(), "token-1")
    await plain.delete(made.id)
    with pytest.raises(NotFound, match="ended"):
        await provider._elastic.give(made.id, made.name)
