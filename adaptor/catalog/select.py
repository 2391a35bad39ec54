"""Ranks a cloud's offerings for one pod by named rules; what each rule rules out, and why, is kept.

Order:
  1. types the pod names, in its order;
  2. else, when it asks for a size, the cheapest that fits;
  3. else the default type, its own zone first, and behind it the cheapest of those at least as large.
Ties: least waste (GPU, then memory, then vCPU), then names. Same inputs, same answer, in whichever order the offerings
come; only which one is the default matters.

A type named in full is obeyed also where the pod's resources are larger, as upstream does; wildcards must fit.

An unknown price is taken for that of the cheapest machine with a known price that is at least as large: so it never
loses to a bigger machine, and never wins over one that is known to be cheaper. Where none so large has a known price, it
comes last; where no price is known at all, only waste counts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from math import inf
from re import findall
from typing import Final

from adaptor.catalog.patterns import in_family, is_wild, matches
from adaptor.catalog.unavailable import Unavailable
from providers.base import Offering, Purchase, Tee

# Of offerings that were refused a short while ago, so many are asked for again when nothing else fits: a pod must not
# fail on memory alone, nor may every pod of an outage ask for all of them.
LAST_RESORT: Final = 3


class Spot(StrEnum):
    """Whether a machine may be one that the cloud takes back at any moment."""

    NEVER = "never"
    ALLOWED = "allowed"  # a pod: where it is cheaper. [selection]: for pods that ask
    PREFERRED = "preferred"  # on demand only where there is no spot
    ONLY = "only"


_PURCHASES: Final = {
    Spot.NEVER: frozenset({Purchase.ON_DEMAND}),
    Spot.ALLOWED: frozenset(Purchase),
    Spot.PREFERRED: frozenset(Purchase),
    Spot.ONLY: frozenset({Purchase.SPOT}),
}


@dataclass(frozen=True, slots=True)
class Pin:
    """A zone that the pod cannot leave, and what holds it there."""

    zone: str
    by: str  # "volume vol-0123"


@dataclass(frozen=True, slots=True)
class Requirements:
    """What the pod asked for; empty and None = it did not say."""

    types: tuple[str, ...] = ()  # in its order; wildcards
    vcpus: int | None = None
    memory_mib: int | None = None
    gpus: int | None = None
    gpu_models: tuple[str, ...] = ()  # it must be all of these: the annotation's and the wish's
    tee: Tee | None = None  # None = the default's
    architecture: str = ""  # empty = the default's, whose image is used
    families: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    pins: tuple[Pin, ...] = ()  # every one holds: volumes of two zones fit nowhere
    max_price: float | None = None  # USD per hour
    spot: Spot | None = None  # None = as [selection] says

    @property
    def sized(self) -> bool:
        """Whether any size is asked for."""
        return bool(self.gpu_models) or any(x is not None for x in (self.vcpus, self.memory_mib, self.gpus))

    def names(self, offering: Offering) -> bool:
        """Whether the pod names this type in full."""
        return bool(self.types) and offering.instance_type.lower() in _in_full(self.types)


@dataclass(frozen=True, slots=True)
class Constraints:
    """What the admin allows every pod of this node; empty = everything. Lists may have wildcards."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    tees: tuple[Tee, ...] = ()
    gpu_models: tuple[str, ...] = ()  # a GPU must be one of these
    max_price: float | None = None  # USD per hour
    spot: Spot = Spot.ALLOWED


# In the order in which they are asked: an offering that falls to a later one came nearer.
RULES: Final = (
    *("type", "allow", "deny", "family", "tee", "arch", "spot", "zone", "pinned"),
    *("gpus", "gpu-model", "vcpus", "memory", "max-price", "unasked-gpu", "unavailable"),
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One reason why an offering can be ruled out."""

    name: str
    fits: Callable[[Offering], bool]
    reason: Callable[[Offering], str]  # of one that does not fit


@dataclass(frozen=True, slots=True)
class Rejection:
    """An offering that will not do, by which rule, and why in words."""

    offering: Offering
    filter: str
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Offerings to try in this order, and those ruled out."""

    ranked: tuple[Offering, ...]
    ruled_out: tuple[tuple[Offering, Rule], ...]  # reasons are put into words when somebody asks
    last_resort: bool = False  # all that fits was refused a short while ago: `ranked` is what to ask for all the same

    @property
    def rejected(self) -> tuple[Rejection, ...]:
        """Every offering ruled out, with the first rule that did and its reason."""
        return tuple(Rejection(offering, rule.name, rule.reason(offering)) for offering, rule in self.ruled_out)


class Catalog:
    """A cloud's offerings, the default first; their order by cost is worked out once."""

    def __init__(self, offerings: Sequence[Offering]) -> None:
        self.offerings = tuple(offerings)
        self.by_cost = tuple(sorted(self.offerings, key=_cost(self.offerings)))


_NO_CONSTRAINTS: Final = Constraints()
_UNASKED_GPU: Final = Rule(
    "unasked-gpu",
    lambda offering: not offering.gpus,
    lambda offering: f"{offering.gpus} GPU that the pod does not ask for, and machines without fit",
)


def select(
    catalog: Catalog,
    wanted: Requirements,
    constraints: Constraints = _NO_CONSTRAINTS,
    unavailable: Unavailable | None = None,
    now: float = 0.0,
) -> Choice:
    """What to try, best first, without what `unavailable` has marked at `now`; nothing else being left, those of them
    whose mark ends soonest, LAST_RESORT at most."""
    if not catalog.offerings:
        return Choice((), ())
    default = catalog.offerings[0]
    kept, ruled_out = _sieve(catalog.by_cost, list(_rules(wanted, constraints, default)))
    if not _gpus(wanted, default):
        spare = [o for o in kept if not o.gpus or o.instance_type == default.instance_type or wanted.names(o)]
        if spare and len(spare) < len(kept):
            modest = {id(offering) for offering in spare}
            ruled_out += [(offering, _UNASKED_GPU) for offering in kept if id(offering) not in modest]
            kept = spare
    kept.sort(key=_preference(wanted, constraints, default))  # stable: equals stay in the order of their cost
    if not unavailable:
        return Choice(tuple(kept), tuple(ruled_out))
    return _without(unavailable, now, kept, ruled_out)


def _sieve(offerings: Iterable[Offering], rules: Sequence[Rule]) -> tuple[list[Offering], list[tuple[Offering, Rule]]]:
    kept: list[Offering] = []
    ruled_out: list[tuple[Offering, Rule]] = []
    tests = [(rule.fits, rule) for rule in rules]
    for offering in offerings:
        for fits, rule in tests:
            if not fits(offering):
                ruled_out.append((offering, rule))
                break
        else:
            kept.append(offering)
    return kept, ruled_out


def _without(
    unavailable: Unavailable, now: float, kept: Sequence[Offering], ruled_out: Sequence[tuple[Offering, Rule]]
) -> Choice:
    marks = {id(offering): mark for offering in kept if (mark := unavailable.of(offering, now))}
    if not marks:
        return Choice(tuple(kept), tuple(ruled_out))
    free = tuple(offering for offering in kept if id(offering) not in marks)
    again = free or tuple(sorted(kept, key=lambda offering: marks[id(offering)].until)[:LAST_RESORT])
    tried = set(map(id, again))
    rule = Rule("unavailable", lambda o: id(o) not in marks, lambda o: marks[id(o)].reason(now))
    left_out = [(offering, rule) for offering in kept if id(offering) not in tried]
    return Choice(again, (*ruled_out, *left_out), last_resort=not free)


def _rules(wanted: Requirements, limits: Constraints, default: Offering) -> Iterator[Rule]:
    """Those that this pod and this node give rise to; what a person would look at first comes first."""
    yield from _of_the_name(wanted, limits)
    yield from _of_the_kind(wanted, limits, default)
    yield from _of_the_place(wanted, limits)
    yield from _of_the_size(wanted, limits, default)
    yield from _of_the_price(wanted, limits)


def _of_the_name(wanted: Requirements, limits: Constraints) -> Iterator[Rule]:
    types, families = wanted.types, wanted.families
    if types:
        yield Rule("type", lambda o: matches(types, o.instance_type), lambda _: f"the pod asks for {', '.join(types)}")
    if limits.allow:
        yield Rule("allow", lambda o: matches(limits.allow, o.instance_type), lambda _: "not in [selection].allow")
    if limits.deny:
        yield Rule("deny", lambda o: not matches(limits.deny, o.instance_type), lambda _: "in [selection].deny")
    if families:
        said = f"the pod asks for family {', '.join(families)}"
        yield Rule("family", lambda o: in_family(families, o.instance_type), lambda _: said)
    if limits.families:
        not_in = "not in [selection].families"
        yield Rule("family", lambda o: in_family(limits.families, o.instance_type), lambda _: not_in)


def _of_the_kind(wanted: Requirements, limits: Constraints, default: Offering) -> Iterator[Rule]:
    tee = default.tee if wanted.tee is None else wanted.tee
    who = "the default" if wanted.tee is None else "the pod's wish"
    yield Rule("tee", lambda o: o.tee is tee, lambda o: f"TEE {o.tee}, not {tee} ({who})")
    if limits.tees:
        allowed = f"TEE not among [selection].tee ({', '.join(limits.tees)})"
        yield Rule("tee", lambda o: o.tee in limits.tees, lambda _: allowed)
    built = wanted.architecture or default.architecture
    whose = "as the pod asks" if wanted.architecture else "as the default and its image are"
    yield Rule(
        "arch",
        lambda o: o.architecture == built or (not wanted.architecture and wanted.names(o)),
        lambda o: f"{o.architecture}, not {built}, {whose}",
    )
    asked = wanted.spot or (Spot.NEVER if limits.spot is Spot.ALLOWED else limits.spot)
    purchases = _PURCHASES[asked] & _PURCHASES[limits.spot]
    if len(purchases) < len(Purchase):
        said = f"spot is {wanted.spot or 'not asked for'} by the pod, {limits.spot} by [selection].spot"
        yield Rule("spot", lambda o: o.purchase in purchases, lambda o: f"{o.purchase}: {said}")


def _of_the_place(wanted: Requirements, limits: Constraints) -> Iterator[Rule]:
    zones = wanted.zones
    if zones:
        said = f"not in {', '.join(zones)}, where the pod asks to be"
        yield Rule("zone", lambda o: matches(zones, o.zone), lambda _: said)
    if limits.zones:
        yield Rule("zone", lambda o: matches(limits.zones, o.zone), lambda _: "not in [selection].zones")
    yield from map(_pinned, wanted.pins)


def _pinned(pin: Pin) -> Rule:
    return Rule("pinned", lambda o: o.zone == pin.zone, lambda _: f"{pin.by} is in {pin.zone}")


def _of_the_size(wanted: Requirements, limits: Constraints, default: Offering) -> Iterator[Rule]:
    """A pod that says neither type nor size gets at least what the default is."""
    says_nothing = not wanted.sized and not wanted.types
    gpus = _gpus(wanted, default)
    vcpus = default.vcpus if says_nothing else wanted.vcpus or 0
    memory = default.memory_mib if says_nothing else wanted.memory_mib or 0
    if gpus:
        yield Rule("gpus", lambda o: o.gpus >= gpus, lambda o: f"{o.gpus} GPU of {gpus}")
    yield from map(_of_model, wanted.gpu_models)
    if limits.gpu_models:
        yield Rule(
            "gpu-model",
            lambda o: not o.gpus or any(_is_model(o.gpu_model, model) for model in limits.gpu_models),
            lambda o: f"GPU {o.gpu_model} is not among [selection].gpu_models",
        )
    if vcpus:
        yield Rule("vcpus", lambda o: o.vcpus >= vcpus or wanted.names(o), lambda o: f"{o.vcpus} vCPU of {vcpus}")
    if memory:
        yield Rule(
            "memory",
            lambda o: o.memory_mib >= memory or wanted.names(o),
            lambda o: f"{o.memory_mib} MiB of {memory}",
        )


def _of_model(model: str) -> Rule:
    return Rule(
        "gpu-model",
        lambda o: bool(o.gpus) and _is_model(o.gpu_model, model),
        lambda o: f"GPU {o.gpu_model or 'none'}, not {model}",
    )


def _of_the_price(wanted: Requirements, limits: Constraints) -> Iterator[Rule]:
    most = min((cap for cap in (wanted.max_price, limits.max_price) if cap is not None), default=None)
    if most is not None:
        yield Rule(
            "max-price",
            lambda o: o.price is not None and o.price <= most,
            lambda o: (
                f"price unknown, and at most {most:g} USD/h is allowed"
                if o.price is None
                else f"{o.price:g} USD/h of at most {most:g}"
            ),
        )


def _gpus(wanted: Requirements, default: Offering) -> int:
    """How many a machine must have."""
    if wanted.gpus or wanted.gpu_models:
        return wanted.gpus or 1
    return 0 if wanted.sized or wanted.types else default.gpus


def _preference(
    wanted: Requirements, limits: Constraints, default: Offering
) -> Callable[[Offering], tuple[int | bool, ...]]:
    """What comes before cost."""
    spot_first = (wanted.spot or limits.spot) is Spot.PREFERRED

    def last(offering: Offering) -> bool:
        return spot_first and offering.purchase is not Purchase.SPOT

    if wanted.types:
        return lambda o: (_position(wanted.types, o.instance_type), last(o))
    if wanted.sized:
        return lambda o: (last(o),)
    kind, home = default.instance_type, default.zone
    return lambda o: (o.instance_type != kind, last(o), o.instance_type == kind and o.zone != home)


@lru_cache(maxsize=4096)
def _position(types: tuple[str, ...], instance_type: str) -> int:
    return next(index for index, pattern in enumerate(types) if matches((pattern,), instance_type))


@lru_cache(maxsize=1024)
def _in_full(types: tuple[str, ...]) -> frozenset[str]:
    return frozenset(pattern.lower() for pattern in types if not is_wild(pattern))


@lru_cache(maxsize=1024)
def _words(model: str) -> frozenset[str]:
    """What tells one model from another: "L4" is in "nvidia-l4" and not in "L40S"."""
    return frozenset(findall(r"[a-z0-9]+", model.lower())) - {"nvidia", "tesla", "amd", "radeon"}


def _is_model(offered: str, wanted: str) -> bool:
    return _words(wanted) <= _words(offered)


_Size = tuple[int, int, int]


def _cost(offerings: Sequence[Offering]) -> Callable[[Offering], tuple[object, ...]]:
    """A total order: price, known or taken from others, then waste, then names."""
    known = sorted((o.price, o.purchase is Purchase.SPOT, _size(o)) for o in offerings if o.price is not None)

    @cache
    def taken(purchase: Purchase, size: _Size) -> float:
        """Of machines on demand only those on demand tell; a spot machine costs no more than any."""
        return next(
            (
                price
                for price, is_spot, other in known
                if (purchase is Purchase.SPOT or not is_spot) and all(a >= b for a, b in zip(other, size, strict=True))
            ),
            inf,
        )

    def key(offering: Offering) -> tuple[object, ...]:
        size = _size(offering)
        price = taken(offering.purchase, size) if offering.price is None else offering.price
        named = (offering.instance_type, offering.zone, offering.purchase, offering.tee, offering.architecture)
        return (price, *size, offering.price is None, *named, offering.gpu_model)

    return key


def _size(offering: Offering) -> _Size:
    return offering.gpus, offering.memory_mib, offering.vcpus
