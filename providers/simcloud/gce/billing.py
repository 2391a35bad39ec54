"""Cloud Billing's catalogue: list prices of what the machine types here are made of, in us-central1.

Google sells vCPUs and memory of a family apart. The figures are near to list prices, from memory: for programs to
calculate with, not for people to budget with.
"""

from collections.abc import Mapping
from typing import Final

from providers.simcloud.gce.asked import Asked, Verb
from providers.simcloud.gce.errors import Refused
from providers.simcloud.gce.project import Json

SERVICE: Final = "6F81-5844-456A"  # Compute Engine's id in the catalogue
# family -> USD per vCPU-hour and GiB-hour, on demand; spot costs some part of it.
_PRICES: Final[Mapping[str, tuple[float, float]]] = {
    "E2": (0.021811, 0.002923),
    "N1 Predefined": (0.031611, 0.004237),
    "N2": (0.031611, 0.004237),
    "N2D AMD": (0.027502, 0.003686),
    "C2D AMD": (0.029563, 0.003959),
    "C3": (0.033982, 0.004555),
    "C3D": (0.029563, 0.003959),
    "T2D AMD": (0.027502, 0.003686),
    "T2A Arm": (0.02464, 0.003307),
    "G2": (0.024988, 0.002927),
}
_GPUS: Final[Mapping[str, float]] = {"Nvidia Tesla T4": 0.35, "Nvidia L4": 0.560040, "Nvidia Tesla A100": 2.933908}
_SPOT: Final = 0.4
_MOST: Final = 5000


class Billing:
    """Actions on the catalogue."""

    def __init__(self, region: str) -> None:
        self._region = region

    def actions(self) -> Mapping[str, Verb]:
        return {"cloudbilling.services.skus.list": self.skus}

    def skus(self, asked: Asked) -> Json:
        if asked.names["service"] != SERVICE:
            raise Refused("notFound", f"Service services/{asked.names['service']} not found.")
        size = asked.query.get("pageSize", str(_MOST))
        if not size.isdecimal() or int(size) > _MOST:
            raise Refused("badRequest", f"Page size {size} is not between 1 and {_MOST}.")
        items = self._all()
        start = int(asked.query.get("pageToken") or 0)
        end = start + (int(size) or _MOST)
        return {"skus": items[start:end], "nextPageToken": str(end) if end < len(items) else ""}

    def _all(self) -> list[Json]:
        made: list[Json] = []
        for spot, usage in ((False, "OnDemand"), (True, "Preemptible")):
            word = "Spot Preemptible " if spot else ""
            factor = _SPOT if spot else 1.0
            for family, (core, ram) in _PRICES.items():
                made.append(self._sku(f"{word}{family} Instance Core", "CPU", usage, "h", core * factor, len(made)))
                made.append(self._sku(f"{word}{family} Instance Ram", "RAM", usage, "GiBy.h", ram * factor, len(made)))
            for gpu, price in _GPUS.items():
                made.append(self._sku(f"{gpu} GPU {word}".strip(), "GPU", usage, "h", price * factor, len(made)))
        return made

    def _sku(self, words: str, group: str, usage: str, unit: str, price: float, number: int) -> Json:
        id = f"{number:04X}-51C1-0AD0"
        return {
            "name": f"services/{SERVICE}/skus/{id}",
            "skuId": id,
            "description": f"{words} running in Iowa"
            if self._region == "us-central1"
            else f"{words} running elsewhere",
            "category": {
                "serviceDisplayName": "Compute Engine",
                "resourceFamily": "Compute",
                "resourceGroup": group,
                "usageType": usage,
            },
            "serviceRegions": [self._region],
            "pricingInfo": [
                {
                    "summary": "",
                    "pricingExpression": {
                        "usageUnit": unit,
                        "displayQuantity": 1,
                        "tieredRates": [{"startUsageAmount": 0, "unitPrice": _money(price)}],
                    },
                    "currencyConversionRate": 1,
                    "effectiveTime": "2026-11-21T00:00:00Z",
                }
            ],
            "serviceProviderName": "Google",
            "geoTaxonomy": {"type": "REGIONAL", "regions": [self._region]},
        }


def _money(price: float) -> Json:
    return {"currencyCode": "USD", "units": str(int(price)), "nanos": round((price - int(price)) * 1e9)}
