"""How many pod VMs a node may have."""

from typing import Any

import pytest

from adaptor import names
from adaptor.kube import vms
from adaptor.kube.vms import Seen

VM = names.VM_RESOURCE


def container(vm: Any = None, *, kind: str = "requests", **more: Any) -> dict[str, Any]:
    return {"name": "c", "resources": {kind: {VM: vm}} if vm is not None else {}, **more}


def pod(*containers: dict[str, Any], phase: str = "Running", **spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": list(containers), **spec}, "status": {"phase": phase}}


SIDECAR = {"restartPolicy": "Always"}


@pytest.mark.parametrize(
    ("asking", "number"),
    [
        (pod(container("1")), 1),
        (pod(container("1"), container()), 1),
        (pod(container("1"), container("1")), 2),
        (pod(container()), 0),
        (pod({"name": "c"}), 0),
        ({}, 0),
        (pod(container("1", kind="limits")), 1),
        (pod(container(), overhead={VM: "1", "cpu": "250m"}), 1),
        (pod(container("1"), overhead={VM: "1"}), 2),
        (pod(container("1"), initContainers=[container("1")]), 1),
        (pod(container("1"), initContainers=[container("3"), container("1")]), 3),
        (pod(container("1"), initContainers=[container("1", **SIDECAR)]), 2),
        (pod(container(), initContainers=[container("1", **SIDECAR), container("2")]), 3),
        (pod(container(), initContainers=[container("2"), container("1", **SIDECAR)]), 2),
    ],
)
def test_a_pod_asks_for_what_scheduler_and_kubelet_reckon(asking: dict[str, Any], number: int) -> None:
    assert vms.requested(asking) == number


def test_pods_that_are_over_use_nothing_and_pods_that_are_being_deleted_do() -> None:
    one = container("1")
    deleting = pod(one) | {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert vms.in_use([pod(one), pod(one, phase="Pending"), deleting]) == 3
    assert vms.in_use([pod(one, phase="Succeeded"), pod(one, phase="Failed")]) == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("10", 10),
        (10, 10),
        ("1k", 1000),
        ("2e3", 2000),
        ("1M", 1_000_000),
        ("0", 0),
        ("x", None),
        (None, None),
        ("", None),
        ("500m", None),
    ],
)
def test_a_count_is_read_as_kubernetes_writes_it(text: Any, number: int | None) -> None:
    assert vms.count(text) == number


def test_a_node_tells_what_is_advertised_who_wrote_it_and_whether_it_is_being_drained() -> None:
    node = {
        "metadata": {"annotations": {names.DRAIN: "True", names.UPSTREAM_OWNER: "uid"}},
        "status": {"capacity": {VM: "7"}},
    }
    assert vms.seen(node) == Seen(7, draining=True, owner="uid")
    assert vms.seen({"metadata": {}, "status": {}}) == Seen(None)
    assert not vms.seen({"metadata": {"annotations": {names.DRAIN: "false"}}}).draining


@pytest.mark.parametrize(
    ("limit", "used", "now", "held", "figure"),
    [
        (10, 0, Seen(None), 0, 10),
        (10, 4, Seen(10), 4, 10),
        (10, 12, Seen(10), 0, 12),  # never below what is in use, whoever placed it
        (3, 5, Seen(10), 5, 5),
        (3, 2, Seen(5), 2, 3),
        (0, 2, Seen(10), 0, 2),  # never 0 while pods run
        (0, 0, Seen(2), 0, 0),
        (0, 0, Seen(2), 1, 0),  # a VM that is being deleted: its pod is gone
        (-1, 5, Seen(10), 5, None),
        (10, 2, Seen(10, draining=True), 2, 2),
        (10, 0, Seen(10, draining=True), 0, 0),
        (3, None, Seen(10), 1, 10),  # nobody can tell what is in use: not lowered
        (12, None, Seen(10), 1, 12),
        (3, None, Seen(None), 1, 3),
        (3, None, Seen(None), 4, 4),
    ],
)
def test_the_figure_is_the_limit_and_never_less_than_what_is_in_use(
    limit: int, used: int | None, now: Seen, held: int, figure: int | None
) -> None:
    assert vms.wanted(limit, used, now, held) == figure


def test_the_patch_touches_this_resource_alone() -> None:
    assert vms.patch(3) == {"status": {"capacity": {"kata.peerpods.io/vm": "3"}}}
