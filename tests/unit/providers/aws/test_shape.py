"""The parts of a launch that settings, image and template shape."""

from dataclasses import replace
from typing import Any

import pytest

from providers.aws import shape
from providers.aws.config import AwsConfig
from providers.aws.shape import Image, Place, Template
from providers.base import LaunchSpec, Purchase, Volume
from providers.errors import InvalidSpec

CONFIG = AwsConfig(image="ami-0123456789abcdef0")
SPEC = LaunchSpec("podvm-nginx", "m6a.large", b"")
IMAGE = Image("/dev/xvda", (("/dev/xvda", 8),))
PLACE = Place("subnet-1", ("sg-1",))
TEMPLATE = Template((("LaunchTemplateName", "kata"), ("Version", "$Default")))


def parts(spec: LaunchSpec = SPEC, place: Place = PLACE, image: Image = IMAGE, **settings: Any) -> dict[str, Any]:
    return shape.parts(spec, replace(CONFIG, **settings), image, place)


def test_by_default_a_launch_has_one_interface_and_nothing_that_was_not_asked_for() -> None:
    assert parts() == {
        "SubnetId": "subnet-1",
        "SecurityGroupIds": ["sg-1"],
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": True, "VolumeSize": 8}}],
    }


def test_a_lent_public_address_is_asked_for_on_the_interface() -> None:
    made = parts(public_ip="auto")
    assert made["NetworkInterfaces"] == [
        {
            "DeviceIndex": 0,
            "SubnetId": "subnet-1",
            "Groups": ["sg-1"],
            "DeleteOnTermination": True,
            "AssociatePublicIpAddress": True,
        }
    ]
    assert not made.keys() & {"SubnetId", "SecurityGroupIds"}


def test_a_second_interface_is_made_and_deleted_with_the_instance() -> None:
    first, second = parts(secondary_interface=True, public_ip="elastic")["NetworkInterfaces"]
    assert (first["DeviceIndex"], second["DeviceIndex"]) == (0, 1)
    assert second == {"DeviceIndex": 1, "SubnetId": "subnet-1", "Groups": ["sg-1"], "DeleteOnTermination": True}
    assert not [each for each in (first, second) if "AssociatePublicIpAddress" in each]


def test_a_second_interface_may_have_a_subnet_and_groups_of_its_own() -> None:
    place = replace(PLACE, second_subnet_id="subnet-2")
    made = parts(place=place, secondary_interface=True, secondary_security_group_ids=("sg-2",))["NetworkInterfaces"]
    assert [(each["SubnetId"], each["Groups"]) for each in made] == [("subnet-1", ["sg-1"]), ("subnet-2", ["sg-2"])]


def test_spot_is_bought_once_and_ends_for_good() -> None:
    spot = replace(SPEC, purchase=Purchase.SPOT)
    made = parts(spot, spot=True, capacity_reservation="cr-0123456789abcdef0")
    assert made["InstanceMarketOptions"] == {
        "MarketType": "spot",
        "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
    }
    assert "CapacityReservationSpecification" not in made
    priced = parts(spot, spot=True, spot_max_price=0.05)
    assert priced["InstanceMarketOptions"]["SpotOptions"]["MaxPrice"] == "0.050000"
    assert "InstanceMarketOptions" not in parts(spot=True)


@pytest.mark.parametrize(
    ("settings", "placement"),
    [
        ({"placement_group": "pods"}, {"GroupName": "pods"}),
        ({"placement_group": "pg-0123456789abcdef0"}, {"GroupId": "pg-0123456789abcdef0"}),
        ({"tenancy": "dedicated"}, {"Tenancy": "dedicated"}),
        ({"tenancy": "host"}, {"Tenancy": "host"}),
        ({"tenancy": "host", "host_id": "h-1"}, {"Tenancy": "host", "HostId": "h-1"}),
        ({"tenancy": "host", "host_resource_group_arn": "arn:x"}, {"HostResourceGroupArn": "arn:x"}),
    ],
)
def test_a_placement_is_as_the_settings_name_it(settings: dict[str, Any], placement: dict[str, str]) -> None:
    assert parts(**settings)["Placement"] == placement


@pytest.mark.parametrize(
    ("setting", "asked"),
    [
        ("none", {"CapacityReservationPreference": "none"}),
        ("open", {"CapacityReservationPreference": "open"}),
        ("cr-1", {"CapacityReservationTarget": {"CapacityReservationId": "cr-1"}}),
        ("arn:g", {"CapacityReservationTarget": {"CapacityReservationResourceGroupArn": "arn:g"}}),
    ],
)
def test_a_capacity_reservation_is_as_the_settings_name_it(setting: str, asked: dict[str, Any]) -> None:
    assert parts(capacity_reservation=setting)["CapacityReservationSpecification"] == asked


def test_an_instance_profile_is_a_name_or_an_arn() -> None:
    arn = "arn:aws:iam::123456789012:instance-profile/pods"
    assert parts(instance_profile="pods")["IamInstanceProfile"] == {"Name": "pods"}
    assert parts(instance_profile=arn)["IamInstanceProfile"] == {"Arn": arn}


def test_the_root_volume_is_of_the_kind_that_was_asked_for_and_the_others_are_the_images() -> None:
    image = Image("/dev/xvda", (("/dev/sdb", 2), ("/dev/xvda", 8)))
    made = parts(image=image, volume_type="gp3", volume_iops=4000, volume_throughput=500, kms_key_id="alias/ours")
    assert {each["DeviceName"]: each["Ebs"] for each in made["BlockDeviceMappings"]} == {
        "/dev/sdb": {"DeleteOnTermination": True, "VolumeSize": 2},
        "/dev/xvda": {
            "DeleteOnTermination": True,
            "VolumeSize": 8,
            "VolumeType": "gp3",
            "Iops": 4000,
            "Throughput": 500,
            "Encrypted": True,
            "KmsKeyId": "alias/ours",
        },
    }


@pytest.mark.parametrize(
    ("root", "scratch", "size"), [(None, 0, 8), (4, 0, 8), (20, 0, 20), (None, 5, 13), (20, 5, 25)]
)
def test_scratch_space_comes_on_top_of_the_root_volume(root: int | None, scratch: int, size: int) -> None:
    (mapping,) = parts(replace(SPEC, root_volume_gib=root, scratch_gib=scratch))["BlockDeviceMappings"]
    assert mapping["Ebs"]["VolumeSize"] == size


def test_a_pods_volumes_are_not_part_of_the_launch() -> None:
    assert parts(replace(SPEC, volumes=(Volume("vol-1"),))) == parts()


def template(**data: Any) -> Template:
    (made,) = shape.template({"LaunchTemplateVersions": [{"LaunchTemplateData": data}]}, CONFIG)
    return made


def test_a_templates_volumes_go_with_the_instance_too() -> None:
    devices = [
        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 30}},
        {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-1", "DeleteOnTermination": False}},
        {"DeviceName": "/dev/sdg", "VirtualName": "ephemeral0"},
    ]
    made = parts(place=replace(PLACE, template=template(BlockDeviceMappings=devices)))
    assert made["LaunchTemplate"] == {"LaunchTemplateName": "kata", "Version": "$Default"}
    assert made["BlockDeviceMappings"] == [
        {"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": True, "VolumeSize": 30}},
        {"DeviceName": "/dev/sdf", "Ebs": {"DeleteOnTermination": True}},
    ]


def test_a_template_that_describes_its_interface_gets_the_place_into_it() -> None:
    with_interface = template(NetworkInterfaces=[{"DeviceIndex": 0, "Groups": ["sg-9"]}])
    assert with_interface.groups == ("sg-9",)
    (first,) = parts(place=replace(PLACE, template=with_interface))["NetworkInterfaces"]
    assert (first["SubnetId"], first["Groups"], first["DeleteOnTermination"]) == ("subnet-1", ["sg-1"], True)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"InstanceMarketOptions": {"MarketType": "spot"}}, "aws.spot"),
        ({"NetworkInterfaces": [{"DeviceIndex": 0}, {"DeviceIndex": 1}]}, "aws.secondary_interface"),
        ({"NetworkInterfaces": [{"DeviceIndex": 0, "NetworkInterfaceId": "eni-1"}]}, "one machine only"),
        ({"SecurityGroups": ["default"]}, "by id"),
    ],
)
def test_a_template_that_no_pod_can_have_is_refused_with_what_to_do(data: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidSpec, match=told):
        template(**data)


def test_a_templates_own_groups_and_an_interface_of_ours_exclude_each_other() -> None:
    answer = {"LaunchTemplateVersions": [{"LaunchTemplateData": {"SecurityGroupIds": ["sg-1"]}}]}
    assert [each.groups for each in shape.template(answer, CONFIG)] == [("sg-1",)]
    with pytest.raises(InvalidSpec, match=r"aws\.security_group_ids"):
        list(shape.template(answer, replace(CONFIG, public_ip="auto")))
