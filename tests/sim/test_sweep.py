"""The sweep beside pods that come and go: however often it looks, it never takes a VM that a sandbox has or awaits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from adaptor.errors import StartFailed
from adaptor.sandbox import sweeper as module
from adaptor.sandbox.model import Phase
from adaptor.sandbox.registry import Registry
from adaptor.sandbox.sweep import Known
from adaptor.sandbox.sweeper import Sightings, Sweeper
from providers.base import InstanceState
from providers.errors import Capacity, Transient
from tests.worlds.leaks import OWNER, OfNode
from tests.worlds.node import Node, spec

WEB = spec()


@asynccontextmanager
async def sweeping(node: Node, registry: Registry, directory: Path) -> AsyncIterator[list[str]]:
    """Look all the time, as if every VM were ancient; what has been removed."""
    removed: list[str] = []

    async def known() -> Known:
        sessions = {each.sandbox_id: each.address for each in await node.relay.sessions()}
        return Known(OWNER, registry.sandboxes, sessions)

    async def without_end() -> None:
        cloud = OfNode(node.cloud, OWNER, removed.append)
        sweeper = Sweeper(cloud, known, Sightings(directory / "first-seen.json"), node.clock, 900.0)
        while True:
            await sweeper.sweep(delete=True)
            await node.clock.sleep(0.03)

    task = asyncio.create_task(without_end())
    try:
        yield removed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def no_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look at once: as little protection as there can be."""
    monkeypatch.setattr(module, "_DOUBT", 0.0)


async def test_a_pods_whole_life_goes_unharmed(node: Node, tmp_path: Path) -> None:
    async with node.adaptor() as registry, sweeping(node, registry, tmp_path) as removed:
        await registry.create(WEB)
        await registry.start(WEB.id)
        await node.clock.sleep(60.0)
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING
        assert removed == []
        assert node.cloud.calls["list"] > 100
        await registry.stop(WEB.id, "StopVM")
        await node.gone(registry)
    assert removed == []


async def test_a_create_whose_answer_was_lost_is_found_again_not_swept(node: Node, tmp_path: Path) -> None:
    node.cloud.lose_replies.append(Transient("connection reset"))
    async with node.adaptor() as registry, sweeping(node, registry, tmp_path) as removed:
        await registry.create(WEB)
        await registry.start(WEB.id)
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING
        assert (len(node.cloud.living), removed) == (1, [])


async def test_a_vm_that_appears_after_its_create_counted_as_never_made_is_swept(node: Node, tmp_path: Path) -> None:
    """What only the sweep can find: the cloud showed it too late."""
    node.cloud.lose_replies.append(Transient("connection reset"))
    node.cloud.refuse_after_loss = Capacity("none left")
    node.cloud.hidden = True
    async with node.adaptor() as registry, sweeping(node, registry, tmp_path) as removed:
        await registry.create(WEB)
        with pytest.raises(StartFailed):
            await registry.start(WEB.id)
        while registry.sandboxes:
            await node.clock.sleep(1.0)
        assert node.cloud.living, "the adaptor has given it up"
        assert removed == []
        node.cloud.hidden = False
        await node.clock.sleep(5.0)
        assert removed == ["i-0001"]
        assert not node.cloud.living


async def test_a_stranger_among_running_pods_is_the_only_one_swept(node: Node, tmp_path: Path) -> None:
    async with node.adaptor() as registry, sweeping(node, registry, tmp_path) as removed:
        pods = [spec(f"web-{number}") for number in range(8)]
        await asyncio.gather(*(registry.create(pod) for pod in pods))
        await asyncio.gather(*(registry.start(pod.id) for pod in pods))
        ours = list(node.cloud.living)
        stray = replace(node.cloud.instances[ours[0]], id="i-stray", addresses=("10.9.9.9",), tags={})
        node.cloud.instances["i-stray"] = replace(stray, state=InstanceState.RUNNING)
        await node.clock.sleep(5.0)
        assert (removed, node.cloud.living) == (["i-stray"], ours)
