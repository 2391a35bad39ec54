"""The recorded calls of the kata shim to its hypervisor service, made to ours: real socket, node in virtual time."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from adaptor import names
from adaptor.hypervisor import Hypervisor
from adaptor.protos import ttrpc_pb2
from adaptor.protos.hypervisor_pb2 import CreateVMRequest
from adaptor.relay.client import SessionState
from adaptor.sandbox.model import Phase, SandboxSpec
from adaptor.sandbox.registry import Registry
from adaptor.ttrpc.aio import Server
from adaptor.ttrpc.frames import HEADER
from adaptor.volumes.node import NodeVolumes
from tests.worlds.networks import Networks
from tests.worlds.node import Node
from tests.worlds.recording import NAMES, Answer, Closed, Connection, Recording, Request, load
from tests.worlds.wire import Wire

INITDATA: Final = """version = "0.1.0"
algorithm = "sha256"
[data]
"aa.toml" = '''
[token_configs]
'''
"""
# What the journal holds of a pod that runs.
RUNNING: Final = [
    "created",
    "start-requested",
    "network-intended",
    "launch-intended",
    "launch-accepted",
    "reached",
    "network-intended",
    "bound",
]


class Worker:
    """A node, and the socket on which whichever adaptor runs on it serves the shim."""

    def __init__(self, directory: Path) -> None:
        self.node = Node(directory)
        self._path = directory / "hypervisor.sock"

    @asynccontextmanager
    async def adaptor(self) -> AsyncIterator[Registry]:
        async with self.node.adaptor() as registry:
            server = Server([Hypervisor(registry, Networks(), NodeVolumes("/nowhere", "/nowhere")).service()])
            await server.listen_unix(self._path)
            try:
                yield registry
            finally:
                await server.aclose()

    async def replay(self, connection: Connection) -> None:
        """Send what the shim sent; each answer must be the recorded one, byte for byte, so one without a status."""
        wire = await Wire.connect(self._path)
        for step in connection.steps:
            match step:
                case Request():
                    assert step.stream_id == 1
                    await wire.send(step.frame)
                case Answer():
                    answer = await wire.receive()
                    assert answer == step.frame
                    assert not ttrpc_pb2.Response.FromString(answer[HEADER.size :]).HasField("status")
                case Closed():
                    wire.close()


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


def sandbox_of(recording: Recording) -> str:
    assert recording.agent.sandbox is not None
    return recording.agent.sandbox


@pytest.mark.parametrize(
    ("name", "pod"),
    [
        ("r02-guestpull", "gp"),
        ("r05-dropagent", "rc-dropagent"),
        ("r07a-tty-exec", "io"),
        ("r08-handover", "ho1795195129"),
        ("r09", "kl1795195199"),
    ],
)
async def test_create_vm_is_read_as_the_shim_meant_it_and_costs_nothing(name: str, pod: str, worker: Worker) -> None:
    create = load(name).calls["CreateVM"]
    request = create.requests[1].message
    assert isinstance(request, CreateVMRequest)
    assert set(request.annotations) == {
        names.CRI_SANDBOX_NAME, names.CRI_SANDBOX_NAMESPACE, names.MACHINE_TYPE, names.IMAGE, names.INITDATA,
        names.DEFAULT_VCPUS, names.DEFAULT_MEMORY, names.DEFAULT_GPUS, names.DEFAULT_GPU_MODEL,
    }, "all nine, always"  # fmt: skip
    async with worker.adaptor() as registry:
        await worker.replay(create)
        (state,) = registry.sandboxes.values()
        assert state.phase is Phase.CREATED
        assert state.spec == SandboxSpec(
            id=request.id,
            pod_name=pod,
            pod_namespace="lab",
            netns=request.network_namespace_path,
            initdata=INITDATA if name == "r02-guestpull" else None,
        ), '"" and "0" are what the pod did not say'
    assert state.spec.netns.startswith("/var/run/netns/cni-")
    assert not worker.node.cloud.calls


async def test_r02_a_pod_with_initdata_from_create_to_stop(worker: Worker) -> None:
    recording = load("r02-guestpull")
    async with worker.adaptor() as registry:
        await worker.replay(recording.calls["CreateVM"])
        await worker.replay(recording.calls["StartVM"])
        assert registry.sandboxes[sandbox_of(recording)].phase is Phase.RUNNING
        bind = worker.node.relay.binds[sandbox_of(recording)]
        assert (bind.pod_namespace, bind.pod_name, bind.initdata.decode()) == ("lab", "gp", INITDATA)
        assert len(worker.node.cloud.living) == 1
        await worker.replay(recording.calls["StopVM"])
        await worker.node.gone(registry)


async def test_r05_stop_vm_of_a_pod_whose_link_was_lost(worker: Worker) -> None:
    recording = load("r05-dropagent")
    sessions = worker.node.relay.open_sessions
    async with worker.adaptor() as registry:
        await worker.replay(recording.calls["CreateVM"])
        await worker.replay(recording.calls["StartVM"])
        lost = dataclasses.replace(sessions[sandbox_of(recording)], state=SessionState.LINK_LOST, shim_connected=False)
        sessions[lost.sandbox_id] = lost
        await worker.replay(recording.calls["StopVM"])
        await worker.node.gone(registry)


async def test_r07a_a_pod_that_still_runs_when_the_recording_ends(worker: Worker) -> None:
    recording = load("r07a-tty-exec")
    async with worker.adaptor():
        await worker.replay(recording.calls["CreateVM"])
        await worker.replay(recording.calls["StartVM"])
    assert "StopVM" not in recording.calls
    assert worker.node.relay.open_sessions[sandbox_of(recording)].state is SessionState.JOINED
    assert len(worker.node.cloud.living) == 1
    assert await worker.node.journal_rows() == {sandbox_of(recording): RUNNING}


async def test_r08_stop_vm_comes_to_the_adaptors_successor(worker: Worker) -> None:
    recording = load("r08-handover")
    async with worker.adaptor():
        await worker.replay(recording.calls["CreateVM"])
        await worker.replay(recording.calls["StartVM"])
    async with worker.adaptor() as successor:
        assert successor.sandboxes[sandbox_of(recording)].phase is Phase.RUNNING
        await worker.replay(recording.calls["StopVM"])
        await worker.node.gone(successor)


async def test_r09_the_next_adaptor_ends_a_pod_whose_shim_left_without_stop_vm(worker: Worker) -> None:
    recording = load("r09")
    sessions = worker.node.relay.open_sessions
    async with worker.adaptor():
        await worker.replay(recording.calls["CreateVM"])
        await worker.replay(recording.calls["StartVM"])
        gone = dataclasses.replace(sessions[sandbox_of(recording)], state=SessionState.SHIM_GONE, reason="closed")
        sessions[gone.sandbox_id] = gone
    assert "StopVM" not in recording.calls
    assert await worker.node.journal_rows() == {sandbox_of(recording): RUNNING}
    async with worker.adaptor() as successor:
        for _ in range(60):
            if not successor.sandboxes:
                break
            await worker.node.clock.sleep(1)
        await worker.node.gone(successor)


async def test_five_shims_at_once(worker: Worker) -> None:
    async def shim(recording: Recording) -> None:
        for call in recording.calls.values():
            await worker.replay(call)

    recordings = [load(name) for name in NAMES]
    async with worker.adaptor() as registry:
        await asyncio.gather(*map(shim, recordings))
        running = {sandbox_of(r) for r in recordings if "StopVM" not in r.calls}
        while registry.sandboxes.keys() > running:  # until the cloud has been seen to call the others' VMs gone
            await worker.node.clock.sleep(1)
        assert registry.sandboxes.keys() == running
        assert len(worker.node.cloud.living) == 2
        assert worker.node.cloud.calls["create"] == 5
