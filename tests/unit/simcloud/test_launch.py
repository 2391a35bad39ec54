"""RunInstances refuses what EC2 refuses, and makes what EC2 makes."""

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.ec2_client import Account, client, refused

GIB = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20}}


def tagged(kind: str, **tags: str) -> dict[str, Any]:
    return {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}


# -- client tokens --------------------------------------------------------------------------------


def test_the_same_token_and_parameters_launch_once(account: Account) -> None:
    first = account.ec2.run_instances(**account.request(ClientToken="t"))
    again = account.ec2.run_instances(**account.request(ClientToken="t"))
    assert again["ReservationId"] == first["ReservationId"]
    assert account.ids() == [first["Instances"][0]["InstanceId"]]


def test_a_repeated_call_shows_the_state_of_now(account: Account) -> None:
    instance = account.launch(ClientToken="t")
    account.becomes(instance, "running")
    assert account.run(ClientToken="t")["State"]["Name"] == "running"


@pytest.mark.parametrize(
    "change",
    [
        {"InstanceType": "m6a.xlarge"},
        {"UserData": "other"},
        {"MaxCount": 2},
        {"TagSpecifications": [tagged("instance", a="b")]},
    ],
)
def test_the_same_token_with_other_parameters_is_refused(account: Account, change: dict[str, Any]) -> None:
    account.launch(ClientToken="t")
    with refused("IdempotentParameterMismatch", "inconsistent"):
        account.launch(ClientToken="t", **change)
    assert len(account.ids()) == 1


def test_concurrent_calls_with_one_token_launch_once(account: Account) -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(lambda _: account.launch(ClientToken="t"), range(8)))
    assert account.ids() == list(ids)


def test_different_tokens_launch_different_instances(account: Account) -> None:
    assert account.launch(ClientToken="one") != account.launch(ClientToken="two")


def test_the_token_of_a_terminated_instance_is_refused_as_since_2025(account: Account) -> None:
    instance = account.launch(ClientToken="t")
    account.terminate(instance)
    with refused("IdempotentInstanceTerminated", "terminated"):
        account.launch(ClientToken="t")
    assert account.by("client-token", "t") == [instance]


def test_the_token_of_a_terminated_instance_gives_it_back_as_before_2025() -> None:
    with running_in_thread(token_after_termination="reservation") as cloud, client(cloud) as ec2:
        account = Account(cloud, ec2)
        instance = account.launch(ClientToken="t")
        account.terminate(instance)
        again = account.run(ClientToken="t")
        assert (again["InstanceId"], again["State"]["Name"]) == (instance, "terminated")


def test_a_launch_without_room_uses_its_token_for_these_parameters(account: Account) -> None:
    account.cloud.faults.capacity("m6a.large", free=0)
    with refused("InsufficientInstanceCapacity", status=500):
        account.launch(ClientToken="t")
    with refused("IdempotentParameterMismatch"):
        account.launch(ClientToken="t", InstanceType="m6a.xlarge")
    account.cloud.faults.capacity("m6a.large", free=None)
    assert account.ids() == []
    assert account.launch(ClientToken="t") == account.ids()[0]


def test_a_wrong_call_does_not_use_its_token(account: Account) -> None:
    with refused("InvalidAMIID.NotFound"):
        account.launch(ClientToken="t", ImageId="ami-00000000")
    assert account.launch(ClientToken="t")


@pytest.mark.parametrize("token", ["x" * 65, "tökén"])
def test_a_token_is_at_most_64_ascii_characters(account: Account, token: str) -> None:
    with refused("InvalidParameterValue", "clientToken"):
        account.launch(ClientToken=token)


# -- what a call names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound", "'[ami-0123456789abcdef0]' does not exist"),
        ({"ImageId": "my-image"}, "InvalidAMIID.Malformed", "expecting"),
        ({"SubnetId": "subnet-00000000"}, "InvalidSubnetID.NotFound", "'subnet-00000000' does not exist"),
        ({"SecurityGroupIds": ["sg-00000000"]}, "InvalidGroup.NotFound", "'sg-00000000' does not exist"),
        ({"SecurityGroupIds": ["peerpods"]}, "InvalidGroupId.Malformed", "expecting"),
        ({"KeyName": "mine"}, "InvalidKeyPair.NotFound", "'mine' does not exist"),
        ({"InstanceType": "m6a.tiny"}, "InvalidParameterValue", "Invalid value 'm6a.tiny' for InstanceType."),
        ({"IamInstanceProfile": {"Name": "me"}}, "InvalidParameterValue", "iamInstanceProfile.name"),
        ({"SubnetId": None, "Placement": {"AvailabilityZone": "eu-1a"}}, "InvalidParameterValue", "availability zone"),
        ({"Placement": {"AvailabilityZone": "us-east-1b"}}, "InvalidParameterCombination", "us-east-1b"),
        ({"SecurityGroups": ["peerpods"]}, "InvalidParameterCombination", "groupName cannot be used"),
    ],
)
def test_what_a_launch_names_must_exist(account: Account, change: dict[str, Any], code: str, words: str) -> None:
    with refused(code, words):
        account.launch(**change)
    assert account.ids() == []


def test_a_key_pair_that_exists_is_shown(account: Account) -> None:
    account.ec2.create_key_pair(KeyName="mine")
    assert account.run(KeyName="mine")["KeyName"] == "mine"


def test_a_group_of_another_network_is_refused(account: Account) -> None:
    vpc = account.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    group = account.ec2.create_security_group(GroupName="far", Description="far", VpcId=vpc)["GroupId"]
    with refused("InvalidParameter", "belong to different networks"):
        account.launch(SecurityGroupIds=[group])


def test_image_and_type_must_have_the_same_architecture(account: Account) -> None:
    with refused("InvalidParameterValue", "does not match the architecture"):
        account.launch(ImageId=account.cloud.arm_ami)
    assert account.run(ImageId=account.cloud.arm_ami, InstanceType="m7g.large")["Architecture"] == "arm64"


def test_a_zone_that_does_not_sell_the_type_is_refused_with_those_that_do(account: Account) -> None:
    # Amazon sells no m6a in us-east-1e.
    with refused("Unsupported", "choosing us-east-1a, us-east-1b"):
        account.launch(SubnetId=account.cloud.subnet[:-1] + "e")


def test_a_launch_without_subnet_goes_to_a_default_one_that_sells_the_type(account: Account) -> None:
    shown = account.run(SubnetId=None, SecurityGroupIds=None)
    assert shown["SubnetId"] == account.cloud.subnet
    assert shown["PrivateIpAddress"].startswith("172.31.")
    assert [group["GroupName"] for group in shown["SecurityGroups"]] == ["default"]


@pytest.mark.parametrize(
    ("least", "most", "code"),
    [(0, 1, "InvalidParameterValue"), (2, 1, "InvalidParameterCombination"), (1, 0, "InvalidParameterValue")],
)
def test_counts_must_make_sense(account: Account, least: int, most: int, code: str) -> None:
    with refused(code):
        account.launch(MinCount=least, MaxCount=most)


def test_as_many_as_possible_are_launched_up_to_the_most(account: Account) -> None:
    assert len(account.ec2.run_instances(**account.request(MinCount=1, MaxCount=5))["Instances"]) == 5
    account.cloud.faults.capacity("m6a.large", free=2)
    assert len(account.ec2.run_instances(**account.request(MinCount=1, MaxCount=5))["Instances"]) == 2


def test_the_launch_index_tells_the_instances_of_a_call_apart_and_stays(account: Account) -> None:
    made = account.ec2.run_instances(**account.request(MinCount=1, MaxCount=4, ClientToken="t"))["Instances"]
    assert [each["AmiLaunchIndex"] for each in made] == [0, 1, 2, 3]
    again = account.ec2.run_instances(**account.request(MinCount=1, MaxCount=4, ClientToken="t"))["Instances"]
    described = account.ec2.describe_instances(InstanceIds=[made[2]["InstanceId"]])["Reservations"][0]["Instances"]
    assert [each["InstanceId"] for each in again] == [each["InstanceId"] for each in made]
    assert [each["AmiLaunchIndex"] for each in described] == [2]


def test_no_more_are_launched_than_the_quota_has_room_for(account: Account) -> None:
    account.cloud.faults.quota(vcpus=6)
    assert len(account.ec2.run_instances(**account.request(MinCount=1, MaxCount=5))["Instances"]) == 3
    with refused("VcpuLimitExceeded", "limit of 6"):
        account.launch()


def test_a_subnet_without_free_addresses_is_refused(account: Account) -> None:
    vpc = account.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = account.ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/28", AvailabilityZone="us-east-1a")["Subnet"]
    small = {"SubnetId": subnet["SubnetId"], "SecurityGroupIds": None}
    instances = account.ec2.run_instances(**account.request(MaxCount=20, **small))["Instances"]
    assert len({i["PrivateIpAddress"] for i in instances}) == 11  # 16 less Amazon's five
    with refused("InsufficientFreeAddressesInSubnet", subnet["SubnetId"]):
        account.launch(**small)
    account.terminate(instances[0]["InstanceId"])
    assert account.run(**small)["PrivateIpAddress"] == instances[0]["PrivateIpAddress"]


def test_a_dry_run_says_what_would_have_happened_and_does_nothing(account: Account) -> None:
    with refused("DryRunOperation", "would have succeeded", status=412):
        account.launch(DryRun=True)
    with refused("InvalidAMIID.NotFound"):
        account.launch(DryRun=True, ImageId="ami-00000000")
    assert account.ids() == []


# -- user data ------------------------------------------------------------------------------------


def test_user_data_of_16_kib_is_taken_and_given_back(account: Account) -> None:
    data = bytes(range(256)) * 64
    instance = account.launch(UserData=data)
    answer = account.ec2.describe_instance_attribute(InstanceId=instance, Attribute="userData")
    assert base64.b64decode(answer["UserData"]["Value"]) == data


def test_more_user_data_is_refused(account: Account) -> None:
    with refused("InvalidParameterValue", "User data is limited to 16384 bytes"):
        account.launch(UserData=b"x" * 16385)


# -- confidential machines ------------------------------------------------------------------------


def test_sev_snp_is_shown_where_the_type_has_it(account: Account) -> None:
    instance = account.launch(CpuOptions={"AmdSevSnp": "enabled"})
    assert account.show(instance)["CpuOptions"] == {"CoreCount": 1, "ThreadsPerCore": 2, "AmdSevSnp": "enabled"}
    assert "AmdSevSnp" not in account.run()["CpuOptions"]


def test_sev_snp_is_refused_where_the_type_lacks_it(account: Account) -> None:
    with refused("InvalidParameterCombination", "AMD SEV-SNP"):
        account.launch(InstanceType="m5.large", CpuOptions={"AmdSevSnp": "enabled"})


def test_sev_snp_needs_an_image_that_boots_by_uefi(account: Account) -> None:
    legacy = registered(account, BootMode="legacy-bios")
    with refused("InvalidParameterCombination", "legacy-bios"):
        account.launch(ImageId=legacy, CpuOptions={"AmdSevSnp": "enabled"})
    assert account.launch(ImageId=legacy)


@pytest.mark.parametrize(
    ("cpu", "code"),
    [
        ({"CoreCount": 1}, "InvalidParameterCombination"),
        ({"CoreCount": 3, "ThreadsPerCore": 2}, "InvalidParameterValue"),
        ({"CoreCount": 1, "ThreadsPerCore": 4}, "InvalidParameterValue"),
        ({"AmdSevSnp": "on"}, "InvalidParameterValue"),
    ],
)
def test_cpu_options_must_be_what_the_type_can_do(account: Account, cpu: dict[str, Any], code: str) -> None:
    with refused(code):
        account.launch(CpuOptions=cpu)


# -- images ---------------------------------------------------------------------------------------


def registered(account: Account, **changes: Any) -> str:
    """A new image from the snapshot of the one that is there."""
    source = account.ec2.describe_images(ImageIds=[account.cloud.ami])["Images"][0]
    root = {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": source["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]}}
    request = {"Name": "mine", "Architecture": "x86_64", "BlockDeviceMappings": [root], **changes}
    return str(account.ec2.register_image(**request)["ImageId"])


def test_a_registered_image_is_shown_as_it_was_registered_and_launches(account: Account) -> None:
    image = registered(account, BootMode="uefi", Description="a pod VM")
    shown = account.ec2.describe_images(ImageIds=[image])["Images"][0]
    assert (shown["Architecture"], shown["BootMode"], shown["RootDeviceName"]) == ("x86_64", "uefi", "/dev/sda1")
    launched = account.show(account.launch(ImageId=image))
    assert [mapping["DeviceName"] for mapping in launched["BlockDeviceMappings"]] == ["/dev/sda1"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"Name": "peerpods-podvm-x86_64"}, "InvalidAMIName.Duplicate"),
        ({"RootDeviceName": "/dev/xvda"}, "InvalidBlockDeviceMapping"),
        (
            {"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": "snap-00000000"}}]},
            "InvalidSnapshot.NotFound",
        ),
    ],
)
def test_an_image_that_cannot_be_is_refused(account: Account, change: dict[str, Any], code: str) -> None:
    with refused(code):
        registered(account, **change)


# -- metadata options -----------------------------------------------------------------------------


def test_metadata_options_are_kept_and_can_be_changed_one_by_one(account: Account) -> None:
    wanted = {"HttpTokens": "required", "HttpPutResponseHopLimit": 2, "HttpEndpoint": "enabled"}
    instance = account.launch(MetadataOptions=wanted)
    assert wanted.items() <= account.show(instance)["MetadataOptions"].items()
    account.ec2.modify_instance_metadata_options(InstanceId=instance, HttpPutResponseHopLimit=3)
    assert {**wanted, "HttpPutResponseHopLimit": 3}.items() <= account.show(instance)["MetadataOptions"].items()


@pytest.mark.parametrize("options", [{"HttpTokens": "never"}, {"HttpPutResponseHopLimit": 65}, {"HttpEndpoint": "on"}])
def test_metadata_options_that_make_no_sense_are_refused(account: Account, options: dict[str, Any]) -> None:
    with refused("InvalidParameterValue"):
        account.launch(MetadataOptions=options)


# -- tags -----------------------------------------------------------------------------------------


def test_instance_volumes_and_interfaces_are_tagged_at_launch(account: Account) -> None:
    kinds = ("instance", "volume", "network-interface")
    instance = account.launch(TagSpecifications=[tagged(kind, owner="me") for kind in kinds])
    assert account.by("tag:owner", "me") == [instance]
    mine = [{"Name": "tag:owner", "Values": ["me"]}]
    assert len(account.ec2.describe_volumes(Filters=mine)["Volumes"]) == 1
    assert len(account.ec2.describe_network_interfaces(Filters=mine)["NetworkInterfaces"]) == 1


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ([tagged("instance", **{f"k{n}": "" for n in range(51)})], "TagLimitExceeded"),
        ([tagged("instance", **{"k" * 129: ""})], "InvalidParameterValue"),
        ([tagged("instance", k="v" * 257)], "InvalidParameterValue"),
        ([tagged("instance", **{"aws:mine": ""})], "InvalidParameterValue"),
        ([tagged("pod", a="b")], "InvalidParameterValue"),
        ([tagged("instance", a="b"), tagged("instance", c="d")], "InvalidParameterValue"),
        ([tagged("instance")], "InvalidParameterValue"),
        ([{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "1"}] * 2}], "InvalidParameterValue"),
    ],
)
def test_tags_beyond_the_limits_are_refused(account: Account, tags: list[dict[str, Any]], code: str) -> None:
    with refused(code):
        account.launch(TagSpecifications=tags)
    assert account.ids() == []


def test_tags_at_the_limits_are_taken(account: Account) -> None:
    most = {f"{n:0128}": "v" * 256 for n in range(50)}
    instance = account.launch(TagSpecifications=[tagged("instance", **most)])
    assert len(account.show(instance)["Tags"]) == 50


def test_tags_are_created_only_on_what_exists(account: Account) -> None:
    with refused("InvalidInstanceID.NotFound"):
        account.ec2.create_tags(Resources=["i-0123456789abcdef0"], Tags=[{"Key": "a", "Value": "b"}])
    with refused("InvalidParameterValue", "aws:"):
        account.ec2.create_tags(Resources=[account.launch()], Tags=[{"Key": "aws:a", "Value": "b"}])


# -- volumes and interfaces -----------------------------------------------------------------------


def test_the_root_volume_is_the_images_unless_overridden_and_goes_with_the_instance(account: Account) -> None:
    plain, larger = account.launch(), account.launch(BlockDeviceMappings=[GIB])
    sizes = {v["Attachments"][0]["InstanceId"]: v["Size"] for v in account.ec2.describe_volumes()["Volumes"]}
    assert sizes == {plain: 8, larger: 20}
    assert [m["DeviceName"] for m in account.show(larger)["BlockDeviceMappings"]] == ["/dev/xvda"]
    for instance in (plain, larger):
        account.terminate(instance)
    assert account.ec2.describe_volumes()["Volumes"] == []


def test_a_volume_stays_when_asked_to(account: Account) -> None:
    data = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": False}}
    account.terminate(account.launch(BlockDeviceMappings=[data]))
    assert [volume["State"] for volume in account.ec2.describe_volumes()["Volumes"]] == ["available"]


@pytest.mark.parametrize(
    ("mapping", "code"),
    [
        ({"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 1}}, "InvalidBlockDeviceMapping"),
        ({"DeviceName": "/dev/sdf", "Ebs": {"VolumeType": "gp3"}}, "MissingParameter"),
        ({"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 16385}}, "InvalidParameterValue"),
    ],
)
def test_volumes_that_cannot_be_are_refused(account: Account, mapping: dict[str, Any], code: str) -> None:
    with refused(code):
        account.launch(BlockDeviceMappings=[mapping])


def test_interfaces_made_at_launch_go_with_the_instance_and_others_stay(account: Account) -> None:
    own = account.ec2.create_network_interface(SubnetId=account.cloud.subnet)["NetworkInterface"]["NetworkInterfaceId"]
    nics = [{"DeviceIndex": 0, "SubnetId": account.cloud.subnet, "Groups": [account.cloud.security_group]},
            {"DeviceIndex": 1, "NetworkInterfaceId": own}]  # fmt: skip
    instance = account.launch(SubnetId=None, SecurityGroupIds=None, NetworkInterfaces=nics)
    assert len(account.show(instance)["NetworkInterfaces"]) == 2
    with refused("InvalidParameterValue", "currently in use"):
        account.ec2.delete_network_interface(NetworkInterfaceId=own)
    account.terminate(instance)
    left = account.ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert [(nic["NetworkInterfaceId"], nic["Status"]) for nic in left] == [(own, "available")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"SecurityGroupIds": None}, "instance-level subnet ID"),
        ({"SubnetId": None}, "instance-level security groups"),
    ],
)
def test_interfaces_exclude_subnet_and_groups_beside_them(account: Account, change: dict[str, Any], words: str) -> None:
    with refused("InvalidParameterCombination", words):
        account.launch(NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": account.cloud.subnet}], **change)


def test_the_interfaces_of_an_instance_are_in_one_zone(account: Account) -> None:
    subnets = [account.cloud.subnet, account.cloud.subnet[:-1] + "b"]
    nics = [{"DeviceIndex": index, "SubnetId": subnet} for index, subnet in enumerate(subnets)]
    with refused("InvalidParameterCombination", "one Availability Zone"):
        account.launch(SubnetId=None, SecurityGroupIds=None, NetworkInterfaces=nics)


def test_a_launch_template_gives_what_the_call_leaves_out(account: Account) -> None:
    data = {"ImageId": account.cloud.ami, "InstanceType": "m6a.xlarge", "UserData": base64.b64encode(b"hi").decode()}
    account.ec2.create_launch_template(LaunchTemplateName="kata", LaunchTemplateData=data)
    shown = account.run(ImageId=None, InstanceType=None, LaunchTemplate={"LaunchTemplateName": "kata"})
    assert (shown["ImageId"], shown["InstanceType"]) == (account.cloud.ami, "m6a.xlarge")
    attribute = account.ec2.describe_instance_attribute(InstanceId=shown["InstanceId"], Attribute="userData")
    assert base64.b64decode(attribute["UserData"]["Value"]) == b"hi"
