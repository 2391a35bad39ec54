"""Cloud Billing's catalogue as prices per hour (pure). Google prices vCPUs, memory and GPUs of a family apart.

List prices: without the account's discounts, disks, addresses, and what a confidential VM costs more.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlencode

from providers.base import Offering, Purchase
from providers.gcp.requests import family

HOST: Final = "https://cloudbilling.googleapis.com"
SERVICE: Final = "6F81-5844-456A"  # Compute Engine's id in the catalogue
PAGE: Final = 5000  # the largest page Google gives; there are some ten

_PART: Final = re.compile(
    r"(?:spot preemptible )?([a-z0-9]+)(?: (?:amd|arm|intel|predefined))* instance (core|ram) running in"
)
_GPU: Final = re.compile(r"(nvidia [a-z0-9 ]+?) gpu\b")
_PURCHASES: Final = {"OnDemand": Purchase.ON_DEMAND, "Preemptible": Purchase.SPOT}
# Types that share cores are billed for a part of those that they show.
_BILLED_CPUS: Final = {"e2-micro": 0.25, "e2-small": 0.5, "e2-medium": 1.0}
_UNPRICED: Final = ("f1-micro", "g1-small")  # sold whole, under names of their own

# (what, purchase): USD per hour; what is "n2d core", "n2d ram" (a GiB) or a GPU's model
Prices = dict[tuple[str, Purchase], float]


@dataclass(frozen=True, slots=True)
class Page:
    """What of a page of the catalogue matters."""

    prices: Prices
    next: str  # the next page's token; empty after the last


def url(host: str, token: str = "") -> str:
    """Of a page."""
    query = {"pageSize": PAGE, "currencyCode": "USD", **({"pageToken": token} if token else {})}
    return f"{host.rstrip('/')}/v1/services/{SERVICE}/skus?{urlencode(query)}"


def page(answer: Mapping[str, Any], region: str) -> Page:
    """The region's prices of one page."""
    found: Prices = {}
    for sku in answer.get("skus", []):
        purchase = _PURCHASES.get(sku.get("category", {}).get("usageType", ""))
        what = _what(sku.get("description", "").lower())
        price = _price(sku.get("pricingInfo", []))
        if purchase and what and price is not None and region in sku.get("serviceRegions", []):
            found[what, purchase] = price
    return Page(found, answer.get("nextPageToken", ""))


def priced(offers: Iterable[Offering], prices: Prices) -> tuple[Offering, ...]:
    """The offerings with their prices, as far as they are known."""
    return tuple(replace(offer, price=_of(offer, prices)) for offer in offers)


def _of(offer: Offering, prices: Prices) -> float | None:
    if offer.instance_type in _UNPRICED:
        return None
    kind = family(offer.instance_type)
    parts = [
        (f"{kind} core", _BILLED_CPUS.get(offer.instance_type, float(offer.vcpus))),
        (f"{kind} ram", offer.memory_mib / 1024),
    ]
    if offer.gpus:
        parts.append((offer.gpu_model, float(offer.gpus)))
    known = [prices.get((what, offer.purchase)) for what, _ in parts]
    costs = [price * count for price, (_, count) in zip(known, parts, strict=True) if price is not None]
    return round(sum(costs), 6) if len(costs) == len(parts) else None


def _what(description: str) -> str:
    if part := _PART.match(description):
        return f"{part[1]} {part[2]}"
    if gpu := _GPU.match(description):
        model = gpu[1].replace(" ", "-")
        return model.replace("tesla-", "") if model.endswith("80gb") else model
    return ""


def _price(infos: list[Mapping[str, Any]]) -> float | None:
    """Of the last tier, the one that counts beyond any free part."""
    rates = infos[-1].get("pricingExpression", {}).get("tieredRates", []) if infos else []
    if not rates:
        return None
    money = rates[-1].get("unitPrice", {})
    if money.get("currencyCode", "USD") != "USD":
        return None
    return int(money.get("units") or 0) + int(money.get("nanos") or 0) / 1e9
