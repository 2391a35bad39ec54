"""Lists, pages and watches of an API server; and who may ask."""

import asyncio
import json

import pytest
from lightkube import ApiError, AsyncClient, KubeConfig
from lightkube.resources.core_v1 import ConfigMap, Pod

from tests.contract.kubernetes.cluster import MERGE, Cluster, Json

# -- lists and watches ------------------------------------------------------------------------------


async def test_lists_are_selected_and_come_in_pages(cluster: Cluster) -> None:
    for number in range(5):
        await cluster.config_map(f"m{number}", labels={"odd": str(number % 2), "all": "yes"})
    listed = cluster.admin.list(ConfigMap, namespace=cluster.namespace, labels={"odd": "1"})
    assert [one.metadata.name async for one in listed if one.metadata] == ["m1", "m3"]
    first = await cluster.sure("GET", cluster.here("configmaps"), limit="2", labelSelector="all")
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
    await cluster.config_map("one", labels={"a": "b"})
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
    await cluster.config_map("one", labels={"a": "b"})
    events = await _watch(cluster, cluster.here("configmaps"), 1, labelSelector="a=b")
    assert [(one["type"], one["object"]["metadata"]["name"]) for one in events] == [("ADDED", "one")]


async def test_lightkube_watches(cluster: Cluster) -> None:
    await cluster.config_map("one", labels={"a": "b"})
    async with asyncio.timeout(10):
        async for what, obj in cluster.admin.watch(ConfigMap, namespace=cluster.namespace, labels={"a": "b"}):
            assert obj.metadata is not None
            assert (what, obj.metadata.name) == ("ADDED", "one")
            break


# -- who may what -----------------------------------------------------------------------------------


async def test_a_service_account_does_what_its_roles_allow_and_no_more(cluster: Cluster) -> None:
    client = await cluster.client("reader")
    await cluster.unscheduled("p")
    with pytest.raises(ApiError) as refused:
        await client.get(Pod, "p")
    user = f"system:serviceaccount:{cluster.namespace}:reader"
    assert refused.value.status.message == (
        f'pods "p" is forbidden: User "{user}" cannot get resource "pods" in API group "" in the namespace "{cluster.namespace}"'
    )
    await cluster.grant(
        "reader", [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["p"]}]
    )
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
