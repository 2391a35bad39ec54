"""LimitRange, RuntimeClass, webhooks and their reinvocation, quota: in the API server's order."""

import base64
import json
from typing import Any

import pytest

from tests.contract.kubernetes.cluster import JSON_PATCH, VM, Cluster, Json


async def limit_range(cluster: Cluster, **item: Any) -> None:
    body = {"metadata": {"name": "limits"}, "spec": {"limits": [{"type": "Container", **item}]}}
    await cluster.make(cluster.here("limitranges"), {"apiVersion": "v1", "kind": "LimitRange"} | body)


async def test_a_limit_range_fills_in_and_bounds(cluster: Cluster) -> None:
    await limit_range(cluster, default={"cpu": "1"}, defaultRequest={"cpu": "500m"}, max={"cpu": "2"})
    made = await _limited(cluster)
    assert made["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}
    over = cluster.pod_object("p", limits={"cpu": "3"})
    answer = await cluster.ask("POST", cluster.here("pods"), over)
    assert answer.status_code == 403
    assert "maximum cpu usage per Container is 2, but limit is 3" in answer.json()["message"]


async def _limited(cluster: Cluster) -> Json:
    """A pod of dry-run as soon as the API server knows the limit range."""

    async def look() -> Json | None:
        made = await cluster.sure("POST", cluster.here("pods"), cluster.pod_object("p"), dryRun="All")
        return made if made["spec"]["containers"][0]["resources"] else None

    found: Json = await cluster.until(look)
    return found


def patched(*operations: Json) -> Json:
    return {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(operations).encode()).decode()}


async def _strip(request: Json) -> Json:
    """Upstream's way: takes the resources away, and writes down what it saw."""
    spec, meta = request["object"]["spec"], request["object"]["metadata"]
    seen = meta.get("annotations", {}).get("seen", "")
    resources = spec["containers"][0].get("resources") or {}
    saw = (resources.get("limits") or {}).get("cpu", "-")
    return patched(
        {"op": "add", "path": "/metadata/annotations", "value": {"seen": f"{seen} {saw}".strip()}},
        {"op": "add", "path": "/spec/containers/0/resources", "value": {}},
    )


@pytest.mark.parametrize(("policy", "seen", "left"), [("IfNeeded", "2 1", {}), ("Never", "2", {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}})])  # fmt: skip
async def test_after_a_webhook_the_limit_range_speaks_again(
    cluster: Cluster, policy: str, seen: str, left: Json
) -> None:
    await limit_range(cluster, default={"cpu": "1"}, defaultRequest={"cpu": "500m"})
    await _limited(cluster)
    served = await cluster.serve(_strip)
    await cluster.hook(served, reinvocationPolicy=policy)
    made = await cluster.sure("POST", cluster.here("pods"), cluster.pod_object("p", limits={"cpu": "2"}), dryRun="All")
    assert made["metadata"]["annotations"]["seen"] == seen
    assert made["spec"]["containers"][0]["resources"] == left


async def test_a_match_condition_spares_all_other_pods(cluster: Cluster) -> None:
    name = await cluster.runtime_class()
    trial = cluster.pod_object("trial", runtimeClassName=name)

    async def known() -> bool:
        return (await cluster.ask("POST", cluster.here("pods"), trial, dryRun="All")).status_code == 201

    await cluster.until(known)
    served = await cluster.serve(_nothing)
    expression = f"has(object.spec.runtimeClassName) && object.spec.runtimeClassName in ['{name}']"
    await cluster.hook(served, trial=trial, matchConditions=[{"name": "ours", "expression": expression}])
    await cluster.sure("POST", cluster.here("pods"), cluster.pod_object("p"), dryRun="All")
    assert served.reviews == []
    await cluster.sure("POST", cluster.here("pods"), trial, dryRun="All")
    assert [one["dryRun"] for one in served.reviews] == [True]


async def _nothing(request: Json) -> Json:
    return {}


async def test_a_denial_is_told_in_the_webhooks_words(cluster: Cluster) -> None:
    async def deny(request: Json) -> Json:
        return {"allowed": False, "status": {"code": 403, "message": "no offering has 900 vCPUs"}}

    served = await cluster.serve(deny)
    name = await cluster.hook(served, validating=True)
    answer = await cluster.ask("POST", cluster.here("pods"), cluster.pod_object("p"))
    assert answer.status_code == 403
    assert (
        answer.json()["message"]
        == f'admission webhook "{name}.peerpods.io" denied the request: no offering has 900 vCPUs'
    )


@pytest.mark.parametrize(("policy", "code"), [("Fail", 500), ("Ignore", 201)])
async def test_a_webhook_that_is_away_is_the_failure_policys(cluster: Cluster, policy: str, code: int) -> None:
    served = await cluster.serve(_nothing)
    name = await cluster.hook(served, failurePolicy=policy)
    await served.close()
    answer = await cluster.ask("POST", cluster.here("pods"), cluster.pod_object("p"), dryRun="All")
    assert answer.status_code == code
    if code == 500:
        assert f'failed calling webhook "{name}.peerpods.io": failed to call webhook' in answer.json()["message"]


async def test_a_ca_bundle_that_is_not_the_webhooks_fails_the_call(cluster: Cluster) -> None:
    served = await cluster.serve(_nothing)
    name = await cluster.hook(served)
    path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}"
    other = await cluster.serve(_nothing)
    bundle = base64.b64encode(other.ca_bundle).decode()
    patch = [{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]
    await cluster.sure("PATCH", path, patch, content_type=JSON_PATCH)

    async def fails() -> bool:
        answer = await cluster.ask("POST", cluster.here("pods"), cluster.pod_object("p"), dryRun="All")
        return answer.status_code == 500 and "certificate" in answer.json()["message"]

    await cluster.until(fails)


async def test_a_runtime_class_brings_overhead_and_nodes(cluster: Cluster) -> None:
    name = await cluster.runtime_class(
        overhead={"podFixed": {"cpu": "250m", VM: "1"}}, scheduling={"nodeSelector": {"peerpods.io/kata": "yes"}}
    )
    pod = cluster.pod_object("p", runtimeClassName=name)

    async def made() -> Json | None:
        answer = await cluster.ask("POST", cluster.here("pods"), pod, dryRun="All")
        return answer.json() if answer.status_code == 201 else None

    spec = (await cluster.until(made))["spec"]
    assert spec["overhead"] == {"cpu": "250m", VM: "1"}
    assert spec["nodeSelector"] == {"peerpods.io/kata": "yes"}
    pod["spec"]["overhead"] = {"cpu": "1"}
    answer = await cluster.ask("POST", cluster.here("pods"), pod, dryRun="All")
    assert answer.status_code == 403
    assert "Overhead doesn't match RuntimeClass's defined Overhead" in answer.json()["message"]


@pytest.mark.parametrize("where", ["container", "overhead"])
async def test_a_quota_of_vms_counts_containers_and_overhead(cluster: Cluster, where: str) -> None:
    hard = {f"requests.{VM}": "1"}
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "vms"}, "spec": {"hard": hard}}
    await cluster.make(cluster.here("resourcequotas"), body)
    more: Json = {"limits": {VM: "1"}}
    if where == "overhead":
        more = {"runtimeClassName": await cluster.runtime_class(overhead={"podFixed": {VM: "1"}})}

    async def counted() -> bool:
        quota = await cluster.sure("GET", cluster.here("resourcequotas", "vms"))
        return bool(quota.get("status", {}).get("used") == {f"requests.{VM}": "1"})

    async def made() -> bool:
        pod = cluster.pod_object("first", nodeSelector={"peerpods.io/no": "node"}, **more)
        return (await cluster.ask("POST", cluster.here("pods"), pod)).status_code == 201

    await cluster.until(made)
    await cluster.until(counted)
    answer = await cluster.ask("POST", cluster.here("pods"), cluster.pod_object("second", **more))
    assert answer.status_code == 403
    said = f"exceeded quota: vms, requested: requests.{VM}=1, used: requests.{VM}=1, limited: requests.{VM}=1"
    assert said in answer.json()["message"]
