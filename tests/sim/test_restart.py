"""An adaptor killed at every moment of a pod's life; the next one goes on."""

import asyncio

import pytest

from adaptor.sandbox.model import Phase
from adaptor.sandbox.registry import Registry
from tests.worlds.node import Node, spec

WEB = spec()


async def settled(registry: Registry, node: Node) -> None:
    for _ in range(300):
        if not registry.sandboxes:
            return
        await node.clock.sleep(1)


async def test_a_running_sandbox_is_adopted_and_stops_as_ever(node: Node) -> None:
    async with node.adaptor() as first:
        await first.create(WEB)
        await first.start(WEB.id)
    async with node.adaptor() as second:
        assert second.sandboxes[WEB.id].phase is Phase.RUNNING
        assert node.cloud.living
        await second.stop(WEB.id, "StopVM")
        await settled(second, node)
    assert await node.nothing_is_left()


async def test_a_created_sandbox_can_be_started_by_the_next_adaptor(node: Node) -> None:
    async with node.adaptor() as first:
        await first.create(WEB)
    async with node.adaptor() as second:
        await second.start(WEB.id)
        assert second.sandboxes[WEB.id].phase is Phase.RUNNING


@pytest.mark.parametrize("tenths", range(0, 110, 4))
async def test_killed_at_any_moment_of_a_start_nothing_is_lost_or_doubled(node: Node, tenths: int) -> None:
    async with node.adaptor() as first:
        await first.create(WEB)
        start = asyncio.create_task(first.start(WEB.id))
        await node.clock.sleep(tenths / 10)
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)
    async with node.adaptor() as second:
        await second.stop(WEB.id, "StopVM")
        await settled(second, node)
    assert len(node.cloud.instances) <= 1
    assert await node.nothing_is_left()


@pytest.mark.parametrize("tenths", range(8))
async def test_killed_at_any_moment_of_a_stop_the_next_adaptor_finishes_it(node: Node, tenths: int) -> None:
    node.cloud.call_seconds = 0.5
    async with node.adaptor() as first:
        await first.create(WEB)
        await first.start(WEB.id)
        stop = asyncio.create_task(first.stop(WEB.id, "StopVM"))
        await node.clock.sleep(tenths / 10)
    stop.cancel()
    await asyncio.gather(stop, return_exceptions=True)
    async with node.adaptor() as second:
        if tenths == 0 and WEB.id in second.sandboxes and second.sandboxes[WEB.id].phase is Phase.RUNNING:
            await second.stop(WEB.id, "StopVM")
        await settled(second, node)
    assert await node.nothing_is_left()


async def test_a_relay_that_died_meanwhile_ends_its_pods(node: Node) -> None:
    async with node.adaptor() as first:
        await first.create(WEB)
        await first.start(WEB.id)
    node.relay.open_sessions.clear()
    async with node.adaptor() as second:
        await settled(second, node)
    assert await node.nothing_is_left()


async def test_a_session_that_no_journal_explains_is_closed(node: Node) -> None:
    await node.relay.open("stranger", "/run/peerpod/pods/stranger/agent.ttrpc")
    async with node.adaptor():
        pass
    assert await node.nothing_is_left()
