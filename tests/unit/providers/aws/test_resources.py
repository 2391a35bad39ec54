"""What EC2's answers come to, and what is asked of it, for the sweep."""

from datetime import UTC, datetime
from typing import Any

import pytest

from providers import tags
from providers.aws import resources
from providers.aws.provider import AwsProvider
from providers.base import Ownership, Resource, ResourceKind
from providers.errors import Denied, InvalidSpec
from tests.contract import aws_world

OWNER = Ownership("cluster-*", "node-1")
MADE = datetime(2026, 1, 2, tzinfo=UTC)
TAGS = [{"Key": tags.CLUSTER, "Value": "cluster-*"}, {"Key": "Name", "Value": "podvm-web"}]


def read(kind: ResourceKind, **answer: Any) -> list[Resource]:
    return list(resources.DOORS[kind].read(answer))


@pytest.mark.parametrize("kind", list(ResourceKind))
def test_a_list_asks_for_the_cluster_literally_and_in_the_largest_pages(kind: ResourceKind) -> None:
    asked = resources.tagged(kind, OWNER)
    assert asked["Filters"] == [{"Name": "tag:peerpods-cluster", "Values": ["cluster-\\*"]}]
    pages = {ResourceKind.ADDRESS: None, ResourceKind.DISK: 500}
    assert asked.get("MaxResults") == pages.get(kind, 1000)


def test_one_is_asked_for_by_a_filter_so_that_an_unknown_one_is_no_error() -> None:
    asked = resources.one(Resource(ResourceKind.ADDRESS, "eipalloc-1"))
    assert asked == {"Filters": [{"Name": "allocation-id", "Values": ["eipalloc-1"]}]}


def test_an_instance_says_what_it_is_billed_by() -> None:
    shape = {
        "InstanceId": "i-1",
        "InstanceType": "m6a.large",
        "State": {"Name": "stopped"},
        "Placement": {"AvailabilityZone": "us-east-1a"},
        "PrivateIpAddress": "10.0.0.7",
        "LaunchTime": MADE,
        "Tags": TAGS,
    }
    dying = {**shape, "InstanceId": "i-2", "State": {"Name": "shutting-down"}}
    (seen,) = read(ResourceKind.INSTANCE, Reservations=[{"Instances": [shape, dying]}])
    assert (seen.id, seen.name, seen.addresses) == ("i-1", "podvm-web", ("10.0.0.7",))
    assert (seen.facts, seen.created_at) == ("m6a.large stopped in us-east-1a", MADE.timestamp())


def interface(**more: Any) -> dict[str, Any]:
    return {
        "NetworkInterfaceId": "eni-1",
        "PrivateIpAddress": "10.0.0.7",
        "SubnetId": "subnet-1",
        "TagSet": TAGS,
        **more,
    }


@pytest.mark.parametrize(
    ("more", "attached_to", "facts"),
    [
        ({}, "", "10.0.0.7 of subnet-1"),
        ({"Attachment": {"InstanceId": "i-1", "AttachmentId": "eni-attach-1"}}, "i-1", "10.0.0.7 of subnet-1"),
        ({"Attachment": {"AttachmentId": "ela-attach-1"}}, "ela-attach-1", "10.0.0.7 of subnet-1"),
        ({"Association": {"PublicIp": "203.0.113.7"}}, "", "10.0.0.7 of subnet-1, public 203.0.113.7"),
    ],
)
def test_an_interface_is_held_by_an_instance_or_by_a_service_of_amazons(
    more: dict[str, Any], attached_to: str, facts: str
) -> None:
    (seen,) = read(ResourceKind.INTERFACE, NetworkInterfaces=[interface(**more)])
    assert (seen.attached_to, seen.facts, seen.created_at) == (attached_to, facts, None)


@pytest.mark.parametrize(
    ("more", "attached_to", "facts"),
    [
        ({"InstanceId": ""}, "", "idle public address 203.0.113.7"),
        ({"InstanceId": "i-1", "NetworkInterfaceId": "eni-1"}, "i-1", "public address 203.0.113.7"),
        ({"NetworkInterfaceId": "eni-1", "AssociationId": "eipassoc-1"}, "eni-1", "public address 203.0.113.7"),
        ({"AssociationId": "eipassoc-1"}, "eipassoc-1", "public address 203.0.113.7"),
    ],
)
def test_an_address_is_held_by_whatever_it_is_associated_with(
    more: dict[str, Any], attached_to: str, facts: str
) -> None:
    shape = {"AllocationId": "eipalloc-1", "PublicIp": "203.0.113.7", "Tags": TAGS, **more}
    (seen,) = read(ResourceKind.ADDRESS, Addresses=[shape])
    assert (seen.attached_to, seen.facts, seen.created_at) == (attached_to, facts, None)


def test_a_disk_is_held_until_it_is_detached_and_gone_once_it_is_being_deleted() -> None:
    shape = {
        "VolumeId": "vol-1",
        "Size": 8,
        "VolumeType": "gp3",
        "AvailabilityZone": "us-east-1a",
        "State": "in-use",
        "CreateTime": MADE,
        "Attachments": [{"InstanceId": "i-0", "State": "detached"}, {"InstanceId": "i-1", "State": "detaching"}],
    }
    free = {**shape, "VolumeId": "vol-2", "State": "available", "Attachments": []}
    going = {**shape, "VolumeId": "vol-3", "State": "deleting", "Attachments": []}
    held, loose = read(ResourceKind.DISK, Volumes=[shape, free, going])
    assert (held.attached_to, held.facts, held.created_at) == ("i-1", "8 GiB gp3 in us-east-1a", MADE.timestamp())
    assert (loose.id, loose.attached_to, loose.tags) == ("vol-2", "", {})


def test_only_what_is_this_nodes_and_free_passes_the_check() -> None:
    fine = Resource(ResourceKind.DISK, "vol-1", tags=tags.ownership(OWNER))
    tags.check_removal(fine, OWNER)
    for wrong in (
        Resource(ResourceKind.DISK, "vol-1", tags={tags.CLUSTER: OWNER.cluster}),
        Resource(ResourceKind.DISK, "vol-1", tags={**fine.tags, tags.CLUSTER: "cluster-b"}),
        Resource(ResourceKind.DISK, "vol-1", tags=fine.tags, attached_to="i-1"),
    ):
        with pytest.raises(InvalidSpec, match="cannot delete the disk vol-1"):
            tags.check_removal(wrong, OWNER)


# -- with the real SDK ----------------------------------------------------------------------------


async def test_every_page_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async with aws_world.world() as world:
        ours = tags.ownership(world.owner)
        planted: list[str] = []
        for kind in (ResourceKind.INTERFACE, ResourceKind.DISK):
            planted += [await world.plant(kind, ours) for _ in range(7)]
            door = resources.DOORS[kind]
            smallest = resources.Door(door.describe, 5, door.id, door.read, door.delete, door.parameter)
            monkeypatch.setitem(resources.DOORS, kind, smallest)
        assert isinstance(world.provider, AwsProvider)
        assert sorted(each.id for each in await world.provider.resources()) == sorted(planted)
        calls = list(world.cloud.calls)
        assert (calls.count("DescribeVolumes"), calls.count("DescribeNetworkInterfaces")) == (2, 2)


async def test_a_kind_that_may_not_be_listed_is_named_and_spoils_the_whole_list() -> None:
    async with aws_world.world() as world:
        assert isinstance(world.provider, AwsProvider)
        world.cloud.faults.next(action="DescribeAddresses", error="UnauthorizedOperation")
        with pytest.raises(Denied, match=r"cannot list the resources of cluster cluster-a \(address\)"):
            await world.provider.resources()


async def test_an_address_in_use_is_not_released_though_ec2_would() -> None:
    async with aws_world.world() as world:
        assert isinstance(world.provider, AwsProvider)
        held = await world.plant(ResourceKind.ADDRESS, tags.ownership(world.owner))
        (seen,) = await world.provider.resources()
        made = await world.provider.create(world.spec(), "token-1")
        await world.attach(held, ResourceKind.ADDRESS, made.id)
        with pytest.raises(InvalidSpec):
            await world.provider.remove(seen)
        assert "ReleaseAddress" not in world.cloud.calls


async def test_one_that_somebody_else_deletes_meanwhile_is_gone() -> None:
    async with aws_world.world() as world:
        assert isinstance(world.provider, AwsProvider)
        await world.plant(ResourceKind.DISK, tags.ownership(world.owner))
        (seen,) = await world.provider.resources()
        world.cloud.faults.next(action="DeleteVolume", error="InvalidVolume.NotFound")
        await world.provider.remove(seen)
        assert list(world.cloud.calls).count("DeleteVolume") == 1
