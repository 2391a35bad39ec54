"""Bind with a network, over a real link into a VM with namespaces of its own."""

import asyncio
import base64
import dataclasses
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adaptor import names
from adaptor.errors import Code
from adaptor.pki import NodePki
from adaptor.podnet.plan import GuestAnswer, GuestPlan, guest_answer_from_json, to_json
from adaptor.protos.agent_pb2 import CreateContainerRequest, CreateSandboxRequest
from podvm_images.guest.network import Network
from tests.unit.guest.peers import Dial, GuestWorld, Worker, client, guest, pod, refusal
from tests.unit.guest.vm import (
    OURS,
    PORT,
    WORKER,
    Vm,
    bridge,
    far_end,
    in_a_vm,
    in_thread,
    listener,
    plan,
    set_up,
    until_received,
)

NETWORK = to_json(plan(bridge()))
KEY = base64.b64encode(bytes(range(32))).decode()


@asynccontextmanager
async def bound_to_be(vm: Vm, pki: NodePki, **given: Any) -> AsyncIterator[tuple[GuestWorld, Worker]]:
    """A guest in the VM, and a worker that has dialled it."""
    async with guest(Path(vm.podns).parent, pki.ca_pem, network=vm.network, **given) as world:
        worker = await Worker.dial(world.port, client(pki.worker))
        try:
            yield world, worker
        finally:
            worker.close()


@in_a_vm
async def test_a_bound_pod_has_its_network_and_its_containers_are_told_so(vm: Vm, pki: NodePki) -> None:
    vm.uplink()
    async with bound_to_be(vm, pki) as (_, worker):
        assert (await worker.hello()).network
        answer = await worker.bind(pod(network=NETWORK))
        assert guest_answer_from_json(answer.network) == GuestAnswer()
        assert vm.found().interfaces[0].addresses == ("10.244.1.5/24",)
        # The agent answers with what it was sent.
        sent = CreateContainerRequest(container_id="c").SerializeToString()
        told = CreateContainerRequest.FromString(await worker.call(names.AGENT_SERVICE, "CreateContainer", sent))
        assert [(each.type, each.path) for each in told.oci.linux.namespaces] == [("network", names.POD_NETNS)]
        sandbox = CreateSandboxRequest(hostname="web", dns=["nameserver 10.0.0.10", ""]).SerializeToString()
        assert await worker.call(names.AGENT_SERVICE, "CreateSandbox", sandbox) == b"\x0a\x03web"
        vm.at_worker(lambda: far_end(WORKER, OURS, 1400, "10.244.1.1"))
        with vm.in_pod(lambda: listener("10.244.1.5", 7)) as here:
            assert until_received(here, lambda: vm.at_worker(_greet)) == (b"hello", "10.244.1.1")


def _greet() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(b"hello", ("10.244.1.5", 7))


@in_a_vm
async def test_a_repeat_of_the_same_bind_gets_the_same_answer(vm: Vm, pki: NodePki) -> None:
    vm.uplink()
    async with bound_to_be(vm, pki) as (world, first):
        answer = await first.bind(pod(network=NETWORK))
        first.close()  # cut before its answer was heard, as far as the worker knows
        second = await Worker.dial(world.port, client(pki.worker))
        assert await second.bind(pod(network=NETWORK)) == answer
        assert answer.network == to_json(GuestAnswer())
        second.close()


@in_a_vm
async def test_a_link_that_resumes_goes_on_with_the_same_rules(vm: Vm, pki: NodePki) -> None:
    vm.uplink()
    async with bound_to_be(vm, pki) as (world, first):
        await first.bind(pod(network=NETWORK))
        await first.call(names.HEALTH_SERVICE, "Check")
        first.close()
        second = await Worker.dial(world.port, client(pki.worker))
        assert first.streams is not None
        await second.resume(first.streams)
        sent = CreateContainerRequest(container_id="c").SerializeToString()
        told = CreateContainerRequest.FromString(await second.call(names.AGENT_SERVICE, "CreateContainer", sent))
        assert told.oci.linux.namespaces[0].path == names.POD_NETNS
        second.close()


@in_a_vm
async def test_a_network_that_cannot_be_laid_is_told_and_the_vm_is_spent(vm: Vm, pki: NodePki) -> None:
    in_thread(set_up)  # loopback, and no way to the worker
    async with bound_to_be(vm, pki) as (world, worker):
        error = await refusal(worker.bind(pod(network=NETWORK)))
        assert error.code == Code.INTERNAL
        assert error.message == (
            "the pod VM cannot lay the pod's network: it cannot find a route to the worker 10.0.0.1: "
            "Network is unreachable"
        )
        assert (await worker.hello()).bound
        vm.uplink()  # too late
        assert (await refusal(worker.bind(pod(network=NETWORK)))).message == error.message
        assert world.agent.connections == 0


@in_a_vm
async def test_the_agent_starts_once_the_namespace_is_there_and_beside_the_rest_of_the_network(
    vm: Vm, pki: NodePki
) -> None:
    """It may have mounts of its own, in which nothing shows that comes later."""
    seen: list[tuple[str, bool, bool]] = []

    class Watched(Network):
        async def make(self) -> None:
            await super().make()
            seen.append(("made", os.path.ismount(vm.podns), world.launcher._process is not None))

        async def lay(self, plan: GuestPlan) -> GuestAnswer:
            seen.append(("to be laid", os.path.ismount(vm.podns), world.launcher._process is not None))
            return await super().lay(plan)

    in_thread(set_up)  # no way to the worker
    vm.network = Watched(vm.podns)
    async with bound_to_be(vm, pki, command=("sleep", "600"), agent=False) as (world, worker):
        await refusal(worker.bind(pod(network=NETWORK)))
        assert seen == [("made", True, False), ("to be laid", True, True)]
        process = world.launcher._process
        assert process is not None
    assert process.poll() is not None  # it ended with the guest


@in_a_vm
async def test_a_kernel_that_hangs_is_told_within_the_callers_time(vm: Vm, pki: NodePki) -> None:
    """The thread that hangs cannot be ended; nobody waits for it."""

    class Hanging(Network):
        async def lay(self, plan: GuestPlan) -> GuestAnswer:
            await asyncio.get_running_loop().create_future()
            raise AssertionError("nothing completes this future")

    vm.uplink()
    vm.network = Hanging(vm.podns)
    async with bound_to_be(vm, pki) as (_, worker):
        error = await refusal(worker.bind(pod(network=NETWORK), timeout=0.5))
        assert (error.code, error.message) == (
            Code.DEADLINE_EXCEEDED,
            "the pod's network was not laid in the VM within 0.45 s",
        )


# -- refused before anything was written --------------------------------------------------------------


def altered(**changes: Any) -> bytes:
    return json.dumps(json.loads(NETWORK) | changes).encode()


@pytest.mark.parametrize(
    ("network", "code", "complaint"),
    [
        (b"no json", Code.INVALID_ARGUMENT, "not JSON"),
        (altered(version=2), Code.INVALID_ARGUMENT, "version 2, expected 1: worker and pod VM image are of different"),
        (altered(vnis=[]), Code.INVALID_ARGUMENT, "vnis: expected a different number for each of the 1 interfaces"),
        (altered(port=0), Code.INVALID_ARGUMENT, "port: expected a number from 1 to 65535, found 0"),
        (altered(worker="worker"), Code.INVALID_ARGUMENT, 'worker: expected an IP address, found "worker"'),
        (altered(worker="fe80::1"), Code.INVALID_ARGUMENT, "the worker's address fe80::1 is link-local"),
        (altered(wireguard={"public_key": KEY, "port": 51820}), Code.INVALID_ARGUMENT, "tunnel cannot come from"),
        (altered(interfaces=[]), Code.INVALID_ARGUMENT, "interfaces: expected at least one"),
        (altered(surprise=1), Code.INVALID_ARGUMENT, "the whole: expected an object with the keys"),
    ],
)
async def test_a_plan_that_is_none_leaves_the_vm_free(
    world: GuestWorld, dial: Dial, tmp_path: Path, network: bytes, code: Code, complaint: str
) -> None:
    worker = await dial(world)
    error = await refusal(worker.bind(pod(network=network)))
    assert (error.code, complaint in error.message) == (code, True), error.message
    assert world.files() == set()
    assert world.agent.connections == 0
    assert not (await worker.hello()).bound
    assert not (tmp_path / "podns").exists()
    assert (await worker.bind(pod())).network == b""


def test_the_plan_is_understood_as_the_worker_wrote_it(tmp_path: Path) -> None:
    given = GuestPlan((bridge(),), (7,), PORT, WORKER)
    assert Network(str(tmp_path / "podns")).understand(to_json(given)) == given
    assert not (tmp_path / "podns").exists()
    assert dataclasses.asdict(given)["version"] == 1
