"""The sizing policy comes to what the webhook comes to: both on the same pods, on a real API server of 1.36 or later.

CEL runs nowhere else, so these run where KUBECONFIG names a cluster. Nothing is left there.
"""

import copy
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.manifests import cases, charts

yaml = pytest.importorskip("yaml")
KUBECONFIG = os.environ.get("KUBECONFIG", "")
pytestmark = pytest.mark.skipif(not KUBECONFIG, reason="CEL runs in a real API server only: set KUBECONFIG")

NAMESPACE, PLAIN, CLASS = "peerpods-policy-test", "peerpods-policy-plain", "peerpods-policy-test"
GONE = {"peerpods-sizing": CLASS, "peerpods-pods": f"{CLASS}-guard"}


class Cluster:
    """The API server, with lightkube's own connection and no models: what is sent is what is written here."""

    def __init__(self) -> None:
        from lightkube import Client, KubeConfig

        self.http = Client(config=KubeConfig.from_file(KUBECONFIG))._client._client

    def call(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        answer = self.http.request(method, path, json=body, params=query)
        return answer.status_code, answer.json()

    def make(self, path: str, body: Any) -> None:
        status, said = self.call("POST", path, body)
        assert status in (201, 409), said

    def dry(self, namespace: str, pod: Any) -> tuple[int, Any]:
        return self.call("POST", f"/api/v1/namespaces/{namespace}/pods", pod, dryRun="All")


ADMISSION = "/apis/admissionregistration.k8s.io/v1"
PLURALS = {
    "MutatingAdmissionPolicy": "mutatingadmissionpolicies",
    "MutatingAdmissionPolicyBinding": "mutatingadmissionpolicybindings",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster()
    _, version = found.call("GET", "/version")
    if int(version["minor"].rstrip("+")) < 36:
        pytest.skip(f"MutatingAdmissionPolicy is on from Kubernetes 1.36; this is {version['gitVersion']}")
    found.make("/apis/node.k8s.io/v1/runtimeclasses", {"metadata": {"name": CLASS}, "handler": "none"})
    for name in (NAMESPACE, PLAIN):
        found.make("/api/v1/namespaces", {"metadata": {"name": name}})
        found.make(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
    yield found
    for name in (NAMESPACE, PLAIN):
        found.call("DELETE", f"/api/v1/namespaces/{name}")
    found.call("DELETE", f"/apis/node.k8s.io/v1/runtimeclasses/{CLASS}")
    found.http.close()


@pytest.fixture(scope="module", params=["zero", "strip"])
def mode(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    """The policy of one mode, under names of the test's own, in force."""
    values = charts.values("policy")
    values["config"]["kubernetes"] = {"runtime_classes": [CLASS], "pull_secrets": "off"}
    values["config"]["webhook"] = {"mode": request.param}
    values["webhook"] = {"excludedNamespaces": [PLAIN]}
    made = []
    for each in charts.render(values, kube_version="1.36.0"):
        if (name := each["metadata"]["name"]) not in GONE or each["kind"] not in PLURALS:
            continue
        text = json.dumps(each).replace(f'"{name}"', f'"{GONE[name]}"')
        path = f"{ADMISSION}/{PLURALS[each['kind']]}"
        cluster.call("DELETE", f"{path}/{GONE[name]}")
        status, said = cluster.call("POST", path, json.loads(text))
        assert status == 201, said
        made.append(f"{path}/{GONE[name]}")
    assert len(made) == 4
    deadline = time.monotonic() + 20
    probe = ours(cases.pod(cases.container()))
    while "kata.peerpods.io/size" not in cluster.dry(NAMESPACE, probe)[1]["metadata"].get("annotations", {}):
        assert time.monotonic() < deadline, "the policy does not come into force"
        time.sleep(0.2)
    yield request.param
    for path in made:
        cluster.call("DELETE", path)
    while "kata.peerpods.io/size" in cluster.dry(NAMESPACE, probe)[1]["metadata"].get("annotations", {}):
        assert time.monotonic() < deadline + 20
        time.sleep(0.2)


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

    status, defaulted = cluster.dry(PLAIN, pod)
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
        status, said = cluster.dry(NAMESPACE, each)
        expected = by_the_webhook(cluster, each, mode)
        if status != 201 or essence(said) != expected:
            different.append((each, said if status != 201 else essence(said), expected))
    assert different == [], f"{len(different)} of {len(ALL)}; the first: {json.dumps(different[0], indent=1)}"


def test_a_limit_range_does_not_shrink_the_vm(cluster: Cluster, mode: str) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/limitranges"
    limits = {"type": "Container", "default": {"cpu": "500m", "memory": "512Mi"}, "defaultRequest": {"cpu": "100m"}}
    cluster.make(path, {"metadata": {"name": "defaults"}, "spec": {"limits": [limits]}})
    try:
        pod = ours(cases.pod(cases.container(limits={"cpu": "2", "memory": "2Gi"}), cases.container("b")))
        deadline = time.monotonic() + 10
        while (said := cluster.dry(NAMESPACE, pod)[1])["metadata"]["annotations"]["kata.peerpods.io/size"] != (
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
    status, answer = cluster.dry(NAMESPACE, pod)
    assert status in (403, 422)
    assert said in answer["message"]


def test_a_pod_of_another_class_is_left_alone(cluster: Cluster, mode: str) -> None:
    pod = cases.pod(cases.container(requests={"cpu": "1"}))
    _, said = cluster.dry(NAMESPACE, pod)
    assert said["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "1"}}
    assert "annotations" not in said["metadata"]
