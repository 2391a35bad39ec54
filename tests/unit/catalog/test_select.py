"""The choice of a machine: one rule, one tie and one surprise at a time. test_oracle.py looks at all of them at once."""

import dataclasses
from typing import Any

import pytest

from adaptor.catalog.select import Catalog, Choice, Constraints, Pin, Requirements, Spot, select
from providers.base import Offering, Purchase, Tee

LARGE = Offering("m.large", 4, 16384)
SMALL = Offering("m.small", 2, 4096)
MEMORY = Offering("r.small", 2, 16384)
GPU = Offering("g.large", 4, 16384, gpus=1, gpu_model="NVIDIA T4")
ALL = (LARGE, SMALL, MEMORY, GPU)  # the default first
ANYTHING = Constraints()


def choose(offerings: tuple[Offering, ...] = ALL, limits: Constraints = ANYTHING, **wanted: Any) -> Choice:
    return select(Catalog(offerings), Requirements(**wanted), limits)


def names(offerings: tuple[Offering, ...] = ALL, limits: Constraints = ANYTHING, **wanted: Any) -> list[str]:
    return [offering.instance_type for offering in choose(offerings, limits, **wanted).ranked]


def places(offerings: tuple[Offering, ...], limits: Constraints = ANYTHING, **wanted: Any) -> list[str]:
    ranked = choose(offerings, limits, **wanted).ranked
    return [f"{o.instance_type} {o.zone} {o.purchase}".replace(" on-demand", "") for o in ranked]


def reasons(choice: Choice) -> dict[str, str]:
    return {each.offering.instance_type: f"{each.filter}: {each.reason}" for each in choice.rejected}


def other(offering: Offering, **changes: Any) -> Offering:
    return dataclasses.replace(offering, **changes)


# -- which comes first ----------------------------------------------------------------------------


def test_a_pod_that_asks_for_nothing_gets_the_default_and_failing_that_what_is_at_least_as_large() -> None:
    bigger, huge = Offering("m.xlarge", 8, 32768, price=0.4), Offering("m.huge", 64, 262144, price=0.3)
    assert names((*ALL, bigger, huge)) == ["m.large", "m.huge", "m.xlarge"], "the cheapest of the larger ones is next"


def test_a_pod_that_asks_for_nothing_gets_the_default_in_its_own_zone_before_the_others() -> None:
    zones = tuple(other(LARGE, zone=zone, price=price) for zone, price in (("b", 0.3), ("c", 0.1), ("a", 0.2)))
    assert places(zones) == ["m.large b", "m.large c", "m.large a"]


def test_a_default_with_gpus_gives_way_only_to_what_has_as_many() -> None:
    more = Offering("g.xlarge", 8, 32768, gpus=4)
    assert names((GPU, LARGE, Offering("m.huge", 64, 262144), more)) == ["g.large", "g.xlarge"]


def test_types_the_pod_names_come_in_its_order() -> None:
    assert names(types=("r.small", "m.small")) == ["r.small", "m.small"]
    assert names(types=("m.*", "r.*")) == ["m.small", "m.large", "r.small"]


def test_a_named_type_is_found_in_any_case() -> None:
    assert names((Offering("Standard_DC2as_v5", 2, 8192),), types=("standard_dc2as_v5",)) == ["Standard_DC2as_v5"]


def test_a_type_named_in_full_is_obeyed_and_wildcards_must_fit() -> None:
    assert names(types=("m.small",), vcpus=4) == ["m.small"]
    assert names(types=("m.*",), vcpus=4) == ["m.large"]
    assert names(types=("m.small",), gpus=1) == [], "no size makes up for a GPU that is not there"


def test_only_vcpus_or_only_memory_are_honoured() -> None:
    assert names(vcpus=3) == ["m.large"]
    assert names(memory_mib=8192) == ["r.small", "m.large"]


def test_price_decides_and_waste_breaks_the_tie() -> None:
    a, b = Offering("a", 2, 8192, price=0.1), Offering("b", 2, 4096, price=0.1)
    assert names((a, b, Offering("c", 64, 65536, price=0.05)), vcpus=2) == ["c", "b", "a"]


def test_equal_offerings_come_by_name_and_zone() -> None:
    offerings = tuple(Offering(kind, 2, 4096, zone=zone) for kind in "ba" for zone in "zy")
    assert places(offerings, vcpus=1) == ["a y", "a z", "b y", "b z"]


# -- prices that are not known --------------------------------------------------------------------


def test_an_unknown_price_does_not_lose_to_a_bigger_machine() -> None:
    giant = Offering("giant", 192, 786432, price=8.29)
    assert names((giant, SMALL), vcpus=2) == ["m.small", "giant"]


def test_an_unknown_price_does_not_win_over_one_that_is_known_to_be_low() -> None:
    cheap, middle = Offering("cheap", 8, 32768, price=0.1), Offering("middle", 16, 65536, price=0.5)
    unknown = Offering("unknown", 12, 49152)
    assert names((unknown, middle, cheap), vcpus=2) == ["cheap", "unknown", "middle"]


def test_an_unknown_price_beyond_every_known_one_comes_last() -> None:
    assert names((Offering("beyond", 2, 99999), other(LARGE, price=9.0)), vcpus=2) == ["m.large", "beyond"]


def test_without_any_price_the_least_waste_decides() -> None:
    assert names(vcpus=1) == ["m.small", "r.small", "m.large"]


def test_a_spot_machine_of_unknown_price_is_not_taken_before_the_same_on_demand() -> None:
    spot = other(LARGE, purchase=Purchase.SPOT)
    assert places((other(LARGE, price=0.2), spot), spot=Spot.ALLOWED, vcpus=2) == ["m.large ", "m.large  spot"]


# -- GPUs -----------------------------------------------------------------------------------------


def test_a_gpu_is_for_pods_that_ask_or_that_nothing_else_fits() -> None:
    assert "g.large" not in names(vcpus=4)
    assert reasons(choose(vcpus=4))["g.large"].startswith("unasked-gpu: 1 GPU that the pod does not ask for")
    assert names((SMALL, GPU), vcpus=4) == ["g.large"], "upstream gives it, too"
    assert names((GPU, LARGE), vcpus=4) == ["m.large", "g.large"], "the default's GPU is what the admin wants"
    assert names(gpus=1) == ["g.large"]
    assert names(types=("g.*",)) == ["g.large"]


@pytest.mark.parametrize(
    ("asked", "offered", "fits"),
    [
        ("t4", "NVIDIA T4", True),
        ("nvidia-t4", "T4", True),
        ("L4", "nvidia-l4", True),
        ("L4", "L40S", False),
        ("A100", "nvidia-a100-80gb", True),
        ("nvidia-a100-80gb", "nvidia-tesla-a100", False),
        ("A100", "", False),
    ],
)
def test_a_gpu_model_is_known_by_its_words(asked: str, offered: str, fits: bool) -> None:
    found = names((LARGE, Offering("g", 4, 16384, gpus=1, gpu_model=offered)), gpu_models=(asked,))
    assert found == (["g"] if fits else [])


# -- TEE, architecture, spot, zones, price --------------------------------------------------------


def test_a_pod_that_names_no_tee_gets_the_defaults_whatever_is_cheaper() -> None:
    confidential = other(LARGE, tee=Tee.SNP, price=1.0)
    offerings = (confidential, other(SMALL, price=0.1), other(MEMORY, tee=Tee.TDX, price=0.1))
    assert names(offerings, vcpus=1) == ["m.large"]
    assert names(offerings, types=("m.small",)) == [], "a type named in full is no way around it"
    assert names(offerings, tee=Tee.TDX) == []
    assert names(offerings, tee=Tee.TDX, vcpus=1) == ["r.small"]
    assert names(offerings, tee=Tee.NONE, vcpus=1) == ["m.small"]
    assert names(offerings, Constraints(tees=(Tee.SNP,)), tee=Tee.NONE, vcpus=1) == [], "the admin forbids it"


def test_an_architecture_that_nobody_asked_for_is_not_taken_however_cheap() -> None:
    arm = Offering("arm.large", 4, 16384, architecture="arm64", price=0.01)
    assert names((LARGE, arm), vcpus=2) == ["m.large"]
    assert names((LARGE, arm), vcpus=2, architecture="arm64") == ["arm.large"]
    assert names((LARGE, arm), types=("arm.large",)) == ["arm.large"], "who names it has an image for it"
    assert names((LARGE, arm), types=("arm.*",)) == []


@pytest.mark.parametrize(
    ("admin", "pod", "ranked"),
    [
        ("never", None, ["od"]),
        ("never", "preferred", ["od"]),
        ("never", "only", []),
        ("allowed", None, ["od"]),
        ("allowed", "never", ["od"]),
        ("allowed", "allowed", ["spot", "od"]),
        ("allowed", "only", ["spot"]),
        ("preferred", None, ["dear spot", "od"]),
        ("preferred", "never", ["od"]),
        ("preferred", "allowed", ["od", "dear spot"]),
        ("only", None, ["spot"]),
        ("only", "never", []),
        ("only", "preferred", ["spot"]),
    ],
)
def test_spot_is_for_pods_as_far_as_the_admin_lets_them(admin: str, pod: str | None, ranked: list[str]) -> None:
    price = 0.9 if "dear spot" in ranked else 0.1
    offerings = (other(LARGE, price=0.3), other(LARGE, price=price, purchase=Purchase.SPOT))
    choice = choose(offerings, Constraints(spot=Spot(admin)), spot=Spot(pod) if pod else None, vcpus=2)
    found = ["od" if o.purchase is Purchase.ON_DEMAND else "spot" for o in choice.ranked]
    assert found == [each.removeprefix("dear ") for each in ranked]


def test_every_pin_holds() -> None:
    zones = tuple(other(LARGE, zone=zone) for zone in "abc")
    assert places(zones, pins=(Pin("b", "volume vol-1"),)) == ["m.large b"]
    torn = choose(zones, pins=(Pin("b", "volume vol-1"), Pin("c", "volume vol-2")))
    assert not torn.ranked
    assert {each.reason for each in torn.rejected} == {"volume vol-1 is in b", "volume vol-2 is in c"}


def test_a_pod_narrows_what_the_admin_allows_and_never_widens_it() -> None:
    zones = tuple(other(LARGE, zone=zone, price=price) for zone, price in (("a", 0.1), ("b", 0.2), ("c", 0.3)))
    limits = Constraints(zones=("a", "b"), max_price=0.25)
    assert places(zones, limits, zones=("b", "c")) == ["m.large b"]
    assert places(zones, limits, max_price=9.0) == ["m.large a", "m.large b"]
    assert places(zones, limits, max_price=0.15) == ["m.large a"]


def test_a_price_that_is_unknown_is_not_under_any_limit() -> None:
    assert reasons(choose((LARGE,), max_price=5.0)) == {
        "m.large": "max-price: price unknown, and at most 5 USD/h is allowed"
    }


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (Constraints(allow=("m.*",)), ["m.small", "m.large"]),
        (Constraints(deny=("*.small",)), ["m.large"]),
        (Constraints(allow=("m.*",), deny=("m.large",)), ["m.small"]),
        (Constraints(families=("r",)), ["r.small"]),
        (Constraints(families=("R", "g")), ["r.small"]),
    ],
)
def test_allow_deny_and_families(limits: Constraints, kept: list[str]) -> None:
    assert names(limits=limits, vcpus=1) == kept


def test_gpus_may_be_limited_to_models() -> None:
    choice = choose(limits=Constraints(gpu_models=("L4", "A10G")), gpus=1)
    assert reasons(choice)["g.large"] == "gpu-model: GPU NVIDIA T4 is not among [selection].gpu_models"


@pytest.mark.parametrize(
    ("family", "kind", "fits"),
    [
        ("m6a", "m6a.large", True),
        ("m6", "m6a.large", False),
        ("m6*", "m6a.large", True),
        ("DCas_v5", "Standard_DC4as_v5", True),
        ("standard_dcas_v5", "Standard_DC96as_v5", True),
        ("DCas_v5", "Standard_DC4ads_v5", False),
        ("Eds_v5", "Standard_E4-2ds_v5", True),
        ("n2d-standard", "n2d-standard-8", True),
        ("n2d", "n2d-highmem-8", True),
        ("n2", "n2d-standard-8", False),
        ("e2", "e2-medium", True),
    ],
)
def test_a_family_is_what_people_of_that_cloud_call_one(family: str, kind: str, fits: bool) -> None:
    assert names((Offering(kind, 2, 4096),), families=(family,)) == ([kind] if fits else [])


def test_brackets_are_no_wildcards() -> None:
    assert names((Offering("m", 2, 4096),), types=("[m]",)) == []


def test_a_cloud_that_offers_nothing_gives_nothing() -> None:
    assert choose(()) == Choice((), ())
