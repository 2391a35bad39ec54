"""The selector against a brute-force oracle over generated catalogs and wishes: 24,000 cases, nightly 400,000."""

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptor.catalog import explain
from adaptor.catalog.select import LAST_RESORT, RULES, Catalog, Choice, Constraints, Pin, Requirements, Spot, select
from adaptor.catalog.unavailable import Unavailable
from providers.base import Offering, Purchase, Tee
from providers.errors import Capacity, ProviderError, Quota, Unsupported
from tests.unit.catalog import oracle

T = TypeVar("T")

NIGHTLY: Final = os.environ.get("PEERPODS_NIGHTLY") == "1"
CATALOGS: Final = 100_000 if NIGHTLY else 6_000
PODS: Final = 4  # per catalog
NOW: Final = 60.0

TYPES: Final = tuple(oracle.FAMILIES)
ZONES: Final = ("a", "b", "c")
PATTERNS: Final = (*TYPES, "m6a.*", "*.xlarge", "*", "*", "*2*", "?6*", "?6a.*", "none.such")


class Draw:
    """A case out of a string of bytes: quick to generate, and it shrinks to short strings of zeros."""

    def __init__(self, data: bytes) -> None:
        self._left = iter(data)

    def number(self, below: int) -> int:
        return next(self._left, 0) % below

    def one(self, options: Sequence[T]) -> T:
        return options[self.number(len(options))]

    def maybe(self, options: Sequence[T], seldom: int = 4) -> T | None:
        """None most of the time."""
        return self.one(options) if self.number(seldom) == seldom - 1 else None

    def some(self, options: Sequence[T], seldom: int = 4) -> tuple[T, ...]:
        return tuple(self.one(options) for _ in range(1 + self.number(2))) if self.number(seldom) == seldom - 1 else ()

    def offering(self) -> Offering:
        gpus = self.maybe((1, 2)) or 0
        return Offering(
            instance_type=self.one(TYPES),
            vcpus=self.one((2, 1, 4, 8)),
            memory_mib=self.one((4, 2, 8, 16)),
            gpus=gpus,
            gpu_model=self.one([model for model in oracle.MODELS if model]) if gpus else "",
            architecture=self.one((*["x86_64"] * 8, "arm64")),
            tee=self.one((*[Tee.SNP] * 8, Tee.NONE, Tee.TDX)),
            zone=self.one(ZONES),
            purchase=self.one((Purchase.ON_DEMAND, Purchase.ON_DEMAND, Purchase.SPOT)),
            price=self.one((0.2, None, 0.1, 0.1, 0.3, 0.4, None)),
        )

    def requirements(self) -> Requirements:
        return Requirements(
            types=self.some(PATTERNS),
            vcpus=self.maybe((2, 1, 3, 8, 99), 3),
            memory_mib=self.maybe((4, 1, 9, 16, 99), 3),
            gpus=self.maybe((1, 2, 3), 8),
            gpu_models=self.some(tuple(oracle.ASKED_MODELS), 16),
            tee=self.maybe(tuple(Tee), 14),
            architecture=self.maybe(("x86_64", "arm64"), 16) or "",
            families=self.some(("m6a", "dcas_v5", "n2d", "g*"), 16),
            zones=self.some(("a", "b", "*"), 14),
            pins=tuple(Pin(zone, "volume v") for zone in self.some(("a", "b"), 16)),
            max_price=self.maybe((0.1, 0.25), 14),
            spot=self.maybe(tuple(Spot), 3),
        )

    def constraints(self) -> Constraints:
        return Constraints(
            allow=self.some(PATTERNS, 16),
            deny=self.some(("m6a.large", "*.xlarge"), 14),
            families=self.some(("m6a", "c6a", "n2d-standard"), 20),
            zones=self.some(("a", "b"), 16),
            tees=self.some((Tee.SNP, Tee.TDX), 16),
            gpu_models=self.some(("L4", "A100"), 16),
            max_price=self.maybe((0.3, 0.1), 16),
            spot=self.one((Spot.ALLOWED, Spot.ALLOWED, Spot.NEVER, Spot.PREFERRED, Spot.ONLY)),
        )


@dataclass(frozen=True)
class Case:
    """One pod, one node."""

    offerings: list[Offering]
    wanted: Requirements
    limits: Constraints

    @property
    def default(self) -> Offering:
        return self.offerings[0]

    def choose(self, offerings: Sequence[Offering] = (), **more: Any) -> Choice:
        return select(Catalog(offerings or self.offerings), self.wanted, self.limits, **more)

    def faults(self, offering: Offering) -> set[str]:
        return oracle.faults(offering, self.wanted, self.limits, self.default)


def cases(data: bytes) -> list[Case]:
    draw = Draw(data)
    offerings = [draw.offering() for _ in range(1 + draw.number(13))]
    limits = draw.constraints()
    return [Case(offerings, draw.requirements(), limits) for _ in range(PODS)]


def every(catalogs: int) -> settings:
    return settings(
        max_examples=catalogs, deadline=None, derandomize=not NIGHTLY, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


many = st.binary(min_size=40, max_size=260)


@every(CATALOGS)
@given(many)
def test_the_choice_is_what_the_oracle_says(data: bytes) -> None:
    for case in cases(data):
        choice = case.choose()
        nothing_is_lost(case, choice)
        what_is_ranked_fits(case, choice)
        every_rejection_is_true(case, choice)
        the_order_is_right(case, choice)
        other_orders_of_the_offerings_change_nothing(case, choice, data)
        refusals_are_short(case, choice)


def nothing_is_lost(case: Case, choice: Choice) -> None:
    assert Counter(choice.ranked) + Counter(each.offering for each in choice.rejected) == Counter(case.offerings)


def what_is_ranked_fits(case: Case, choice: Choice) -> None:
    for offering in choice.ranked:
        assert not case.faults(offering)
    if not oracle.gpus_needed(case.wanted, case.default):
        modest = [not offering.gpus or is_meant(case, offering) for offering in choice.ranked]
        assert all(modest) or not any(modest), "a GPU that nobody asked for is for pods that nothing else fits"


def every_rejection_is_true(case: Case, choice: Choice) -> None:
    for each in choice.rejected:
        found = case.faults(each.offering)
        if each.filter == "unasked-gpu":
            assert not found
            assert each.offering.gpus
            assert not oracle.gpus_needed(case.wanted, case.default)
            assert any(not case.faults(o) and (not o.gpus or is_meant(case, o)) for o in case.offerings)
            assert not is_meant(case, each.offering)
        else:
            assert each.filter in found
        assert each.reason
        assert each.filter in RULES
        if each.filter == "tee":
            assert str(each.offering.tee) in each.reason or "[selection].tee" in each.reason
            assert "default" not in each.reason or case.wanted.tee is None
        if each.filter == "vcpus":
            assert each.reason.startswith(f"{each.offering.vcpus} vCPU of ")
        if each.filter == "memory":
            assert each.reason.startswith(f"{each.offering.memory_mib} MiB of ")


def is_meant(case: Case, offering: Offering) -> bool:
    """A GPU nobody asked for is wanted all the same: the default's, or a type's that the pod names."""
    return offering.instance_type == case.default.instance_type or oracle.in_full(offering, case.wanted)


def the_order_is_right(case: Case, choice: Choice) -> None:
    ranked = choice.ranked
    for index, first in enumerate(ranked):
        for second in ranked[index + 1 :]:
            assert oracle.comes_first(first, second, case.wanted, case.limits, case.offerings) is not False


def other_orders_of_the_offerings_change_nothing(case: Case, choice: Choice, data: bytes) -> None:
    first, *rest = case.offerings
    random.Random(data).shuffle(rest)
    again = case.choose([first, *rest])
    assert again.ranked == choice.ranked
    assert Counter(again.rejected) == Counter(choice.rejected)


def refusals_are_short(case: Case, choice: Choice) -> None:
    if not choice.ranked:
        assert len(explain.refusal(choice, case.wanted)) <= explain.LIMIT


@every(CATALOGS // 3)
@given(many)
def test_what_was_refused_is_left_out_unless_nothing_else_fits(data: bytes) -> None:
    draw = Draw(data[::-1])
    for case in cases(data):
        unavailable = Unavailable()
        for _ in range(draw.number(6)):
            error: ProviderError = draw.one((Capacity("x"), Quota("x"), Unsupported("x")))
            unavailable.mark(draw.one(case.offerings), error, float(draw.number(60)))
        plain, choice = case.choose(), case.choose(unavailable=unavailable, now=NOW)
        marks = {offering: unavailable.of(offering, NOW) for offering in plain.ranked}
        free = [offering for offering in plain.ranked if not marks[offering]]
        if free or not plain.ranked:
            assert list(choice.ranked) == free
            assert not choice.last_resort
        else:
            assert choice.last_resort
            ends = [mark.until for offering in plain.ranked if (mark := marks[offering])]
            tried = [mark.until for offering in choice.ranked if (mark := marks[offering])]
            assert tried == sorted(ends)[:LAST_RESORT]
        nothing_is_lost(case, choice)
        for each in choice.rejected:
            if each.filter == "unavailable":
                assert marks[each.offering]
                assert "s more: x" in each.reason
