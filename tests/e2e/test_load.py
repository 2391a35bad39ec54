"""Two hundred pods through one adaptor, twenty at a time."""

import asyncio
import signal
from pathlib import Path

import pytest

from adaptor.demo import netdump, service
from adaptor.demo.shim import Shim
from adaptor.demo.world import World
from tests.e2e.conftest import clean

pytestmark = pytest.mark.netns

PODS = 200
AT_ONCE = 20


async def test_two_hundred_pods_twenty_at_a_time_without_an_error_or_a_leftover(directory: Path) -> None:
    errors: list[str] = []
    gate = asyncio.Semaphore(AT_ONCE)
    async with World(directory, settings={"limits": {"creates_at_once": AT_ONCE}}) as world:
        await world.start_cloud("--rate-limits", "off")
        await world.start_adaptor()
        with world.pod_network():
            pass  # the bridge that it makes stays
        before = netdump.dump()

        async def live(number: int) -> None:
            async with gate:
                with world.pod_network() as network:
                    async with Shim(world.hypervisor_socket, pod=f"load/p{number}", netns=network.netns) as shim:
                        await shim.start_pod()
                        process = await shim.run(service.serve())
                        await process.until(lambda out: out == b"hello from p%d\n" % number, 60)
                        assert (await service.ask(network.ipv4)).host == f"p{number}"
                        await shim.stop(process, signal.SIGKILL)
                        await shim.stop_pod()
                        errors.extend(str(error) for error in shim.checks_failed)

        results = await asyncio.gather(*(live(number) for number in range(PODS)), return_exceptions=True)
        errors += [repr(result) for result in results if result is not None]
        assert errors == []
        assert len(await world.instances()) == PODS
        await clean(world)
        assert netdump.dump() == before
        assert not world.log_lines("adaptor", "error")
