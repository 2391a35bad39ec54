"""How launches are paid for and placed, what volumes and addresses put up with, and the services beside EC2."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.config import Config

from tests.unit.simcloud.ec2_client import Account, _session, refused

SPOT = {
    "MarketType": "spot",
    "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
}
HOST = "h-0123456789abcdef0"


def spot(**options: Any) -> dict[str, Any]:
    return {"MarketType": "spot", "SpotOptions": options}


def root(**ebs: Any) -> list[dict[str, Any]]:
    return [{"DeviceName": "/dev/xvda", "Ebs": ebs}]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"InstanceMarketOptions": {"MarketType": "barter"}}, "InvalidParameterValue"),
        ({"InstanceMarketOptions": spot(SpotInstanceType="forever")}, "InvalidParameterValue"),
        ({"InstanceMarketOptions": spot(InstanceInterruptionBehavior="stop")}, "InvalidParameterCombination"),
        ({"InstanceMarketOptions": spot(MaxPrice="0.0001")}, "SpotMaxPriceTooLow"),
        ({"InstanceMarketOptions": spot(MaxPrice="cheap")}, "InvalidParameterValue"),
        ({"InstanceMarketOptions": SPOT, "Placement": {"Tenancy": "host"}}, "InsufficientHostCapacity"),
        ({"Placement": {"GroupName": "nowhere"}}, "InvalidPlacementGroup.Unknown"),
        ({"Placement": {"Tenancy": "shared"}}, "InvalidParameterValue"),
        ({"Placement": {"Tenancy": "host", "HostId": HOST}}, "InvalidHostID.NotFound"),
        ({"Placement": {"HostId": HOST}}, "InvalidParameterCombination"),
        ({"Placement": {"Tenancy": "host"}}, "InsufficientHostCapacity"),
        (
            {"CapacityReservationSpecification": {"CapacityReservationTarget": {"CapacityReservationId": "cr-1"}}},
            "InvalidCapacityReservationId.NotFound",
        ),
        ({"IamInstanceProfile": {"Name": "nobodys"}}, "InvalidParameterValue"),
        ({"BlockDeviceMappings": root(VolumeType="gp9")}, "InvalidParameterValue"),
        ({"BlockDeviceMappings": root(VolumeType="gp2", Iops=3000)}, "InvalidParameterCombination"),
        ({"BlockDeviceMappings": root(VolumeType="io2")}, "MissingParameter"),
        ({"BlockDeviceMappings": root(VolumeType="io2", Iops=400, Throughput=200)}, "InvalidParameterCombination"),
        ({"BlockDeviceMappings": root(VolumeType="gp3", Throughput=1000)}, "InvalidParameterValue"),
        ({"BlockDeviceMappings": root(KmsKeyId="alias/k", Encrypted=False)}, "InvalidParameterDependency"),
    ],
)
def test_a_launch_that_ec2_would_not_pay_for_or_place_so_is_refused(
    account: Account, changes: dict[str, Any], code: str
) -> None:
    status = 500 if code == "InsufficientHostCapacity" else 400
    with refused(code, status=status):
        account.run(**changes)
    assert account.ids() == []


def test_spot_is_shown_and_its_prices_differ_by_zone(account: Account) -> None:
    made = account.run(InstanceMarketOptions=SPOT)
    assert account.show(made["InstanceId"])["InstanceLifecycle"] == "spot"
    found = account.ec2.describe_spot_price_history(InstanceTypes=["m6a.large"])["SpotPriceHistory"]
    assert len({each["AvailabilityZone"] for each in found}) == len({each["SpotPrice"] for each in found}) == len(found)
    zone = [{"Name": "availability-zone", "Values": ["us-east-1b"]}]
    (one,) = account.ec2.describe_spot_price_history(InstanceTypes=["m6a.large"], Filters=zone)["SpotPriceHistory"]
    assert one["AvailabilityZone"] == "us-east-1b"


def test_a_reservation_of_another_zone_or_type_is_refused(account: Account) -> None:
    made = account.ec2.create_capacity_reservation(
        InstanceType="m6a.large", InstancePlatform="Linux/UNIX", InstanceCount=1, AvailabilityZone="us-east-1b"
    )
    target = {
        "CapacityReservationTarget": {"CapacityReservationId": made["CapacityReservation"]["CapacityReservationId"]}
    }
    with refused("InvalidParameterValue", "us-east-1b"):
        account.run(CapacityReservationSpecification=target)


def test_a_placement_group_is_made_once(account: Account) -> None:
    account.ec2.create_placement_group(GroupName="pods")
    with refused("InvalidPlacementGroup.Duplicate", "pods"):
        account.ec2.create_placement_group(GroupName="pods")
    assert account.show(account.launch(Placement={"GroupName": "pods"}))["Placement"]["GroupName"] == "pods"


def test_a_public_address_is_shown_once_the_instance_runs(account: Account) -> None:
    made = account.run()
    assert "PublicIpAddress" not in made
    assert account.becomes(made["InstanceId"], "running")["PublicIpAddress"]


def volume(account: Account, zone: str = "us-east-1a") -> str:
    return str(account.ec2.create_volume(Size=8, AvailabilityZone=zone)["VolumeId"])


def test_a_volume_is_attached_in_its_zone_to_one_running_machine_under_a_free_name(account: Account) -> None:
    instance, other = account.launch(), account.launch()
    account.becomes(instance, "running")
    account.becomes(other, "running")
    near, next_to, far = volume(account), volume(account), volume(account, "us-east-1b")
    account.ec2.attach_volume(InstanceId=instance, VolumeId=near, Device="/dev/sdf")
    with refused("VolumeInUse", near):
        account.ec2.attach_volume(InstanceId=other, VolumeId=near, Device="/dev/sdf")
    with refused("InvalidParameterValue", "/dev/sdf"):
        account.ec2.attach_volume(InstanceId=instance, VolumeId=next_to, Device="/dev/sdf")
    with refused("InvalidVolume.ZoneMismatch", far):
        account.ec2.attach_volume(InstanceId=instance, VolumeId=far, Device="/dev/sdg")
    with refused("InvalidVolume.NotFound"):
        account.ec2.attach_volume(InstanceId=instance, VolumeId="vol-0123456789abcdef0", Device="/dev/sdg")
    account.terminate(other)
    with refused("IncorrectState", "running"):
        account.ec2.attach_volume(InstanceId=other, VolumeId=next_to, Device="/dev/sdg")


def test_an_address_is_associated_with_one_running_machine(account: Account) -> None:
    made = account.run()
    address = account.ec2.allocate_address(Domain="vpc")["AllocationId"]
    interface = made["NetworkInterfaces"][0]["NetworkInterfaceId"]
    account.becomes(made["InstanceId"], "running")
    account.ec2.associate_address(AllocationId=address, NetworkInterfaceId=interface)
    account.ec2.associate_address(AllocationId=address, NetworkInterfaceId=interface)
    (seen,) = account.ec2.describe_addresses()["Addresses"]
    assert (seen["InstanceId"], seen["NetworkInterfaceId"]) == (made["InstanceId"], interface)
    other = account.run()
    account.becomes(other["InstanceId"], "running")
    with refused("Resource.AlreadyAssociated", address):
        account.ec2.associate_address(
            AllocationId=address, NetworkInterfaceId=other["NetworkInterfaces"][0]["NetworkInterfaceId"]
        )
    account.terminate(made["InstanceId"])
    (seen,) = account.ec2.describe_addresses()["Addresses"]
    assert not seen.get("InstanceId")
    with refused("InvalidNetworkInterfaceID.NotFound"):
        account.ec2.associate_address(AllocationId=address, NetworkInterfaceId="eni-0123456789abcdef0")


@pytest.mark.parametrize("action", ["describe_instances", "describe_volumes", "describe_instance_types"])
def test_a_describe_may_be_tried_dry(account: Account, action: str) -> None:
    with refused("DryRunOperation", status=412):
        getattr(account.ec2, action)(DryRun=True)


@contextmanager
def neighbour(account: Account, service: str) -> Iterator[Any]:
    config = Config(retries={"total_max_attempts": 1})
    where = {"region_name": "us-east-1", "endpoint_url": account.cloud.endpoint_url}
    client = _session().client(service, config=config, **where)
    try:
        yield client
    finally:
        client.close()


def test_sts_says_who_asks(account: Account) -> None:
    with neighbour(account, "sts") as sts:
        assert sts.get_caller_identity()["Account"] == "123456789012"


def test_the_price_list_is_filtered_and_paged(account: Account) -> None:
    filters = [{"Type": "TERM_MATCH", "Field": "tenancy", "Value": "Shared"}]
    with neighbour(account, "pricing") as pricing:
        pages = pricing.get_paginator("get_products").paginate(ServiceCode="AmazonEC2", Filters=filters)
        listed = [json.loads(each)["product"]["attributes"] for page in pages for each in page["PriceList"]]
        assert len(listed) > 500
        assert {each["tenancy"] for each in listed} == {"Shared"}
        with refused("NotFoundException"):
            pricing.get_products(ServiceCode="AmazonS3")


def test_limits_are_what_the_fault_says(account: Account) -> None:
    account.cloud.faults.quota(64)
    with neighbour(account, "service-quotas") as quotas:
        found = quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-1216C47A")["Quota"]
        assert (found["Value"], "Standard" in found["QuotaName"]) == (64.0, True)
        with refused("NoSuchResourceException"):
            quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-00000000")


def test_a_fault_reads_the_same_in_every_service(account: Account) -> None:
    account.cloud.faults.next(action="GetProducts", error="AccessDeniedException")
    with neighbour(account, "pricing") as pricing, refused("AccessDeniedException"):
        pricing.get_products(ServiceCode="AmazonEC2")
