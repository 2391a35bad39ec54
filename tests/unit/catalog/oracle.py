"""The choice of a machine worked out the slow way, by code that shares nothing with the selector but its data types.

Every rule is asked of every offering, and order is judged pair by pair.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from adaptor.catalog.select import Constraints, Requirements, Spot
from providers.base import Offering, Purchase

# What the generated catalogs are made of, with the families that a person would name them by.
FAMILIES = {
    "m6a.large": {"m6a"},
    "m6a.xlarge": {"m6a"},
    "c6a.large": {"c6a"},
    "g6.xlarge": {"g6"},
    "Standard_DC2as_v5": {"dcas_v5", "standard_dcas_v5"},
    "n2d-standard-2": {"n2d", "n2d-standard"},
}
MODELS = {"": set(), "NVIDIA L4": {"l4"}, "L40S": {"l40s"}, "nvidia-a100-80gb": {"a100", "80gb"}}
ASKED_MODELS = {"L4": {"l4"}, "nvidia-l40s": {"l40s"}, "A100": {"a100"}}


def one_of(patterns: Sequence[str], text: str) -> bool:
    return any(fnmatchcase(text.lower(), pattern.lower()) for pattern in patterns)


def in_full(offering: Offering, wanted: Requirements) -> bool:
    return any(each.lower() == offering.instance_type.lower() for each in wanted.types)


def asks_for_nothing(wanted: Requirements) -> bool:
    sizes = (wanted.vcpus, wanted.memory_mib, wanted.gpus)
    return not wanted.types and not wanted.gpu_models and sizes == (None, None, None)


def gpus_needed(wanted: Requirements, default: Offering) -> int:
    if asks_for_nothing(wanted):
        return default.gpus
    return max(wanted.gpus or 0, 1 if wanted.gpu_models else 0)


def faults(offering: Offering, wanted: Requirements, limits: Constraints, default: Offering) -> set[str]:
    """Every rule that truly rules this offering out; the two that depend on the others aside."""
    found = set()
    name = offering.instance_type
    families = FAMILIES[name]
    if wanted.types and not one_of(wanted.types, name):
        found.add("type")
    if limits.allow and not one_of(limits.allow, name):
        found.add("allow")
    if limits.deny and one_of(limits.deny, name):
        found.add("deny")
    for asked in (wanted.families, limits.families):
        if asked and not any(one_of(asked, family) for family in families):
            found.add("family")
    if offering.tee != (default.tee if wanted.tee is None else wanted.tee):
        found.add("tee")
    if limits.tees and offering.tee not in limits.tees:
        found.add("tee")
    if wanted.architecture:
        if offering.architecture != wanted.architecture:
            found.add("arch")
    elif offering.architecture != default.architecture and not in_full(offering, wanted):
        found.add("arch")
    if not may_be_bought(offering.purchase, wanted.spot, limits.spot):
        found.add("spot")
    for zones in (wanted.zones, limits.zones):
        if zones and not one_of(zones, offering.zone):
            found.add("zone")
    if any(pin.zone != offering.zone for pin in wanted.pins):
        found.add("pinned")
    return (
        found
        | too_small(offering, wanted, default)
        | too_dear(offering, wanted, limits)
        | wrong_gpu(offering, wanted, limits)
    )


def may_be_bought(purchase: Purchase, pod: Spot | None, admin: Spot) -> bool:
    if purchase is Purchase.SPOT:
        if admin is Spot.NEVER or pod is Spot.NEVER:
            return False
        return pod is not None or admin in (Spot.PREFERRED, Spot.ONLY)
    return admin is not Spot.ONLY and pod is not Spot.ONLY


def too_small(offering: Offering, wanted: Requirements, default: Offering) -> set[str]:
    found = set()
    nothing = asks_for_nothing(wanted)
    obeyed = in_full(offering, wanted)
    if offering.vcpus < (default.vcpus if nothing else wanted.vcpus or 0) and not obeyed:
        found.add("vcpus")
    if offering.memory_mib < (default.memory_mib if nothing else wanted.memory_mib or 0) and not obeyed:
        found.add("memory")
    if offering.gpus < gpus_needed(wanted, default):
        found.add("gpus")
    return found


def wrong_gpu(offering: Offering, wanted: Requirements, limits: Constraints) -> set[str]:
    mine = MODELS[offering.gpu_model]
    for model in wanted.gpu_models:
        if not offering.gpus or not ASKED_MODELS[model] <= mine:
            return {"gpu-model"}
    if limits.gpu_models and offering.gpus and not any(ASKED_MODELS[model] <= mine for model in limits.gpu_models):
        return {"gpu-model"}
    return set()


def too_dear(offering: Offering, wanted: Requirements, limits: Constraints) -> set[str]:
    for cap in (wanted.max_price, limits.max_price):
        if cap is not None and (offering.price is None or offering.price > cap):
            return {"max-price"}
    return set()


def is_at_least(a: Offering, b: Offering) -> bool:
    return a.gpus >= b.gpus and a.memory_mib >= b.memory_mib and a.vcpus >= b.vcpus


def price(offering: Offering, catalog: Sequence[Offering]) -> float:
    """Its own, or that of the cheapest that is as large and has one."""
    if offering.price is not None:
        return offering.price
    telling = [
        other.price
        for other in catalog
        if other.price is not None
        and is_at_least(other, offering)
        and (offering.purchase is Purchase.SPOT or other.purchase is Purchase.ON_DEMAND)
    ]
    return min(telling, default=float("inf"))


def comes_first(
    a: Offering, b: Offering, wanted: Requirements, limits: Constraints, catalog: Sequence[Offering]
) -> bool | None:
    """Whether a must be tried before b; None where only their names decide."""
    default = catalog[0]
    spot_first = (wanted.spot or limits.spot) is Spot.PREFERRED
    judged: list[tuple[float, float]] = []
    if wanted.types:
        positions = [min(i for i, t in enumerate(wanted.types) if one_of((t,), o.instance_type)) for o in (a, b)]
        judged.append((positions[0], positions[1]))
    if asks_for_nothing(wanted):
        judged.append((a.instance_type != default.instance_type, b.instance_type != default.instance_type))
    if spot_first:
        judged.append((a.purchase is not Purchase.SPOT, b.purchase is not Purchase.SPOT))
    if asks_for_nothing(wanted) and a.instance_type == b.instance_type == default.instance_type:
        judged.append((a.zone != default.zone, b.zone != default.zone))
    judged += [
        (price(a, catalog), price(b, catalog)),
        (a.gpus, b.gpus),
        (a.memory_mib, b.memory_mib),
        (a.vcpus, b.vcpus),
        (a.price is None, b.price is None),
    ]
    for mine, other in judged:
        if mine != other:
            return mine < other
    return None
