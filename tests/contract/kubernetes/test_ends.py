"""Finalizers, the three ways to delete an owner, and the end of a namespace."""

from lightkube.resources.core_v1 import Pod

from tests.contract.kubernetes.cluster import HOLD, JSON_PATCH, MERGE, PEERPODS, Cluster, Json


def owned_by(pod: Pod, *, block: bool = True) -> list[Json]:
    assert pod.metadata is not None
    ref = {"apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid, "controller": True}
    return [ref | {"blockOwnerDeletion": block}]


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
    await cluster.config_map("a", ownerReferences=owned_by(pod))  # a PeerPod would be a running controller's prey
    await cluster.sure("DELETE", cluster.here("pods", "p"), propagationPolicy="Orphan")
    await cluster.gone(cluster.here("pods", "p"))
    left = await cluster.sure("GET", cluster.here("configmaps", "a"))
    assert "ownerReferences" not in left["metadata"]
    assert "deletionTimestamp" not in left["metadata"]


async def test_what_is_born_with_an_owner_that_never_lived_is_collected(cluster: Cluster) -> None:
    ref = {"apiVersion": "v1", "kind": "Pod", "name": "never", "uid": "00000000-0000-0000-0000-000000000000"}
    await cluster.config_map("a", ownerReferences=[ref])
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
