"""Two hundred pods through one adaptor, twenty at a time."""

import asyncio
from pathlib import Path

import pytest

from adaptor.demo import leftovers
from adaptor.demo.shim import Shim
from adaptor.demo.world import World
from tests.e2e.conftest import clean

pytestmark = pytest.mark.netns

PODS = 200
AT_ONCE = 20


def interfaces() -> set[str]:
    """Those of this namespace but the clouds' own links: other tests' clouds come and go beside this one."""
    return {name for name in leftovers.interfaces() if not name.startswith("sim-")}


async def test_two_hundred_pods_twenty_at_a_time_without_an_error_or_a_leftover(directory: Path) -> None:
    errors: list[str] = []
    gate = asyncio.Semaphore(AT_ONCE)
    async with World(directory, settings={"limits": {"creates_at_once": AT_ONCE}}) as world:
        await world.start_cloud("--rate-limits", "off")
        await world.start_adaptor()
        before = interfaces()

        async def live(number: int) -> None:
            async with gate:
                with world.pod_netns() as netns:
                    async with Shim(world.hypervisor_socket, pod=f"load/p{number}", netns=netns) as shim:
                        await shim.start_pod()
                        process = await shim.run(["echo", f"pod {number}"])
                        assert await process.exit_code(60) == 0
                        assert process.stdout == b"pod %d\n" % number
                        await shim.stop(process)
                        await shim.stop_pod()
                        errors.extend(str(error) for error in shim.checks_failed)

        results = await asyncio.gather(*(live(number) for number in range(PODS)), return_exceptions=True)
        errors += [repr(result) for result in results if result is not None]
        assert errors == []
        assert len(await world.instances()) == PODS
        await clean(world)
        assert interfaces() == before
        assert not world.log_lines("adaptor", "error")
