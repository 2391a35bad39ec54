"""EC2's descriptions of instance types as offerings."""

from dataclasses import replace
from typing import Any

import pytest

from providers.aws.catalog import allowed, described, placed, priced
from providers.aws.config import AwsConfig
from providers.base import Offering, Purchase, Tee
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
    ((offer, _),) = described({"InstanceTypes": [given]})
    return offer


def test_vcpus_and_memory_are_what_the_api_says() -> None:
    assert one(shape("m5.large")) == Offering("m5.large", 2, 8192)


def tees(given: dict[str, Any]) -> list[Tee]:
    return [offer.tee for offer, _ in described({"InstanceTypes": [given]})]


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


def config(*, default: str, others: tuple[str, ...] = (), confidential: bool, **more: Any) -> AwsConfig:
    return AwsConfig(image=IMAGE, instance_type=default, instance_types=others, confidential=confidential, **more)


EITHER = ["on-demand", "spot"]
ZONES = ["us-east-2b", "us-east-2a"]


def places(*shapes: dict[str, Any], sold: set[tuple[str, str]], spot: bool = False) -> list[tuple[str, str, str]]:
    kinds = list(described({"InstanceTypes": list(shapes)}))
    wanted = config(default="m5.large", confidential=False, spot=spot)
    return [(each.instance_type, each.zone, each.purchase) for each in placed(kinds, sold, ZONES, wanted)]


def test_a_type_is_offered_in_the_zones_that_sell_it_in_the_order_of_the_subnets() -> None:
    sold = {("m5.large", "us-east-2a"), ("m6a.large", "us-east-2a"), ("m5.large", "us-east-2b")}
    assert places(shape("m5.large"), shape("m6a.large"), sold=sold) == [
        ("m5.large", "us-east-2b", "on-demand"),
        ("m5.large", "us-east-2a", "on-demand"),
        ("m6a.large", "us-east-2a", "on-demand"),
    ]


def test_spot_is_an_offering_of_its_own_where_settings_and_ec2_have_it() -> None:
    sold = {("m5.large", "us-east-2a"), ("m6a.large", "us-east-2a")}
    shapes = shape("m5.large", SupportedUsageClasses=EITHER), shape("m6a.large", SupportedUsageClasses=["on-demand"])
    assert places(*shapes, sold=sold, spot=True) == [
        ("m5.large", "us-east-2a", "on-demand"),
        ("m5.large", "us-east-2a", "spot"),
        ("m6a.large", "us-east-2a", "on-demand"),
    ]
    assert ("m5.large", "us-east-2a", "spot") not in places(*shapes, sold=sold)


def test_a_type_that_two_names_of_the_settings_match_is_offered_once() -> None:
    assert len(places(shape("m5.large"), shape("m5.large"), sold={("m5.large", "us-east-2a")})) == 1


def test_wildcards_allow_whatever_they_match_behind_the_types_named_before_them() -> None:
    wanted = config(default="m5.large", others=("m6a.*",), confidential=False)
    assert allowed([LARGE, SMALL, OPEN[1], OPEN[0], PLAIN, GPU], wanted) == (PLAIN, OPEN[0], SMALL, OPEN[1], LARGE)


def test_a_wildcard_that_matches_nothing_is_told() -> None:
    with pytest.raises(InvalidSpec, match=r"m9z\.\* matches no instance type"):
        allowed([PLAIN], config(default="m5.large", others=("m9z.*",), confidential=False))


def test_the_first_offering_is_the_default_on_demand_in_the_first_zone() -> None:
    offers = [
        replace(offer, zone=zone, purchase=purchase)
        for zone in ZONES
        for offer in (OPEN[0], SMALL)
        for purchase in (Purchase.SPOT, Purchase.ON_DEMAND)
    ]
    first = allowed(offers, config(default="m6a.large", confidential=True, spot=True))[0]
    assert first == replace(SMALL, zone="us-east-2b", purchase=Purchase.ON_DEMAND)


def test_prices_are_those_of_the_way_to_pay_and_snp_costs_a_tenth_of_on_demand_more() -> None:
    offers = [
        replace(offer, zone="us-east-2a", purchase=purchase) for offer in (OPEN[0], SMALL) for purchase in Purchase
    ]
    told = priced(offers, {"m6a.large": 0.0864}, {("m6a.large", "us-east-2a"): 0.03})
    assert [each.price for each in told] == [0.0864, 0.03, 0.09504, 0.03864]


def test_a_price_that_is_not_known_is_unknown_and_not_nothing() -> None:
    spot = replace(SMALL, zone="us-east-2a", purchase=Purchase.SPOT)
    assert [each.price for each in priced([SMALL, spot], {}, {("m6a.large", "us-east-2a"): 0.03})] == [None, None]
    assert priced([replace(spot, tee=Tee.NONE)], {"m6a.large": 0.1}, {})[0].price is None


PLAIN = Offering("m5.large", 2, 8192)
SMALL = Offering("m6a.large", 2, 8192, tee=Tee.SNP)
LARGE = Offering("m6a.xlarge", 4, 16384, tee=Tee.SNP)
GPU = Offering("g5.xlarge", 4, 16384, gpus=1, gpu_model="A10G")
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
    with pytest.raises(InvalidSpec, match=r"m6a\.large is not sold in the zones"):
        allowed([PLAIN], config(default="m6a.large", others=("m5.large",), confidential=False))
