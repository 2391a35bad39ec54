"""What the chart's roles and policies let adaptor and controller do, asked of a real API server. Nothing is changed there:
every call is a dry run.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from adaptor.kube import peerpod
from tests.unit.manifests import charts, live
from tests.unit.manifests.live import Cluster, acting_as, patching

pytestmark = live.needed

NAMESPACE = "peerpods-node-policy-test"
VM = "/status/capacity/kata.peerpods.io~1vm"
WANTED = {
    "peerpods-own-node",
    "peerpods-gates-only",
    "peerpods-adaptor",
    "peerpods-controller",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """With the chart's roles and policies of a release in NAMESPACE, under names of the test's own."""
    found = Cluster()
    if found.version() < (1, 30):
        found.close()
        pytest.skip("ValidatingAdmissionPolicy is there from Kubernetes 1.30")
    found.make("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    found.make(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": "default"}})
    for each in charts.rendered("aws"):
        if each["kind"] in live.PATHS and each["metadata"]["name"] in WANTED:
            text = json.dumps(each).replace(f":{charts.NAMESPACE}:", f":{NAMESPACE}:")
            for name in WANTED:
                text = text.replace(f'"name": "{name}"', f'"name": "{name}-test"')
                text = text.replace(f'"policyName": "{name}"', f'"policyName": "{name}-test"')
            made = json.loads(text)
            for subject in made.get("subjects", []):
                subject |= {"namespace": NAMESPACE, "name": subject["name"].removesuffix("-test")}
            found.make(live.PATHS[each["kind"]], made)
    deadline = time.monotonic() + 20
    while patch(found, "nobodys-node", capacity("1"))[0] != 403:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield found
    found.close()


def node(cluster: Cluster) -> str:
    _, nodes = cluster.call("GET", "/api/v1/nodes")
    return str(nodes["items"][0]["metadata"]["name"])


def capacity(figure: str) -> list[dict[str, str]]:
    return [{"op": "add", "path": VM, "value": figure}]


def patch(
    cluster: Cluster, on: str, operations: Any, *, part: str = "/status", account: str = "peerpods-adaptor"
) -> tuple[int, Any]:
    """As an adaptor whose pod is on node `on` patches the first node."""
    headers = patching("json", acting_as(account, NAMESPACE, on))
    return cluster.call("PATCH", f"/api/v1/nodes/{node(cluster)}{part}", operations, headers=headers, dryRun="All")


def peerpod_on(name: str) -> dict[str, Any]:
    made = peerpod.PeerPod(name="a-1", namespace=NAMESPACE, node=name, sandbox="s1", pod_name="a", pod_uid="u-1")
    return peerpod.to_object(made)


def test_an_adaptor_advertises_on_its_own_node(cluster: Cluster) -> None:
    status, said = patch(cluster, node(cluster), capacity("7"))
    assert (status, said["status"]["capacity"]["kata.peerpods.io/vm"]) == (200, "7")


def test_another_nodes_token_is_refused_and_told_why(cluster: Cluster) -> None:
    status, said = patch(cluster, "another", capacity("7"))
    assert status == 403
    assert "this one is on another" in said["message"]


def test_a_token_of_no_pod_is_refused(cluster: Cluster) -> None:
    status, said = patch(cluster, "", capacity("7"))
    assert status == 403
    assert "names none" in said["message"]


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "add", "path": "/status/capacity/cpu", "value": "1000"},
        {"op": "add", "path": "/status/allocatable/example.com~1x", "value": "1"},
        {"op": "replace", "path": "/status/conditions", "value": []},
        {"op": "add", "path": "/status/daemonEndpoints", "value": {"kubeletEndpoint": {"Port": 1}}},
        {"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}},
        {"op": "add", "path": "/metadata/labels", "value": {"a": "b"}},
    ],
)
def test_of_the_node_only_the_figure_may_be_changed(cluster: Cluster, operation: dict[str, Any]) -> None:
    status, said = patch(cluster, node(cluster), [operation])
    assert status == 403
    assert "and nothing else" in said["message"]


def test_labels_and_taints_are_not_an_adaptors(cluster: Cluster) -> None:
    labels = [{"op": "add", "path": "/metadata/labels/a", "value": "b"}]
    assert patch(cluster, node(cluster), labels, part="")[0] == 403


def test_an_adaptor_makes_peerpods_of_its_own_node_only(cluster: Cluster) -> None:
    path = f"/apis/confidentialcontainers.org/v1alpha1/namespaces/{NAMESPACE}/peerpods"
    if cluster.call("GET", path)[0] == 404:
        pytest.skip("the CRD is not installed there")
    headers = acting_as("peerpods-adaptor", NAMESPACE, "mine")
    assert cluster.call("POST", path, peerpod_on("mine"), headers=headers, dryRun="All")[0] == 201
    status, said = cluster.call("POST", path, peerpod_on("yours"), headers=headers, dryRun="All")
    assert status == 403
    assert "this one is on mine" in said["message"]


def test_an_adaptor_changes_and_deletes_peerpods_of_its_own_node_only(cluster: Cluster) -> None:
    path = f"/apis/confidentialcontainers.org/v1alpha1/namespaces/{NAMESPACE}/peerpods"
    if cluster.call("GET", path)[0] == 404:
        pytest.skip("the CRD is not installed there")
    made = peerpod_on("mine")
    del made["metadata"]["finalizers"], made["metadata"]["ownerReferences"]
    cluster.make(path, made)
    mine, yours = (acting_as("peerpods-adaptor", NAMESPACE, on) for on in ("mine", "yours"))
    moved = {"spec": {"nodeName": "yours"}}
    own = f"{path}/a-1"
    told = {"status": {"phase": "starting"}}
    for headers, where, change, expected in (
        (mine, own, {"spec": {"instanceID": "i-1"}}, 200),
        (mine, f"{own}/status", told, 200),
        (yours, own, {"spec": {"instanceID": "i-1"}}, 403),
        (yours, f"{own}/status", told, 403),
        (mine, own, moved, 403),
        (yours, own, moved, 403),
    ):
        status, said = cluster.call("PATCH", where, change, headers=patching("merge", headers), dryRun="All")
        assert status == expected, said
    assert cluster.call("DELETE", own, headers=yours, dryRun="All")[0] == 403
    assert cluster.call("DELETE", own, headers=mine, dryRun="All")[0] == 200


def test_the_controller_lifts_gates_and_changes_nothing_else(cluster: Cluster) -> None:
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    gated = {
        "metadata": {"name": "gated"},
        "spec": {
            "containers": [{"name": "a", "image": "none"}],
            "schedulingGates": [{"name": "example.com/another"}, {"name": "kata.peerpods.io/quota"}],
        },
    }
    cluster.make(pods, gated)
    headers = patching("json", acting_as("peerpods-controller", NAMESPACE, "any"))
    lift = [{"op": "remove", "path": "/spec/schedulingGates/1"}]
    assert cluster.call("PATCH", f"{pods}/gated", lift, headers=headers, dryRun="All")[0] == 200
    for change in (
        {"op": "replace", "path": "/spec/containers/0/image", "value": "evil"},
        {"op": "add", "path": "/metadata/labels", "value": {"app": "another"}},
        {"op": "add", "path": "/metadata/finalizers", "value": ["a.example/b"]},
        {"op": "add", "path": "/spec/activeDeadlineSeconds", "value": 1},
        {"op": "remove", "path": "/spec/schedulingGates/0"},
    ):
        status, said = cluster.call("PATCH", f"{pods}/gated", [change], headers=headers, dryRun="All")
        assert status == 403, said
        assert "its own scheduling gate and changes nothing else" in said["message"]


@pytest.mark.parametrize("account", ["peerpods-adaptor", "peerpods-controller"])
def test_no_secret_of_the_cluster_can_be_read(cluster: Cluster, account: str) -> None:
    headers = acting_as(account, NAMESPACE, "any")
    assert cluster.call("GET", "/api/v1/secrets", headers=headers)[0] == 403
    assert cluster.call("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/any", headers=headers)[0] == 403
