"""How an API server behaves, wherever peerpods relies on it: the world must do as a real one does."""

import asyncio
import base64
import json
from typing import Any

import pytest
from lightkube import ApiError, AsyncClient
from lightkube.resources.core_v1 import ConfigMap, Pod

from tests.contract.kubernetes.cluster import PEERPODS, Cluster, Json

VM = "kata.peerpods.io/vm"
HOLD = "peerpods.io/test"  # a finalizer that no controller of ours, should one run there, takes off
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"


def owned_by(pod: Pod, *, block: bool = True) -> list[Json]:
    assert pod.metadata is not None
    ref = {"apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid, "controller": True}
    return [ref | {"blockOwnerDeletion": block}]


async def config_map(cluster: Cluster, name: str, **metadata: Any) -> Json:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": {"a": "1"}}
    return await cluster.make(cluster.here("configmaps"), body)


# -- versions and conflicts -----------------------------------------------------------------------


async def test_what_exists_is_not_created_twice(cluster: Cluster) -> None:
    await config_map(cluster, "one")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}}
    answer = await cluster.ask("POST", cluster.here("configmaps"), body)
    assert (answer.status_code, answer.json()["reason"]) == (409, "AlreadyExists")
    assert answer.json()["message"] == 'configmaps "one" already exists'


async def test_an_update_based_on_an_old_version_is_a_conflict(cluster: Cluster) -> None:
    first = await config_map(cluster, "one")
    path = cluster.here("configmaps", "one")
    second = await cluster.sure("PUT", path, first | {"data": {"a": "2"}})
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    answer = await cluster.ask("PUT", path, first | {"data": {"a": "3"}})
    assert (answer.status_code, answer.json()["reason"]) == (409, "Conflict")
    stale = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"a": "4"}}
    assert (await cluster.ask("PATCH", path, stale, content_type=MERGE)).status_code == 409


async def test_a_write_that_changes_nothing_makes_no_new_version(cluster: Cluster) -> None:
    first = await config_map(cluster, "one")
    same = await cluster.sure("PATCH", cluster.here("configmaps", "one"), {"data": {"a": "1"}}, content_type=MERGE)
    assert same["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_dry_run_is_checked_and_leaves_nothing(cluster: Cluster) -> None:
    answer = await cluster.sure("POST", cluster.here("pods"), cluster.pod_object("dry"), dryRun="All")
    assert answer["metadata"]["uid"]
    assert (await cluster.ask("GET", cluster.here("pods", "dry"))).status_code == 404
    refused = cluster.pod_object("dry") | {"spec": {"containers": []}}
    assert (await cluster.ask("POST", cluster.here("pods"), refused, dryRun="All")).status_code == 422


async def test_a_name_can_be_generated(cluster: Cluster) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "some-"}}
    made = [await cluster.sure("POST", cluster.here("configmaps"), body) for _ in range(2)]
    names = {one["metadata"]["name"] for one in made}
    assert len(names) == 2
    assert all(name.startswith("some-") and len(name) == 10 for name in names)


async def test_a_deletion_can_be_bound_to_one_uid(cluster: Cluster) -> None:
    made = await config_map(cluster, "one")
    path = cluster.here("configmaps", "one")
    answer = await cluster.ask("DELETE", path, {"preconditions": {"uid": "another"}})
    assert answer.status_code == 409
    await cluster.sure("DELETE", path, {"preconditions": {"uid": made["metadata"]["uid"]}})
    assert (await cluster.ask("GET", path)).status_code == 404


# -- what is valid --------------------------------------------------------------------------------


def _pod(change: dict[str, Any]) -> Any:
    return lambda cluster: cluster.pod_object("p") | {"spec": cluster.pod_object("p")["spec"] | change}


def _container(**change: Any) -> Any:
    def made(cluster: Cluster) -> Json:
        pod = cluster.pod_object("p")
        pod["spec"]["containers"][0] |= change
        return pod

    return made


def _resources(requests: Json, limits: Json | None = None) -> Any:
    return _container(resources={"requests": requests, "limits": limits or {}})


@pytest.mark.parametrize(
    ("made", "code", "says"),
    [
        (_pod({"restartPolicy": "Sometimes"}), 422, 'spec.restartPolicy: Unsupported value: "Sometimes"'),
        (_container(name="Not_A_Name"), 422, "spec.containers[0].name: Invalid value"),
        (_resources({"cpu": "2x"}), 400, "quantities must match"),
        (_resources({"cpu": "2"}, {"cpu": "1"}), 422, "must be less than or equal to cpu limit of 1"),
        (_resources({VM: "1"}), 422, "Limit must be set for non overcommitable resources"),
        (_resources({VM: "1500m"}, {VM: "1500m"}), 422, "must be an integer"),
        (_resources({"vm": "1"}, {"vm": "1"}), 422, "must be a standard resource type or fully qualified"),
        (_pod({"containers": []}), 422, "spec.containers: Required value"),
        (_pod({"containers": "none"}), 400, "cannot unmarshal"),
        (_pod({"schedulingGates": [{"name": "a"}, {"name": "a"}]}), 422, "Duplicate value"),
        (_pod({"runtimeClassName": "no-such-class"}), 403, 'RuntimeClass "no-such-class" not found'),
        (_pod({"serviceAccountName": "nobody"}), 403, 'serviceaccount "nobody" not found'),
        (_pod({"resources": {"requests": {"nvidia.com/gpu": "1"}}}), 422, "spec.resources"),
    ],
)  # fmt: skip
async def test_a_pod_that_is_wrong_is_refused(cluster: Cluster, made: Any, code: int, says: str) -> None:
    answer = await cluster.ask("POST", cluster.here("pods"), made(cluster))
    assert answer.status_code == code, answer.text
    assert says in answer.json()["message"]


async def test_unknown_fields_are_pruned_warned_of_or_refused(cluster: Cluster) -> None:
    pod = cluster.pod_object("p")
    pod["spec"]["containres"] = []
    loose = await cluster.ask("POST", cluster.here("pods"), pod, dryRun="All")
    assert loose.status_code == 201
    assert "containres" not in loose.json()["spec"]
    assert 'unknown field \\"spec.containres\\"' in loose.headers["Warning"]
    strict = await cluster.ask("POST", cluster.here("pods"), pod, fieldValidation="Strict")
    assert strict.status_code == 400
    assert 'unknown field "spec.containres"' in strict.json()["message"]


async def test_quantities_come_back_in_their_canonical_form(cluster: Cluster) -> None:
    given = {"cpu": "0.5", "memory": "1024Mi", "ephemeral-storage": "1e3"}
    answer = await cluster.sure("POST", cluster.here("pods"), cluster.pod_object("p", requests=given), dryRun="All")
    requests = answer["spec"]["containers"][0]["resources"]["requests"]
    assert requests == {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "1e3"}


async def test_limits_become_requests_where_none_are_given(cluster: Cluster) -> None:
    answer = await cluster.sure("POST", cluster.here("pods"), cluster.pod_object("p", limits={"cpu": "2"}), dryRun="All")
    assert answer["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "2"}, "requests": {"cpu": "2"}}


async def test_a_workload_must_select_its_own_pods(cluster: Cluster) -> None:
    template = {"metadata": {"labels": {"app": "b"}}, "spec": cluster.pod_object()["spec"]}
    del template["spec"]["terminationGracePeriodSeconds"]
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "a"}}, "template": template},
    }
    answer = await cluster.ask("POST", cluster.here("deployments", api="/apis/apps/v1"), body)
    assert answer.status_code == 422
    assert "`selector` does not match template `labels`" in answer.json()["message"]


async def test_a_peerpod_is_held_to_its_schema(cluster: Cluster) -> None:
    path = cluster.here("peerpods", api=PEERPODS)
    head = {"apiVersion": "confidentialcontainers.org/v1alpha1", "kind": "PeerPod", "metadata": {"name": "a"}}
    long = await cluster.ask("POST", path, head | {"spec": {"cloudProvider": "x" * 64}})
    assert long.status_code == 422
    assert "spec.cloudProvider: Too long: may not be more than 63 bytes" in long.json()["message"]
    wrong = await cluster.ask("POST", path, head | {"spec": {"instanceID": 7}})
    assert wrong.status_code == 422
    assert 'spec.instanceID in body must be of type string: "integer"' in wrong.json()["message"]
    pruned = await cluster.sure("POST", path, head | {"spec": {"instanceID": "i-1", "odd": 1}, "status": {"phase": "running"}})
    assert pruned["spec"] == {"instanceID": "i-1"}
    assert "status" not in pruned
    status = f"{path}/a/status"
    phase = await cluster.ask("PATCH", status, {"status": {"phase": "asleep"}}, content_type=MERGE)
    assert phase.status_code == 422
    assert 'status.phase: Unsupported value: "asleep"' in phase.json()["message"]
    price = await cluster.ask("PATCH", status, {"status": {"pricePerHour": "cheap"}}, content_type=MERGE)
    assert 'status.pricePerHour: Invalid value: "cheap"' in price.json()["message"]
    condition = {"status": {"conditions": [{"type": "Ready"}]}}
    required = await cluster.ask("PATCH", status, condition, content_type=MERGE)
    assert "status.conditions[0].status: Required value" in required.json()["message"]


async def test_only_pod_fields_that_may_change_can_be_changed(cluster: Cluster) -> None:
    await cluster.unscheduled("p")
    path = cluster.here("pods", "p")
    answer = await cluster.ask("PATCH", path, {"spec": {"restartPolicy": "Never"}}, content_type=MERGE)
    assert answer.status_code == 422
    assert "pod updates may not change fields other than" in answer.json()["message"]
    await cluster.sure("PATCH", path, {"metadata": {"annotations": {"peerpods.io/a": "b"}}}, content_type=MERGE)


async def test_a_lease_time_needs_all_six_digits(cluster: Cluster) -> None:
    path = cluster.here("leases", api="/apis/coordination.k8s.io/v1")
    head = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}}
    answer = await cluster.ask("POST", path, head | {"spec": {"renewTime": "2026-01-01T00:00:00Z"}})
    assert answer.status_code == 400
    made = await cluster.sure("POST", path, head | {"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}})
    del made["metadata"]["resourceVersion"]
    answer = await cluster.ask("PUT", f"{path}/l", made)
    assert answer.status_code == 422
    assert "metadata.resourceVersion: Invalid value" in answer.json()["message"]


async def test_an_event_stays_in_its_objects_namespace(cluster: Cluster) -> None:
    involved = {"kind": "Pod", "name": "p", "namespace": "default"}
    body = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": involved, "reason": "A"}
    answer = await cluster.ask("POST", cluster.here("events"), body)
    assert answer.status_code == 422
    assert "does not match event.namespace" in answer.json()["message"]


# -- status ---------------------------------------------------------------------------------------


async def test_spec_and_status_are_written_apart(cluster: Cluster) -> None:
    made = await cluster.peerpod("a", {"instanceID": "i-1"})
    assert made["metadata"]["generation"] == 1
    path = cluster.here("peerpods", "a", api=PEERPODS)
    both = {"spec": {"instanceID": "i-2"}, "status": {"phase": "running"}, "metadata": {"labels": {"x": "y"}}}
    after = await cluster.sure("PATCH", f"{path}/status", both, content_type=MERGE)
    assert (after["spec"], after["status"]) == ({"instanceID": "i-1"}, {"phase": "running"})
    assert "labels" not in after["metadata"]
    assert after["metadata"]["generation"] == 1
    after = await cluster.sure("PATCH", path, both | {"status": {"phase": "failed"}}, content_type=MERGE)
    assert (after["spec"], after["status"]) == ({"instanceID": "i-2"}, {"phase": "running"})
    assert after["metadata"]["generation"] == 2


# -- patches --------------------------------------------------------------------------------------


async def test_json_patches_are_all_or_nothing(cluster: Cluster) -> None:
    await config_map(cluster, "one", annotations={"peerpods.io/a": "b"})
    path = cluster.here("configmaps", "one")
    patch = [
        {"op": "add", "path": "/data/b", "value": "2"},
        {"op": "remove", "path": "/metadata/annotations/peerpods.io~1a"},
    ]
    after = await cluster.sure("PATCH", path, patch, content_type=JSON_PATCH)
    assert after["data"] == {"a": "1", "b": "2"}
    assert "annotations" not in after["metadata"] or after["metadata"]["annotations"] == {}
    wrong = [{"op": "add", "path": "/data/c", "value": "3"}, {"op": "test", "path": "/data/a", "value": "9"}]
    assert (await cluster.ask("PATCH", path, wrong, content_type=JSON_PATCH)).status_code == 422
    missing = [{"op": "remove", "path": "/data/none"}]
    assert (await cluster.ask("PATCH", path, missing, content_type=JSON_PATCH)).status_code == 422
    assert "c" not in (await cluster.sure("GET", path))["data"]


async def test_a_strategic_merge_knows_lists_by_their_keys(cluster: Cluster) -> None:
    await cluster.unscheduled("p")
    path = cluster.here("pods", "p")
    toleration = {"key": "a", "operator": "Exists"}
    patch = {"spec": {"containers": [{"name": "c", "image": "docker.io/lab/busybox:2"}]}}
    after = await cluster.sure("PATCH", path, patch, content_type=STRATEGIC)
    assert after["spec"]["containers"][0]["image"] == "docker.io/lab/busybox:2"
    assert after["spec"]["containers"][0]["command"]
    assert toleration not in after["spec"]["tolerations"]
    await cluster.peerpod("a")
    refused = await cluster.ask("PATCH", cluster.here("peerpods", "a", api=PEERPODS), {}, content_type=STRATEGIC)
    assert refused.status_code == 415


async def test_apply_conflicts_with_another_manager_and_can_be_forced(cluster: Cluster) -> None:
    path = cluster.here("configmaps", "one")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "1", "b": "1"}}
    await cluster.sure("PATCH", path, body, content_type=APPLY, fieldManager="first")
    other = body | {"data": {"a": "2"}}
    answer = await cluster.ask("PATCH", path, other, content_type=APPLY, fieldManager="second")
    assert answer.status_code == 409
    assert answer.json()["message"] == 'Apply failed with 1 conflict: conflict with "first": .data.a'
    forced = await cluster.sure("PATCH", path, other, content_type=APPLY, fieldManager="second", force="true")
    assert forced["data"] == {"a": "2", "b": "1"}
    left = await cluster.sure("PATCH", path, body | {"data": {}}, content_type=APPLY, fieldManager="first")
    assert left["data"] == {"a": "2"}  # b was the first's alone and is left out; a is the second's now


async def test_apply_conflicts_with_a_plain_write(cluster: Cluster) -> None:
    await cluster.peerpod("a", {"instanceID": "i-1"})
    path = cluster.here("peerpods", "a", api=PEERPODS) + "/status"
    await cluster.sure("PATCH", path, {"status": {"phase": "starting"}}, content_type=MERGE, fieldManager="adaptor")
    body = {"apiVersion": "confidentialcontainers.org/v1alpha1", "kind": "PeerPod", "metadata": {"name": "a"}}
    answer = await cluster.ask(
        "PATCH", path, body | {"status": {"phase": "failed"}}, content_type=APPLY, fieldManager="controller"
    )
    assert answer.status_code == 409
    said = 'conflict with "adaptor" with subresource "status" using confidentialcontainers.org/v1alpha1: .status.phase'
    assert answer.json()["message"] == f"Apply failed with 1 conflict: {said}"
    same = body | {"status": {"phase": "starting", "zone": "z"}}
    await cluster.sure("PATCH", path, same, content_type=APPLY, fieldManager="controller")


# -- lists and watches ----------------------------------------------------------------------------


async def test_lists_are_selected_and_come_in_pages(cluster: Cluster) -> None:
    for number in range(5):
        await config_map(cluster, f"m{number}", labels={"odd": str(number % 2), "all": "yes"})
    found = [one.metadata.name async for one in cluster.admin.list(ConfigMap, namespace=cluster.namespace, labels={"odd": "1"})]
    assert found == ["m1", "m3"]
    first = await cluster.sure("GET", cluster.here("configmaps"), limit="2", labelSelector="all")
    assert first["metadata"]["remainingItemCount"] if "remainingItemCount" in first["metadata"] else True
    more = first["metadata"]["continue"]
    rest = await cluster.sure("GET", cluster.here("configmaps"), labelSelector="all", **{"continue": more})
    assert [one["metadata"]["name"] for one in first["items"] + rest["items"]] == [f"m{i}" for i in range(5)]
    one = await cluster.sure("GET", cluster.here("configmaps"), fieldSelector="metadata.name=m2")
    assert len(one["items"]) == 1
    wrong = await cluster.ask("GET", cluster.here("pods"), fieldSelector="spec.color=red")
    assert wrong.status_code == 400
    assert "field label not supported: spec.color" in wrong.json()["message"]


async def _watch(cluster: Cluster, path: str, count: int, **query: str) -> list[Json]:
    """The first events of a watch."""
    found: list[Json] = []
    http = cluster.admin._client._client
    async with asyncio.timeout(10), http.stream("GET", path, params={"watch": "true", **query}) as answer:
        async for line in answer.aiter_lines():
            found.append(json.loads(line))
            if len(found) == count:
                break
    return found


async def test_a_watch_tells_what_happened_since_a_version(cluster: Cluster) -> None:
    listed = await cluster.sure("GET", cluster.here("configmaps"))
    await config_map(cluster, "one", labels={"a": "b"})
    path = cluster.here("configmaps", "one")
    await cluster.sure("PATCH", path, {"data": {"a": "2"}}, content_type=MERGE)
    await cluster.sure("PATCH", path, {"metadata": {"labels": {"a": "c"}}}, content_type=MERGE)
    await cluster.sure("DELETE", path)
    since = listed["metadata"]["resourceVersion"]
    events = await _watch(cluster, cluster.here("configmaps"), 4, resourceVersion=since)
    assert [one["type"] for one in events] == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]
    versions = [int(one["object"]["metadata"]["resourceVersion"]) for one in events]
    assert versions == sorted(set(versions))
    chosen = await _watch(cluster, cluster.here("configmaps"), 3, resourceVersion=since, labelSelector="a=b")
    assert [one["type"] for one in chosen] == ["ADDED", "MODIFIED", "DELETED"]


async def test_a_watch_without_a_version_begins_with_what_there_is(cluster: Cluster) -> None:
    await config_map(cluster, "one", labels={"a": "b"})
    events = await _watch(cluster, cluster.here("configmaps"), 1, labelSelector="a=b")
    assert [(one["type"], one["object"]["metadata"]["name"]) for one in events] == [("ADDED", "one")]


async def test_lightkube_watches(cluster: Cluster) -> None:
    await config_map(cluster, "one", labels={"a": "b"})
    async with asyncio.timeout(10):
        async for what, obj in cluster.admin.watch(ConfigMap, namespace=cluster.namespace, labels={"a": "b"}):
            assert (what, obj.metadata.name) == ("ADDED", "one")
            break


# -- deletion and owners --------------------------------------------------------------------------


async def test_a_finalizer_holds_an_object_until_it_is_taken_off(cluster: Cluster) -> None:
    await cluster.peerpod("a", finalizers=[HOLD])
    path = cluster.here("peerpods", "a", api=PEERPODS)
    await cluster.sure("DELETE", path)
    held = await cluster.sure("GET", path)
    assert held["metadata"]["deletionTimestamp"]
    assert held["metadata"]["generation"] == 2
    more = {"metadata": {"finalizers": [HOLD, "peerpods.io/second"]}}
    refused = await cluster.ask("PATCH", path, more, content_type=MERGE)
    assert refused.status_code == 422
    assert "no new finalizers can be added if the object is being deleted" in refused.json()["message"]
    await cluster.sure("PATCH", path, [{"op": "remove", "path": "/metadata/finalizers"}], content_type=JSON_PATCH)
    assert (await cluster.ask("GET", path)).status_code == 404


async def _deleting(cluster: Cluster, name: str) -> bool:
    found = await cluster.sure("GET", cluster.here("peerpods", name, api=PEERPODS))
    return "deletionTimestamp" in found["metadata"]


async def test_a_background_deletion_reaches_the_peerpod_after_the_pod_is_gone(cluster: Cluster) -> None:
    pod = await cluster.unscheduled("p")
    await cluster.peerpod("a", ownerReferences=owned_by(pod), finalizers=[HOLD])
    await cluster.sure("DELETE", cluster.here("pods", "p"), propagationPolicy="Background")
    await cluster.gone(cluster.here("pods", "p"))
    await cluster.until(lambda: _deleting(cluster, "a"))


async def test_a_foreground_deletion_waits_for_the_peerpods_finalizer(cluster: Cluster) -> None:
    pod = await cluster.unscheduled("p")
    await cluster.peerpod("a", ownerReferences=owned_by(pod), finalizers=[HOLD])
    await cluster.sure("DELETE", cluster.here("pods", "p"), propagationPolicy="Foreground")
    await cluster.until(lambda: _deleting(cluster, "a"))
    waiting = await cluster.sure("GET", cluster.here("pods", "p"))
    assert waiting["metadata"]["finalizers"] == ["foregroundDeletion"]
    path = cluster.here("peerpods", "a", api=PEERPODS)
    await cluster.sure("PATCH", path, {"metadata": {"finalizers": None}}, content_type=MERGE)
    await cluster.gone(path)
    await cluster.gone(cluster.here("pods", "p"))


async def test_an_orphan_deletion_leaves_what_it_owned_without_owner_and_alive(cluster: Cluster) -> None:
    pod = await cluster.unscheduled("p")
    await config_map(cluster, "a", ownerReferences=owned_by(pod))  # a PeerPod would be a running controller's prey
    await cluster.sure("DELETE", cluster.here("pods", "p"), propagationPolicy="Orphan")
    await cluster.gone(cluster.here("pods", "p"))
    left = await cluster.sure("GET", cluster.here("configmaps", "a"))
    assert "ownerReferences" not in left["metadata"]
    assert "deletionTimestamp" not in left["metadata"]


async def test_what_is_born_with_an_owner_that_never_lived_is_collected(cluster: Cluster) -> None:
    ref = {"apiVersion": "v1", "kind": "Pod", "name": "never", "uid": "00000000-0000-0000-0000-000000000000"}
    await config_map(cluster, "a", ownerReferences=[ref])
    await cluster.gone(cluster.here("configmaps", "a"))


async def test_a_namespace_ends_when_the_last_finalizer_in_it_does(cluster: Cluster) -> None:
    namespace = await cluster.new_namespace()
    body = {
        "apiVersion": "confidentialcontainers.org/v1alpha1",
        "kind": "PeerPod",
        "metadata": {"name": "a", "finalizers": [HOLD]},
    }
    path = cluster.here("peerpods", api=PEERPODS, namespace=namespace)
    await cluster.make(path, body)
    await cluster.sure("DELETE", f"/api/v1/namespaces/{namespace}")

    async def ending() -> bool:
        return "deletionTimestamp" in (await cluster.sure("GET", f"{path}/a"))["metadata"]

    await cluster.until(ending)
    late = await cluster.ask("POST", cluster.here("configmaps", namespace=namespace), {"metadata": {"name": "late"}})
    assert late.status_code == 403
    assert "because it is being terminated" in late.json()["message"]
    await cluster.sure("PATCH", f"{path}/a", {"metadata": {"finalizers": None}}, content_type=MERGE)
    await cluster.gone(f"/api/v1/namespaces/{namespace}")


# -- who may what ---------------------------------------------------------------------------------


async def test_a_service_account_does_what_its_roles_allow_and_no_more(cluster: Cluster) -> None:
    client = await cluster.client("reader")
    await cluster.unscheduled("p")
    with pytest.raises(ApiError) as refused:
        await client.get(Pod, "p")
    user = f"system:serviceaccount:{cluster.namespace}:reader"
    assert refused.value.status.message == (
        f'pods "p" is forbidden: User "{user}" cannot get resource "pods" in API group "" in the namespace "{cluster.namespace}"'
    )
    await cluster.grant("reader", [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["p"]}])
    await cluster.until(lambda: _can(client, "p"))
    assert not await _can(client, "q")
    with pytest.raises(ApiError, match="cannot patch resource"):
        await client.patch(Pod, "p", {"metadata": {"labels": {"a": "b"}}})
    listed = await cluster.ask("GET", "/api/v1/nodes", client=client)
    assert listed.json()["message"].endswith('cannot list resource "nodes" in API group "" at the cluster scope')


async def _can(client: AsyncClient, name: str) -> bool:
    try:
        await client.get(Pod, name)
    except ApiError as error:
        if error.status.code == 403:
            return False
        raise
    return True


async def test_a_token_that_nobody_gave_is_no_user(cluster: Cluster) -> None:
    path = cluster.kubeconfig_of("made-up", "default")
    from lightkube import KubeConfig

    async with AsyncClient(KubeConfig.from_file(path)) as client:
        answer = await cluster.ask("GET", "/api/v1/nodes", client=client)
    assert (answer.status_code, answer.json()["reason"]) == (401, "Unauthorized")


async def test_a_pods_token_names_its_node_and_ends_with_the_pod(cluster: Cluster) -> None:
    node = await cluster.node()
    await cluster.token("agent")
    pod = cluster.pod_object("p", serviceAccountName="agent", nodeName=node)
    await cluster.sure("POST", cluster.here("pods"), pod)
    client = await cluster.client("agent", pod="p")
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = await cluster.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review, client=client)
    assert answer.json()["status"]["userInfo"]["extra"]["authentication.kubernetes.io/node-name"] == [node]
    await cluster.sure("DELETE", cluster.here("pods", "p"), gracePeriodSeconds="0")

    async def ended() -> bool:
        return (await cluster.ask("GET", "/api/v1/nodes", client=client)).status_code == 401

    await cluster.until(ended)


# -- admission ------------------------------------------------------------------------------------


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
async def test_after_a_webhook_the_limit_range_speaks_again(cluster: Cluster, policy: str, seen: str, left: Json) -> None:
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
    assert answer.json()["message"] == f'admission webhook "{name}.peerpods.io" denied the request: no offering has 900 vCPUs'


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


# -- scheduling -----------------------------------------------------------------------------------


async def _node_of(cluster: Cluster, name: str) -> str:
    return str((await cluster.sure("GET", cluster.here("pods", name)))["spec"].get("nodeName", ""))


async def test_a_node_takes_as_many_pods_as_it_has_vms(cluster: Cluster) -> None:
    node = await cluster.node({VM: "1"})
    await cluster.pod("first", limits={VM: "1"}, **cluster.on(node))
    assert await cluster.until(lambda: _node_of(cluster, "first")) == node
    await cluster.pod("second", limits={VM: "1"}, **cluster.on(node))

    async def told() -> bool:
        status = (await cluster.sure("GET", cluster.here("pods", "second")))["status"]
        return any(f"Insufficient {VM}" in one.get("message", "") for one in status.get("conditions", ()))

    await cluster.until(told)
    await cluster.sure("DELETE", cluster.here("pods", "first"), gracePeriodSeconds="0")
    assert await cluster.until(lambda: _node_of(cluster, "second")) == node


async def test_a_gate_holds_a_pod_until_it_is_lifted(cluster: Cluster) -> None:
    node = await cluster.node()
    await cluster.pod("p", schedulingGates=[{"name": "kata.peerpods.io/quota"}], **cluster.on(node))
    pod = await cluster.sure("GET", cluster.here("pods", "p"))
    assert pod["status"]["conditions"][0]["reason"] == "SchedulingGated"
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": node}}
    early = await cluster.ask("POST", cluster.here("pods", "p") + "/binding", binding)
    assert early.status_code == 409
    another = {"spec": {"schedulingGates": [{"name": "kata.peerpods.io/quota"}, {"name": "peerpods.io/late"}]}}
    refused = await cluster.ask("PATCH", cluster.here("pods", "p"), another, content_type=MERGE)
    assert refused.status_code == 422
    assert "only deletion is allowed, but found new scheduling gate 'peerpods.io/late'" in refused.json()["message"]
    await cluster.sure("PATCH", cluster.here("pods", "p"), {"spec": {"schedulingGates": []}}, content_type=MERGE)
    assert await cluster.until(lambda: _node_of(cluster, "p")) == node


async def test_a_pod_on_a_node_ends_in_its_time(cluster: Cluster) -> None:
    node = await cluster.node()
    await cluster.pod("p", **cluster.on(node))
    await cluster.until(lambda: _node_of(cluster, "p"))
    await cluster.sure("DELETE", cluster.here("pods", "p"), gracePeriodSeconds="7")
    pod = await cluster.sure("GET", cluster.here("pods", "p"))
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 7
    await cluster.sure("DELETE", cluster.here("pods", "p"), gracePeriodSeconds="0")
    await cluster.gone(cluster.here("pods", "p"))
