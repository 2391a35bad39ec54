"""The gatekeeper, in virtual time: what it lifts is lifted once, and races pass no limit."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from adaptor import names
from adaptor.config import Quota
from adaptor.controller import gates
from adaptor.controller.api import NAMESPACE, POD
from adaptor.controller.mirror import Mirror
from adaptor.controller.quota import Gatekeeper, annotation, lift_all
from adaptor.kube.errors import KubernetesError, Outdated
from providers.errors import Denied
from tests.worlds.cloud import Cloud
from tests.worlds.loop import VirtualLoop, virtually
from tests.worlds.objects import Heard, Objects, running

GATES = [{"name": "theirs"}, {"name": names.QUOTA}]


class World:
    def __init__(self, **limits: int) -> None:
        self.loop = VirtualLoop.running()
        self.api = Objects(self.loop)
        self.cloud = Cloud(self.loop)
        self.heard = Heard()
        self.limits = tuple(limits.items())
        self.most = 0

    def pod(
        self,
        name: str,
        namespace: str = "shop",
        *,
        gated: bool = True,
        marker: str = "vcpus=1,memory-mib=512",
        made: str = "",
    ) -> None:
        metadata: dict[str, Any] = {"name": name, "namespace": namespace, "annotations": {names.SIZED: marker}}
        if made:
            metadata["creationTimestamp"] = made
        spec = {"runtimeClassName": "kata-remote", "schedulingGates": list(GATES) if gated else []}
        self.api.put(POD, {"metadata": metadata, "spec": spec})

    def namespace(self, quota: str | None, name: str = "shop") -> None:
        found: dict[str, Any] = {"name": name, "annotations": {names.QUOTA: quota} if quota is not None else {}}
        self.api.put(NAMESPACE, {"metadata": found})

    def end(self, name: str, phase: str = "Succeeded") -> None:
        found = self.api.at(POD, name, "shop")
        assert found is not None
        self.api.put(POD, {**found, "status": {"phase": phase}})

    @property
    def going(self) -> list[str]:
        """Pods without our gate that have not ended."""
        found = [
            key[2]
            for key, each in self.api.held.items()
            if key[0] == "Pod"
            and {"name": names.QUOTA} not in each["spec"]["schedulingGates"]
            and (each.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
        ]
        return sorted(found)

    @asynccontextmanager
    async def controller(self, cluster: bool = True) -> AsyncIterator[None]:
        pods = Mirror(self.api, POD, lambda found: gates.pod_facts(found, ("kata-remote",)), self.loop)
        namespaces = Mirror(self.api, NAMESPACE, annotation, self.loop)
        quota = Quota(cluster=self.limits) if cluster else Quota(namespace=self.limits)
        keeper = Gatekeeper(self.api, pods, namespaces, quota, self.heard, self.loop, self.cloud)
        async with running(pods.run, namespaces.run, keeper.run):
            yield


@virtually
async def test_held_pods_go_when_others_have_ended_and_keep_others_gates() -> None:
    world = World(pods=2)
    for name in "abc":
        world.pod(name)
    async with world.controller():
        await world.loop.sleep(2)
        assert world.going == ["a", "b"]
        ((name, reason, message),) = world.heard.said
        assert (name, reason) == ("c", "QuotaExceeded")
        assert "the cluster may have 2 pods" in message
        world.end("a")
        await world.loop.sleep(2)
        assert world.going == ["b", "c"]
    found = world.api.at(POD, "c", "shop")
    assert found is not None
    assert found["spec"]["schedulingGates"] == [{"name": "theirs"}]


@pytest.mark.parametrize("how", ["Failed", "deleted"])
def test_failed_and_deleted_pods_make_room_too(how: str) -> None:
    @virtually
    async def run() -> None:
        world = World(pods=1)
        world.pod("a")
        world.pod("b")
        async with world.controller():
            await world.loop.sleep(2)
            assert world.going == ["a"]
            if how == "deleted":
                world.api.drop(POD, "a", "shop")
            else:
                world.end("a", how)
            await world.loop.sleep(2)
            assert world.going == ["b"]

    run()


@virtually
async def test_a_mirror_that_lags_behind_the_lifts_passes_no_limit() -> None:
    world = World(pods=3)
    for number in range(10):
        world.pod(f"p{number}")
    told = world.api._tell

    def late(event: str, *what: Any) -> None:
        if event == "ADDED":
            told(event, *what)

    world.api._tell = late  # type: ignore[method-assign, assignment]
    async with world.controller():
        for number in range(10, 15):
            await world.loop.sleep(40)
            world.pod(f"p{number}", made="1960-01-01T00:00:00Z")  # by their age they come first
        assert len(world.going) == 3


@virtually
async def test_a_lost_reply_to_a_lift_is_a_lift_and_one_that_never_arrived_is_made_again() -> None:
    world = World(pods=2)
    for name in "abcd":
        world.pod(name)
    world.api.lose["patch"] = 1
    world.api.refuse["patch"].append(KubernetesError("500"))
    async with world.controller():
        await world.loop.sleep(120)
        assert world.going == ["a", "b"]


@virtually
async def test_a_new_leader_counts_what_the_last_one_lifted() -> None:
    world = World(pods=2)
    for name in "abcd":
        world.pod(name)
    async with world.controller():
        await world.loop.sleep(1)
    async with world.controller():
        await world.loop.sleep(60)
    assert world.going == ["a", "b"]


@virtually
async def test_a_watch_that_is_too_old_loses_nothing() -> None:
    world = World(pods=2)
    world.pod("a")
    async with world.controller():
        await world.loop.sleep(2)
        world.api.refuse["watch"].append(Outdated("410"))
        for name in "bc":
            world.pod(name)
        await world.loop.sleep(60)
    assert world.going == ["a", "b"]


@virtually
async def test_a_namespaces_annotation_counts_before_the_settings_and_a_bad_one_is_told_of_once() -> None:
    world = World(pods=1)
    world.namespace("pods=2")
    for name in "abc":
        world.pod(name)
    async with world.controller(cluster=False):
        await world.loop.sleep(2)
        assert world.going == ["a", "b"]
        world.namespace("pods=three")
        world.end("a")
        await world.loop.sleep(200)
        assert world.going == ["b"]
        complaints = [said for said in world.heard.said if said[1] == "QuotaUnusable"]
        ((name, _, message),) = complaints
        assert name == "shop"
        assert "has pods='three', which is not a whole number" in message
        world.namespace(None)
        world.end("b")
        await world.loop.sleep(2)
        assert world.going == ["c"]


@virtually
async def test_a_held_pod_is_told_when_the_reason_changes_and_now_and_then() -> None:
    world = World(pods=1)
    world.pod("a")
    world.pod("b")
    async with world.controller():
        await world.loop.sleep(250)
        assert len(world.heard.said) == 1
        await world.loop.sleep(100)
        assert len(world.heard.said) == 2
        world.namespace("vcpus=0")
        await world.loop.sleep(5)
        assert "namespace shop may have 0 in all: it can never start" in world.heard.said[-1][2]


@virtually
async def test_pods_without_a_size_count_as_the_default_machine_once_the_cloud_tells_it() -> None:
    world = World(vcpus=4)
    world.cloud.refuse["offerings"].append(Denied("not now"))
    for name in "abc":
        world.pod(name, marker="vcpus=0,memory-mib=0")
        world.api.away = False
    async with world.controller():
        await world.loop.sleep(60)
    assert world.going == ["a", "b", "c"]  # the cloud did not tell in time: each counted as one pod
    world = World(vcpus=4)
    for name in "abc":
        world.pod(name, marker="vcpus=0,memory-mib=0")
    async with world.controller():
        await world.loop.sleep(60)
    assert world.going == ["a", "b"]


@virtually
async def test_an_uninstall_takes_our_gate_from_every_pod_and_no_other_gate() -> None:
    world = World()
    world.pod("a")
    world.pod("b", gated=False)
    assert await lift_all(world.api) == 1
    found = world.api.at(POD, "a", "shop")
    assert found is not None
    assert found["spec"]["schedulingGates"] == [{"name": "theirs"}]
