"""A node whose journal's disk is really full: starts fail clean, teardowns wait for room, nothing leaks."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptor.errors import Unavailable
from adaptor.sandbox.model import Phase
from tests.sim.test_start_and_stop import gone
from tests.worlds.disk import SmallDisk, small_disk
from tests.worlds.node import Node, spec

WEB = spec()
pytestmark = pytest.mark.netns


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


async def test_create_vm_on_a_full_disk_fails_clean(disk: SmallDisk) -> None:
    node = Node(disk.path)
    async with node.adaptor() as registry:
        disk.fill()
        with pytest.raises(Unavailable, match="disk is full"):
            await registry.create(WEB)
        assert not registry.sandboxes
        assert not node.relay.open_sessions
        disk.make_room()
        await registry.create(WEB)
        await registry.start(WEB.id)
        await registry.stop(WEB.id, "StopVM")
        await gone(registry, node)


async def test_start_vm_on_a_full_disk_fails_clean_and_its_stop_finishes_when_there_is_room(disk: SmallDisk) -> None:
    node = Node(disk.path)
    async with node.adaptor() as registry:
        await registry.create(WEB)
        disk.fill()
        with pytest.raises(Unavailable, match="disk is full"):
            await registry.start(WEB.id)
        assert not node.cloud.calls["create"]
        began = node.clock.now()
        await registry.stop(WEB.id, "StopVM")
        assert node.clock.now() - began < 15, "the shim is not kept waiting"
        assert WEB.id in registry.sandboxes
        disk.make_room()
        await gone(registry, node)


async def test_a_start_whose_disk_fills_up_during_the_create_call_loses_no_vm(disk: SmallDisk) -> None:
    node = Node(disk.path)
    node.cloud.call_seconds = 3
    async with node.adaptor() as registry:
        await registry.create(WEB)
        start = asyncio.create_task(registry.start(WEB.id))
        await node.clock.sleep(4)  # offerings took 3 s: now in create
        disk.fill()
        with pytest.raises(Unavailable, match="disk is full"):
            await start
        assert len(node.cloud.living) == 1, "the answer could not be written down"
        disk.make_room()
        await gone(registry, node)


async def test_running_pods_do_not_notice_and_one_is_deleted_when_there_is_room(disk: SmallDisk) -> None:
    node = Node(disk.path)
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        disk.fill()
        await node.clock.sleep(100)
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING
        await registry.stop(WEB.id, "StopVM")
        disk.make_room()
        await gone(registry, node)
