"""Ranks a cloud's offerings for one pod by named filters; what each filter rejects, and why, is kept.

Order: a type the pod names; else, when it asks for a size, the cheapest that fits (price where every one is known,
then least waste); else the configured default first. Same inputs, same answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from providers.base import Offering


@dataclass(frozen=True, slots=True)
class Requirements:
    """What the pod asked for; None = it did not say."""

    instance_type: str | None = None
    vcpus: int | None = None
    memory_mib: int | None = None
    gpus: int | None = None
    gpu_model: str | None = None

    @property
    def sized(self) -> bool:
        """Whether any size is asked for."""
        return any(x is not None for x in (self.vcpus, self.memory_mib, self.gpus, self.gpu_model))


@dataclass(frozen=True, slots=True)
class Rejection:
    """An offering that will not do, by which filter, and why in words."""

    offering: Offering
    filter: str
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Offerings to try in this order, and those ruled out."""

    ranked: tuple[Offering, ...]
    rejected: tuple[Rejection, ...]

    def refusal(self, wanted: Requirements) -> str:
        """One sentence for the pod's event when nothing is left. Its first clauses are upstream's own texts,
        which people and tests search for."""
        kinds = ", ".join(sorted({r.offering.instance_type for r in self.rejected})) or "none"
        if wanted.instance_type is not None and all(r.filter == "type" for r in self.rejected):
            return (
                f'requested instance type ("{wanted.instance_type}") is not part of supported instance types list '
                f"({kinds}); choose one of these, or have the admin allow it"
            )
        reasons = "; ".join(f"{r.offering.instance_type}: {r.reason}" for r in self.rejected)
        return f"no instance type found for the given {_wish(wanted)}. Considered: {reasons or 'nothing is configured'}"


# A filter answers why an offering will not do, or nothing.
Filter = Callable[[Offering, Requirements], str | None]


def _type(offering: Offering, wanted: Requirements) -> str | None:
    if wanted.instance_type is not None and offering.instance_type != wanted.instance_type:
        return f"the pod asks for {wanted.instance_type}"
    return None


def _vcpus(offering: Offering, wanted: Requirements) -> str | None:
    if wanted.vcpus is not None and offering.vcpus < wanted.vcpus:
        return f"{offering.vcpus} vCPU of {wanted.vcpus}"
    return None


def _memory(offering: Offering, wanted: Requirements) -> str | None:
    if wanted.memory_mib is not None and offering.memory_mib < wanted.memory_mib:
        return f"{offering.memory_mib} MiB of {wanted.memory_mib}"
    return None


def _gpus(offering: Offering, wanted: Requirements) -> str | None:
    if wanted.gpus is not None and offering.gpus < wanted.gpus:
        return f"{offering.gpus} GPU of {wanted.gpus}"
    return None


def _gpu_model(offering: Offering, wanted: Requirements) -> str | None:
    if wanted.gpu_model is not None and wanted.gpu_model.lower() not in offering.gpu_model.lower():
        return f"GPU {offering.gpu_model or 'none'}, not {wanted.gpu_model}"
    return None


FILTERS: Final[dict[str, Filter]] = {
    "type": _type,
    "vcpus": _vcpus,
    "memory": _memory,
    "gpus": _gpus,
    "gpu-model": _gpu_model,
}


def select(offerings: Sequence[Offering], wanted: Requirements) -> Choice:
    """What to try, best first. `offerings` come as the provider gives them: the default first."""
    kept: list[Offering] = []
    rejected: list[Rejection] = []
    for offering in offerings:
        verdict = next(((name, why) for name, rule in FILTERS.items() if (why := rule(offering, wanted))), None)
        if verdict is None:
            kept.append(offering)
        else:
            rejected.append(Rejection(offering, *verdict))
    if wanted.instance_type is None:
        kept = sorted(kept, key=_cost(kept)) if wanted.sized else kept[:1]
    return Choice(tuple(kept), tuple(rejected))


def _cost(kept: Sequence[Offering]) -> Callable[[Offering], tuple[float, int, int, int, str]]:
    """Price counts only when all are known: a missing one must neither win nor lose by default. A GPU that was not
    asked for is the greatest waste, so sizes without price compare GPU, then memory, then vCPU."""
    priced = all(o.price is not None for o in kept)
    return lambda o: ((o.price or 0.0) if priced else 0.0, o.gpus, o.memory_mib, o.vcpus, o.instance_type)


def _wish(wanted: Requirements) -> str:
    parts = (
        ("vcpus", wanted.vcpus),
        ("memory", wanted.memory_mib),
        ("gpus", wanted.gpus),
        ("gpu model", wanted.gpu_model),
        ("type", wanted.instance_type),
    )
    return " and ".join(f"{name} ({value})" for name, value in parts if value is not None)
