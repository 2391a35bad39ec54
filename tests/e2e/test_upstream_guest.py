"""Pods whose VM runs a stock upstream image: a stand-in that is as strict about user-data, apf.json and TLS."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from adaptor.demo import cni, service
from adaptor.demo.shim import Shim
from adaptor.demo.world import World
from tests.e2e.conftest import clean

pytestmark = pytest.mark.netns

_ROOT = Path(__file__).parents[2]
# A machine with the real programs may name a script that starts them in an instance instead.
_PROGRAM = os.environ.get(
    "PEERPODS_UPSTREAM_GUEST", f"{sys.executable} -m tests.worlds.upstream_guest --agent development"
)


# Our own image's guest, which takes upstream's user-data too.
_OURS = f"{sys.executable} -m podvm_images.guest --agent development"


@pytest.fixture
async def world(
    request: pytest.FixtureRequest, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setenv("PYTHONPATH", str(_ROOT))
    async with World(directory, settings={"guest": {"start_timeout": "15s", "flavor": "upstream"}}) as world:
        await world.start_cloud("--program", getattr(request, "param", _PROGRAM))
        await world.start_adaptor()
        yield world
        await clean(world)


@pytest.mark.parametrize("world", [_PROGRAM, _OURS], indirect=True, ids=["stock", "ours"])
async def test_a_pod_runs_in_a_stock_image_from_create_vm_to_stop_vm(world: World) -> None:
    initdata = 'version = "0.1.0"\nalgorithm = "sha384"\n[data]\n"aa.toml" = "x = 1"\n'
    annotations = {"io.katacontainers.config.hypervisor.cc_init_data": initdata}
    with world.pod_network() as network:
        shim = Shim(world.hypervisor_socket, pod="e2e/stock", netns=network.netns, annotations=annotations)
        async with shim:
            await shim.start_pod()
            process = await shim.run(service.serve())
            assert await process.until(lambda out: out.endswith(b"\n")) == b"hello from stock\n"
            answer = await service.ask(network.ipv4, "/hello")
            assert (answer.host, answer.client) == ("stock", str(cni.IPV4[1]))
            assert await (await shim.exec(process, ["sh", "-c", "exit 7"])).exit_code() == 7
            await shim.stop(process, 9)
            await shim.stop_pod()
            assert not shim.checks_failed


async def test_pods_of_one_node_have_each_their_own_vm_and_key(world: World) -> None:
    with ExitStack() as networks:
        pods = {f"p{n}": networks.enter_context(world.pod_network()) for n in range(3)}
        shims = {
            name: Shim(world.hypervisor_socket, pod=f"e2e/{name}", netns=network.netns)
            for name, network in pods.items()
        }
        await asyncio.gather(*(shim.start_pod() for shim in shims.values()))
        assert len({instance["address"] for instance in await world.instances()}) == 3
        for name, shim in shims.items():
            await (await shim.run(service.serve())).until(lambda out: out.startswith(b"hello"))
            assert (await service.ask(pods[name].ipv4)).host == name
        await asyncio.gather(*(shim.stop_pod() for shim in shims.values()))
