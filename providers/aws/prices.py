"""What instance types cost, from Amazon's price list and the history of spot prices. Never fails a launch: what
cannot be read is unknown, and said once.
"""

import json
import logging
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from providers.aws.asking import Ask
from providers.aws.config import AwsConfig
from providers.errors import ProviderError

LOG: Final = logging.getLogger("providers.aws")

# Seconds. On-demand prices change a few times a year; spot prices "gradually", and an hour old one is still an order.
LIFE: Final = 3600.0
# Seconds after which a price list that could not be read is asked for again.
RETRY: Final = 300.0

# The price list is served in three places, and holds every region of its partition. GovCloud has none of its own.
_ENDPOINTS: Final = {"cn-": "cn-northwest-1", "us-gov-": "", "eu-": "eu-central-1", "ap-": "ap-south-1"}
_ANYWHERE: Final = "us-east-1"
# A plain Linux machine on shared hardware, as launched here; without `Used` a product is listed for every
# kind of reservation too.
_PRODUCT: Final = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "licenseModel": "No License required",
}
_LINUX: Final = ("Linux/UNIX", "Linux/UNIX (Amazon VPC)")
_ONE_BY_ONE: Final = 20  # types, at most, that a call for several has told nothing of
_TYPES_PER_CALL: Final = 50  # a filter's value is a text of limited length


@dataclass(frozen=True, slots=True)
class Table:
    """USD per hour."""

    on_demand: Mapping[str, float] = field(default_factory=dict)  # by instance type
    spot: Mapping[tuple[str, str], float] = field(default_factory=dict)  # by instance type and zone


def endpoint_region(region: str) -> str:
    """Where this region's price list is served; empty: nowhere."""
    return next((served for prefix, served in _ENDPOINTS.items() if region.startswith(prefix)), _ANYWHERE)


def products(region: str, types: Sequence[str]) -> dict[str, Any]:
    """GetProducts for these types in `region`."""
    filters = [("TERM_MATCH", "regionCode", region), *(("TERM_MATCH", name, _PRODUCT[name]) for name in _PRODUCT)]
    filters.append(
        ("ANY_OF", "instanceType", ",".join(types)) if len(types) > 1 else ("TERM_MATCH", "instanceType", types[0])
    )
    return {
        "ServiceCode": "AmazonEC2",
        "FormatVersion": "aws_v1",
        "Filters": [{"Type": kind, "Field": name, "Value": value} for kind, name, value in filters],
    }


def listed(answer: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The types of a GetProducts page, each with its price. A product is a JSON text with terms by opaque keys."""
    for text in answer["PriceList"]:
        product = json.loads(text)
        for term in product.get("terms", {}).get("OnDemand", {}).values():
            for dimension in term.get("priceDimensions", {}).values():
                price = dimension.get("pricePerUnit", {}).get("USD", "")
                if dimension.get("unit") == "Hrs" and re.fullmatch(r"\d+(\.\d+)?", price) and float(price) > 0:
                    yield product["product"]["attributes"]["instanceType"], float(price)


def history(types: Sequence[str], zones: Sequence[str], now: datetime) -> dict[str, Any]:
    """DescribeSpotPriceHistory for the prices in force `now`."""
    return {
        "InstanceTypes": list(types),
        "ProductDescriptions": list(_LINUX),
        "Filters": [{"Name": "availability-zone", "Values": list(zones)}],
        "StartTime": now,
    }


def latest(answer: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], datetime, float]]:
    """Type, zone, since when and price of a DescribeSpotPriceHistory page."""
    for each in answer["SpotPriceHistory"]:
        yield (each["InstanceType"], each["AvailabilityZone"]), each["Timestamp"], float(each["SpotPrice"])


async def read(
    ask: Ask, config: AwsConfig, region: str, types: Sequence[str], zones: Sequence[str], said: set[str]
) -> Table:
    """Everything that can be read now; what cannot is told to the log, once by `said`. Raises nothing of
    providers.errors."""

    async def on_demand() -> dict[str, float]:
        found: dict[str, float] = {}
        doing = "cannot read the price list"
        for start in range(0, len(types), _TYPES_PER_CALL) if endpoint_region(region) else ():
            request = products(region, types[start : start + _TYPES_PER_CALL])
            found |= dict(await ask(doing, "get_products", request, listed, service="pricing"))
        # How a list of values is to be written is not in Amazon's reference: where it found nothing, one by one.
        for name in [each for each in types if each not in found][:_ONE_BY_ONE] if endpoint_region(region) else ():
            found |= dict(await ask(doing, "get_products", products(region, [name]), listed, service="pricing"))
        return found

    async def spot() -> dict[tuple[str, str], float]:
        if not config.spot:
            return {}
        request = history(types, zones, datetime.now(UTC))
        found = await ask("cannot read spot prices", "describe_spot_price_history", request, latest)
        return {key: price for key, _, price in sorted(found, key=lambda each: each[1])}

    return Table(await _or_unknown(on_demand, said), await _or_unknown(spot, said))


async def _or_unknown(asked: Callable[[], Coroutine[Any, Any, dict[Any, float]]], said: set[str]) -> dict[Any, float]:
    try:
        return await asked()
    except ProviderError as error:
        doing = error.message.partition(":")[0]
        if doing not in said:  # what went wrong in detail may differ each time
            said.add(doing)
            LOG.warning("%s: offerings are without these prices until they can be read", error)
        return {}
