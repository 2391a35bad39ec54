"""Which held pods may go: limits, order, fairness, turns; and what the others are told."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptor import names
from adaptor.controller import gates
from adaptor.controller.gates import TURN, Decision, Limits, PodFacts

CLASSES = ("kata-remote",)


def pod(
    name: str, namespace: str = "shop", *, at: int = 0, gated: bool = True, vcpus: int = 1, **more: Any
) -> PodFacts:
    amount = {"pods": 1, "vcpus": vcpus, "memory-gib": more.pop("mib", 1024), "gpus": more.pop("gpus", 0)}
    return PodFacts(
        namespace, name, f"{namespace}/{name}", created=f"2026-01-01T00:00:{at:02}Z", amount=amount, gated=gated, **more
    )


def decide(
    *pods: PodFacts,
    cluster: Limits = {},  # noqa: B006 - read only
    each: Limits = {},  # noqa: B006
    lifted: tuple[str, ...] = (),
    waited: float = 0.0,
) -> Decision:
    return gates.decide(
        pods,
        cluster,
        {each_pod.namespace: each for each_pod in pods},
        lifted=lifted,
        waited=dict.fromkeys([each_pod.uid for each_pod in pods], waited),
    )


def lifted(decision: Decision) -> list[str]:
    return [each.name for each in decision.lift]


def test_without_limits_everybody_goes_oldest_first() -> None:
    assert lifted(decide(pod("b", at=2), pod("a", at=1), pod("c", at=3))) == ["a", "b", "c"]


def test_pods_go_in_the_order_of_their_creation_while_there_is_room() -> None:
    found = decide(pod("b", at=2), pod("a", at=1), pod("c", at=3), pod("r", gated=False), cluster={"pods": 3})
    assert lifted(found) == ["a", "b"]
    assert found.held["shop/c"].message.startswith(
        "waits for room: the cluster may have 3 pods, its pods have 3, this one needs 1. "
        "It starts by itself when pods of the cluster have ended"
    )


@pytest.mark.parametrize(
    ("limits", "asks"),
    [({"vcpus": 4}, {"vcpus": 4}), ({"memory-gib": 2048}, {"mib": 2048}), ({"gpus": 1}, {"gpus": 1})],
)
@pytest.mark.parametrize("scope", ["cluster", "each"])
def test_each_limit_counts_in_each_scope_to_the_last_unit(limits: Limits, asks: dict[str, int], scope: str) -> None:
    asked: dict[str, Any] = asks
    first, second = pod("a", at=1, **asked), pod("b", at=2, **asked)
    found = gates.decide(
        [first, second],
        limits if scope == "cluster" else {},
        {"shop": limits} if scope == "each" else {},
        lifted=(),
        waited={},
    )
    assert lifted(found) == ["a"]
    assert ("namespace shop" in found.held["shop/b"].message) is (scope == "each")


@pytest.mark.parametrize("gone", [{"ended": True}, {"ours": False}])
def test_pods_that_have_ended_and_those_of_other_runtimes_take_no_room(gone: dict[str, Any]) -> None:
    assert lifted(decide(pod("a"), pod("old", gated=False, **gone), cluster={"pods": 1})) == ["a"]


def test_a_pod_that_is_being_deleted_has_its_vm_until_it_is_gone() -> None:
    assert lifted(decide(pod("a"), pod("old", gated=False, deleting=True), cluster={"pods": 1})) == []


def test_what_was_lifted_since_the_list_takes_room_already_and_is_not_lifted_twice() -> None:
    found = decide(pod("a", at=1), pod("b", at=2), cluster={"pods": 1}, lifted=("shop/a",))
    assert lifted(found) == []
    assert list(found.held) == ["shop/b"]


def test_a_gated_pod_that_is_being_deleted_is_neither_lifted_nor_told() -> None:
    assert decide(pod("a", deleting=True), cluster={"pods": 0}) == Decision((), {})


def test_a_gate_on_a_pod_of_another_runtime_is_lifted_for_nobody_else_would() -> None:
    assert lifted(decide(pod("a", ours=False), cluster={"pods": 0})) == ["a"]


def test_a_namespace_with_many_pods_does_not_keep_the_next_one_waiting() -> None:
    many = [pod(f"m{number:03}", "many", at=0) for number in range(50)]
    few = [pod(f"f{number}", "few", at=59) for number in range(5)]
    found = decide(*many, *few, cluster={"pods": 10})
    assert sum(each.namespace == "few" for each in found.lift) == 5


def test_the_share_is_of_the_limit_that_a_namespace_uses_most_of() -> None:
    running = [pod("g", "gpus", gated=False, gpus=3), *(pod(f"r{i}", "pods", gated=False) for i in range(3))]
    found = decide(*running, pod("a", "gpus", at=1), pod("b", "pods", at=2), cluster={"pods": 5, "gpus": 4})
    assert lifted(found) == ["b"]


def test_a_pod_larger_than_the_limit_is_told_so_and_holds_up_nobody_ever() -> None:
    huge = pod("huge", at=0, vcpus=64)
    for waited in (0.0, TURN, 5 * TURN):
        found = decide(huge, pod("a", at=1), pod("b", "bank", at=2), cluster={"vcpus": 2}, waited=waited)
        assert lifted(found) == ["a", "b"]
        assert (
            "it can never start, unless [quota] cluster in the controller's settings" in found.held["shop/huge"].message
        )


def test_a_large_pod_is_passed_by_small_ones_until_its_turn_and_again_after_it() -> None:
    running = pod("r", gated=False, vcpus=6)
    large, small = pod("large", at=0, vcpus=4), pod("small", "bank", at=1)
    waited = {}
    for seconds, names_of_lifted in ((0.0, ["small"]), (TURN, []), (2 * TURN - 1, []), (2 * TURN, ["small"])):
        waited = {large.uid: seconds, small.uid: 0.0}
        found = gates.decide([running, large, small], {"vcpus": 8}, {}, lifted=(), waited=waited)
        assert lifted(found) == names_of_lifted, seconds
    waited = {large.uid: TURN, small.uid: 0.0}
    after = gates.decide([replace(running, ended=True), large, small], {"vcpus": 4}, {}, lifted=(), waited=waited)
    assert lifted(after) == ["large"]
    held = gates.decide([running, large, small], {"vcpus": 8}, {}, lifted=(), waited=waited).held
    assert "4 are kept for a pod that has waited longer" in held[small.uid].message


def test_a_namespace_that_has_waited_long_with_many_pods_has_one_turn_and_not_all_there_is() -> None:
    many = [pod(f"m{number:02}", "many", at=0) for number in range(50)]
    few = [pod(f"f{number}", "few", at=59) for number in range(5)]
    waited = {each.uid: TURN for each in many}
    found = gates.decide([*many, *few], {"pods": 10}, {}, lifted=(), waited=waited)
    assert sum(each.namespace == "few" for each in found.lift) == 5


def test_a_turn_in_a_namespaces_limit_holds_up_that_namespace_only() -> None:
    running = pod("r", gated=False, vcpus=6)
    large, next_to_it, elsewhere = pod("l", at=0, vcpus=4), pod("n", at=1), pod("e", "bank", at=2)
    waited = {large.uid: TURN}
    found = gates.decide([running, large, next_to_it, elsewhere], {}, {"shop": {"vcpus": 8}}, lifted=(), waited=waited)
    assert lifted(found) == ["e"]


def test_a_pod_that_asks_for_none_of_a_full_resource_is_not_held_by_it() -> None:
    running = pod("r", gated=False, gpus=4)
    assert lifted(decide(running, pod("a"), cluster={"gpus": 4})) == ["a"]
    assert lifted(decide(running, pod("a"), cluster={"gpus": 2})) == ["a"]  # a limit that was lowered


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 59), st.integers(1, 9), st.booleans(), st.floats(0, 4 * TURN)),
        max_size=25,
    ),
    st.integers(0, 20),
    st.integers(0, 12),
)
@settings(max_examples=200, deadline=None)
def test_no_limit_is_ever_passed_and_nobody_who_fits_alone_waits_in_an_empty_cluster(
    drawn: list[tuple[str, int, int, bool, float]], vcpus: int, of_each: int
) -> None:
    pods = [
        pod(f"p{index}", namespace, at=at, vcpus=size, gated=gated)
        for index, (namespace, at, size, gated, _) in enumerate(drawn)
    ]
    waited = {each.uid: seconds for each, (*_, seconds) in zip(pods, drawn, strict=True)}
    limits = {each.namespace: {"vcpus": of_each} for each in pods}
    found = gates.decide(pods, {"vcpus": vcpus}, limits, lifted=(), waited=waited)
    assert {each.uid for each in found.lift} | found.held.keys() == {each.uid for each in pods if each.gated}
    for namespace in (None, *"abc"):
        running = sum(each.amount["vcpus"] for each in pods if not each.gated and namespace in (None, each.namespace))
        fresh = sum(each.amount["vcpus"] for each in found.lift if namespace in (None, each.namespace))
        assert not fresh or running + fresh <= (vcpus if namespace is None else of_each)
    gated = [each for each in pods if each.gated]
    if gated and len(gated) == len(pods):
        fits = [each for each in gated if each.amount["vcpus"] <= min(vcpus, of_each)]
        assert bool(found.lift) is bool(fits)


def test_a_pod_is_read_as_kubernetes_writes_it() -> None:
    found = gates.pod_facts(
        {
            "metadata": {
                "name": "web",
                "namespace": "shop",
                "uid": "u",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {names.SIZED: "vcpus=4,memory-mib=4096,gpus=1,scratch-gib=10"},
            },
            "spec": {"runtimeClassName": "kata-remote", "schedulingGates": [{"name": "other"}, {"name": names.QUOTA}]},
            "status": {"phase": "Pending"},
        },
        CLASSES,
    )
    assert found == PodFacts(
        "shop",
        "web",
        "u",
        created="2026-01-01T00:00:00Z",
        amount={"pods": 1, "vcpus": 4, "memory-gib": 4096, "gpus": 1},
        gated=True,
    )


def test_a_pod_that_has_nothing_to_do_with_us_is_not_kept() -> None:
    assert gates.pod_facts({"metadata": {"name": "a"}, "spec": {"schedulingGates": [{"name": "x"}]}}, CLASSES) is None
    assert gates.pod_facts({"metadata": {"name": "a"}}, CLASSES) is None


@pytest.mark.parametrize("marker", ["", "x", "vcpus=-1", "vcpus=1e9", "vcpus=,memory-mib=1", "vcpus=" + "9" * 30])
def test_a_marker_full_of_nonsense_counts_as_a_pod_of_no_size(marker: str) -> None:
    assert gates.size(marker) == {}


def test_a_pod_that_asks_for_no_size_counts_as_the_machine_that_it_gets() -> None:
    default = {"vcpus": 2, "memory-gib": 8192, "gpus": 0}
    asks_nothing = pod("a", vcpus=0, mib=0)
    assert gates.like_default(asks_nothing, default).amount == {"pods": 1, **default}
    assert gates.like_default(pod("b"), default) == pod("b")
    assert gates.like_default(asks_nothing, {}) == replace(asks_nothing, amount={"pods": 1})


@pytest.mark.parametrize(
    ("text", "limits"), [("pods=10,vcpus=40", {"pods": 10, "vcpus": 40}), ("memory-gib=2", {"memory-gib": 2048})]
)
def test_a_namespaces_annotation_is_read_like_the_setting(text: str, limits: Limits) -> None:
    assert gates.annotated(text) == limits


@pytest.mark.parametrize("text", ["pods", "pods=-1", "cpu=4", "pods=4;vcpus=2", "pods=1.5"])
def test_an_annotation_that_cannot_be_read_says_why(text: str) -> None:
    with pytest.raises(ValueError):
        gates.annotated(text)
