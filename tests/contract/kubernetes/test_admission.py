"""LimitRange, RuntimeClass, webhooks and their reinvocation, quota: in the API server's order."""

import base64
import json
from typing import Any

import pytest

from tests.contract.kubernetes.cluster import JSON_PATCH, MERGE, VM, Cluster, Json


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
    tried = await cluster.ask("POST", cluster.here("pods"), cluster.pod_object("second", **more), dryRun="All")
    answer = await cluster.ask("POST", cluster.here("pods"), cluster.pod_object("second", **more))
    assert tried.status_code == answer.status_code == 403
    said = f"exceeded quota: vms, requested: requests.{VM}=1, used: requests.{VM}=1, limited: requests.{VM}=1"
    assert said in answer.json()["message"]


# -- policies -------------------------------------------------------------------------------------


async def own_node_policy(cluster: Cluster, account: str) -> str:
    """As the chart has it, for this test's account only."""
    name, group = cluster.name("own-node"), "admissionregistration.k8s.io/v1"
    extra = "request.userInfo.extra"
    key = "authentication.kubernetes.io/node-name"
    user = f"system:serviceaccount:{cluster.namespace}:{account}"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["nodes", "nodes/status"]}
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [rule]},
        "matchConditions": [{"name": "ours", "expression": f"request.userInfo.username == '{user}'"}],
        "variables": [{"name": "node", "expression": f"has({extra}) && '{key}' in {extra} ? {extra}['{key}'][0] : ''"}],
        "validations": [
            {
                "expression": "object.metadata.name == variables.node",
                "messageExpression": "'an adaptor changes its own node only: this one is on ' + variables.node",
                "reason": "Forbidden",
            },
            {"expression": "object.metadata.?labels == oldObject.metadata.?labels", "message": "labels stay"},
            {"expression": "object.status.capacity.all(k, k in oldObject.status.capacity || k.endsWith('/vm'))"},
        ],
    }
    path = f"/apis/{group}/validatingadmissionpolicies"
    meta = {"apiVersion": group, "metadata": {"name": name}}
    await cluster.make(path, meta | {"kind": "ValidatingAdmissionPolicy", "spec": spec})
    binding = {"kind": "ValidatingAdmissionPolicyBinding", "spec": {"policyName": name, "validationActions": ["Deny"]}}
    await cluster.make(f"/apis/{group}/validatingadmissionpolicybindings", meta | binding)
    return name


async def test_a_policy_holds_an_adaptor_to_its_own_node_by_its_token(cluster: Cluster) -> None:
    own, other = await cluster.node(), await cluster.node()
    await cluster.token("adaptor")
    rule = {"apiGroups": [""], "resources": ["nodes", "nodes/status"], "verbs": ["patch"]}
    await cluster.grant("adaptor", [rule], everywhere=True)
    pod = cluster.pod_object("p", serviceAccountName="adaptor", nodeName=own)
    await cluster.sure("POST", cluster.here("pods"), pod)
    client = await cluster.client("adaptor", pod="p")
    name = await own_node_policy(cluster, "adaptor")

    async def patch(node: str, patch: Json) -> Any:
        path = f"/api/v1/nodes/{node}/status"
        return await cluster.ask("PATCH", path, patch, content_type=MERGE, client=client)

    async def refused() -> Any:
        answer = await patch(other, {"status": {"capacity": {VM: "1"}}})
        return (
            answer
            if answer.status_code != 200 and "RBAC" not in answer.text and "cannot patch" not in answer.text
            else None
        )

    answer = await cluster.until(refused)
    assert answer.status_code == 403
    said = f"an adaptor changes its own node only: this one is on {own}"
    assert answer.json()["message"] == (
        f"nodes \"{other}\" is forbidden: ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: {said}"
    )
    assert (await patch(own, {"status": {"capacity": {VM: "1"}}})).status_code == 200
    labels = await patch(own, {"metadata": {"labels": {"a": "b"}}})
    assert (labels.status_code, labels.json()["reason"]) == (422, "Invalid")
    strange = await patch(own, {"status": {"capacity": {"example.com/other": "1"}}})
    assert strange.status_code == 422
    assert "failed expression: object.status.capacity.all(" in strange.json()["message"]
