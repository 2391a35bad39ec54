"""The texts of a pod's event: upstream's words first, then why; short whatever the catalog."""

from typing import Any

import pytest

from adaptor.catalog.chooser import Chooser
from adaptor.catalog.explain import LIMIT, Try, no_room, refusal, tried
from adaptor.catalog.select import Constraints, Pin, Rejection, Requirements
from adaptor.catalog.unavailable import Mark
from providers.base import Offering, Purchase, Tee
from providers.errors import Capacity

# As upstream's end-to-end tests have it: types up to 8 GiB, and requests that none of them meets.
UPSTREAMS = (Offering("m6a.large", 2, 8192), Offering("m6a.xlarge", 2, 12288))
THOUSAND = tuple(
    Offering(f"t{n:03}.x{'large' * 5}", 1 + n % 8, 1024 * (1 + n % 32), tee=(Tee.SNP, Tee.NONE)[n % 2], zone=zone)
    for n in range(334)
    for zone in ("region-1a", "region-1b", "region-1c")
)


def text(offerings: tuple[Offering, ...], limits: Constraints = Constraints(), **wanted: Any) -> str:  # noqa: B008
    asked = Requirements(**wanted)
    choice = Chooser(limits).choose(offerings, asked, 0.0)
    assert not choice.ranked
    return refusal(choice, asked)


def test_a_type_that_is_not_offered_is_refused_in_upstreams_words() -> None:
    said = text(UPSTREAMS, types=("t3.huge",))
    assert said.startswith('requested instance type ("t3.huge") is not part of supported instance types list')
    assert "(m6a.large, m6a.xlarge)" in said


def test_so_is_a_type_that_the_admin_does_not_allow() -> None:
    said = text(UPSTREAMS, Constraints(deny=("m6a.large",)), types=("m6a.large",))
    assert said.startswith(
        'requested instance type ("m6a.large") is not part of supported instance types list (m6a.xlarge)'
    )


def test_a_type_that_is_offered_and_cannot_be_used_is_told_why() -> None:
    said = text((UPSTREAMS[0], Offering("m7i.large", 2, 8192, tee=Tee.TDX)), types=("m7i.large",))
    assert said == (
        'the requested instance type ("m7i.large") cannot be used. Ruled out 1 offering: 1 by tee (m7i.large: TEE tdx, '
        "not none (the default))"
    )


def test_too_much_memory_is_refused_in_upstreams_words_and_says_why_of_each() -> None:
    said = text(UPSTREAMS, vcpus=2, memory_mib=18432)
    assert said.startswith(
        "failed to get instance type based on vCPU and memory annotations: no instance type found for the given "
        "vcpus (2) and memory (18432)"
    )
    assert "2 by memory (m6a.xlarge: 12288 MiB of 18432; m6a.large: 8192 MiB of 18432)" in said


def test_too_many_vcpus_are_refused_in_upstreams_words() -> None:
    assert "no instance type found for the given vcpus (3) and memory (12288)" in text(
        UPSTREAMS, vcpus=3, memory_mib=12288
    )


def test_what_only_a_wish_rules_out_is_told_by_the_wish() -> None:
    assert text(UPSTREAMS, tee=Tee.SNP) == (
        "no instance type found for this pod. Ruled out 2 offerings: 2 by tee (m6a.xlarge: TEE none, not snp (the pod's "
        "wish); m6a.large: TEE none, not snp (the pod's wish))"
    )


@pytest.mark.parametrize(
    "wanted",
    [
        {"vcpus": 99, "memory_mib": 999999},
        {"types": ("no.such",)},
        {"types": ("t00*",), "vcpus": 99},
        {"types": tuple("x" * 80 for _ in range(20))},
        {"pins": (Pin("elsewhere", "volume " + "v" * 300),)},
        {"gpus": 8, "gpu_models": ("H100",), "vcpus": 5},
    ],
)
def test_the_text_stays_short_with_a_thousand_offerings(wanted: dict[str, Any]) -> None:
    said = text(THOUSAND, Constraints(max_price=0.001), **wanted)
    assert 60 < len(said) <= LIMIT


def test_the_reasons_are_grouped_and_those_that_came_the_nearest_first() -> None:
    said = text(THOUSAND, vcpus=7, memory_mib=99999)
    assert said.index("by memory") < said.index("by tee")
    assert "Ruled out 1002 offerings" in said
    assert "more types" in said


def mark(said: str = "none left (InsufficientInstanceCapacity, request r-1)") -> Mark:
    return Mark("Capacity", said, 100.0)


def test_what_was_tried_is_listed_with_the_clouds_words() -> None:
    spot = Offering("m6a.large", 2, 8192, zone="us-east-1a", purchase=Purchase.SPOT)
    said = no_room("aws", [Try(spot, mark()), Try(UPSTREAMS[1], Mark("Quota", "limit of 8 vCPU", 0.0))], ())
    assert said == (
        "aws has no room for this pod's VM. Tried 2 offerings: m6a.large in us-east-1a (spot): none left "
        "(InsufficientInstanceCapacity, request r-1); m6a.xlarge: limit of 8 vCPU"
    )


def test_so_is_what_was_left_out() -> None:
    chooser = Chooser()
    kept = chooser.mark(UPSTREAMS[1], Capacity("full"), 0.0)
    left_out = Rejection(UPSTREAMS[1], "unavailable", kept.reason(30.0))
    said = no_room("aws", [Try(UPSTREAMS[0], mark())], [left_out, Rejection(UPSTREAMS[1], "tee", "x")])
    assert said.endswith("Not asked again so soon: m6a.xlarge: no room when last asked, left out for 150 s more: full")


def test_what_was_tried_is_not_told_again_as_left_out() -> None:
    left_out = [Rejection(offering, "unavailable", "no room when last asked") for offering in UPSTREAMS[:2]]
    said = no_room("aws", [Try(UPSTREAMS[0], mark())], left_out)
    assert said.count(UPSTREAMS[0].instance_type) == 1
    assert said.endswith(f"Not asked again so soon: {UPSTREAMS[1].instance_type}: no room when last asked")


def test_a_hundred_tries_stay_short() -> None:
    tries = [Try(each, mark("w" * 500)) for each in THOUSAND[:100]]
    assert len(no_room("aws", tries, ())) <= LIMIT
    assert tried(tries).endswith("; 82 more no room"), "six types are told, each with its three zones"
