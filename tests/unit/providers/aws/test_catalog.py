"""EC2's descriptions of instance types as offerings."""

from dataclasses import replace
from typing import Any

import pytest

from providers.aws.catalog import allowed, described
from providers.aws.config import AwsConfig
from providers.base import Offering, Tee
from providers.errors import InvalidSpec

IMAGE = "ami-0123456789abcdef0"


def shape(name: str, *, architectures: tuple[str, ...] = ("x86_64",), **more: Any) -> dict[str, Any]:
    return {
        "InstanceType": name,
        "VCpuInfo": {"DefaultVCpus": 2},
        "MemoryInfo": {"SizeInMiB": 8192},
        "ProcessorInfo": {"SupportedArchitectures": list(architectures)},
        **more,
    }


def one(given: dict[str, Any]) -> Offering:
    (offer,) = described({"InstanceTypes": [given]}, zone="us-east-2a", sold=[given["InstanceType"]])
    return offer


def test_vcpus_memory_and_zone_are_what_the_api_says() -> None:
    assert one(shape("m5.large")) == Offering("m5.large", 2, 8192, zone="us-east-2a")


def tees(given: dict[str, Any]) -> list[Tee]:
    found = described({"InstanceTypes": [given]}, zone="us-east-2a", sold=[given["InstanceType"]])
    return [offer.tee for offer in found]


def test_snp_is_a_feature_of_the_processor_and_an_offering_of_its_own() -> None:
    features = {"SupportedArchitectures": ["x86_64"], "SupportedFeatures": ["amd-sev-snp"]}
    assert tees(shape("m6a.large", ProcessorInfo=features)) == [Tee.NONE, Tee.SNP]
    other = {"SupportedArchitectures": ["x86_64"], "SupportedFeatures": ["nested-virtualization"]}
    assert tees(shape("m8i.large", ProcessorInfo=other)) == [Tee.NONE]


def test_gpus_are_counted_over_all_entries_and_named() -> None:
    gpus = {"Gpus": [{"Name": "A100", "Count": 8}]}
    assert (one(shape("p4d.24xlarge", GpuInfo=gpus)).gpus, one(shape("p4d.24xlarge", GpuInfo=gpus)).gpu_model) == (
        8,
        "A100",
    )
    two = {"Gpus": [{"Name": "T4", "Count": 1}, {"Name": "T4", "Count": 3}]}
    assert one(shape("g4dn.metal", GpuInfo=two)).gpus == 4


def test_a_slice_of_a_gpu_is_not_a_gpu() -> None:
    slices = {"Gpus": [{"Name": "L4", "Count": 0, "LogicalGpuCount": 1, "GpuPartitionSize": 0.125}]}
    assert one(shape("g6f.large", GpuInfo=slices)).gpus == 0


@pytest.mark.parametrize(
    ("supported", "ours"),
    [(("i386", "x86_64"), "x86_64"), (("arm64",), "arm64"), (("x86_64_mac",), "x86_64_mac"), ((), "x86_64")],
)
def test_the_architecture_is_the_one_an_image_must_have(supported: tuple[str, ...], ours: str) -> None:
    assert one(shape("a.type", architectures=supported)).architecture == ours


def test_what_the_zone_does_not_sell_is_no_offering() -> None:
    both = {"InstanceTypes": [shape("m5.large"), shape("m6a.large")]}
    found = described(both, zone="us-east-2a", sold={"m6a.large"})
    assert [offer.instance_type for offer in found] == ["m6a.large"]


def config(*, default: str, others: tuple[str, ...] = (), confidential: bool) -> AwsConfig:
    return AwsConfig(image=IMAGE, instance_type=default, instance_types=others, confidential=confidential)


PLAIN = Offering("m5.large", 2, 8192)
SMALL = Offering("m6a.large", 2, 8192, tee=Tee.SNP)
LARGE = Offering("m6a.xlarge", 4, 16384, tee=Tee.SNP)
OPEN = [replace(offer, tee=Tee.NONE) for offer in (SMALL, LARGE)]


def test_the_default_comes_first_and_the_others_in_the_settings_order() -> None:
    wanted = config(default="m6a.xlarge", others=("m5.large", "m6a.large"), confidential=False)
    assert allowed([SMALL, LARGE, PLAIN, *OPEN], wanted) == (OPEN[1], LARGE, PLAIN, OPEN[0], SMALL)


def test_where_a_tee_is_asked_for_nothing_is_offered_without_it() -> None:
    wanted = config(default="m6a.large", others=("m5.large", "m6a.xlarge"), confidential=True)
    assert allowed([PLAIN, *OPEN, LARGE, SMALL], wanted) == (SMALL, LARGE)


def test_a_default_that_cannot_be_confidential_is_told_with_the_remedy() -> None:
    with pytest.raises(InvalidSpec, match=r"m5\.large does not give its guest snp.*aws\.confidential"):
        allowed([PLAIN, SMALL], config(default="m5.large", others=("m6a.large",), confidential=True))


def test_a_default_that_the_zone_does_not_sell_is_told() -> None:
    with pytest.raises(InvalidSpec, match=r"m6a\.large is not sold in the zone"):
        allowed([PLAIN], config(default="m6a.large", others=("m5.large",), confidential=False))
