"""How an API server takes, checks and changes objects, wherever peerpods relies on it: the world must do as a real one."""

from typing import Any

import pytest

from tests.contract.kubernetes.cluster import APPLY, JSON_PATCH, MERGE, PEERPODS, STRATEGIC, VM, Cluster, Json

# -- versions and conflicts -------------------------------------------------------------------------


async def test_what_exists_is_not_created_twice(cluster: Cluster) -> None:
    await cluster.config_map("one")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}}
    answer = await cluster.ask("POST", cluster.here("configmaps"), body)
    assert (answer.status_code, answer.json()["reason"]) == (409, "AlreadyExists")
    assert answer.json()["message"] == 'configmaps "one" already exists'


async def test_an_update_based_on_an_old_version_is_a_conflict(cluster: Cluster) -> None:
    first = await cluster.config_map("one")
    path = cluster.here("configmaps", "one")
    second = await cluster.sure("PUT", path, first | {"data": {"a": "2"}})
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    answer = await cluster.ask("PUT", path, first | {"data": {"a": "3"}})
    assert (answer.status_code, answer.json()["reason"]) == (409, "Conflict")
    stale = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"a": "4"}}
    assert (await cluster.ask("PATCH", path, stale, content_type=MERGE)).status_code == 409


async def test_a_write_that_changes_nothing_makes_no_new_version(cluster: Cluster) -> None:
    first = await cluster.config_map("one")
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
    made = await cluster.config_map("one")
    path = cluster.here("configmaps", "one")
    answer = await cluster.ask("DELETE", path, {"preconditions": {"uid": "another"}})
    assert answer.status_code == 409
    await cluster.sure("DELETE", path, {"preconditions": {"uid": made["metadata"]["uid"]}})
    assert (await cluster.ask("GET", path)).status_code == 404


# -- what is valid ----------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("0.5", "500m"), ("1024Mi", "1Gi"), ("1e3", "1e3"), ("1E3", "1E3"), ("1.5e3", "1500"), ("1.5Gi", "1536Mi"),
        ("1023Ki", "1023Ki"), ("0.5Gi", "512Mi"), ("1.0", "1"), ("5n", "1m"), ("1000k", "1M"), ("1000Ki", "1000Ki"),
        ("100000000000000000000", "100E"), (".5", "500m"), ("0", "0"), ("1e-3", "1e-3"),
    ],
)  # fmt: skip
async def test_quantities_come_back_in_their_canonical_form(cluster: Cluster, given: str, kept: str) -> None:
    pod = cluster.pod_object("p", requests={"memory": given})
    answer = await cluster.sure("POST", cluster.here("pods"), pod, dryRun="All")
    assert answer["spec"]["containers"][0]["resources"]["requests"] == {"memory": kept}


async def test_a_pods_own_resources_are_its_containers_bounds(cluster: Cluster) -> None:
    pod = cluster.pod_object("p", requests={"cpu": "2"}, resources={"limits": {"cpu": "3", "memory": "1Gi"}})
    made = await cluster.sure("POST", cluster.here("pods"), pod, dryRun="All")
    assert made["spec"]["resources"]["requests"] == {"cpu": "2", "memory": "1Gi"}
    assert made["status"]["qosClass"] == "Burstable"
    pod["spec"]["resources"] = {"requests": {"cpu": "1"}}
    answer = await cluster.ask("POST", cluster.here("pods"), pod)
    assert answer.status_code == 422
    assert "must be greater than or equal to aggregate container requests of 2" in answer.json()["message"]


async def test_a_stripped_pod_cannot_be_resized_and_another_can(cluster: Cluster) -> None:
    await cluster.unscheduled("stripped")
    await cluster.unscheduled("sized", requests={"cpu": "1"})
    patch = {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}}
    answer = await cluster.ask("PATCH", cluster.here("pods", "stripped/resize"), patch, content_type=STRATEGIC)
    assert answer.status_code == 422
    assert "Pod QOS Class may not change as a result of resizing" in answer.json()["message"]
    after = await cluster.sure("PATCH", cluster.here("pods", "sized/resize"), patch, content_type=STRATEGIC)
    assert after["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "2"}}
    assert after["metadata"]["generation"] == 2
    patch["spec"]["containers"][0]["resources"] = {"requests": {VM: "1"}, "limits": {VM: "1"}}
    other = await cluster.ask("PATCH", cluster.here("pods", "sized/resize"), patch, content_type=STRATEGIC)
    assert "only cpu and memory resources are mutable" in other.json()["message"]


async def test_limits_become_requests_where_none_are_given(cluster: Cluster) -> None:
    answer = await cluster.sure(
        "POST", cluster.here("pods"), cluster.pod_object("p", limits={"cpu": "2"}), dryRun="All"
    )
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
    pruned = await cluster.sure(
        "POST", path, head | {"spec": {"instanceID": "i-1", "odd": 1}, "status": {"phase": "running"}}
    )
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


# -- status -----------------------------------------------------------------------------------------


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


# -- patches ----------------------------------------------------------------------------------------


async def test_json_patches_are_all_or_nothing(cluster: Cluster) -> None:
    await cluster.config_map("one", annotations={"peerpods.io/a": "b"})
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
