"""Volumes, network interfaces and addresses: what EC2 shows of them, and what it does not delete."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.unit.simcloud.ec2_client import Account, refused

OURS = [{"Key": "team", "Value": "a*b"}]


def volume(account: Account, **changes: Any) -> str:
    zone = {"AvailabilityZone": "us-east-1a", "Size": 8, "VolumeType": "gp3"}
    tagged = {"TagSpecifications": [{"ResourceType": "volume", "Tags": OURS}]}
    return str(account.ec2.create_volume(**{**zone, **tagged, **changes})["VolumeId"])


def interface(account: Account, **changes: Any) -> str:
    asked = {
        "SubnetId": account.cloud.subnet,
        "TagSpecifications": [{"ResourceType": "network-interface", "Tags": OURS}],
    }
    made = account.ec2.create_network_interface(**{**asked, **changes})
    return str(made["NetworkInterface"]["NetworkInterfaceId"])


def address(account: Account, **changes: Any) -> str:
    asked = {"Domain": "vpc", "TagSpecifications": [{"ResourceType": "elastic-ip", "Tags": OURS}]}
    return str(account.ec2.allocate_address(**{**asked, **changes})["AllocationId"])


MAKE: dict[str, Callable[..., str]] = {"volumes": volume, "network_interfaces": interface, "addresses": address}
ID = {"volumes": "VolumeId", "network_interfaces": "NetworkInterfaceId", "addresses": "AllocationId"}
TYPE = {"volumes": "volume", "network_interfaces": "network-interface", "addresses": "elastic-ip"}
CODE = {
    "volumes": "InvalidVolume.NotFound",
    "network_interfaces": "InvalidNetworkInterfaceID.NotFound",
    "addresses": "InvalidAllocationID.NotFound",
}
EVERY_KIND = pytest.mark.parametrize("kind", list(MAKE))
PAGED = pytest.mark.parametrize("kind", ["volumes", "network_interfaces"])


def listed(account: Account, kind: str, **asked: Any) -> list[str]:
    answer = getattr(account.ec2, f"describe_{kind}")(**asked)
    (found,) = (value for key, value in answer.items() if isinstance(value, list))
    return [each[ID[kind]] for each in found]


def by(name: str, *values: str) -> dict[str, Any]:
    return {"Filters": [{"Name": name, "Values": list(values)}]}


@EVERY_KIND
@pytest.mark.parametrize(
    ("value", "found"), [("a*b", True), ("a\\*b", True), ("a\\?b", False), ("*", True), ("a", False), ("A*B", False)]
)
def test_a_tags_value_is_a_pattern_with_an_escape(account: Account, kind: str, value: str, found: bool) -> None:
    made = MAKE[kind](account)
    assert listed(account, kind, **by("tag:team", value)) == ([made] if found else [])
    assert listed(account, kind, **by("tag:other", "*")) == []


@EVERY_KIND
def test_an_unknown_id_is_refused_by_name_and_absent_under_a_filter(account: Account, kind: str) -> None:
    made = MAKE[kind](account)
    unknown = made[:-4] + ("0000" if made[-4:] != "0000" else "1111")
    with refused(CODE[kind], unknown):
        listed(account, kind, **{f"{ID[kind]}s": [made, unknown]})
    name = {"volumes": "volume-id", "network_interfaces": "network-interface-id", "addresses": "allocation-id"}[kind]
    assert listed(account, kind, **by(name, made, unknown)) == [made]


@PAGED
def test_pages_are_as_large_as_asked_and_hold_everything_once(account: Account, kind: str) -> None:
    made = sorted(MAKE[kind](account) for _ in range(12))
    pages = list(account.ec2.get_paginator(f"describe_{kind}").paginate(**by("tag:team", "*"), MaxResults=5))
    found = [next(value for key, value in page.items() if isinstance(value, list)) for page in pages]
    assert [len(page) for page in found] == [5, 5, 2]
    assert sorted(each[ID[kind]] for page in found for each in page) == made


@PAGED
def test_ids_and_pages_exclude_each_other(account: Account, kind: str) -> None:
    with refused("InvalidParameterCombination", "maxResults"):
        listed(account, kind, MaxResults=5, **{f"{ID[kind]}s": [MAKE[kind](account)]})


def test_a_page_of_volumes_holds_500_at_most_and_of_interfaces_1000(account: Account) -> None:
    assert listed(account, "volumes", MaxResults=1000) == []
    with refused("InvalidParameterValue", "1001"):
        listed(account, "network_interfaces", MaxResults=1001)


@pytest.mark.parametrize(
    ("kind", "filters"),
    [
        ("volumes", {"status": "available", "volume-type": "gp3", "size": "8"}),
        ("network_interfaces", {"status": "available", "subnet-id": "subnet-*"}),
        ("addresses", {"domain": "vpc", "tag-key": "team"}),
    ],
)
def test_they_are_found_by_what_they_are(account: Account, kind: str, filters: dict[str, str]) -> None:
    made = MAKE[kind](account)
    for name, value in filters.items():
        assert listed(account, kind, **by(name, value)) == [made]
        assert listed(account, kind, **by(name, "other")) == []


def test_a_volume_in_use_is_not_deleted(account: Account) -> None:
    made = volume(account)
    instance = account.launch()
    account.becomes(instance, "running")
    account.ec2.attach_volume(VolumeId=made, InstanceId=instance, Device="/dev/sdf")
    with refused("VolumeInUse", made):
        account.ec2.delete_volume(VolumeId=made)
    account.terminate(instance)
    account.ec2.delete_volume(VolumeId=made)
    with refused("InvalidVolume.NotFound", made):
        account.ec2.delete_volume(VolumeId=made)


def test_an_interface_in_use_is_not_deleted_and_a_deleted_one_lets_go_of_its_public_address(account: Account) -> None:
    made = interface(account)
    public = address(account)
    account.ec2.associate_address(AllocationId=public, NetworkInterfaceId=made)
    instance = account.launch()
    account.becomes(instance, "running")
    account.ec2.attach_network_interface(NetworkInterfaceId=made, InstanceId=instance, DeviceIndex=1)
    with refused("InvalidParameterValue", f"Network interface '{made}' is currently in use."):
        account.ec2.delete_network_interface(NetworkInterfaceId=made)
    account.terminate(instance)
    account.ec2.delete_network_interface(NetworkInterfaceId=made)
    with refused("InvalidNetworkInterfaceID.NotFound", made):
        account.ec2.delete_network_interface(NetworkInterfaceId=made)
    (shown,) = account.ec2.describe_addresses(AllocationIds=[public])["Addresses"]
    assert not shown.get("NetworkInterfaceId")


def test_a_default_vpcs_address_may_be_released_while_in_use(account: Account) -> None:
    made, instance = address(account), account.launch()
    account.ec2.associate_address(AllocationId=made, InstanceId=instance)
    account.ec2.release_address(AllocationId=made)
    assert listed(account, "addresses") == []
    with refused("InvalidAllocationID.NotFound", made):
        account.ec2.release_address(AllocationId=made)


def test_another_vpcs_address_must_be_disassociated_first(account: Account) -> None:
    vpc = account.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = account.ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
    made, holder = address(account), interface(account, SubnetId=subnet)
    associated = account.ec2.associate_address(AllocationId=made, NetworkInterfaceId=holder)
    with refused("InvalidIPAddress.InUse"):
        account.ec2.release_address(AllocationId=made)
    account.ec2.disassociate_address(AssociationId=associated["AssociationId"])
    account.ec2.release_address(AllocationId=made)


def test_a_terminated_instance_lets_go_of_its_address(account: Account) -> None:
    made, instance = address(account), account.launch()
    account.ec2.associate_address(AllocationId=made, InstanceId=instance)
    (shown,) = account.ec2.describe_addresses()["Addresses"]
    assert shown["InstanceId"] == instance
    account.terminate(instance)
    (shown,) = account.ec2.describe_addresses()["Addresses"]
    assert not shown.get("InstanceId")
    assert not shown.get("AssociationId")


@EVERY_KIND
def test_amazons_own_tags_are_refused(account: Account, kind: str) -> None:
    spoilt = [{"Key": "aws:owner", "Value": "me"}]
    with refused("InvalidParameterValue", "aws:"):
        MAKE[kind](account, TagSpecifications=[{"ResourceType": TYPE[kind], "Tags": spoilt}])
    assert listed(account, kind) == []


def test_instances_and_volumes_can_be_made_older(account: Account) -> None:
    instance, disk = account.launch(), volume(account)
    for each in (instance, disk):
        account.cloud.age(each, 3600.0)
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    (shown,) = account.ec2.describe_volumes(VolumeIds=[disk])["Volumes"]
    times = account.show(instance)["LaunchTime"], shown["CreateTime"]
    assert all(abs(time - an_hour_ago) < timedelta(minutes=1) for time in times)
    with pytest.raises(KeyError):
        account.cloud.age("eni-1", 1.0)
