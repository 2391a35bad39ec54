"""The same pod on every cloud: its real SDK against the simulated cloud, guests that boot from its metadata service."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adaptor.demo import service
from adaptor.demo.clouds import STAGES
from adaptor.demo.shim import Shim
from adaptor.demo.world import World
from adaptor.errors import Code, StatusError
from tests.e2e.conftest import clean

pytestmark = pytest.mark.netns

# As the guest names the metadata service that gave it its user-data.
METADATA = {"aws": "AWS", "azure": "Azure", "gcp": "GCP"}


@pytest.fixture(params=sorted(STAGES))
async def world(request: pytest.FixtureRequest, directory: Path) -> AsyncIterator[World]:
    """A node on each simulated cloud, up and serving; afterwards nothing of it may be left."""
    settings = {"guest": {"start_timeout": "15s", "adopt_grace": "3s"}}
    async with World(directory, provider=request.param, settings=settings) as world:
        await world.start_cloud()
        await world.start_adaptor()
        yield world
        await clean(world)


async def test_a_pod_lives_its_whole_life(world: World) -> None:
    with world.pod_network() as network:
        async with Shim(world.hypervisor_socket, pod="e2e/life", netns=network.netns) as shim:
            await shim.start_pod()
            (instance,) = await world.instances()
            assert f"{METADATA[world.cloud['provider']]} metadata" in instance["console"]
            assert instance["instance_type"] in world.stage.types.values()
            process = await shim.run(service.serve())
            await process.until(lambda out: out == b"hello from life\n")
            assert (await service.ask(network.ipv4)).host == "life"
            run = await shim.exec(process, ["sh", "-c", "echo out; exit 7"])
            assert (await run.exit_code(), bytes(run.stdout)) == (7, b"out\n")
            assert await shim.stop(process, signal.SIGKILL) == 128 + signal.SIGKILL
            await shim.stop_pod()
            assert not shim.checks_failed


async def test_an_adaptor_that_is_killed_finds_its_pod_again(world: World) -> None:
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/again", netns=netns) as shim:
            await shim.start_pod()
            process = await shim.run(["sleep", "600"])
            await world.stop("adaptor", signal.SIGKILL)
            await world.start_adaptor()
            assert await (await shim.exec(process, ["true"])).exit_code() == 0
            assert len(await world.living()) == 1
            await shim.stop_pod()
            assert not shim.checks_failed


async def test_a_type_without_capacity_gives_way_to_the_next(world: World) -> None:
    (small, types) = world.stage.types.values()
    await world.cause(capacity={"instance_type": small, "free": 0})
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/full", netns=netns) as shim:
            await shim.start_pod()
            (lives,) = [each for each in await world.instances() if each["state"] == "running"]
            assert lives["instance_type"] == types[1]
            await shim.stop_pod()


async def test_when_nothing_has_capacity_the_event_says_what_was_tried(world: World) -> None:
    (_, types) = world.stage.types.values()
    for name in types:
        await world.cause(capacity={"instance_type": name, "free": 0})
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/none", netns=netns) as shim:
            await shim.create_vm()
            with pytest.raises(StatusError) as caught:
                await shim.start_vm()
            await shim.stop_vm()
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    assert all(name in str(caught.value) for name in types), str(caught.value)


async def test_a_vm_that_dies_while_it_boots_fails_its_pod_with_the_clouds_reason(world: World) -> None:
    await world.cause(boot={"fate": "dies", "reason": "the host has caught fire"})
    with world.pod_netns() as netns:
        async with Shim(world.hypervisor_socket, pod="e2e/fire", netns=netns) as shim:
            await shim.create_vm()
            with pytest.raises(StatusError, match="ended while it was starting"):
                async with asyncio.timeout(30):
                    await shim.start_vm()
            await shim.stop_vm()
