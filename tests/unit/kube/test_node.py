"""A sandbox's life as the cluster hears of it, and what API servers do to those who tell them things."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from lightkube import AsyncClient
from lightkube.types import PatchType

from adaptor import names
from adaptor.errors import StartFailed
from adaptor.kube import node as kube_node
from adaptor.kube import peerpods, record
from adaptor.kube.client import PeerPod as Resource
from adaptor.kube.node import NodeCluster
from adaptor.sandbox.model import Created, Event, LaunchAccepted, LaunchRefused, SandboxState, fold
from providers import tags
from providers.base import Instance, InstanceState
from tests.worlds.cluster import END, INTENT, KEPT, NODE, START, Hands, Sandbox, Sky, again, node_of, until
from tests.worlds.kubernetes.faults import Fault
from tests.worlds.kubernetes.world import World

Connect = Callable[[], AsyncClient]
FINALIZER = (names.PEERPOD_FINALIZER,)


async def running(hands: Hands, name: str) -> bool:
    found = await hands.peerpod(name)
    return found is not None and found.phase == "running" and found.instance_id == "i-1"


async def gone(hands: Hands) -> bool:
    return not await hands.peerpods()


# -- a life ---------------------------------------------------------------------------------------


async def test_a_peerpod_is_there_before_the_vm_and_until_the_cloud_calls_that_gone(
    hands: Hands, cluster: NodeCluster
) -> None:
    pod = await hands.pod()
    web = Sandbox(cluster, hands.spec())
    web.happens(Created(web.spec))
    assert not await hands.peerpods(), "CreateVM launches nothing"
    web.happens(START[0])
    await cluster.announce(web.now)
    announced = (await hands.peerpods())[web.name]
    assert (announced.node, announced.sandbox, announced.finalizers) == (NODE, web.spec.id, FINALIZER)
    web.happens(INTENT)
    web.happens(*START[2:])
    await until(lambda: running(hands, web.name))
    found = (await hands.peerpods())[web.name]
    assert pod.metadata is not None
    assert found.owners == (pod.metadata.uid,)
    assert (found.instance_id, found.token, found.cloud, found.address) == (
        "i-1",
        "token-1",
        "memory",
        "10.0.0.1:15150",
    )
    assert (found.instance_type, found.zone, found.purchase, found.tee) == ("m6a.large", "us-east-1a", "spot", "snp")
    assert found.price == 0.0312
    assert {each.type: (each.status, each.reason) for each in found.conditions} == {
        "Launched": (True, "Accepted"),
        "Reached": (True, "Answered"),
        "Ready": (True, "Bound"),
    }
    web.happens(*END)
    await until(lambda: _phase(hands, web.name, "stopping"))
    assert (await hands.peerpods())[web.name].finalizers == FINALIZER, "the VM may be there yet"
    web.forgotten()
    await until(lambda: gone(hands))


async def _phase(hands: Hands, name: str, phase: str) -> bool:
    found = await hands.peerpod(name)
    return found is not None and found.phase == phase


async def test_the_ordinary_life_costs_few_calls(hands: Hands, cluster: NodeCluster, world: World) -> None:
    await hands.pod()
    await until(lambda: world.server.watches)
    world.server.requests.clear()
    web = await Sandbox(cluster, hands.spec()).starts()
    await until(lambda: running(hands, web.name))
    web.ends()
    await until(lambda: gone(hands))
    writes = [each for each in world.server.requests if "peerpods" in each and each.split()[0] not in ("get", "list")]
    assert writes[0].startswith("create peerpods")
    assert len(writes) <= 8, writes
    assert [each for each in world.server.requests if each.startswith("get pods")] == ["get pods web"]


async def test_a_failed_start_says_why_until_its_end(hands: Hands, cluster: NodeCluster) -> None:
    await hands.pod()
    web = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()), START[0], INTENT, LaunchRefused("no"))
    cluster.failed(web.now, StartFailed("memory refused the VM (m6a.large): not allowed (Denied, request r-17)"))
    web.happens(END[0])
    await until(lambda: _phase(hands, web.name, "failed"))
    found = (await hands.peerpods())[web.name]
    assert "request r-17" in found.reason
    assert (found.token, found.instance_type) == ("", ""), "there is no VM, and nobody should look for one"
    web.forgotten()
    await until(lambda: gone(hands))


async def test_a_sandbox_that_is_no_pods_is_none_of_kubernetes_business(
    hands: Hands, cluster: NodeCluster, world: World
) -> None:
    spec = hands.spec()
    plain = Sandbox(cluster, type(spec)(spec.id, "", "", ""))
    await plain.starts()
    assert await cluster.registry_auth(plain.now) == b""
    plain.ends()
    await asyncio.sleep(0.05)
    assert await gone(hands)
    assert not any(each.startswith("create") for each in world.server.requests)


async def test_labels_become_tags_as_far_as_they_are_wanted(hands: Hands, cluster: NodeCluster) -> None:
    await hands.pod(labels={"team": "blue", "app": "web"})
    web = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()))
    assert await cluster.labels(web.spec) == {"team": "blue"}


# -- an API server that is away, slow, forgetful --------------------------------------------------

LIFE: tuple[Event, ...] = (*START, *END)


@pytest.mark.parametrize("since", range(len(LIFE)))
async def test_an_api_server_that_goes_away_at_any_moment_is_told_when_it_is_back(
    hands: Hands, cluster: NodeCluster, world: World, since: int
) -> None:
    await hands.pod()
    web = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()))
    for number, event in enumerate(LIFE):
        if number == since:
            await world.server.stop()
        began = time.monotonic()
        if number == 1:
            await cluster.announce(web.now)
        web.happens(event)
        assert time.monotonic() - began < 1.0, "a pod's life does not wait for it"
        await asyncio.sleep(0.01)
    await world.server.start()
    await until(lambda: _has_all(hands, web.name))
    found = (await hands.peerpods())[web.name]
    assert (found.phase, found.instance_id, found.token) == ("stopping", "i-1", "token-1")
    assert set(found.times) == {"created", *(event.kind for event in LIFE)}
    await world.server.stop()
    web.forgotten()
    await asyncio.sleep(0.01)
    await world.server.start()
    await until(lambda: gone(hands))


async def _has_all(hands: Hands, name: str) -> bool:
    found = await hands.peerpod(name)
    return found is not None and END[-1].kind in found.times


async def test_what_was_never_written_need_not_be_taken_back(hands: Hands, cluster: NodeCluster, world: World) -> None:
    await hands.pod()
    await until(lambda: world.server.watches)
    await world.server.stop()
    web = await Sandbox(cluster, hands.spec()).starts()
    web.ends()
    await asyncio.sleep(0.05)
    await world.server.start()
    await until(lambda: cluster.peerpods.pending == 0)
    assert await gone(hands)


FAULTS = [
    ("create", "peerpods"),
    ("patch", "peerpods"),
    ("patch", "peerpods/status"),
    ("delete", "peerpods"),
    ("get", "pods"),
    ("list", "peerpods"),
]
HOW = {
    "its answer is lost": {"lost_reply": True},
    "it is dropped": {},
    "409": {"status": 409},
    "429": {"status": 429, "retry_after": 0},
    "500": {"status": 500},
    "503": {"status": 503},
}


@pytest.mark.parametrize("how", HOW, ids=lambda how: how.replace(" ", "-"))
@pytest.mark.parametrize(("verb", "resource"), FAULTS)
async def test_a_call_that_goes_wrong_is_made_again_and_makes_nothing_twice(
    hands: Hands, connect: Connect, world: World, verb: str, resource: str, how: str
) -> None:
    pod = await hands.pod()
    world.faults.add(Fault(verb=verb, resource=resource, times=2, **HOW[how]))  # type: ignore[arg-type]
    async with node_of(connect()) as cluster:
        web = await Sandbox(cluster, hands.spec()).starts()
        await until(lambda: running(hands, web.name))
        assert pod.metadata is not None
        await until(lambda: _owned(hands, web.name, pod.metadata.uid or ""))  # type: ignore[union-attr]
        assert len(await hands.peerpods()) == 1
        web.ends()
        await until(lambda: gone(hands))
        assert world.faults.met


async def _owned(hands: Hands, name: str, uid: str) -> bool:
    found = await hands.peerpod(name)
    return found is not None and found.owners == (uid,)


async def test_a_slow_api_server_holds_a_start_up_no_longer_than_the_bound(
    hands: Hands, cluster: NodeCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hands.pod()
    monkeypatch.setattr(kube_node, "ANNOUNCE", 0.2)
    world.faults.add(Fault(verb="create", resource="peerpods", latency=0.6))
    web = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()), START[0])
    began = time.monotonic()
    await cluster.announce(web.now)
    assert 0.19 < time.monotonic() - began < 0.5
    web.happens(*START[1:])
    await until(lambda: running(hands, web.name))


async def test_a_right_that_is_missing_is_named_and_the_pod_goes_on(
    hands: Hands,
    connect: Callable[[str], AsyncClient],
    world: World,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peerpods, "_PAUSE", 5.0)
    monkeypatch.setattr(peerpods, "_PAUSE_LIMIT", 5.0)
    monkeypatch.setattr(kube_node, "ANNOUNCE", 3.0)
    await hands.pod()
    nobody = world.service_account("peerpods", "peerpods-adaptor", node=NODE)
    async with node_of(connect(nobody)) as cluster:
        began = time.monotonic()
        web = await Sandbox(cluster, hands.spec()).starts()
        assert time.monotonic() - began < 1.0, "a refusal is an answer: nobody waits for another"
        web.ends()
    said = caplog.text.replace("\\", "")
    assert 'cannot create resource "peerpods" in API group "confidentialcontainers.org"' in said
    assert "must grant this" in said


async def test_changes_by_others_are_put_right_also_after_the_watch_was_cut(
    hands: Hands, cluster: NodeCluster, world: World
) -> None:
    await hands.pod()
    web = await Sandbox(cluster, hands.spec()).starts()
    await until(lambda: running(hands, web.name))
    for cut in (False, True):
        await until(lambda: world.server.watches)
        if cut:
            world.server.cut_watches()
        patch = {"spec": {"instanceID": "i-other"}, "metadata": {"finalizers": []}}
        await hands.client.patch(Resource, web.name, patch, namespace="shop", patch_type=PatchType.MERGE)
        await until(lambda: running(hands, web.name))
        await hands.client.delete(Resource, web.name, namespace="shop")
        await until(lambda: running(hands, web.name))
    found = (await hands.peerpods())[web.name]
    assert found.finalizers == FINALIZER, "it was made anew: the VM lives"


async def test_a_crd_that_keeps_only_upstreams_fields_is_written_to_once_for_each_change(
    hands: Hands, cluster: NodeCluster, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await hands.pod()
    crd = world.kind("apiextensions.k8s.io/v1", "CustomResourceDefinition")
    found = world.get(crd, "", "peerpods.confidentialcontainers.org")
    assert found is not None
    properties = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    properties["spec"]["properties"] = {key: {"type": "string"} for key in ("cloudProvider", "instanceID", "nodeName")}
    properties["status"]["properties"] = {"cleand": {"type": "boolean"}}
    world.kinds.add_crd(found)
    web = await Sandbox(cluster, hands.spec()).starts()
    await until(lambda: "install this version's CRD" in caplog.text)
    await asyncio.sleep(0.2)
    sent = [each for each in world.server.requests if each.startswith("patch peerpods")]
    assert len(sent) <= 2 * len(START) + 2, sent
    for number in range(5):
        patch = {"metadata": {"annotations": {"touched": str(number)}}}
        await hands.client.patch(Resource, web.name, patch, namespace="shop", patch_type=PatchType.MERGE)
        await asyncio.sleep(0.02)
    again_sent = [each for each in world.server.requests if each.startswith("patch peerpods")]
    assert len(again_sent) == len(sent) + 5, "only the five of this test"
    web.ends()
    await until(lambda: gone(hands))


# -- whose it is ----------------------------------------------------------------------------------


async def test_a_peerpod_without_owner_gets_one_when_the_pod_is_known(
    hands: Hands, cluster: NodeCluster, world: World
) -> None:
    pod = await hands.pod()
    world.faults.add(Fault(verb="get", resource="pods", times=3, status=503))
    web = await Sandbox(cluster, hands.spec()).starts()
    assert pod.metadata is not None
    await until(lambda: _owned(hands, web.name, pod.metadata.uid or ""))  # type: ignore[union-attr]


async def test_another_pod_of_the_same_name_is_no_owner(hands: Hands, cluster: NodeCluster) -> None:
    await hands.pod()
    web = await Sandbox(cluster, hands.spec(pod_uid="0b2a7f9e-0000-4000-8000-000000000001")).starts()
    other = await hands.pod("elsewhere", node="worker-2")
    assert other.metadata is not None
    far = await Sandbox(cluster, hands.spec("elsewhere")).starts()
    for each in (web, far):
        await until(lambda name=each.name: running(hands, name))  # type: ignore[misc]
        assert not (await hands.peerpods())[each.name].owners


# -- a VM that changes hands ----------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [None, "create", "patch"])
async def test_at_every_moment_some_peerpod_names_the_vm_that_goes_to_the_next_sandbox(
    hands: Hands, connect: Connect, world: World, trouble: str | None
) -> None:
    await hands.pod()
    named: list[bool] = []
    async with node_of(connect()) as cluster:
        first = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()), *START[:3], KEPT)
        await until(lambda: _phase(hands, first.name, "kept"))
        world.store.listeners.append(lambda event: named.append(_is_named(world)))
        if trouble:
            world.faults.add(Fault(verb=trouble, resource="peerpods", times=5, status=500))
        second = Sandbox(cluster, again(hands.spec()))
        second.happens(Created(second.spec), START[0])
        first.given_to(second)
        first.forgotten()
        second.happens(*START[3:])
        await until(lambda: _only(hands, second.name))
        found = (await hands.peerpods())[second.name]
        assert (found.instance_id, found.token, found.phase) == ("i-1", "token-1", "running")
        assert named
        assert all(named), "the VM had a moment without a PeerPod"


def _is_named(world: World) -> bool:
    kind = world.kind("confidentialcontainers.org/v1alpha1", "PeerPod")
    objects = [each.object for each in world.store.all(kind, "shop")]
    return any(each["spec"].get("token") == "token-1" for each in objects)


async def _only(hands: Hands, name: str) -> bool:
    found = await hands.peerpods()
    return list(found) == [name] and found[name].phase == "running"


# -- restarts -------------------------------------------------------------------------------------


def after(hands: Hands, *events: Event) -> SandboxState:
    return fold([Created(hands.spec()), *events])


async def test_a_restart_makes_missing_peerpods_and_keeps_what_the_others_say(hands: Hands, connect: Connect) -> None:
    await hands.pod()
    async with node_of(connect()) as cluster:
        web = await Sandbox(cluster, hands.spec()).starts()
        await until(lambda: running(hands, web.name))
    before = (await hands.peerpods())[web.name]
    other = hands.spec("db")
    async with node_of(connect()) as cluster:
        cluster.know({web.spec.id: web.now, other.id: fold([Created(other), *START[:2], LaunchAccepted("i-2")])})
        await until(lambda: _phase(hands, Sandbox(cluster, other).name, "starting"))
        found = await hands.peerpods()
        assert found[Sandbox(cluster, other).name].instance_id == "i-2"
        assert found[web.name].times == before.times
        assert found[web.name].conditions == before.conditions
        cluster.changed(SandboxState(web.spec), None)
        await until(lambda: _without(hands, web.name))


async def _without(hands: Hands, name: str) -> bool:
    return name not in await hands.peerpods()


@pytest.mark.parametrize("how", ["token", "id", "sandbox"])
async def test_a_peerpod_whose_sandbox_nobody_knows_stays_while_its_vm_lives(
    hands: Hands, connect: Connect, sky: Sky, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptor.kube.strangers.UNSEEN", 0.15)
    await hands.pod()
    events = START[:3] if how == "id" else START[:2]
    async with node_of(connect(), sky) as cluster:
        web = Sandbox(cluster, hands.spec()).happens(Created(hands.spec()), *events)
        await until(lambda: _phase(hands, web.name, "starting"))
        await until(lambda: cluster.peerpods.pending == 0)
    marks = {"token": {tags.TOKEN: "token-1"}, "sandbox": {tags.SANDBOX: web.spec.id}, "id": {}}[how]
    sky.instances["i-1"] = Instance("i-1" if how == "id" else "i-9", InstanceState.RUNNING, tags=marks)
    async with node_of(connect(), sky) as cluster:
        cluster.know({})
        await asyncio.sleep(0.4)
        assert web.name in await hands.peerpods()
        sky.away = True
        sky.instances.clear()
        await asyncio.sleep(0.1)
        assert web.name in await hands.peerpods(), "who cannot ask does not know"
        sky.away = False
        await until(lambda: gone(hands))


async def test_a_known_sandboxs_peerpod_is_no_stranger(
    hands: Hands, connect: Connect, sky: Sky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptor.kube.strangers.UNSEEN", 0.05)
    await hands.pod()
    async with node_of(connect(), sky) as cluster:
        web = await Sandbox(cluster, hands.spec()).starts()
        await until(lambda: running(hands, web.name))
    async with node_of(connect(), sky) as cluster:
        cluster.know({web.spec.id: web.now})
        await asyncio.sleep(0.3)
        assert await running(hands, web.name)


async def test_another_nodes_peerpods_are_left_alone(
    hands: Hands, connect: Connect, sky: Sky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptor.kube.strangers.UNSEEN", 0.05)
    theirs = {
        "apiVersion": "confidentialcontainers.org/v1alpha1",
        "kind": "PeerPod",
        "metadata": {"name": "a", "namespace": "shop", "labels": {names.NODE_LABEL: "worker-2"}},
    }
    upstreams = {**theirs, "metadata": {"name": "b-resource-x7d9z", "namespace": "shop"}}
    for each in (theirs, upstreams):
        await hands.client.create(Resource(each))
    async with node_of(connect(), sky):
        await asyncio.sleep(0.3)
    assert len(await hands.peerpods()) == 2


async def test_the_last_look_is_at_what_is_there_and_not_at_what_was_known(
    hands: Hands, connect: Connect, world: World
) -> None:
    await hands.pod()
    world.faults.add(Fault(verb="list", resource="peerpods", status=403, times=10_000))
    async with node_of(connect()) as cluster:
        web = await Sandbox(cluster, hands.spec()).starts()
        await until(lambda: running(hands, web.name))
        writer = cluster.peerpods.writer_of(record.begun(web.spec, "memory", NODE))
        assert writer is not None
        assert writer.found is not None
        writer.found = replace(writer.found, finalizers=())  # a put-back whose answer was lost
        web.ends()
        await until(lambda: len(cluster.peerpods) == 0)
        assert await hands.peerpod(web.name) is None


@pytest.mark.parametrize("ended", [False, True])
async def test_a_peerpod_whose_creates_answer_was_lost_is_known_also_to_who_cannot_watch(
    hands: Hands, connect: Connect, world: World, ended: bool
) -> None:
    await hands.pod()
    world.faults.add(Fault(verb="list", resource="peerpods", status=403, times=10_000))
    world.faults.add(Fault(verb="create", resource="peerpods", lost_reply=True))
    async with node_of(connect()) as cluster:
        web = await Sandbox(cluster, hands.spec()).starts()
        if not ended:
            await until(lambda: running(hands, web.name))
        web.ends()
        await until(lambda: len(cluster.peerpods) == 0)
        world.faults.clear()
        assert await gone(hands)


async def test_the_api_server_is_followed_again_after_a_version_that_is_too_old(
    hands: Hands, cluster: NodeCluster, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await until(lambda: world.server.watches)
    world.faults.add(Fault(verb="watch", resource="peerpods", status=410))
    world.server.cut_watches()
    await until(lambda: world.faults.met == ["watch peerpods"])
    await until(lambda: world.server.watches)
    assert "410" not in caplog.text, "nothing is wrong"


async def test_endings_that_cannot_be_written_are_bounded(
    hands: Hands, cluster: NodeCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peerpods, "_ENDING_LIMIT", 5)
    await world.server.stop()
    for number in range(20):
        web = Sandbox(cluster, hands.spec(f"web-{number}")).happens(Created(hands.spec(f"web-{number}")), *START)
        await asyncio.sleep(0)
        web.ends()
    assert len(cluster.peerpods) <= 6
    await world.server.start()
