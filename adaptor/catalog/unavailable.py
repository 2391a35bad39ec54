"""What the cloud had none of a short while ago, so that the next pod does not ask for it again. Pure: `now` comes in.

    error         what it marks                          for
    Capacity      type, zone, purchase                   minutes: other customers come and go
    Quota         type, purchase, in every zone          a minute or two: an own machine that ends makes room
    Unsupported   type, zone, purchase, TEE              hours: a cloud opens a zone now and then

One memory per adaptor. It is lost with the process, which costs one refused call per offering.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from providers.base import Offering
from providers.errors import Capacity, ProviderError, Quota, Unsupported

# Seconds. Long enough that a herd of pods does not ask one after the other, short enough that room which comes back
# is used: clouds' own advice is to try again after some minutes.
CAPACITY_TTL: Final = 180.0
# Seconds. Quota comes back when a pod of this account ends, which nobody tells us; a refusal costs one quick call.
QUOTA_TTL: Final = 90.0
# Seconds. What is not sold changes by the month; a day would outlive the fix of a wrong setting elsewhere.
UNSUPPORTED_TTL: Final = 6 * 3600.0

TTL: Final[Mapping[type[ProviderError], float]] = MappingProxyType(
    {Capacity: CAPACITY_TTL, Quota: QUOTA_TTL, Unsupported: UNSUPPORTED_TTL}
)
SAID: Final[Mapping[str, str]] = MappingProxyType(
    {"Capacity": "no room", "Quota": "over quota", "Unsupported": "not sold so"}
)

_Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """An offering is not worth asking for until then, and why."""

    kind: str  # the error's class: Capacity, Quota, Unsupported
    said: str  # the cloud's words
    until: float  # on the clock that `now` comes from

    def reason(self, now: float) -> str:
        """For people: what, for how long, and the cloud's words."""
        return f"{SAID[self.kind]} when last asked, left out for {max(0.0, self.until - now):.0f} s more: {self.said}"


class Unavailable:
    """The marks in force."""

    def __init__(self) -> None:
        self._marks: dict[_Key, Mark] = {}

    def __len__(self) -> int:
        return len(self._marks)

    def mark(self, offering: Offering, error: ProviderError, now: float) -> Mark:
        """Remember that `offering` was refused so. `error` is a Capacity, Quota or Unsupported."""
        kind = next(kind for kind in TTL if isinstance(error, kind))
        self._marks = {key: mark for key, mark in self._marks.items() if mark.until > now}
        mark = self._marks[_key(kind, offering)] = Mark(kind.__name__, str(error), now + TTL[kind])
        return mark

    def of(self, offering: Offering, now: float) -> Mark | None:
        """The mark that lasts longest of those on this offering; None when it may be asked for."""
        if not self._marks:
            return None
        found = (self._marks.get(_key(kind, offering)) for kind in TTL)
        return max((mark for mark in found if mark and mark.until > now), key=lambda mark: mark.until, default=None)


def _key(kind: type[ProviderError], offering: Offering) -> _Key:
    bought = (kind.__name__, offering.instance_type, offering.purchase.value)
    if kind is Quota:
        return bought
    if kind is Capacity:
        return (*bought, offering.zone)
    return (*bought, offering.zone, offering.tee.value)
