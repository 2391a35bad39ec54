"""Where and how launches are put, against EC2's own rules as simcloud holds them."""

from dataclasses import replace
from typing import Any

import pytest

from providers.base import Instance, InstanceState, Purchase, Tee
from providers.errors import Capacity, InvalidSpec, NotFound, ProviderError, Unsupported
from tests.contract.aws_world import REGION, AwsWorld
from tests.unit.providers.aws.conftest import Opened


async def seen(world: AwsWorld, made: Instance) -> dict[str, Any]:
    """The instance as EC2 describes it to its admin."""
    answer = await world.ask("describe_instances", InstanceIds=[made.id])
    return dict(answer["Reservations"][0]["Instances"][0])


async def volume(world: AwsWorld, made: Instance) -> dict[str, Any]:
    held = [{"Name": "attachment.instance-id", "Values": [made.id]}]
    return dict((await world.ask("describe_volumes", Filters=held))["Volumes"][0])


async def template(world: AwsWorld, **data: Any) -> None:
    await world.ask("create_launch_template", LaunchTemplateName="kata", LaunchTemplateData=data)


async def test_a_template_is_the_base_and_what_the_pod_gets_is_the_choice(world: AwsWorld, opened: Opened) -> None:
    await template(
        world,
        ImageId="ami-12345678",
        InstanceType="t3.nano",
        UserData="dGhlIHRlbXBsYXRlJ3M=",
        Monitoring={"Enabled": True},
        MetadataOptions={"HttpTokens": "optional", "HttpPutResponseHopLimit": 5},
        InstanceInitiatedShutdownBehavior="stop",
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "peerpods-node", "Value": "another"}]}],
    )
    provider = opened(use_launch_template=True, image=world.cloud.ami, confidential=True)
    made = await provider.create(world.spec(image="", zone=world.zones[1]), "token-1")
    found = await seen(world, made)
    assert (found["InstanceType"], found["ImageId"]) == ("m6a.large", world.cloud.ami)
    assert found["CpuOptions"]["AmdSevSnp"] == "enabled"
    assert found["Placement"]["AvailabilityZone"] == world.zones[1]
    assert (found["MetadataOptions"]["HttpTokens"], found["MetadataOptions"]["HttpPutResponseHopLimit"]) == (
        "required",
        1,
    )
    assert {"Key": "peerpods-node", "Value": "node-1"} in found["Tags"]
    assert found["Monitoring"]["State"] == "enabled"  # which is the template's alone
    assert await world.user_data(made.id) == b"user data"


async def test_a_template_that_enables_snp_does_not_force_it_on_a_pod_without(world: AwsWorld, opened: Opened) -> None:
    await template(world, CpuOptions={"AmdSevSnp": "enabled"})
    provider = opened(use_launch_template=True, image=world.cloud.ami)
    made = await provider.create(world.spec(image="", tee=Tee.NONE), "token-1")
    assert (await seen(world, made))["CpuOptions"]["AmdSevSnp"] == "disabled"


async def test_a_template_with_an_interface_gets_the_chosen_subnet(world: AwsWorld, opened: Opened) -> None:
    await template(world, NetworkInterfaces=[{"DeviceIndex": 0, "Groups": [world.cloud.security_group]}])
    provider = opened(use_launch_template=True, security_group_ids=())
    made = await provider.create(world.spec(zone=world.zones[1]), "token-1")
    found = await seen(world, made)
    assert found["Placement"]["AvailabilityZone"] == world.zones[1]
    assert [each["GroupId"] for each in found["SecurityGroups"]] == [world.cloud.security_group]


async def test_a_template_that_does_not_exist_is_named_before_anything_is_launched(
    world: AwsWorld, opened: Opened
) -> None:
    with pytest.raises(NotFound, match="the launch template kata"):
        await opened(use_launch_template=True).create(world.spec(), "token-1")
    assert "RunInstances" not in world.cloud.calls


async def test_the_subnets_of_one_zone_share_the_launches_and_a_repeat_goes_where_it_went(
    world: AwsWorld, opened: Opened
) -> None:
    network = (await world.ask("describe_subnets", SubnetIds=[world.config.subnet_ids[0]]))["Subnets"][0]["VpcId"]
    more = await world.ask("create_subnet", VpcId=network, CidrBlock="172.31.200.0/24", AvailabilityZone=world.zones[0])
    subnets = (world.config.subnet_ids[0], more["Subnet"]["SubnetId"])
    provider = opened(subnet_ids=subnets)
    made = {n: await provider.create(world.spec(), f"token-{n}") for n in range(8)}
    used = {n: (await seen(world, each))["SubnetId"] for n, each in made.items()}
    assert set(used.values()) == set(subnets)
    successor = opened(subnet_ids=subnets)
    assert [(await successor.create(world.spec(), f"token-{n}")).id for n in made] == [e.id for e in made.values()]


async def test_a_full_subnet_is_no_room_here(world: AwsWorld) -> None:
    world.cloud.faults.next(action="RunInstances", error="InsufficientFreeAddressesInSubnet")
    with pytest.raises(Capacity):
        await world.provider.create(world.spec(), "token-1")


async def test_a_zone_that_does_not_sell_the_type_has_no_offering_of_it(world: AwsWorld, opened: Opened) -> None:
    everywhere = (await world.ask("describe_subnets"))["Subnets"]
    provider = opened(subnet_ids=tuple(each["SubnetId"] for each in everywhere))
    sold = {each.zone for each in await provider.offerings() if each.instance_type == "m6a.large"}
    assert f"{REGION}e" not in sold  # as AWS lists it
    assert len(sold) >= 4
    with pytest.raises(Unsupported):
        await provider.create(world.spec(zone=f"{REGION}e"), "token-1")


async def test_names_with_wildcards_are_what_ec2_has_of_them(world: AwsWorld, opened: Opened) -> None:
    provider = opened(instance_types=("m6a.*",))
    offered = {each.instance_type for each in await provider.offerings()}
    assert {"m6a.large", "m6a.xlarge", "m6a.48xlarge"} <= offered
    assert {each.partition(".")[0] for each in offered} == {"m6a"}
    made = await provider.create(world.spec(instance_type="m6a.xlarge"), "token-1")
    assert made.instance_type == "m6a.xlarge"
    with pytest.raises(InvalidSpec, match=r"m6a\.\*"):
        await provider.create(world.spec(instance_type="c6a.large"), "token-2")


async def test_a_catalog_takes_few_calls(world: AwsWorld, opened: Opened) -> None:
    before = len(list(world.cloud.calls))
    await opened(instance_types=("m6a.*", "c6a.*", "g5.xlarge"), spot=True).offerings()
    assert len(list(world.cloud.calls)) - before <= 5


async def test_spot_is_spot_and_its_end_says_why(world: AwsWorld, opened: Opened) -> None:
    provider = opened(spot=True)
    made = await provider.create(world.spec(purchase=Purchase.SPOT), "token-1")
    assert (await seen(world, made))["InstanceLifecycle"] == "spot"
    world.cloud.faults.kill(made.id, "Server.SpotInstanceTermination: Spot instance termination")
    for _ in range(500):
        gone = (await provider.get([made.id]))[made.id]
        if gone.state is InstanceState.GONE:
            break
    assert "EC2 took the spot capacity back" in gone.reason


async def test_a_price_that_is_too_low_is_no_capacity_and_says_what_to_do(world: AwsWorld, opened: Opened) -> None:
    provider = opened(spot=True, spot_max_price=0.001)
    with pytest.raises(Capacity, match=r"aws\.spot_max_price"):
        await provider.create(world.spec(purchase=Purchase.SPOT), "token-1")
    assert (await provider.create(world.spec(), "token-2")).id


async def test_a_placement_group_and_an_instance_profile_are_used(world: AwsWorld, opened: Opened) -> None:
    await world.ask("create_placement_group", GroupName="pods", Strategy="spread")
    made = await opened(placement_group="pods", instance_profile="peerpods-podvm").create(world.spec(), "token-1")
    found = await seen(world, made)
    assert found["Placement"]["GroupName"] == "pods"
    assert found["IamInstanceProfile"]["Arn"].endswith("instance-profile/peerpods-podvm")


async def test_a_dedicated_host_takes_what_fits_it(world: AwsWorld, opened: Opened) -> None:
    request = {"AvailabilityZone": world.zones[0], "InstanceType": "m6a.large", "Quantity": 1}
    (host,) = (await world.ask("allocate_hosts", **request))["HostIds"]
    provider = opened(tenancy="host", host_id=host)
    made = await provider.create(world.spec(), "token-1")
    placement = (await seen(world, made))["Placement"]
    assert (placement["Tenancy"], placement["HostId"]) == ("host", host)
    with pytest.raises(Unsupported):
        await provider.create(world.spec(instance_type="g5.xlarge"), "token-2")
    with pytest.raises(Capacity):
        await opened(tenancy="host").create(world.spec(zone=world.zones[1]), "token-3")


async def test_a_reservation_is_used_up_and_then_has_no_room(world: AwsWorld, opened: Opened) -> None:
    answer = await world.ask(
        "create_capacity_reservation",
        InstanceType="m6a.large",
        InstancePlatform="Linux/UNIX",
        InstanceCount=1,
        AvailabilityZone=world.zones[0],
    )
    name = answer["CapacityReservation"]["CapacityReservationId"]
    provider = opened(capacity_reservation=name)
    made = await provider.create(world.spec(), "token-1")
    assert (await seen(world, made))["CapacityReservationId"] == name
    with pytest.raises(Capacity):
        await provider.create(world.spec(), "token-2")


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"placement_group": "nowhere"}, NotFound),
        ({"tenancy": "host", "host_id": "h-0123456789abcdef0"}, NotFound),
        ({"capacity_reservation": "cr-0123456789abcdef0"}, NotFound),
        ({"instance_profile": "nobodys"}, InvalidSpec),
        ({"image": "ami-0123456789abcdef0"}, NotFound),
        ({"subnet_ids": ("subnet-0123456789abcdef0",)}, NotFound),
        ({"security_group_ids": ("sg-0123456789abcdef0",)}, NotFound),
        ({"key_name": "lost"}, NotFound),
    ],
)
async def test_a_setting_that_names_what_is_not_there_is_told_and_nothing_is_launched(
    world: AwsWorld, opened: Opened, settings: dict[str, Any], kind: type[ProviderError]
) -> None:
    provider = opened(**settings)
    with pytest.raises(ProviderError) as caught:
        await provider.create(replace(world.spec(), image=""), "token-1")
    assert type(caught.value) is kind
    (named,) = [each[0] if isinstance(each, tuple) else each for name, each in settings.items() if name != "tenancy"]
    assert named in caught.value.message
    assert world.cloud.instances() == []


async def test_an_image_of_another_architecture_is_told_and_nothing_is_launched(world: AwsWorld) -> None:
    with pytest.raises(InvalidSpec, match="architecture"):
        await world.provider.create(world.spec(image=world.cloud.arm_ami), "token-1")
    assert world.cloud.instances() == []


async def test_the_root_volume_is_as_fast_and_as_secret_as_asked(world: AwsWorld, opened: Opened) -> None:
    provider = opened(
        volume_type="gp3", volume_iops=4000, volume_throughput=500, kms_key_id="alias/peerpods", root_volume_gib=20
    )
    made = await provider.create(world.spec(), "token-1")
    found = await volume(world, made)
    assert (found["VolumeType"], found["Iops"], found["Throughput"], found["Size"]) == ("gp3", 4000, 500, 20)
    assert (found["Encrypted"], found["KmsKeyId"]) == (True, "alias/peerpods")


async def test_a_key_that_may_not_be_used_ends_the_instance_with_a_reason_to_act_on(
    world: AwsWorld, opened: Opened
) -> None:
    provider = opened(kms_key_id="alias/not-ours")
    made = await provider.create(world.spec(), "token-1")
    for _ in range(500):
        gone = (await provider.get([made.id]))[made.id]
        if gone.state is InstanceState.GONE:
            break
    assert "the KMS key is disabled, being deleted, or may not be used" in gone.reason


async def test_a_region_that_does_not_exist_is_told(world: AwsWorld, opened: Opened, monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    with pytest.raises(InvalidSpec, match=r"there is no region xx-nowhere-9.*aws\.region"):
        await opened(region="xx-nowhere-9", endpoint_url=None).list()


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestExpired", "UnrecognizedClientException"])
async def test_credentials_that_are_no_longer_good_say_so_and_launch_nothing(world: AwsWorld, code: str) -> None:
    world.cloud.faults.next(action="RunInstances", error=code)
    with pytest.raises(ProviderError) as caught:
        await world.provider.create(world.spec(), "token-1")
    assert caught.value.code == code
    assert ";" in caught.value.message  # what to do
    assert world.cloud.instances() == []
