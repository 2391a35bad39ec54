"""What was refused a short while ago is left out, for as long as the kind of refusal says, and not at any price."""

import pytest

from adaptor.catalog.select import LAST_RESORT, Catalog, Choice, Requirements, select
from adaptor.catalog.unavailable import CAPACITY_TTL, QUOTA_TTL, UNSUPPORTED_TTL, Unavailable
from providers.base import Offering, Purchase, Tee
from providers.errors import Capacity, ProviderError, Quota, Unsupported

OD, SPOT = Purchase.ON_DEMAND, Purchase.SPOT
OFFERINGS = tuple(
    Offering(kind, 2, memory, zone=zone, purchase=purchase, tee=tee)
    for kind, memory in (("m6a", 4096), ("m7a", 8192))
    for zone in "ab"
    for purchase in (OD, SPOT)
    for tee in (Tee.NONE, Tee.SNP)
)
FIRST = OFFERINGS[0]  # m6a in a, on demand, no TEE


def left_out(unavailable: Unavailable, now: float = 0.0) -> list[Offering]:
    return [each for each in OFFERINGS if unavailable.of(each, now)]


def choose(unavailable: Unavailable, now: float = 0.0, **wanted: int) -> Choice:
    return select(Catalog(OFFERINGS), Requirements(**wanted), unavailable=unavailable, now=now)  # type: ignore[arg-type]


def test_capacity_marks_a_type_in_its_zone_as_it_is_paid_for() -> None:
    memory = Unavailable()
    memory.mark(FIRST, Capacity("none left"), 0.0)
    assert {(o.instance_type, o.zone, o.purchase) for o in left_out(memory)} == {("m6a", "a", OD)}


def test_quota_marks_a_type_in_every_zone() -> None:
    memory = Unavailable()
    memory.mark(FIRST, Quota("8 of 8 vCPU"), 0.0)
    assert {(o.instance_type, o.zone, o.purchase) for o in left_out(memory)} == {("m6a", "a", OD), ("m6a", "b", OD)}


def test_what_is_not_sold_so_marks_that_one_combination() -> None:
    memory = Unavailable()
    memory.mark(FIRST, Unsupported("no SNP here"), 0.0)
    assert left_out(memory) == [FIRST]


@pytest.mark.parametrize(
    ("error", "ttl"),
    [(Capacity("x"), CAPACITY_TTL), (Quota("x"), QUOTA_TTL), (Unsupported("x"), UNSUPPORTED_TTL)],
)
def test_each_mark_ends_by_itself_and_a_new_refusal_renews_it(error: ProviderError, ttl: float) -> None:
    memory = Unavailable()
    memory.mark(FIRST, error, 100.0)
    assert memory.of(FIRST, 100.0 + ttl - 0.1)
    assert memory.of(FIRST, 100.0 + ttl) is None
    memory.mark(FIRST, error, 100.0 + ttl - 1)
    assert memory.of(FIRST, 100.0 + 2 * ttl - 2)


def test_marks_that_have_ended_are_forgotten() -> None:
    memory = Unavailable()
    for second in range(2000):
        memory.mark(Offering(f"t{second}", 1, 1), Capacity("x"), float(second))
    assert len(memory) <= CAPACITY_TTL


def test_the_longest_mark_speaks() -> None:
    memory = Unavailable()
    memory.mark(FIRST, Unsupported("never sold"), 0.0)
    memory.mark(FIRST, Quota("limit"), 0.0)
    mark = memory.of(FIRST, 1.0)
    assert mark is not None
    assert mark.said == "never sold"


def test_a_marked_offering_is_left_out_with_the_reason_and_until_when() -> None:
    memory = Unavailable()
    memory.mark(FIRST, Capacity("InsufficientInstanceCapacity"), 0.0)
    choice = choose(memory, now=30.0, vcpus=2)
    assert [(o.instance_type, o.zone) for o in choice.ranked] == [("m6a", "b"), ("m7a", "a"), ("m7a", "b")]
    (gone,) = (each for each in choice.rejected if each.filter == "unavailable")
    assert gone.offering == FIRST
    assert gone.reason == "no room when last asked, left out for 150 s more: InsufficientInstanceCapacity"
    assert not choice.last_resort


def test_where_all_that_fits_is_marked_those_that_end_soonest_are_tried_all_the_same() -> None:
    memory = Unavailable()
    fitting = list(choose(memory, vcpus=2).ranked)
    for age, offering in enumerate(reversed(fitting)):
        memory.mark(offering, Capacity("full"), float(age))
    choice = choose(memory, now=50.0, vcpus=2)
    assert choice.last_resort
    assert list(choice.ranked) == list(reversed(fitting))[:LAST_RESORT]
    assert [each.offering for each in choice.rejected if each.filter == "unavailable"] == fitting[:1]


def test_what_does_not_fit_is_no_last_resort() -> None:
    memory = Unavailable()
    for offering in OFFERINGS:
        memory.mark(offering, Capacity("full"), 0.0)
    assert not choose(memory, vcpus=99).ranked
