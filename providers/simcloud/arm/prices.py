"""The retail price list, as `prices.azure.com/api/retail/prices` answers: open to all, filtered, in pages."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.skus import SIZES, Size

PATH: Final = "/api/retail/prices"
PAGE: Final = 20  # the real one gives 1000; small enough that whoever forgets NextPageLink is noticed
SPOT_SHARE: Final = 0.2  # of the price on demand; the real one changes by the hour
_WINDOWS_SHARE: Final = 1.6
_WORD: Final = re.compile(r"\s*(?:(?P<mark>[()])|(?P<word>[A-Za-z]\w*)|'(?P<text>[^']*)')")
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
Test = Callable[[Mapping[str, Any]], bool]
_EFFECTIVE: Final = "2026-01-01T00:00:00Z"


def answer(region: str, query: Mapping[str, str], base: str, path: str) -> dict[str, Any]:
    """One page. Raises Refused for a filter that it cannot read."""
    fits = _Filter(query.get("$filter", "")).fits
    found = [item for size in SIZES.values() for item in _items(size, region) if fits(item)]
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


class _Filter:
    """`field eq 'text'`, with `and`, `or` and parentheses; `and` binds closer."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._words: list[str] = []
        at = 0
        while at < len(text.rstrip()):
            found = _WORD.match(text, at)
            if found is None:
                raise self._unreadable()
            self._words.append(found[0].strip())
            at = found.end()
        self.fits = self._either() if self._words else lambda item: True
        if self._words:
            raise self._unreadable()

    def _either(self) -> Test:
        tests = [self._both()]
        while self._next("or"):
            tests.append(self._both())
        return lambda item: any(test(item) for test in tests)

    def _both(self) -> Test:
        tests = [self._one()]
        while self._next("and"):
            tests.append(self._one())
        return lambda item: all(test(item) for test in tests)

    def _one(self) -> Test:
        if self._next("("):
            inner = self._either()
            if not self._next(")"):
                raise self._unreadable()
            return inner
        field = self._words.pop(0) if self._words else ""
        if field not in _FIELDS or not self._next("eq") or not self._words or self._words[0][0] != "'":
            raise self._unreadable()
        value = self._words.pop(0)[1:-1]
        return lambda item: item["type" if field == "priceType" else field] == value  # values mind case there

    def _next(self, word: str) -> bool:
        if self._words[:1] != [word]:
            return False
        self._words.pop(0)
        return True

    def _unreadable(self) -> Refused:
        return Refused("BadRequest", f"Invalid OData parameters supplied: {self._text}")


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
