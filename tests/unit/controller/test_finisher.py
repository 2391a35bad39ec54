"""PeerPods of dead nodes and vanished pods, in virtual time against an API server and a cloud in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from adaptor import names
from adaptor.controller import fate
from adaptor.controller.api import NODE, PEER_POD, POD
from adaptor.controller.finisher import Finisher
from adaptor.controller.machines import Machines
from adaptor.controller.mirror import Mirror
from adaptor.kube import peerpod
from adaptor.kube.errors import KubernetesError, Outdated
from providers import tags
from providers.base import Instance, InstanceState
from providers.errors import Denied, Throttled, Transient
from tests.worlds.cloud import Cloud
from tests.worlds.loop import VirtualLoop, virtually
from tests.worlds.objects import Heard, Objects, running

GRACE = 300.0
READY = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
SILENT = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}


class World:
    def __init__(self) -> None:
        self.loop = VirtualLoop.running()
        self.api = Objects(self.loop)
        self.cloud = Cloud(self.loop)
        self.heard = Heard()
        self.node()

    def node(self, state: dict[str, Any] = READY, name: str = "node-1") -> None:
        self.api.put(NODE, {"metadata": {"name": name}, **state})

    def vm(self, id: str = "i-1", namespace: str = "shop", **more: str) -> None:
        marks = {tags.CLUSTER: "cluster-a", tags.NODE: "node-1", tags.POD_NAMESPACE: namespace, tags.TOKEN: "t-1"}
        self.cloud.instances[id] = Instance(id, InstanceState.RUNNING, tags={**marks, **more})

    def peerpod(
        self, *, deleted: bool = True, owned: bool = True, finalizers: tuple[str, ...] = (), **spec: str
    ) -> None:
        told = {"cloudProvider": "memory", "instanceID": "i-1", "nodeName": "node-1", "token": "t-1", "podName": "web"}
        metadata: dict[str, Any] = {
            "name": "web-abc",
            "namespace": "shop",
            "finalizers": [*finalizers, names.PEERPOD_FINALIZER],
        }
        if owned:
            metadata["ownerReferences"] = [{"kind": "Pod", "name": "web", "uid": "uid-web"}]
        if deleted:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        self.api.put(PEER_POD, {"metadata": metadata, "spec": {**told, "podUID": "uid-web", **spec}})

    def pod(self, uid: str = "uid-web") -> None:
        self.api.put(POD, {"metadata": {"name": "web", "namespace": "shop", "uid": uid}})

    def left(self) -> dict[str, Any] | None:
        return self.api.at(PEER_POD, "web-abc", "shop")

    @asynccontextmanager
    async def controller(self) -> AsyncIterator[None]:
        peerpods = Mirror(self.api, PEER_POD, peerpod.from_object, self.loop)
        nodes = Mirror(self.api, NODE, fate.node_facts, self.loop)
        machines = Machines(self.cloud, None, "cluster-a", self.loop)
        finisher = Finisher(self.api, machines, peerpods, nodes, self.heard, self.loop, GRACE)
        async with running(peerpods.run, nodes.run, finisher.run):
            yield


@virtually
async def test_the_vm_of_a_dead_nodes_deleted_peerpod_is_deleted_and_only_then_the_finalizer_dropped() -> None:
    world = World()
    world.vm()
    world.cloud.deleting_seconds = 60.0
    world.peerpod()
    async with world.controller():
        world.api.drop(NODE, "node-1")
        await world.loop.sleep(GRACE - 5)
        assert world.cloud.calls["delete"] == 0
        await world.loop.sleep(30)
        assert world.cloud.calls["delete"] >= 1
        assert world.left() is not None
        await world.loop.sleep(80)
        assert world.cloud.living == []
        assert world.left() is None


@virtually
async def test_a_living_nodes_peerpod_is_its_adaptors_and_reported_when_that_takes_too_long() -> None:
    world = World()
    world.vm()
    world.peerpod()
    async with world.controller():
        await world.loop.sleep(fate.STUCK - 60)
        assert world.heard.said == []
        await world.loop.sleep(120)
    ((name, reason, message),) = world.heard.said
    assert (name, reason) == ("web-abc", "NotFinished")
    assert "node node-1 has not finished it for 30 minutes" in message
    assert world.cloud.calls["delete"] == 0
    assert world.left() is not None


@virtually
async def test_a_node_that_comes_back_within_the_grace_keeps_its_peerpods() -> None:
    world = World()
    world.vm()
    world.peerpod()
    async with world.controller():
        for _ in range(4):
            world.node(SILENT)
            await world.loop.sleep(GRACE - 20)
            world.node(READY)
            await world.loop.sleep(20)
    assert world.cloud.calls["delete"] == 0
    assert world.left() is not None


@virtually
async def test_a_node_that_stays_silent_is_dead_after_the_grace() -> None:
    world = World()
    world.vm()
    world.peerpod()
    async with world.controller():
        world.node(SILENT)
        await world.loop.sleep(GRACE + 60)
    assert world.cloud.living == []
    assert world.left() is None


@virtually
async def test_a_node_out_of_service_loses_its_deleted_pods_vms_at_once() -> None:
    world = World()
    world.vm()
    world.peerpod()
    async with world.controller():
        await world.loop.sleep(10)
        world.node({**SILENT, "spec": {"taints": [{"key": fate.OUT_OF_SERVICE}]}})
        await world.loop.sleep(15)
        assert world.left() is None
    assert world.cloud.living == []


@virtually
async def test_the_peerpod_of_a_pod_that_lives_on_a_dead_node_waits_for_the_pods_end() -> None:
    world = World()
    world.vm()
    world.pod()
    world.peerpod(deleted=False)
    world.api.drop(NODE, "node-1")
    async with world.controller():
        await world.loop.sleep(2 * GRACE)
        assert world.cloud.calls["delete"] == 0


@pytest.mark.parametrize("other_pod", [False, True])
def test_an_orphans_vm_goes_once_its_pod_is_gone_also_when_another_has_its_name(other_pod: bool) -> None:
    @virtually
    async def run() -> None:
        world = World()
        world.vm()
        world.pod()
        world.peerpod(deleted=False, owned=False)
        world.api.drop(NODE, "node-1")
        async with world.controller():
            await world.loop.sleep(2 * GRACE)
            assert world.left() is not None
            world.api.drop(POD, "web", "shop")
            if other_pod:
                world.pod("uid-next")
            await world.loop.sleep(2 * GRACE)
        assert world.left() is None
        assert world.cloud.living == []

    run()


@virtually
async def test_others_finalizers_stay() -> None:
    world = World()
    world.vm()
    world.peerpod(finalizers=("a/b", "c/d"))
    world.api.drop(NODE, "node-1")
    async with world.controller():
        await world.loop.sleep(GRACE + 60)
    left = world.left()
    assert left is not None
    assert left["metadata"]["finalizers"] == ["a/b", "c/d"]
    assert world.cloud.living == []


@virtually
async def test_a_vm_that_the_pods_next_sandbox_has_taken_over_stays_with_that_ones_peerpod() -> None:
    world = World()
    world.vm()
    world.peerpod()
    left = world.left()
    assert left is not None
    metadata = {
        "name": "web-next",
        "namespace": "shop",
        "finalizers": [names.PEERPOD_FINALIZER],
        "ownerReferences": [{"kind": "Pod", "name": "web", "uid": "uid-web"}],
    }
    following = world.api.put(PEER_POD, {"metadata": metadata, "spec": dict(left["spec"])})
    world.api.drop(NODE, "node-1")
    async with world.controller():
        await world.loop.sleep(GRACE + 60)
        assert world.left() is None
        assert world.cloud.living == ["i-1"]
        world.api.put(PEER_POD, {**following, "metadata": {**following["metadata"], "deletionTimestamp": "now"}})
        await world.loop.sleep(GRACE + 60)
    assert world.cloud.living == []


@virtually
async def test_a_vm_that_is_not_known_by_id_is_found_by_its_token() -> None:
    world = World()
    world.vm("i-7")
    world.vm("i-8", **{tags.TOKEN: "t-2"})
    world.peerpod(instanceID="")
    world.api.drop(NODE, "node-1")
    async with world.controller():
        await world.loop.sleep(GRACE + 60)
    assert world.cloud.living == ["i-8"]
    assert world.left() is None


@virtually
async def test_a_vm_that_cannot_be_seen_yet_keeps_a_new_peerpods_finalizer() -> None:
    world = World()
    world.vm()
    world.cloud.hidden = True
    world.peerpod(instanceID="")
    world.node({"spec": {"taints": [{"key": fate.OUT_OF_SERVICE}]}})
    async with world.controller():
        await world.loop.sleep(100)
        assert world.left() is not None
        world.cloud.hidden = False
        await world.loop.sleep(60)
    assert world.left() is None
    assert world.cloud.living == []


@virtually
async def test_a_peerpod_for_which_nothing_was_asked_yet_is_let_go() -> None:
    world = World()
    world.peerpod(instanceID="", token="")
    world.api.drop(NODE, "node-1")
    async with world.controller():
        await world.loop.sleep(GRACE + 60)
    assert world.left() is None
    assert world.cloud.calls["list"] == 0


@virtually
async def test_upstreams_peerpod_is_finished_without_waiting_for_any_node() -> None:
    world = World()
    world.cloud.instances["i-1"] = Instance("i-1", InstanceState.RUNNING, name="podvm-web-12345678")
    metadata = {
        "name": "web-resource-abcde",
        "namespace": "shop",
        "finalizers": [names.PEERPOD_FINALIZER],
        "deletionTimestamp": "2026-01-01T00:00:00Z",
    }
    world.api.put(PEER_POD, {"metadata": metadata, "spec": {"cloudProvider": "memory", "instanceID": "i-1"}})
    async with world.controller():
        await world.loop.sleep(30)
    assert world.cloud.living == []
    assert world.api.at(PEER_POD, "web-resource-abcde", "shop") is None


@virtually
async def test_a_peerpod_of_another_cloud_is_reported_and_left() -> None:
    world = World()
    world.vm()
    world.peerpod(cloudProvider="ibmcloud")
    world.api.drop(NODE, "node-1")
    async with world.controller():
        await world.loop.sleep(GRACE + 60)
    ((_, _, message),) = world.heard.said
    assert "is at ibmcloud, which is not the cloud configured here (memory)" in message
    assert world.left() is not None
    assert world.cloud.living == ["i-1"]


@virtually
async def test_a_peerpod_that_names_another_namespaces_vm_deletes_nothing_and_is_reported() -> None:
    world = World()
    world.vm(namespace="bank")
    world.peerpod()
    world.api.drop(NODE, "node-1")
    async with world.controller():
        await world.loop.sleep(GRACE + 60)
    ((_, _, message),) = world.heard.said
    assert "of a pod in namespace bank" in message
    assert world.cloud.living == ["i-1"]
    assert world.left() is not None


@virtually
async def test_faults_of_cloud_and_api_server_put_it_off_and_lose_nothing() -> None:
    world = World()
    world.vm()
    world.peerpod()
    world.api.drop(NODE, "node-1")
    world.cloud.refuse["get"].extend([Denied("no"), Throttled("slow", retry_after=20.0)])
    world.cloud.refuse["delete"].append(Transient("lost"))
    world.api.refuse["patch"].append(KubernetesError("500"))
    world.api.lose["patch"] = 1
    async with world.controller():
        await world.loop.sleep(GRACE + 60)
        world.api.away = True
        await world.loop.sleep(120)
        world.api.away = False
        world.api.refuse["watch"].append(Outdated("too old"))
        await world.loop.sleep(600)
    assert world.cloud.living == []
    assert world.left() is None


@pytest.mark.parametrize("killed_after", [0.05, 5.0, 10.5, 20.5, 30.0])
def test_a_controller_killed_at_any_moment_leaves_what_the_next_one_finishes(killed_after: float) -> None:
    @virtually
    async def run() -> None:
        world = World()
        world.vm()
        world.cloud.deleting_seconds = 15.0
        world.peerpod()
        world.node({"spec": {"taints": [{"key": fate.OUT_OF_SERVICE}]}})
        async with world.controller():
            await world.loop.sleep(killed_after)
        if world.left() is None:
            assert world.cloud.living == []
        async with world.controller():
            await world.loop.sleep(60)
        assert world.left() is None
        assert world.cloud.living == []

    run()


@virtually
async def test_one_object_that_cannot_be_finished_does_not_hold_up_the_others() -> None:
    world = World()
    world.api.drop(NODE, "node-1")
    for number in range(40):
        world.vm(f"i-{number}")
        metadata = {
            "name": f"web-{number}",
            "namespace": "shop",
            "finalizers": [names.PEERPOD_FINALIZER],
            "deletionTimestamp": "2026-01-01T00:00:00Z",
        }
        spec = {"cloudProvider": "memory", "instanceID": f"i-{number}", "nodeName": "node-1", "token": "t-1"}
        world.api.put(PEER_POD, {"metadata": metadata, "spec": spec if number else {**spec, "instanceID": ["?"]}})
    async with world.controller():
        await world.loop.sleep(GRACE + 120)
    assert world.cloud.living == ["i-0"]
