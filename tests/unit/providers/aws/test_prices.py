"""Prices: read where that is permitted, unknown where not, and never in the way of a launch."""

import asyncio
import json
import logging
from typing import Any

import pytest

from providers.aws import knowledge, prices
from providers.aws.config import AwsConfig
from providers.base import Purchase, Tee
from tests.contract.aws_world import AwsWorld
from tests.unit.providers.aws.conftest import Opened

# The shape of one product as the price list has it: terms and dimensions under opaque keys.
PRODUCT = {
    "product": {"attributes": {"instanceType": "m6a.large"}},
    "terms": {
        "OnDemand": {"X.Y": {"priceDimensions": {"X.Y.Z": {"unit": "Hrs", "pricePerUnit": {"USD": "0.0864000000"}}}}},
        "Reserved": {"X.R": {"priceDimensions": {"X.R.Z": {"unit": "Hrs", "pricePerUnit": {"USD": "0.0500000000"}}}}},
    },
}


def products(**price: Any) -> dict[str, Any]:
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": "0.0864"}, **price}
    product = {**PRODUCT, "terms": {"OnDemand": {"X.Y": {"priceDimensions": {"X.Y.Z": dimension}}}}}
    return {"PriceList": [json.dumps(product)]}


def test_a_product_is_its_hourly_price_on_demand() -> None:
    assert list(prices.listed({"PriceList": [json.dumps(PRODUCT)]})) == [("m6a.large", 0.0864)]


@pytest.mark.parametrize(
    "price",
    [
        {"unit": "Quantity"},
        {"pricePerUnit": {"CNY": "0.6"}},
        {"pricePerUnit": {"USD": "0.0000000000"}},
        {"pricePerUnit": {"USD": "soon"}},
        {"pricePerUnit": {}},
    ],
)
def test_what_is_no_price_in_dollars_per_hour_is_unknown(price: dict[str, Any]) -> None:
    assert list(prices.listed(products(**price))) == []


@pytest.mark.parametrize(
    ("region", "served"),
    [
        ("us-east-2", "us-east-1"),
        ("sa-east-1", "us-east-1"),
        ("eu-west-1", "eu-central-1"),
        ("ap-southeast-5", "ap-south-1"),
        ("cn-north-1", "cn-northwest-1"),
        ("us-gov-west-1", ""),
    ],
)
def test_the_price_list_is_asked_for_where_it_is_served(region: str, served: str) -> None:
    assert prices.endpoint_region(region) == served


async def test_types_that_a_call_for_several_tells_nothing_of_are_asked_for_one_by_one() -> None:
    asked: list[str] = []

    async def ask(doing: str, method: str, request: Any, read: Any, /, *, service: str = "ec2") -> Any:
        kind, name = next((f["Type"], f["Value"]) for f in request["Filters"] if f["Field"] == "instanceType")
        asked.append(name)
        return [(name, 0.1)] if kind == "TERM_MATCH" else []

    config = AwsConfig(image="ami-0123456789abcdef0", prices=True)
    table = await prices.read(ask, config, "us-east-2", ["m6a.large", "c6a.large"], ["us-east-2a"], set())
    assert table.on_demand == {"m6a.large": 0.1, "c6a.large": 0.1}
    assert asked == ["m6a.large,c6a.large", "m6a.large", "c6a.large"]


async def test_every_offering_has_the_price_of_its_type_zone_and_way_to_pay(world: AwsWorld, opened: Opened) -> None:
    offers = await opened(prices=True, spot=True).offerings()
    assert all(each.price for each in offers)
    on_demand = {each.price for each in offers if each.instance_type == "m6a.large" and _is(each, Purchase.ON_DEMAND)}
    assert on_demand == {0.0866}
    spot = {each.zone: each.price for each in offers if each.instance_type == "m6a.large" and _is(each, Purchase.SPOT)}
    assert len(set(spot.values())) == 2  # one for each zone
    assert max(price for price in spot.values() if price) < 0.0866
    snp = {each.price for each in offers if each.tee is Tee.SNP and each.purchase is Purchase.ON_DEMAND}
    assert snp == {round(0.0866 * 1.1, 6)}


def _is(offer: Any, purchase: Purchase) -> bool:
    return offer.purchase is purchase and offer.tee is Tee.NONE


async def test_a_whole_family_is_priced_with_few_calls(world: AwsWorld, opened: Opened) -> None:
    offers = await opened(prices=True, instance_types=("m6a.*", "c6a.*", "r6a.*")).offerings()
    assert all(each.price for each in offers)
    assert list(world.cloud.calls).count("GetProducts") <= 2


async def test_nothing_is_asked_unless_the_settings_want_prices(world: AwsWorld, opened: Opened) -> None:
    offers = await opened(spot=True).offerings()
    assert {each.price for each in offers} == {None}
    assert not {"GetProducts", "DescribeSpotPriceHistory"} & set(world.cloud.calls)


async def test_prices_that_may_not_be_read_are_unknown_and_said_once(
    world: AwsWorld, opened: Opened, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prices, "RETRY", 0.0)
    world.cloud.faults.next(action="GetProducts", error="AccessDeniedException", times=3)
    provider = opened(prices=True, spot=True)
    with caplog.at_level(logging.WARNING, "providers.aws"):
        for _ in range(3):
            offers = await provider.offerings()
            await asyncio.sleep(0.05)
    (said,) = [each.getMessage() for each in caplog.records if each.name == "providers.aws"]
    assert "pricing:GetProducts" in said
    assert {each.price for each in offers if each.purchase is Purchase.ON_DEMAND} == {None}
    assert all(each.price for each in offers if each.purchase is Purchase.SPOT and each.tee is Tee.NONE)
    assert (await provider.create(world.spec(), "token-1")).id


async def test_a_price_list_that_hangs_holds_nobody_up_for_long(
    world: AwsWorld, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knowledge, "PRICES_WITHIN", 0.05)
    world.cloud.faults.next(action="GetProducts", delay=0.6)
    provider = opened(prices=True)
    assert {each.price for each in await provider.offerings()} == {None}
    for _ in range(200):
        await asyncio.sleep(0.02)
        if all(each.price for each in await provider.offerings()):
            break
    assert all(each.price for each in await provider.offerings())
    assert list(world.cloud.calls).count("GetProducts") == 1


async def test_prices_are_read_again_after_an_hour_while_the_old_ones_are_used(
    world: AwsWorld, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = opened(prices=True)
    before = await provider.offerings()
    monkeypatch.setattr(prices, "LIFE", 0.0)
    world.cloud.faults.next(action="GetProducts", delay=0.3)
    assert await provider.offerings() == before
    for _ in range(100):
        if list(world.cloud.calls).count("GetProducts") > 1:
            break
        await asyncio.sleep(0.02)
    assert list(world.cloud.calls).count("GetProducts") > 1
