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


def settings(table: Mapping[str, Any], **env: str) -> tuple[AwsConfig, Faults]:
    faults: Faults = []
    return parse(table, env, faults), faults


def test_upstreams_environment_alone_is_a_whole_configuration() -> None:
    config, faults = settings({}, **UPSTREAM)
    assert faults == []
    assert config == AwsConfig(
        region="us-east-2",
        subnet_id="subnet-0123456789abcdef0",
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


@pytest.mark.parametrize("name", ["USE_PUBLIC_IP", "USE_PODVM_LAUNCHTEMPLATE"])
def test_what_upstream_has_and_we_have_not_is_never_silent(name: str) -> None:
    for value in ("true", "1"):
        (fault,) = settings(LEAST, **{name: value})[1]
        assert fault.key == name
        assert "not supported yet" in fault.problem
    (garbled,) = settings(LEAST, **{name: "perhaps"})[1]
    assert garbled.key == name
    assert settings(LEAST, **{name: "false"})[1] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("region", "Ohio"),
        ("subnet_id", "10.0.0.0/24"),
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
