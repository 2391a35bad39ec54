"""What becomes of a PeerPod: the table, and the guard that a PeerPod cannot name another's machine."""

from dataclasses import replace
from typing import Any

import pytest

from adaptor import names
from adaptor.controller import fate
from adaptor.controller.fate import Absences, Dead, Facts, NodeFacts, Verb
from adaptor.kube.peerpod import PeerPod, from_object
from providers import tags
from providers.base import Instance, InstanceState

OURS = PeerPod(
    name="web-abc",
    namespace="shop",
    cloud="aws",
    instance_id="i-1",
    node="node-1",
    pod_name="web",
    pod_uid="uid-1",
    token="t-1",
    finalizers=(names.PEERPOD_FINALIZER,),
    owners=("uid-1",),
)
DELETED = replace(OURS, deleting="2026-01-01T00:00:00Z")
ORPHAN = replace(OURS, owners=())
DEAD = Dead("node node-1 is gone", 1000.0)
FACTS = Facts(cloud="aws", pod_exists=False, dead=DEAD, grace=300.0)


@pytest.mark.parametrize(
    ("peerpod", "facts", "verb", "said"),
    [
        (DELETED, FACTS, Verb.FINISH, "being deleted; node node-1 is gone"),
        (ORPHAN, FACTS, Verb.FINISH, "its pod is gone; node node-1 is gone"),
        (OURS, FACTS, Verb.LEAVE, "pod exists"),
        (ORPHAN, replace(FACTS, pod_exists=True), Verb.LEAVE, "pod exists"),
        (replace(DELETED, finalizers=("other/finalizer",)), FACTS, Verb.LEAVE, "no machine"),
        (DELETED, replace(FACTS, dead=None), Verb.LEAVE, "finishes it"),
        (DELETED, replace(FACTS, dead=None, wanted_gone_for=fate.STUCK), Verb.REPORT, "has not finished it"),
        (DELETED, replace(FACTS, dead=Dead("node node-1 does not report", 299.0)), Verb.LEAVE, "may come back"),
        (DELETED, replace(FACTS, dead=Dead("node node-1 does not report", 300.0)), Verb.FINISH, "does not report"),
        (replace(DELETED, cloud="gcp"), FACTS, Verb.REPORT, "is at gcp, which is not the cloud configured here"),
        (replace(DELETED, cloud=""), FACTS, Verb.FINISH, ""),
    ],
)
def test_the_table_of_fates(peerpod: PeerPod, facts: Facts, verb: Verb, said: str) -> None:
    found = fate.decide(peerpod, facts)
    assert found.verb is verb
    assert said in found.reason


def test_what_waits_for_a_grace_is_looked_at_again_in_time() -> None:
    soon = fate.decide(DELETED, replace(FACTS, dead=Dead("x", 290.0)))
    later = fate.decide(DELETED, replace(FACTS, dead=Dead("x", 0.0)))
    assert soon.again == 10.0
    assert later.again == 60.0


@pytest.mark.parametrize(
    "found",
    [
        {"metadata": {"name": "a", "namespace": "b"}},
        {"metadata": {"name": "a", "namespace": "b", "ownerReferences": []}, "spec": None},
        {"metadata": {"name": "a", "ownerReferences": [{}], "finalizers": None}, "spec": {"cloudProvider": "aws"}},
    ],
)
def test_a_peerpod_without_owners_or_anything_else_crashes_nothing(found: dict[str, Any]) -> None:
    fate.decide(from_object(found), FACTS)


def test_a_node_counts_as_dead_from_when_it_was_first_seen_so_and_not_again_once_it_lived() -> None:
    absences = Absences()
    ready, silent = NodeFacts(ready=True), NodeFacts(ready=False)
    assert absences.look("n", ready, 0.0) is None
    assert absences.look("n", None, 10.0) == Dead("node n is gone", 0.0)
    assert absences.look("n", silent, 40.0) == Dead("node n does not report", 30.0)
    assert absences.look("n", ready, 50.0) is None
    assert absences.look("n", None, 60.0) == Dead("node n is gone", 0.0)


def test_a_node_that_is_out_of_service_needs_no_grace_and_nor_does_upstreams_without_a_node() -> None:
    absences = Absences()
    for node, facts in (("n", NodeFacts(ready=True, out_of_service=True)), ("", None)):
        dead = absences.look(node, facts, 0.0)
        assert dead is not None
        assert fate.decide(DELETED, replace(FACTS, dead=dead)).verb is Verb.FINISH


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({}, NodeFacts(ready=False)),
        ({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, NodeFacts(ready=True)),
        ({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}, NodeFacts(ready=False)),
        (
            {"spec": {"taints": [{"key": fate.OUT_OF_SERVICE, "effect": "NoExecute"}]}},
            NodeFacts(ready=False, out_of_service=True),
        ),
        ({"spec": {"unschedulable": True, "taints": [{"key": "node.kubernetes.io/unschedulable"}]}}, NodeFacts(False)),
    ],
)
def test_a_node_is_read_as_kubernetes_writes_it(node: dict[str, Any], expected: NodeFacts) -> None:
    assert fate.node_facts(node) == expected


def machine(name: str = "peerpods-web", **marks: str) -> Instance:
    return Instance("i-1", InstanceState.RUNNING, name=name, tags=marks)


OWN = {tags.CLUSTER: "cluster-a", tags.POD_NAMESPACE: "shop", tags.TOKEN: "t-1"}
UPSTREAM = PeerPod(name="web-0-resource-x7k2p", namespace="shop", cloud="aws", instance_id="i-1")


@pytest.mark.parametrize(
    ("peerpod", "instance", "objection"),
    [
        (OURS, machine(**OWN), ""),
        (OURS, machine(**{**OWN, tags.CLUSTER: "cluster-b"}), "another cluster's"),
        (OURS, machine(**{**OWN, tags.POD_NAMESPACE: "bank"}), "namespace bank"),
        (OURS, machine(**{tags.CLUSTER: "cluster-a", tags.TOKEN: "t-1"}), ""),
        (OURS, machine(**{tags.CLUSTER: "cluster-a", tags.TOKEN: "t-2"}), "not launched with this PeerPod's token"),
        (replace(OURS, token=""), machine(**{tags.CLUSTER: "cluster-a"}), "not launched with this PeerPod's token"),
        (OURS, machine("podvm-web-12345678"), "neither this cluster's tag"),
        (UPSTREAM, machine("podvm-web-0-12345678"), ""),
        (UPSTREAM, machine("podvm-web-12345678"), ""),  # cut short: a cloud's names are
        (UPSTREAM, machine("podvm-bank-0-12345678"), "neither"),
        (UPSTREAM, machine("podvm-12345678"), "neither"),
        (UPSTREAM, machine("database"), "neither"),
        (UPSTREAM, machine(""), "without a name"),
        (replace(UPSTREAM, node="node-1"), machine("podvm-web-0-12345678"), "neither"),
    ],
)
def test_a_peerpod_cannot_name_a_machine_that_is_not_its_pods(
    peerpod: PeerPod, instance: Instance, objection: str
) -> None:
    found = fate.objection(peerpod, instance, "cluster-a")
    assert objection in found
    assert bool(found) is bool(objection)
