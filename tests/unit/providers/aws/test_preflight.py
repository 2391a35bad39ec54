"""The preflight against EC2's own answers: each obstacle is one finding that says what to do."""

from collections.abc import Sequence
from typing import Any

import pytest

from providers.base import Finding, Grade
from tests.contract.aws_world import AwsWorld
from tests.unit.providers.aws.conftest import Opened

PORTS = (15150, 4789)


def faults(found: Sequence[Finding]) -> list[Finding]:
    return [each for each in found if each.grade is Grade.FAULT]


def about(found: Sequence[Finding], subject: str) -> Finding:
    (one,) = [each for each in found if each.subject.startswith(subject)]
    return one


async def test_a_sound_node_hears_of_everything_that_was_looked_at(world: AwsWorld, opened: Opened) -> None:
    found = await opened(image=world.cloud.ami, confidential=True, instance_types=()).preflight(*PORTS)
    assert faults(found) == []
    assert "arn:aws:iam::123456789012:user/simcloud in us-east-1" in about(found, "credentials").message
    launch = about(found, "permission ec2:RunInstances")
    assert (launch.grade, "m6a.large in us-east-1a would be accepted" in launch.message) == (Grade.OK, True)
    assert about(found, f"image {world.cloud.ami}").grade is Grade.OK
    assert len([each for each in found if each.subject.startswith("subnet ")]) == 2
    assert [each.grade for each in found if each.subject.startswith("security group")] == [Grade.OK, Grade.OK]
    assert about(found, "quota").grade is Grade.OK
    assert "us-east-2 or eu-west-1" in about(found, "TEE").fix  # us-east-1 is not in AWS's documentation
    assert "RunInstances" in world.cloud.calls
    assert world.cloud.instances() == []


async def test_credentials_that_are_no_good_are_the_only_finding(world: AwsWorld, opened: Opened) -> None:
    world.cloud.faults.next(action="GetCallerIdentity", error="ExpiredToken")
    (found,) = await opened().preflight(*PORTS)
    assert (found.subject, found.grade) == ("credentials", Grade.FAULT)
    assert "expired" in found.message
    assert list(world.cloud.calls)[-1] == "GetCallerIdentity"


async def test_sts_out_of_reach_is_no_reason_to_stop(world: AwsWorld, opened: Opened) -> None:
    world.cloud.faults.next(action="GetCallerIdentity", http_status=503)
    found = await opened().preflight(*PORTS)
    assert about(found, "credentials").grade is Grade.WARNING
    assert faults(found) == []


@pytest.mark.parametrize(
    ("action", "permission"),
    [
        ("RunInstances", "ec2:RunInstances"),
        ("DescribeVolumes", "ec2:DescribeVolumes"),
        ("DescribeAddresses", "ec2:DescribeAddresses"),
    ],
)
async def test_a_missing_permission_is_named_with_where_to_add_it(
    world: AwsWorld, opened: Opened, action: str, permission: str
) -> None:
    world.cloud.faults.next(action=action, error="UnauthorizedOperation", times=100)
    (fault,) = faults(await opened().preflight(*PORTS))
    assert fault.subject == f"permission {permission}"
    assert permission in fault.fix


async def test_the_permission_that_ec2_itself_names_is_the_one_that_is_missing(world: AwsWorld, opened: Opened) -> None:
    said = (
        "You are not authorized. User: arn:aws:iam::1:user/x is not authorized to perform: iam:PassRole on resource: y"
    )
    world.cloud.faults.next(action="RunInstances", error="UnauthorizedOperation", message=said)
    (fault,) = faults(await opened(instance_profile="peerpods-podvm").preflight(*PORTS))
    assert fault.subject == "permission iam:PassRole"


async def test_a_termination_is_tried_on_an_instance_of_this_node_only(world: AwsWorld, opened: Opened) -> None:
    provider = opened()
    world.cloud.faults.next(action="TerminateInstances", error="UnauthorizedOperation", times=100)
    found = about(await provider.preflight(*PORTS), "permission ec2:TerminateInstances")
    assert (found.grade, "could not be tried" in found.message) == (Grade.WARNING, True)
    await provider.create(world.spec(), "token-1")
    found = about(await provider.preflight(*PORTS), "permission ec2:TerminateInstances")
    assert found.grade is Grade.FAULT
    world.cloud.faults.clear()
    found = about(await provider.preflight(*PORTS), "permission ec2:TerminateInstances")
    assert found.grade is Grade.OK
    assert len(await provider.list()) == 1


@pytest.mark.parametrize(
    ("settings", "subject"),
    [
        ({"image": "ami-0123456789abcdef0"}, "image"),
        ({"subnet_ids": ("subnet-0123456789abcdef0",)}, "subnets"),
        ({"security_group_ids": ("sg-0123456789abcdef0",)}, "security groups"),
        ({"instance_type": "m6a.tiny"}, "instance types"),
        ({"instance_types": ("m9z.*",)}, "instance types"),
        ({"placement_group": "nowhere"}, "launch of m6a.large"),
        ({"use_launch_template": True}, "subnets"),
        ({"key_name": "lost"}, "launch of m6a.large"),
    ],
)
async def test_a_setting_that_names_what_is_not_there_is_a_fault(
    world: AwsWorld, opened: Opened, settings: dict[str, Any], subject: str
) -> None:
    found = faults(await opened(**settings).preflight(*PORTS))
    assert [each for each in found if each.subject.startswith(subject)], found
    assert all(each.fix for each in found)


async def test_an_image_that_does_not_fit_the_types_is_told(world: AwsWorld, opened: Opened) -> None:
    arm = about(await opened(image=world.cloud.arm_ami).preflight(*PORTS), f"image {world.cloud.arm_ami}")
    assert (arm.grade, "m6a.large" in arm.message) == (Grade.FAULT, True)
    fits_some = about(await opened(image=world.cloud.ami).preflight(*PORTS), f"image {world.cloud.ami}")
    assert (fits_some.grade, "m7g.large" in fits_some.message) == (Grade.WARNING, True)


async def test_a_confidential_node_needs_an_image_that_boots_from_uefi(world: AwsWorld, opened: Opened) -> None:
    disk = await world.disk(world.zones[0])
    snapshot = (await world.ask("create_snapshot", VolumeId=disk))["SnapshotId"]
    root = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}
    request = {"Architecture": "x86_64", "RootDeviceName": "/dev/xvda", "BlockDeviceMappings": [root]}
    image = (await world.ask("register_image", Name="old", BootMode="legacy-bios", **request))["ImageId"]
    found = await opened(image=image, confidential=True, instance_types=()).preflight(*PORTS)
    assert [each for each in faults(found) if "UEFI" in each.message and "uefi" in each.fix]


async def test_a_group_that_lets_nobody_in_is_a_fault_for_each_port(world: AwsWorld, opened: Opened) -> None:
    network = (await world.ask("describe_subnets", SubnetIds=[world.config.subnet_ids[0]]))["Subnets"][0]["VpcId"]
    made = await world.ask("create_security_group", GroupName="closed", Description="closed", VpcId=network)
    found = faults(await opened(security_group_ids=(made["GroupId"],)).preflight(*PORTS))
    assert [("TCP 15150" in each.message, "UDP 4789" in each.message) for each in found] == [
        (True, False),
        (False, True),
    ]


async def test_a_limit_without_room_for_the_default_type_is_a_fault(world: AwsWorld, opened: Opened) -> None:
    world.cloud.faults.quota(1)
    found = await opened(instance_types=(), spot=True).preflight(*PORTS)
    limits = {
        each.subject.partition(" ")[2].partition(" ")[0]: each for each in found if each.subject.startswith("quota")
    }
    assert limits["Running"].grade is Grade.FAULT
    assert limits["All"].grade is Grade.WARNING
    assert "m6a.large" in limits["Running"].message


async def test_limits_that_may_not_be_read_are_a_warning(world: AwsWorld, opened: Opened) -> None:
    world.cloud.faults.next(action="GetServiceQuota", error="AccessDeniedException", times=10)
    found = about(await opened(instance_types=()).preflight(*PORTS), "quota")
    assert (found.grade, "servicequotas:GetServiceQuota" in found.fix) == (Grade.WARNING, True)


async def test_an_elastic_address_needs_its_permission_too(world: AwsWorld, opened: Opened) -> None:
    world.cloud.faults.next(action="AllocateAddress", error="UnauthorizedOperation", times=10)
    (fault,) = faults(await opened(public_ip="elastic").preflight(*PORTS))
    assert fault.subject == "permission ec2:AllocateAddress"
    assert (await world.ask("describe_addresses"))["Addresses"] == []


async def test_a_throttled_question_is_a_warning(world: AwsWorld, opened: Opened) -> None:
    world.cloud.faults.next(action="DescribeSecurityGroups", error="RequestLimitExceeded", times=10)
    found = about(await opened().preflight(*PORTS), "security groups")
    assert (found.grade, "later" in found.fix) == (Grade.WARNING, True)


async def test_nobody_answers(world: AwsWorld, opened: Opened) -> None:
    provider = opened(endpoint_url="http://127.0.0.1:1")
    found = faults(await provider.preflight(*PORTS))
    assert found
    assert all("region" in each.message or each.fix for each in found)
