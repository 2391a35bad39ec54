"""The sizing policy comes to what the webhook comes to: both on the same pods, on a real API server of 1.36 or later.

CEL runs nowhere else, so these run where KUBECONFIG names a cluster. Nothing is left there.
"""

import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.manifests import cases, charts, live
from tests.unit.manifests.live import Cluster

pytestmark = live.needed

NAMESPACE, PLAIN, CLASS = "peerpods-policy-test", "peerpods-policy-plain", "peerpods-policy-test"
# The chart's own names may be in use there.
NAMES = {"peerpods-sizing": CLASS, "peerpods-pods": f"{CLASS}-guard"}


def dry(cluster: Cluster, namespace: str, pod: Any) -> tuple[int, Any]:
    return cluster.call("POST", f"/api/v1/namespaces/{namespace}/pods", pod, dryRun="All")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster()
    if found.version() < (1, 36):
        found.close()
        pytest.skip("MutatingAdmissionPolicy is on from Kubernetes 1.36")
    found.make("/apis/node.k8s.io/v1/runtimeclasses", {"metadata": {"name": CLASS}, "handler": "none"})
    for name in (NAMESPACE, PLAIN):
        found.make("/api/v1/namespaces", {"metadata": {"name": name}})
        found.make(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
    yield found
    found.close()


def in_force(cluster: Cluster) -> bool:
    _, said = dry(cluster, NAMESPACE, ours(cases.pod(cases.container())))
    return "kata.peerpods.io/size" in said["metadata"].get("annotations", {})


def wait(cluster: Cluster, wanted: bool) -> None:
    deadline = time.monotonic() + 20
    while in_force(cluster) != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module", params=["zero", "strip"])
def mode(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    """The policy of one mode, in force."""
    values = charts.values("policy")
    values["config"]["kubernetes"] = {"runtime_classes": [CLASS], "pull_secrets": "off"}
    values["config"]["webhook"] = {"mode": request.param}
    values["webhook"] = {"excludedNamespaces": [PLAIN]}
    wait(cluster, False)
    made = 0
    for each in charts.render(values, kube_version="1.36.0"):
        if (name := each["metadata"]["name"]) in NAMES and each["kind"] in live.PATHS:
            text = json.dumps(each).replace(f'"{name}"', f'"{NAMES[name]}"')
            cluster.make(live.PATHS[each["kind"]], json.loads(text))
            made += 1
    assert made == 4
    wait(cluster, True)
    yield str(request.param)
    cluster.drop(made)


def ours(pod: cases.Pod) -> cases.Pod:
    made = copy.deepcopy(pod)
    made["spec"]["runtimeClassName"] = CLASS
    return made


def patched(target: Any, operations: list[dict[str, Any]]) -> Any:
    """JSON patch, as far as the webhook uses it."""
    for each in operations:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in each["path"].split("/")[1:]]
        holder = target
        for part in way:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        if each["op"] == "remove":
            del holder[last]
        else:
            holder[last] = each["value"]
    return target


def essence(pod: Any) -> dict[str, Any]:
    """What sizing is about; a table that is empty is none."""

    def full(resources: Any) -> Any:
        return {kind: table for kind, table in (resources or {}).items() if table}

    def canonical(resources: Any) -> Any:
        from adaptor.catalog.quantities import nano

        return {kind: {key: nano(value) for key, value in table.items()} for kind, table in full(resources).items()}

    spec = pod["spec"]
    return {
        "annotations": pod["metadata"].get("annotations", {}),
        "containers": [canonical(each.get("resources")) for each in spec["containers"]],
        "init": [canonical(each.get("resources")) for each in spec.get("initContainers", [])],
        "whole": canonical(spec.get("resources")),
    }


def by_the_webhook(cluster: Cluster, pod: cases.Pod, mode: str) -> dict[str, Any]:
    from webhook import mutate, pods

    status, defaulted = dry(cluster, PLAIN, pod)
    assert status == 201, defaulted
    gpus = frozenset({"nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe"})
    rules = mutate.Rules(mode=mode, gpu_resources=gpus)
    for _ in range(2):  # it may be called again, and then changes nothing
        defaulted = patched(defaulted, mutate.mutate(pods.read(defaulted), rules).operations)
    return essence(defaulted)


ALL = [*cases.NAMED.values(), *cases.by_chance(120, seed=36)]


def test_policy_and_webhook_come_to_the_same_pods(cluster: Cluster, mode: str) -> None:
    different = []
    for each in map(ours, ALL):
        status, said = dry(cluster, NAMESPACE, each)
        expected = by_the_webhook(cluster, each, mode)
        if status != 201 or essence(said) != expected:
            different.append((each, said if status != 201 else essence(said), expected))
    assert different == [], f"{len(different)} of {len(ALL)}; the first: {json.dumps(different[0], indent=1)}"


def test_a_limit_range_does_not_shrink_the_vm(cluster: Cluster, mode: str) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/limitranges"
    limits = {"type": "Container", "default": {"cpu": "500m", "memory": "512Mi"}, "defaultRequest": {"cpu": "100m"}}
    cluster.call("POST", path, {"metadata": {"name": "defaults"}, "spec": {"limits": [limits]}})
    try:
        pod = ours(cases.pod(cases.container(limits={"cpu": "2", "memory": "2Gi"}), cases.container("b")))
        deadline = time.monotonic() + 10
        while (said := dry(cluster, NAMESPACE, pod)[1])["metadata"]["annotations"]["kata.peerpods.io/size"] != (
            "vcpus=3,memory-mib=2560"
        ):
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
        for each in said["spec"]["containers"]:
            assert each["resources"].get("requests", {}).get("cpu", "0") == "0"
            assert "cpu" not in each["resources"].get("limits", {}) or mode == "zero"
    finally:
        cluster.call("DELETE", f"{path}/defaults")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spec": {"hostNetwork": True}}, "no host network"),
        ({"metadata": {"annotations": {"peerpods.io/zone": "a"}}}, "machine_type"),
    ],
)
def test_what_would_be_passed_over_is_refused(cluster: Cluster, mode: str, change: Any, said: str) -> None:
    pod = ours(cases.pod(cases.container()))
    for part, more in change.items():
        pod[part].update(more)
    status, answer = dry(cluster, NAMESPACE, pod)
    assert status in (403, 422)
    assert said in answer["message"]


def test_a_pod_of_another_class_is_left_alone(cluster: Cluster, mode: str) -> None:
    pod = cases.pod(cases.container(requests={"cpu": "1"}))
    _, said = dry(cluster, NAMESPACE, pod)
    assert said["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "1"}}
    assert "annotations" not in said["metadata"]
