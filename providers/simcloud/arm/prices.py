"""The retail price list, as `prices.azure.com/api/retail/prices` answers: open to all, filtered, in pages."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.skus import SIZES, Size

PAGE: Final = 20  # the real one gives 1000; small enough that whoever forgets NextPageLink is noticed
SPOT_SHARE: Final = 0.2  # of the price on demand; the real one changes by the hour
_WINDOWS_SHARE: Final = 1.6
_CLAUSE: Final = re.compile(r"\s*(?P<field>\w+)\s+eq\s+'(?P<value>[^']*)'\s*")
_FIELDS: Final = (
    "armRegionName",
    "serviceName",
    "armSkuName",
    "priceType",
    "type",
    "skuName",
    "productName",
    "meterName",
)
_EFFECTIVE: Final = "2026-01-01T00:00:00Z"


def answer(region: str, query: Mapping[str, str], base: str, path: str) -> dict[str, Any]:
    """One page. Raises Refused for a filter that it cannot read."""
    wanted = _clauses(query.get("$filter", ""))
    found = [item for size in SIZES.values() for item in _items(size, region)]
    found = [item for item in found if all(_equal(item, field, value) for field, value in wanted)]
    skip = query.get("$skip", "0")
    if not skip.isdecimal():
        raise Refused("BadRequest", f"Invalid OData parameters supplied: $skip={skip}")
    start = int(skip)
    link = None
    if start + PAGE < len(found):
        kept = {key: value for key, value in query.items() if key != "$skip"} | {"$skip": str(start + PAGE)}
        link = f"{base}{path}?" + "&".join(f"{key}={quote(value)}" for key, value in kept.items())
    items = found[start : start + PAGE]
    return {
        "BillingCurrency": "USD",
        "CustomerEntityId": "Default",
        "CustomerEntityType": "Retail",
        "Items": items,
        "NextPageLink": link,
        "Count": len(items),
    }


def _clauses(text: str) -> list[tuple[str, str]]:
    made = []
    for part in re.split(r"\s+and\s+", text) if text.strip() else []:
        clause = _CLAUSE.fullmatch(part)
        if clause is None or clause["field"] not in _FIELDS:
            raise Refused("BadRequest", f"Invalid OData parameters supplied: {text}")
        made.append((clause["field"], clause["value"]))
    return made


def _equal(item: Mapping[str, Any], field: str, value: str) -> bool:
    return bool(item["type" if field == "priceType" else field] == value)  # values mind case there


def _items(size: Size, region: str) -> list[dict[str, Any]]:
    """On demand and spot, Linux and Windows, and a reservation: a caller must choose the right one."""
    made = [_item(size, region, ""), _item(size, region, "", windows=True), _reservation(size, region)]
    if size.spot:
        made += [_item(size, region, " Spot"), _item(size, region, " Low Priority")]
    return made


def _item(size: Size, region: str, kind: str, *, windows: bool = False) -> dict[str, Any]:
    price = size.price * (SPOT_SHARE if kind else 1.0) * (_WINDOWS_SHARE if windows else 1.0)
    short = size.name.removeprefix("Standard_").replace("_", " ")
    series = re.sub(r"\d+", "", size.name.removeprefix("Standard_").partition("_")[0])
    return {
        "currencyCode": "USD",
        "tierMinimumUnits": 0.0,
        "retailPrice": round(price, 6),
        "unitPrice": round(price, 6),
        "armRegionName": region,
        "location": region,
        "effectiveStartDate": _EFFECTIVE,
        "meterId": f"{size.name}{kind}{windows}",
        "meterName": short + kind,
        "productId": "DZH318Z0000",
        "skuId": f"DZH318Z0000/{size.name}{kind}",
        "productName": f"Virtual Machines {series} Series{' Windows' if windows else ''}",
        "skuName": short + kind,
        "serviceName": "Virtual Machines",
        "serviceId": "DZH313Z7MMC8",
        "serviceFamily": "Compute",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "isPrimaryMeterRegion": True,
        "armSkuName": size.name,
    }


def _reservation(size: Size, region: str) -> dict[str, Any]:
    item = _item(size, region, "")
    price = round(size.price * 8760 * 0.6, 2)
    return {**item, "type": "Reservation", "reservationTerm": "1 Year", "retailPrice": price, "unitPrice": price}
