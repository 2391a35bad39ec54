"""What drivers tell the cluster, in which order, and that nothing of it holds a pod up; a node in virtual time."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from adaptor.errors import AdaptorError, StartFailed
from adaptor.kube.node import ANNOUNCE, NodeCluster
from adaptor.relay.states import SessionState
from adaptor.sandbox.model import Event, Phase, SandboxSpec, SandboxState
from adaptor.sandbox.registry import Registry
from adaptor.sandbox.rooms import Alone
from providers.base import Offering
from providers.errors import Capacity, Denied, ProviderError, Transient
from tests.sim.test_adoption import again, kept, started
from tests.worlds.node import Node, spec

WEB = spec()


class Heard(Alone):
    """A cluster that writes down what it is told."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.said: list[tuple[str, str]] = []  # sandbox's pod or id, what
        self.tags: Mapping[str, str] = {}

    def of(self, pod: SandboxSpec = WEB) -> list[str]:
        return [what for sandbox, what in self.said if sandbox == pod.id]

    async def announce(self, state: SandboxState) -> None:
        assert not self.node.cloud.calls["create"], "before the first create call"
        self.said.append((state.spec.id, "announce"))

    def changed(self, state: SandboxState, event: Event | None) -> None:
        self.said.append((state.spec.id, event.kind if event else f"forgotten ({state.phase})"))

    def chose(self, state: SandboxState, offering: Offering, why: Any) -> None:
        self.said.append((state.spec.id, f"chose {offering.instance_type}: {why()}"))

    def tried(self, state: SandboxState, offering: Offering, error: ProviderError) -> None:
        self.said.append((state.spec.id, f"tried {offering.instance_type}: {error}"))

    def failed(self, state: SandboxState, error: AdaptorError) -> None:
        self.said.append((state.spec.id, f"failed: {error}"))

    def lost(self, state: SandboxState, reason: str) -> None:
        self.said.append((state.spec.id, f"lost: {reason}"))

    async def labels(self, spec: SandboxSpec) -> Mapping[str, str]:
        return self.tags


@pytest.fixture
def heard(node: Node) -> Heard:
    node.cluster = Heard(node)
    return node.cluster


async def test_a_life_is_told_event_by_event_and_announced_before_the_first_create(node: Node, heard: Heard) -> None:
    async with node.adaptor() as registry:
        await started(registry, WEB)
        await registry.stop(WEB.id, "StopVM")
        await node.gone(registry)
    said = heard.of()
    assert said[:4] == ["created", "start-requested", "network-intended", "announce"]
    assert said[4].startswith(
        "chose m6a.large: the first of 2 offerings that fit, in the order of their cost. Ruled out 1"
    )
    assert said[5:] == [
        "launch-intended",
        "launch-accepted",
        "reached",
        "network-intended",
        "bound",
        "stop-decided",
        "instance-deleted",
        "forgotten (gone)",
    ]


async def test_each_offering_that_cannot_be_had_is_told_and_then_the_failure(node: Node, heard: Heard) -> None:
    node.cloud.refuse["create"].extend([Capacity("full", request_id="r-1"), Denied("no", request_id="r-2")])
    async with node.adaptor() as registry:
        await registry.create(WEB)
        with pytest.raises(StartFailed):
            await registry.start(WEB.id)
        await node.gone(registry)
    said = heard.of()
    assert "tried m6a.large: full (request r-1)" in said
    assert [each for each in said if each.startswith("failed")] == [
        "failed: memory refused the VM (m6a.xlarge): no (request r-2)"
    ]
    assert not [each for each in said if each.startswith("lost")]


async def test_the_next_sandbox_is_told_to_have_the_vm_before_the_last_one_is_told_to_have_lost_it(
    node: Node, heard: Heard
) -> None:
    async with node.adaptor() as registry:
        await kept(registry, node)
        node.cloud.calls["create"] = 0
        await started(registry, again())
        await registry.stop(again().id, "StopVM")
        await node.gone(registry)
    order = [(sandbox, what) for sandbox, what in heard.said if what in ("adopted", "given-away")]
    assert order == [(again().id, "adopted"), (WEB.id, "given-away")]
    assert not [what for _, what in heard.said if what.startswith("lost")]


@pytest.mark.parametrize("by", ["patrol", "the shim"])
async def test_a_vm_that_died_is_told_with_the_clouds_reason_and_a_stop_is_not(
    node: Node, heard: Heard, by: str
) -> None:
    async with node.adaptor() as registry:
        await started(registry, WEB)
        node.cloud.kill("i-0001", "Spot interruption")
        node.relay.lose(WEB.id, "the link ended", SessionState.LINK_LOST)
        if by == "patrol":
            await registry.reap()
        else:
            await registry.stop(WEB.id, "StopVM")
        await node.gone(registry)
    (lost,) = [each for each in heard.of() if each.startswith("lost")]
    assert "Spot interruption" in lost


async def test_labels_are_tags_and_the_same_when_the_create_is_repeated(node: Node, heard: Heard) -> None:
    heard.tags = {"team": "blue", "app.kubernetes.io/name": "web=2"}
    node.cloud.lose_replies.append(Transient("timed out"))
    async with node.adaptor() as registry:
        await registry.create(WEB)
        start = asyncio.create_task(registry.start(WEB.id))
        while not node.cloud.calls["create"]:
            await node.clock.sleep(0.01)
        heard.tags = {"team": "red"}
        await start
        tags = node.cloud.specs["i-0001"].tags
        assert (tags["team"], tags["app.kubernetes.io/name"]) == ("blue", "web=2")
        assert registry.sandboxes[WEB.id].launch.labels == ("app.kubernetes.io/name=web=2", "team=blue")  # type: ignore[union-attr]
    async with node.adaptor() as registry:
        assert registry.sandboxes[WEB.id].launch.labels[1] == "team=blue", "the journal has them"  # type: ignore[union-attr]


async def test_a_label_cannot_say_whose_the_vm_is(node: Node, heard: Heard) -> None:
    heard.tags = {"peerpods-sandbox": "another", "peerpods-token": "x"}
    async with node.adaptor() as registry:
        await started(registry, WEB)
    assert node.cloud.specs["i-0001"].tags["peerpods-sandbox"] == WEB.id


class Hanging:
    """An API server's client that never answers."""

    def __init__(self) -> None:
        self.asked = 0

    async def _hang(self, *_: Any, **__: Any) -> Any:
        self.asked += 1
        await asyncio.get_running_loop().create_future()

    get = create = patch = delete = _hang

    async def list(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        await self._hang()
        yield

    async def aclose(self) -> None:
        pass


async def ready_after(registry: Registry, node: Node, pod: SandboxSpec) -> float:
    began = node.clock.now()
    await started(registry, pod)
    return node.clock.now() - began


async def test_an_api_server_that_never_answers_costs_a_start_the_bound_and_no_more(node: Node) -> None:
    async with node.adaptor() as registry:
        alone = await ready_after(registry, node, spec("alone"))
    hanging: Any = Hanging()
    cluster = node.cluster = NodeCluster(hanging, node.cloud, node.clock, "node", tag_labels=("team",))
    cluster.begin()
    try:
        async with node.adaptor() as registry:
            took = await ready_after(registry, node, WEB)
            assert alone + 0.5 * ANNOUNCE < took <= alone + 2 * ANNOUNCE + 0.2, (alone, took)
            assert hanging.asked
            began = node.clock.now()
            await registry.stop(WEB.id, "StopVM")
            assert node.clock.now() - began < 1
            await registry.stop(spec("alone").id, "StopVM")
            await node.gone(registry)
    finally:
        await cluster.aclose()


async def test_a_cluster_with_a_bug_ends_no_pod(node: Node) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

        async def aclose(self) -> None:
            pass

    broken: Any = Broken()
    cluster = node.cluster = NodeCluster(broken, node.cloud, node.clock, "node", tag_labels=("team",))
    cluster.begin()
    try:
        async with node.adaptor() as registry:
            await started(registry, WEB)
            assert registry.sandboxes[WEB.id].phase is Phase.RUNNING
            await registry.stop(WEB.id, "StopVM")
            await node.gone(registry)
    finally:
        await cluster.aclose()


async def test_sandboxes_of_no_pod_are_launched_as_ever(node: Node) -> None:
    node.cluster = cluster = NodeCluster(Hanging(), node.cloud, node.clock, "node")  # type: ignore[arg-type]
    plain = dataclasses.replace(WEB, pod_name="", pod_namespace="")
    async with node.adaptor() as registry:
        assert await ready_after(registry, node, plain) < 10
    await cluster.aclose()
