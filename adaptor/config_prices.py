"""The price file an admin may give: what an instance type costs, in USD per hour.

    [on-demand]
    "m6a.large" = 0.0864
    "c6a.*" = 0.20
    [on-demand.zones.us-east-1b]
    "m6a.large" = 0.09
    [spot]
    "m6a.large" = 0.035

The most particular entry counts: one of the zone before one of everywhere, then a whole name before wildcards, then the
pattern with more letters.
"""

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from providers.base import Purchase
from providers.settings import Fault, Faults

_ZONES: Final = "zones"
_FORM: Final = 'a TOML file with [on-demand] and [spot], in them "TYPE" = USD per hour and [on-demand.zones.ZONE]'


@dataclass(frozen=True, slots=True)
class Price:
    """One entry."""

    pattern: str
    purchase: Purchase
    zone: str  # empty = everywhere
    usd: float  # per hour


@dataclass(frozen=True, slots=True)
class Prices:
    """A whole price file."""

    entries: tuple[Price, ...] = ()


def read(path: str, key: str, faults: Faults) -> Prices:
    """The file at `path`; everything that is wrong with it goes to `faults`, under `key` and its own keys."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        faults.append(Fault(key, f"{path} cannot be read: {error.strerror}", _FORM))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        faults.append(Fault(key, f"{path} is not TOML: {error}", _FORM))
    else:
        return Prices(tuple(_entries(table, f"{key} ({path})", faults)))
    return Prices()


def _entries(table: Mapping[str, Any], where: str, faults: Faults) -> Iterator[Price]:
    known = {purchase.value for purchase in Purchase}
    for name, part in table.items():
        if name not in known or not isinstance(part, dict):
            faults.append(
                Fault(f"{where}: {name}", "is no table known here", " and ".join(f"[{each}]" for each in known))
            )
            continue
        zones = part.get(_ZONES, {})
        if not isinstance(zones, dict) or not all(isinstance(each, dict) for each in zones.values()):
            faults.append(Fault(f"{where}: {name}.{_ZONES}", "is not a table of zones", f"[{name}.{_ZONES}.ZONE]"))
            zones = {}
        everywhere = {key: value for key, value in part.items() if key != _ZONES}
        for zone, prices in {"": everywhere, **zones}.items():
            inside = f"{where}: {name}.{_ZONES}.{zone}" if zone else f"{where}: {name}"
            yield from _prices(prices, Purchase(name), zone, inside, faults)


def _prices(table: Mapping[str, Any], purchase: Purchase, zone: str, where: str, faults: Faults) -> Iterator[Price]:
    for pattern, value in table.items():
        key = f'{where}."{pattern}"'
        if isinstance(value, dict):  # m6a.large without quotes is a table in TOML
            faults.append(
                Fault(key, "is a table; a type's name with a dot needs quotes", f'"{pattern}.large" = 0.0864')
            )
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            faults.append(Fault(key, f"{value!r} is not a number", "USD per hour"))
        elif not (math.isfinite(value) and value >= 0):
            faults.append(Fault(key, f"{value!r} is no price", "USD per hour, 0 or more"))
        else:
            yield Price(pattern, purchase, zone, float(value))
