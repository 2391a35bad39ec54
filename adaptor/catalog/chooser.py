"""One adaptor's choice of machines: what its admin allows, the prices they gave, what was refused a short while ago."""

import dataclasses
from collections.abc import Sequence
from typing import Final

from adaptor.catalog.patterns import is_wild, matches
from adaptor.catalog.select import Catalog, Choice, Constraints, Requirements, Spot, select
from adaptor.catalog.unavailable import Mark, Unavailable
from adaptor.config import Selection
from adaptor.config_prices import Price, Prices
from providers.base import Offering, Tee
from providers.errors import ProviderError

_NO_CONSTRAINTS: Final = Constraints()
_NO_PRICES: Final = Prices()


class Chooser:
    """`select` with this node's constraints, prices and memory. `now` is monotonic, in seconds."""

    def __init__(self, constraints: Constraints = _NO_CONSTRAINTS, prices: Prices = _NO_PRICES) -> None:
        self.constraints = constraints
        self._prices = prices
        self._unavailable = Unavailable()
        self._offered: tuple[Offering, ...] = ()
        self._catalog = Catalog(())

    def catalog(self, offerings: Sequence[Offering]) -> Catalog:
        """These with the admin's prices. Kept for as long as the cloud offers the same."""
        offered = tuple(offerings)
        if offered != self._offered:  # the same objects as last time, as a rule: compared in microseconds
            self._offered, self._catalog = offered, Catalog(priced(offered, self._prices))
        return self._catalog

    def choose(self, offerings: Sequence[Offering], wanted: Requirements, now: float) -> Choice:
        """What to try for this pod, best first."""
        return select(self.catalog(offerings), wanted, self.constraints, self._unavailable, now)

    def mark(self, offering: Offering, error: ProviderError, now: float) -> Mark:
        """The cloud refused it: Capacity, Quota or Unsupported."""
        return self._unavailable.mark(offering, error, now)

    def marked(self, offering: Offering, now: float) -> Mark | None:
        """Why it is not worth asking for now."""
        return self._unavailable.of(offering, now)


def constraints(settings: Selection) -> Constraints:
    """The `[selection]` table as `select` wants it."""
    return Constraints(
        allow=settings.allow,
        deny=settings.deny,
        families=settings.families,
        zones=settings.zones,
        tees=tuple(Tee(each) for each in settings.tee),
        gpu_models=settings.gpu_models,
        max_price=settings.max_price,
        spot=Spot(settings.spot),
    )


def priced(offerings: Sequence[Offering], prices: Prices) -> tuple[Offering, ...]:
    """`offerings`, the admin's prices in place of the cloud's where there are any."""
    if not prices.entries:
        return tuple(offerings)
    entries = sorted(prices.entries, key=_particular)
    found = (
        (offering, next((each.usd for each in entries if _is_for(each, offering)), None)) for offering in offerings
    )
    return tuple(
        offering if usd is None or usd == offering.price else dataclasses.replace(offering, price=usd)
        for offering, usd in found
    )


def _particular(entry: Price) -> tuple[bool, bool, int, str]:
    """The most particular entry first."""
    letters = len(entry.pattern) - entry.pattern.count("*") - entry.pattern.count("?")
    return not entry.zone, is_wild(entry.pattern), -letters, entry.pattern


def _is_for(entry: Price, offering: Offering) -> bool:
    return (
        entry.purchase is offering.purchase
        and entry.zone in ("", offering.zone)
        and matches((entry.pattern,), offering.instance_type)
    )
