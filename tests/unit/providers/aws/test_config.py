"""The [aws] settings and upstream's names for them."""

from collections.abc import Mapping
from typing import Any

import pytest

from providers.aws.config import AwsConfig, parse
from providers.base import Tee
from providers.settings import Faults

IMAGE = "ami-0123456789abcdef0"
LEAST = {"image": IMAGE}
UPSTREAM = {
    "AWS_REGION": "us-east-2",
    "AWS_SUBNET_ID": "subnet-0123456789abcdef0",
    "AWS_SG_IDS": "sg-0123456789abcdef0,sg-0123456789abcdef1",
    "SSH_KP_NAME": "operators",
    "PODVM_AMI_ID": IMAGE,
    "PODVM_INSTANCE_TYPE": "m6a.xlarge",
    "PODVM_INSTANCE_TYPES": "m6a.large,m6a.xlarge,c6a.2xlarge",
    "DISABLECVM": "true",
    "ROOT_VOLUME_SIZE": "30",
    "TAGS": "team=blue,cost-centre=42",
    "USE_PUBLIC_IP": "false",
    "USE_PODVM_LAUNCHTEMPLATE": "false",
    "PODVM_LAUNCHTEMPLATE_NAME": "kata",
}


ARN = "arn:aws:resource-groups:us-east-2:123456789012:group/hosts"


def settings(table: Mapping[str, Any], **env: str) -> tuple[AwsConfig, Faults]:
    faults: Faults = []
    return parse(table, env, faults), faults


def test_upstreams_environment_alone_is_a_whole_configuration() -> None:
    config, faults = settings({}, **UPSTREAM)
    assert faults == []
    assert config == AwsConfig(
        region="us-east-2",
        subnet_ids=("subnet-0123456789abcdef0",),
        security_group_ids=("sg-0123456789abcdef0", "sg-0123456789abcdef1"),
        key_name="operators",
        image=IMAGE,
        instance_type="m6a.xlarge",
        instance_types=("m6a.large", "m6a.xlarge", "c6a.2xlarge"),
        confidential=False,
        root_volume_gib=30,
        tags=(("cost-centre", "42"), ("team", "blue")),
    )


def test_upstreams_names_rendered_empty_are_as_if_unset() -> None:
    config, faults = settings({}, **{**dict.fromkeys(UPSTREAM, ""), "PODVM_AMI_ID": IMAGE})
    assert faults == []
    assert config == AwsConfig(image=IMAGE)
    assert (config.instance_type, config.confidential, config.root_volume_gib) == ("m6a.large", True, None)


def test_an_image_is_all_that_must_be_given() -> None:
    assert settings(LEAST)[1] == []
    assert [fault.key for fault in settings({})[1]] == ["aws.image"]


def test_the_default_type_is_allowed_and_comes_first_and_once() -> None:
    config, _ = settings({"image": IMAGE, "instance_type": "m6a.large", "instance_types": ["c6a.large", "m6a.large"]})
    assert config.allowed_types == ("m6a.large", "c6a.large")
    assert settings(LEAST)[0].allowed_types == ("m6a.large",)


@pytest.mark.parametrize(
    ("value", "tee"), [("true", Tee.NONE), ("1", Tee.NONE), ("false", Tee.SNP), ("0", Tee.SNP), ("", Tee.SNP)]
)
def test_disablecvm_is_the_opposite_of_confidential(value: str, tee: Tee) -> None:
    assert settings(LEAST, DISABLECVM=value)[0].tee is tee


def test_the_files_confidential_is_not_inverted() -> None:
    assert settings({"image": IMAGE, "confidential": False})[0].tee is Tee.NONE
    assert settings({"image": IMAGE, "confidential": False}, DISABLECVM="false")[0].tee is Tee.SNP


@pytest.mark.parametrize(
    ("value", "public_ip"),
    [("true", "auto"), ("1", "auto"), ("false", "none"), ("", "none"), ("Elastic", "elastic"), ("none", "none")],
)
def test_upstreams_public_ip_is_the_lent_one(value: str, public_ip: str) -> None:
    assert settings(LEAST, USE_PUBLIC_IP=value)[0].public_ip == public_ip


def test_upstreams_launch_template_is_used_when_it_is_switched_on() -> None:
    config, faults = settings(LEAST, USE_PODVM_LAUNCHTEMPLATE="true", PODVM_LAUNCHTEMPLATE_NAME="ours")
    assert (config.use_launch_template, config.launch_template, faults) == (True, "ours", [])
    config, faults = settings(LEAST, USE_PODVM_LAUNCHTEMPLATE="true")
    assert (config.use_launch_template, config.launch_template, faults) == (True, "kata", [])
    config, faults = settings(LEAST, PODVM_LAUNCHTEMPLATE_NAME="kata")
    assert (config.use_launch_template, faults) == (False, [])
    (fault,) = settings(LEAST, USE_PODVM_LAUNCHTEMPLATE="perhaps")[1]
    assert fault.key == "USE_PODVM_LAUNCHTEMPLATE"


def test_upstreams_subnet_may_be_several() -> None:
    config, faults = settings(LEAST, AWS_SUBNET_ID="subnet-0123456789abcdef0, subnet-0123456789abcdef1")
    assert (config.subnet_ids, faults) == (("subnet-0123456789abcdef0", "subnet-0123456789abcdef1"), [])


@pytest.mark.parametrize(
    ("key", "table"),
    [
        ("launch_template", {"launch_template": "ours"}),
        ("public_ip", {"public_ip": "auto", "secondary_interface": True}),
        ("secondary_interface", {"secondary_subnet_ids": ["subnet-0123456789abcdef0"]}),
        ("spot_max_price", {"spot_max_price": 0.1}),
        ("tenancy", {"host_id": "h-0123456789abcdef0"}),
        ("host_id", {"tenancy": "host", "host_id": "h-0123456789abcdef0", "host_resource_group_arn": ARN}),
        ("spot", {"tenancy": "host", "spot": True}),
        ("prices", {"tenancy": "dedicated", "prices": True}),
        ("volume_throughput", {"volume_throughput": 200}),
        ("volume_iops", {"volume_iops": 4000}),
        ("volume_iops", {"volume_iops": 4000, "volume_type": "gp2"}),
        ("volume_iops", {"volume_type": "io2"}),
        ("volume_iops", {"volume_type": "gp3", "volume_iops": 2000}),
        ("volume_iops", {"volume_type": "gp3", "volume_throughput": 1000}),
        ("volume_encrypted", {"volume_encrypted": False, "kms_key_id": "alias/ours"}),
    ],
)
def test_settings_that_contradict_each_other_are_a_fault_that_says_what_would_do(
    key: str, table: dict[str, Any]
) -> None:
    (fault,) = settings({"image": IMAGE, **table})[1]
    assert fault.key == f"aws.{key}"
    assert fault.problem
    assert fault.allowed


@pytest.mark.parametrize(
    "table",
    [
        {"use_launch_template": True, "launch_template": "lt-0123456789abcdef0", "launch_template_version": "$Latest"},
        {"public_ip": "elastic", "secondary_interface": True, "secondary_subnet_ids": ["subnet-0123456789abcdef0"]},
        {"spot": True, "spot_max_price": 0.1},
        {"tenancy": "host", "host_resource_group_arn": ARN},
        {"volume_type": "gp3", "volume_iops": 4000, "volume_throughput": 1000, "kms_key_id": "alias/ours"},
        {"capacity_reservation": "cr-0123456789abcdef0", "placement_group": "pods", "instance_profile": "pods"},
        {"endpoint_urls": {"sts": "https://sts.example", "service-quotas": "https://quotas.example"}},
    ],
)
def test_settings_that_fit_together_have_no_fault(table: dict[str, Any]) -> None:
    assert settings({"image": IMAGE, **table})[1] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("region", "Ohio"),
        ("subnet_ids", ["10.0.0.0/24"]),
        ("subnet_id", "subnet-0123456789abcdef0"),
        ("instance_types", ["m6a*"]),
        ("public_ip", "perhaps"),
        ("spot_max_price", 0),
        ("spot_max_price", float("nan")),
        ("spot_max_price", True),
        ("tenancy", "shared"),
        ("host_id", "my-host"),
        ("capacity_reservation", "mine"),
        ("instance_profile", "arn:aws:iam::123456789012:role/pods"),
        ("volume_type", "st1"),
        ("launch_template_version", "newest"),
        ("endpoint_urls", {"s3": "https://s3.example"}),
        ("endpoint_urls", {"sts": "sts.example"}),
        ("security_group_ids", ["sg-0123456789abcdef0", "default"]),
        ("image", "podvm"),
        ("instance_type", "m6a"),
        ("instance_types", ["m6a.large", "tiny"]),
        ("confidential", "certainly"),
        ("root_volume_gib", -1),
        ("root_volume_gib", 20_000),
        ("tags", {"aws:team": "blue"}),
        ("tags", {"peerpods-node": "node-2"}),
        ("tags", {"Name": "mine"}),
        ("tags", {"k" * 129: "v"}),
        ("tags", {"k": "v" * 257}),
        ("tags", "no-equals-sign"),
        ("endpoint_url", "localhost:5000"),
        ("api_concurrency", 0),
        ("api_concurrency", 1000),
        ("access_key", "AKIA"),
    ],
)
def test_a_value_ec2_could_not_use_is_a_fault_under_its_key(key: str, value: object) -> None:
    _, faults = settings({"image": IMAGE, key: value})
    assert [fault.key for fault in faults] == [f"aws.{key}"]


@pytest.mark.parametrize("region", ["us-east-2", "ap-southeast-5", "us-gov-west-1", "us-iso-east-1", "cn-north-1"])
def test_every_partitions_regions_are_regions(region: str) -> None:
    assert settings({"image": IMAGE, "region": region})[0].region == region


def test_no_root_size_is_the_images_own() -> None:
    for unset in (0, "", "0"):
        assert settings({"image": IMAGE, "root_volume_gib": unset}) == (AwsConfig(image=IMAGE), [])


def test_the_sdks_names_for_profile_and_endpoint_are_known() -> None:
    config, faults = settings(
        LEAST,
        AWS_PROFILE="ops",
        AWS_ENDPOINT_URL="http://one:1",
        AWS_ENDPOINT_URL_EC2="http://two:2",
        AWS_DEFAULT_REGION="eu-west-1",
    )
    assert (config.profile, config.endpoint_url, config.region, faults) == ("ops", "http://two:2", "eu-west-1", [])
