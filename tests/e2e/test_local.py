"""Pods in VMs on this very machine, through the real adaptor, relay and guest.

Nightly in QEMU, with the image of `peerpods image build` (or PEERPODS_IMAGE); always in namespaces in place of VMs, which
is the same provider, with the same directories and links.
"""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adaptor.demo import image, service
from adaptor.demo.local import ANNOTATION, INITDATA, LocalWorld
from adaptor.demo.shim import Process, Shim
from adaptor.errors import StatusError
from adaptor.relay.client import RelayClient
from providers.local import processes
from tests.e2e.conftest import PATIENCE, forgotten

pytestmark = pytest.mark.netns

Run = Callable[..., AbstractAsyncContextManager[LocalWorld]]
_ENCRYPTED = {"network": {"encryption": "required"}}


@pytest.fixture
def run(directory: Path) -> Run:
    @asynccontextmanager
    async def run(vmm: str, settings: Mapping[str, Any] | None = None, **local: Any) -> AsyncIterator[LocalWorld]:
        place = os.environ.get("PEERPODS_IMAGE") or str(image.cached())
        if vmm == "qemu" and shutil.which("qemu-system-x86_64") is None:
            pytest.skip("no QEMU: apt-get install qemu-system-x86")
        if vmm == "qemu" and not Path(place, "image.json").exists():
            pytest.skip(f"no pod VM image in {place}: peerpods image build")
        given = {"guest": {"adopt_grace": "3s", "start_timeout": "240s"}, **(settings or {})}
        shown = place if vmm == "qemu" else ""
        async with LocalWorld(directory, image=shown, vmm=vmm, local=local, settings=given) as world:
            await world.start_cloud()
            try:
                await world.start_adaptor()
                yield world
            except (StatusError, TimeoutError, AssertionError):
                print(world.console(), world.log_of("adaptor"))
                raise
            await world.no_instance_lives()
            await forgotten(world)

    return run


@asynccontextmanager
async def pod(world: LocalWorld) -> AsyncIterator[tuple[Shim, Process]]:
    """A pod whose container serves HTTP; it has answered at the pod's own address."""
    python = world.vmm == "qemu"
    with world.pod_network() as network:
        annotations = {ANNOTATION: INITDATA} if python else {}
        shim = Shim(world.hypervisor_socket, pod="e2e/local", netns=network.netns, annotations=annotations)
        async with shim:
            began = time.monotonic()
            await shim.start_pod()
            print(f"\npower-on to bound, {world.vmm}: {time.monotonic() - began:.1f} s")
            process = await shim.run(service.serve(python=python))
            await process.until(lambda out: out.endswith(b"\n"), PATIENCE)
            assert (await service.ask(network.address, "/hello")).path == "/hello"
            yield shim, process
            assert (await service.ask(network.address, "/again")).path == "/again"
            await shim.stop(process, signal.SIGKILL)
            await shim.stop_pod()
            assert not shim.checks_failed


async def lives_its_whole_life(run: Run, vmm: str, settings: Mapping[str, Any] | None = None, **local: Any) -> None:
    async with run(vmm, settings, **local) as world, pod(world) as (shim, process):
        shell = ["busybox", "sh"] if vmm == "qemu" else ["sh"]
        asked = await shim.exec(process, [*shell, "-c", "echo out; exit 7"])
        assert (await asked.exit_code(PATIENCE), bytes(asked.stdout)) == (7, b"out\n")


@pytest.mark.nightly
async def test_a_pod_lives_in_a_vm(run: Run) -> None:
    await lives_its_whole_life(run, "qemu")


@pytest.mark.nightly
async def test_a_pod_lives_in_a_vm_that_firmware_booted_from_its_disk(run: Run) -> None:
    await lives_its_whole_life(run, "qemu", boot="uefi", user_data="cidata")


@pytest.mark.nightly
async def test_a_pod_lives_in_a_vm_without_privileges_for_its_network_where_it_is_encrypted(run: Run) -> None:
    await lives_its_whole_life(run, "qemu", _ENCRYPTED, network="user")


@pytest.mark.nightly
async def test_a_pod_lives_in_a_vm_that_asks_a_metadata_service(run: Run) -> None:
    await lives_its_whole_life(run, "qemu", user_data="imds")


@pytest.mark.parametrize("vmm", ["namespace", pytest.param("qemu", marks=pytest.mark.nightly)])
async def test_a_vm_outlives_its_adaptor_and_the_next_one_finds_it(run: Run, vmm: str) -> None:
    async with run(vmm) as world, pod(world) as (shim, _):
        before = await world.living()
        await world.stop("adaptor", signal.SIGKILL)
        assert processes.alive(process_of(world))
        await world.start_adaptor()
        assert await world.living() == before
        sessions = await RelayClient(world.relay_socket).sessions()
        assert [session.sandbox_id for session in sessions] == [shim.sandbox_id]
        warned = any("NO ISOLATION" in line for line in world.log_lines("adaptor", "warning"))
        assert warned is (vmm == "namespace")


@pytest.mark.parametrize("vmm", ["namespace", pytest.param("qemu", marks=pytest.mark.nightly)])
async def test_a_vm_that_is_killed_fails_its_pod_with_what_became_of_it(run: Run, vmm: str) -> None:
    async with run(vmm, {"guest": {"link_grace": "2s", "start_timeout": "240s"}}) as world:
        with world.pod_network() as network:
            annotations = {ANNOTATION: INITDATA} if vmm == "qemu" else {}
            shim = Shim(world.hypervisor_socket, pod="e2e/killed", netns=network.netns, annotations=annotations)
            async with shim:
                await shim.start_pod()
                process = process_of(world)
                processes.end(process, grace=0.0, children=vmm == "namespace")
                async with asyncio.timeout(PATIENCE):
                    while not any("has ended" in line for line in reasons(world)):
                        await asyncio.sleep(0.1)
                await shim.stop_vm()


def process_of(world: LocalWorld) -> processes.Process:
    (pidfile,) = world.place.glob("vms/*/vmm.pid")
    found = processes.read(str(pidfile))
    assert found is not None
    return found


def reasons(world: LocalWorld) -> list[str]:
    lines = world.log_of("adaptor").splitlines()
    return [str(json.loads(line)) for line in lines if line.startswith("{") and line.endswith("}")]
