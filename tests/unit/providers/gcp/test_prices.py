"""Prices out of Cloud Billing's catalogue: the right parts, added up, or unknown."""

from dataclasses import replace
from typing import Any

import pytest

from providers.base import Offering, Purchase, Tee
from providers.gcp import prices
from tests.contract.gcp_world import GcpWorld


def sku(words: str, price: float, *, usage: str = "OnDemand", region: str = "us-central1") -> dict[str, Any]:
    money = {"currencyCode": "USD", "units": str(int(price)), "nanos": round((price % 1) * 1e9)}
    return {
        "description": f"{words} running in Iowa",
        "category": {"usageType": usage},
        "serviceRegions": [region],
        "pricingInfo": [{"pricingExpression": {"tieredRates": [{"unitPrice": {}}, {"unitPrice": money}]}}],
    }


CATALOGUE = {
    "skus": [
        sku("N2D AMD Instance Core", 0.03),
        sku("N2D AMD Instance Ram", 0.004),
        sku("Spot Preemptible N2D AMD Instance Core", 0.01, usage="Preemptible"),
        sku("Spot Preemptible N2D AMD Instance Ram", 0.001, usage="Preemptible"),
        sku("N2D AMD Custom Instance Core", 9.0),
        sku("N2D AMD Sole Tenancy Instance Core", 9.0),
        sku("Commitment v1: N2D AMD Cpu", 9.0, usage="Commit1Yr"),
        sku("N2D AMD Instance Core", 9.0, region="europe-west4"),
        sku("N1 Predefined Instance Core", 0.03),
        sku("N1 Predefined Instance Ram", 0.004),
        sku("E2 Instance Core", 0.02),
        sku("E2 Instance Ram", 0.003),
        sku("Nvidia Tesla T4 GPU", 0.35),
        sku("Nvidia Tesla A100 80GB GPU", 3.9),
    ]
}
N2D = Offering("n2d-standard-2", 2, 8192)


@pytest.mark.parametrize(
    ("offer", "price"),
    [
        (N2D, 2 * 0.03 + 8 * 0.004),
        (replace(N2D, tee=Tee.SNP), 2 * 0.03 + 8 * 0.004),
        (replace(N2D, purchase=Purchase.SPOT), 2 * 0.01 + 8 * 0.001),
        (Offering("e2-medium", 2, 4096), 1 * 0.02 + 4 * 0.003),
        (Offering("n1-standard-4", 4, 15360, gpus=2, gpu_model="nvidia-tesla-t4"), 4 * 0.03 + 15 * 0.004 + 0.7),
        (Offering("c3-standard-4", 4, 16384), None),
        (Offering("n1-standard-4", 4, 15360, gpus=1, gpu_model="nvidia-l4"), None),
        (Offering("e2-medium", 2, 4096, purchase=Purchase.SPOT), None),
        (Offering("f1-micro", 1, 614), None),
    ],
)
def test_a_price_is_the_sum_of_its_parts_or_unknown(offer: Offering, price: float | None) -> None:
    (found,) = prices.priced([offer], prices.page(CATALOGUE, "us-central1").prices)
    assert found.price == (pytest.approx(price) if price is not None else None)


def test_a_large_gpu_goes_by_the_name_that_compute_engine_gives_it() -> None:
    assert ("nvidia-a100-80gb", Purchase.ON_DEMAND) in prices.page(CATALOGUE, "us-central1").prices


async def test_offerings_have_prices_where_they_are_asked_for(world: GcpWorld) -> None:
    provider = world.opened(replace(world.config, prices=True, spot=True), world.owner)
    found = {(o.instance_type, o.purchase): o.price for o in await provider.offerings()}
    usual, spot = found["n2d-standard-2", Purchase.ON_DEMAND], found["n2d-standard-2", Purchase.SPOT]
    assert usual
    assert spot
    assert 0 < spot < usual < 1


async def test_without_the_catalogue_prices_are_unknown_and_types_are_offered(world: GcpWorld) -> None:
    world.cloud.faults.next(action="cloudbilling.services.skus.list", error="forbidden")
    provider = world.opened(replace(world.config, prices=True), world.owner)
    assert {offer.price for offer in await provider.offerings()} == {None}
