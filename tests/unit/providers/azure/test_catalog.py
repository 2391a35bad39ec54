"""Azure's SKUs as offerings."""

import json
from dataclasses import replace
from typing import Any

import pytest

from providers.azure import catalog, gpus
from providers.azure.config import AzureConfig
from providers.base import Offering, Purchase, Tee
from providers.errors import InvalidSpec

CONFIG = AzureConfig(
    subscription_id="s",
    resource_group="pods",
    region="eastus",
    subnet_id="n",
    image="i",
    instance_type="Standard_D2s_v5",
    confidential=False,
)


def sku(name: str, *, zones: tuple[str, ...] = ("1", "2", "3"), restrictions: Any = (), **told: str) -> dict[str, Any]:
    capabilities = {"vCPUs": "2", "MemoryGB": "8", "CpuArchitectureType": "x64", "LowPriorityCapable": "True", **told}
    return {
        "resourceType": "virtualMachines",
        "name": name,
        "family": "standardDSv5Family",
        "locationInfo": [{"location": "eastus", "zones": list(zones)}],
        "capabilities": [{"name": key, "value": value} for key, value in capabilities.items()],
        "restrictions": list(restrictions),
    }


def offers(*shapes: dict[str, Any], **settings: Any) -> tuple[Offering, ...]:
    names = tuple(shape["name"] for shape in shapes)
    config = replace(CONFIG, **{"instance_type": names[0], "instance_types": names[1:], **settings})
    return catalog.described(shapes, config)


def test_vcpus_memory_and_architecture_are_what_the_api_says() -> None:
    assert offers(sku("Standard_D2s_v5")) == (Offering("Standard_D2s_v5", 2, 8192),)
    assert offers(sku("Standard_B1ls", MemoryGB="0.5"))[0].memory_mib == 512
    assert offers(sku("Standard_D2ps_v5", CpuArchitectureType="Arm64"))[0].architecture == "arm64"


@pytest.mark.parametrize(("told", "tee"), [("SNP", Tee.SNP), ("TDX", Tee.TDX), ("SGX", Tee.NONE)])
def test_the_tee_is_the_apis_word_and_the_sizes_only_one(told: str, tee: Tee) -> None:
    (offer,) = offers(sku("Standard_DC2as_v5", ConfidentialComputingType=told))
    assert offer.tee is tee


def test_without_zones_in_the_settings_the_region_is_one_place() -> None:
    assert [offer.zone for offer in offers(sku("Standard_D2s_v5"))] == [""]


def test_zones_are_those_of_the_settings_that_sell_the_size() -> None:
    found = offers(sku("Standard_D2s_v5", zones=("1", "3")), zones=("3", "2", "1"))
    assert [offer.zone for offer in found] == ["3", "1"]


def test_what_this_subscription_may_not_have_is_not_offered() -> None:
    closed = {"type": "Zone", "restrictionInfo": {"zones": ["2"]}, "reasonCode": "NotAvailableForSubscription"}
    found = offers(sku("Standard_D2s_v5", restrictions=[closed]), zones=("1", "2"))
    assert [offer.zone for offer in found] == ["1"]
    everywhere = {"type": "Location", "restrictionInfo": {"locations": ["eastus"]}, "reasonCode": "QuotaId"}
    assert offers(sku("Standard_D2s_v5", restrictions=[everywhere])) == ()


def test_spot_is_offered_where_the_settings_and_the_size_have_it() -> None:
    both = (sku("Standard_D2s_v5"), sku("Standard_B2s", LowPriorityCapable="False"))
    assert {offer.purchase for offer in offers(*both)} == {Purchase.ON_DEMAND}
    spots = [offer.instance_type for offer in offers(*both, spot=True) if offer.purchase is Purchase.SPOT]
    assert spots == ["Standard_D2s_v5"]


def test_a_size_is_called_as_the_settings_call_it() -> None:
    found = offers(sku("Standard_D2s_v5"), instance_type="standard_d2s_V5")
    assert [offer.instance_type for offer in found] == ["standard_d2s_V5"]


def test_a_size_that_does_not_exist_is_named() -> None:
    with pytest.raises(InvalidSpec, match=r"Standard_D3s_v5 in eastus"):
        offers(sku("Standard_D2s_v5"), instance_types=("Standard_D3s_v5",))


@pytest.mark.parametrize(
    ("size", "counted", "vcpus", "whole", "model"),
    [
        ("Standard_NC4as_T4_v3", 1, 4, 1, "T4"),
        ("Standard_NCC40ads_H100_v5", 1, 40, 1, "H100"),
        ("Standard_ND96asr_v4", 8, 96, 8, "A100"),
        ("Standard_ND96amsr_A100_v4", 8, 96, 8, "A100"),
        ("Standard_NV6ads_A10_v5", 1, 6, 0, "A10"),  # a sixth of one
        ("Standard_NV72ads_A10_v5", 2, 72, 2, "A10"),
        ("Standard_NX1_v9", 4, 8, 4, ""),
    ],
)
def test_gpus_are_whole_ones_and_their_model_is_from_the_table(
    size: str, counted: int, vcpus: int, whole: int, model: str
) -> None:
    assert (gpus.whole(size, vcpus, counted), gpus.model(size)) == (whole, model)
    (offer,) = offers(sku(size, GPUs=str(counted), vCPUs=str(vcpus)))
    assert (offer.gpus, offer.gpu_model) == (whole, model)


def test_a_page_of_skus_is_read_without_what_nobody_asks_about() -> None:
    page = {"value": [sku("Standard_D2s_v5"), sku("Standard_E2s_v5"), {"resourceType": "disks", "name": "P10"}]}
    read = catalog.decode(json.dumps(page), ["standard_d2S_v5"])
    assert read["value"] == [sku("Standard_D2s_v5"), None, None]
    assert len(catalog.described(read["value"], CONFIG)) == 1


PLAIN = Offering("Standard_D2s_v5", 2, 8192)
SMALL = Offering("Standard_DC2as_v5", 2, 8192, tee=Tee.SNP)
LARGE = Offering("Standard_DC4as_v5", 4, 16384, tee=Tee.SNP)


def config(default: str, *others: str, **settings: Any) -> AzureConfig:
    return replace(CONFIG, instance_type=default, instance_types=others, **settings)


def test_the_default_comes_first_on_demand_and_in_the_preferred_zone() -> None:
    wanted = config(LARGE.instance_type, PLAIN.instance_type, zones=("2", "1"), spot=True)
    zoned = [replace(offer, zone=zone) for offer in (PLAIN, LARGE) for zone in ("1", "2")]
    spot = [replace(offer, purchase=Purchase.SPOT) for offer in zoned]
    assert catalog.allowed([*spot, *zoned], wanted) == (
        zoned[3], zoned[2], spot[3], spot[2], zoned[1], zoned[0], spot[1], spot[0],
    )  # fmt: skip


def test_where_a_tee_is_asked_for_nothing_is_offered_without_it() -> None:
    wanted = config(SMALL.instance_type, PLAIN.instance_type, LARGE.instance_type, confidential=True)
    assert catalog.allowed([PLAIN, LARGE, SMALL], wanted) == (SMALL, LARGE)


def test_a_default_that_cannot_be_confidential_is_told_with_the_remedy() -> None:
    with pytest.raises(InvalidSpec, match=r"Standard_D2s_v5 is no confidential VM.*azure\.confidential"):
        catalog.allowed([PLAIN, SMALL], config(PLAIN.instance_type, SMALL.instance_type, confidential=True))


def test_a_default_that_is_not_sold_here_is_told() -> None:
    with pytest.raises(InvalidSpec, match=r"Standard_DC2as_v5 is not sold to this subscription in zones 1 of eastus"):
        catalog.allowed([PLAIN], config(SMALL.instance_type, PLAIN.instance_type, zones=("1",)))


def test_a_price_is_the_sizes_and_the_purchases_and_may_be_unknown() -> None:
    spot = replace(PLAIN, purchase=Purchase.SPOT)
    found = catalog.priced([PLAIN, spot, SMALL], {(PLAIN.instance_type, Purchase.SPOT): 0.02})
    assert [offer.price for offer in found] == [None, 0.02, None]


def test_families_are_the_allowed_sizes_as_quotas_count_them() -> None:
    shapes = [sku("Standard_D2s_v5"), sku("Standard_D4s_v5"), None]
    wanted = config("Standard_D2s_v5", "Standard_D4s_v5")
    assert catalog.families(shapes, wanted) == {"standardDSv5Family": ("Standard_D2s_v5", "Standard_D4s_v5")}
