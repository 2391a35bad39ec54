"""What the world can make go wrong on the wire, and the options that clusters differ in."""

import asyncio
import json
import time

import httpx2
import pytest
from lightkube import ApiError
from lightkube.resources.core_v1 import ConfigMap, Pod
from lightkube.types import OnErrorAction, OnErrorResult

from tests.contract.kubernetes.cluster import PEERPODS, Cluster
from tests.worlds.clock import VirtualClock
from tests.worlds.kubernetes.faults import Fault
from tests.worlds.kubernetes.world import World

pytestmark = pytest.mark.world


@pytest.mark.parametrize("status", [410, 429, 500, 503])
async def test_an_injected_answer_comes_as_often_as_told(cluster: Cluster, played: World, status: int) -> None:
    played.faults.add(Fault("get", "pods", status=status, retry_after=7 if status == 429 else None, times=2))
    for _ in range(2):
        answer = await cluster.ask("GET", cluster.here("pods", "p"))
        assert answer.status_code == status
        assert answer.headers.get("Retry-After") == ("7" if status == 429 else None)
    with pytest.raises(ApiError) as error:
        await cluster.admin.get(Pod, "p", namespace=cluster.namespace)
    assert error.value.status.code == 404


async def test_a_lost_reply_has_done_its_deed(cluster: Cluster, played: World) -> None:
    played.faults.add(Fault("create", "configmaps", lost_reply=True))
    with pytest.raises(httpx2.TransportError):
        await cluster.config_map("one")
    assert (await cluster.ask("GET", cluster.here("configmaps", "one"))).status_code == 200


async def test_a_dropped_request_has_done_nothing(cluster: Cluster, played: World) -> None:
    played.faults.add(Fault("create", "configmaps"))
    with pytest.raises(httpx2.TransportError):
        await cluster.config_map("one")
    assert (await cluster.ask("GET", cluster.here("configmaps", "one"))).status_code == 404


async def test_an_answer_can_be_late(cluster: Cluster, played: World) -> None:
    played.faults.add(Fault("list", "pods", latency=0.05))
    before = time.monotonic()
    await cluster.sure("GET", cluster.here("pods"))
    assert time.monotonic() - before >= 0.05


async def test_a_server_that_is_away_refuses_and_comes_back_as_it_was(cluster: Cluster, played: World) -> None:
    await cluster.config_map("one")
    await played.server.stop()
    with pytest.raises(httpx2.ConnectError):
        await cluster.ask("GET", cluster.here("configmaps", "one"))
    await played.server.start()
    assert (await cluster.sure("GET", cluster.here("configmaps", "one")))["data"] == {"a": "1"}


async def _first(cluster: Cluster, **query: str) -> dict[str, object]:
    params = {"watch": "true", **query}
    async with cluster.admin._client._client.stream("GET", cluster.here("configmaps"), params=params) as answer:
        async for line in answer.aiter_lines():
            found: dict[str, object] = json.loads(line)
            return found
    raise AssertionError("the watch ended without a word")


async def test_a_version_that_is_forgotten_ends_a_watch_with_410(cluster: Cluster, played: World) -> None:
    made = await cluster.config_map("one")
    played.store.forget()
    event = await _first(cluster, resourceVersion=made["metadata"]["resourceVersion"])
    assert event["type"] == "ERROR"
    assert isinstance(event["object"], dict)
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")


async def test_bookmarks_tell_the_version_when_nothing_happens(cluster: Cluster, played: World) -> None:
    listed = await cluster.sure("GET", cluster.here("configmaps"), labelSelector="no=such")
    version = listed["metadata"]["resourceVersion"]
    event = await _first(cluster, resourceVersion=version, allowWatchBookmarks="true", labelSelector="no=such")
    assert event["type"] == "BOOKMARK"


async def test_lightkube_goes_on_watching_after_a_cut_and_after_410(cluster: Cluster, played: World) -> None:
    seen: list[tuple[str, str]] = []

    def again(error: Exception, count: int) -> OnErrorResult:
        return OnErrorResult(OnErrorAction.RETRY)

    async def watch() -> None:
        changes = cluster.admin.watch(ConfigMap, namespace=cluster.namespace, labels={"a": "b"}, on_error=again)
        async for what, obj in changes:
            assert obj.metadata is not None
            seen.append((what, obj.metadata.name or ""))

    async def sees(name: str) -> None:
        async def look() -> bool:
            return name in {one for _, one in seen}

        await cluster.until(look)

    async def watching() -> bool:
        return played.server.watches == 1

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(watch())
        await cluster.config_map("one", labels={"a": "b"})
        await sees("one")
        assert played.server.cut_watches() == 1
        await cluster.config_map("two", labels={"a": "b"})
        await sees("two")
        await cluster.until(watching)
        assert played.server.cut_watches(politely=True) == 1
        await cluster.config_map("after", labels={"a": "b"})
        await sees("after")
        await cluster.until(watching)
        played.store.forget()
        await cluster.config_map("three", labels={"a": "b"})
        await sees("three")
        task.cancel()


# -- options --------------------------------------------------------------------------------------


async def test_who_cannot_set_an_owners_finalizers_cannot_block_its_deletion(cluster: Cluster, played: World) -> None:
    assert played.admission.options.owner_permission
    pod = await cluster.unscheduled("p")
    assert pod.metadata is not None
    ref = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod.metadata.uid, "blockOwnerDeletion": True}
    body = {
        "apiVersion": "confidentialcontainers.org/v1alpha1",
        "kind": "PeerPod",
        "metadata": {"name": "a", "ownerReferences": [ref]},
    }
    client = await cluster.client("adaptor")
    await cluster.grant(
        "adaptor", [{"apiGroups": ["confidentialcontainers.org"], "resources": ["peerpods"], "verbs": ["create"]}]
    )
    path = cluster.here("peerpods", api=PEERPODS)
    refused = await cluster.ask("POST", path, body, client=client)
    assert refused.status_code == 403
    assert (
        "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on"
        in refused.text
    )
    free = body | {"metadata": {"name": "b", "ownerReferences": [ref | {"blockOwnerDeletion": False}]}}
    assert (await cluster.ask("POST", path, free, client=client)).status_code == 201
    await cluster.grant("adaptor", [{"apiGroups": [""], "resources": ["pods/finalizers"], "verbs": ["update"]}])
    assert (await cluster.ask("POST", path, body, client=client)).status_code == 201


async def test_lightkube_alone_gives_up_at_a_cut(cluster: Cluster, played: World) -> None:
    await cluster.config_map("one", labels={"a": "b"})
    changes = aiter(cluster.admin.watch(ConfigMap, namespace=cluster.namespace, labels={"a": "b"}))
    await anext(changes)
    played.server.cut_watches()
    with pytest.raises(httpx2.RemoteProtocolError):
        await anext(changes)


async def test_time_can_be_virtual(cluster: Cluster) -> None:
    clock = VirtualClock(1_800_000_000.0)
    async with World(clock, tls=False) as world:
        made = await world.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}})
        assert made["metadata"]["creationTimestamp"] == "2027-01-15T08:00:00Z"
        token, expires = world.access.request(made, {"expirationSeconds": 600})
        assert expires == "2027-01-15T08:10:00Z"
        assert world.access.who(f"Bearer {token}").name == "system:serviceaccount:default:a"
        await clock.sleep(600)
        with pytest.raises(Exception, match="Unauthorized"):
            world.access.who(f"Bearer {token}")
