"""From a CSI driver's record to the container's mount: real relay process, real guest, a real disk; the shim and the
agent are the test's, the cloud is in memory."""

import asyncio
import base64
import dataclasses
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from adaptor import names
from adaptor.pki import NodePki
from adaptor.protos.agent_pb2 import CreateContainerRequest
from adaptor.protos.ttrpc_pb2 import Request
from adaptor.relay.client import RelayClient, ensure_relay
from adaptor.sandbox import disks
from adaptor.sandbox.model import SandboxSpec
from adaptor.ttrpc.frames import HEADER
from adaptor.volumes.node import NodeVolumes
from podvm_images.guest.programs import Programs
from podvm_images.guest.volumes import Volumes
from tests.worlds import attached
from tests.worlds.attached import Attached
from tests.worlds.carried import carried
from tests.worlds.node import Node
from tests.worlds.tunnel import call

UID = "5c0f7c1e-5d39-4d4c-8a3e-0c8a6f1b7d11"
PATH = f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/data/mount"
SPEC = SandboxSpec("whole-path", "web", "shop", "/run/netns/x")


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Attached]:
    with attached.attached(tmp_path) as machine:
        yield machine


@pytest.fixture
async def relay() -> AsyncIterator[RelayClient]:
    with tempfile.TemporaryDirectory() as directory:
        client = await ensure_relay(f"{directory}/relay.sock")
        pid = (await client.list()).pid
        yield client
        await client.aclose()
        os.kill(pid, signal.SIGTERM)
        await asyncio.to_thread(os.waitpid, pid, 0)


def csi_driver_publishes(directory: Path) -> None:
    record = directory / base64.urlsafe_b64encode(PATH.encode()).decode()
    record.mkdir(parents=True)
    content = {
        "volume-type": "block",
        "device": "vol-0abc",
        "fstype": "ext4",
        "metadata": {"cloud-volume-path": "vol-0abc", "fsGroup": "3000"},
    }
    (record / "mountInfo.json").write_text(json.dumps(content))


def containerd_makes_the_bundle(directory: Path) -> None:
    (directory / SPEC.id).mkdir(parents=True)
    (directory / SPEC.id / "config.json").write_text(json.dumps({"annotations": {names.CRI_SANDBOX_UID: UID}}))


async def test_a_record_on_the_node_ends_as_a_mounted_disk_in_the_container(
    vm: Attached, relay: RelayClient, tmp_path: Path
) -> None:
    csi_driver_publishes(tmp_path / "direct-volumes")
    containerd_makes_the_bundle(tmp_path / "bundles")
    found = NodeVolumes(str(tmp_path / "direct-volumes"), str(tmp_path / "bundles")).found(SPEC.id, SPEC.pod, {})
    spec = dataclasses.replace(SPEC, pod_uid=found.uid, volumes=found.volumes)
    rooms = Node(tmp_path)._rooms(None)  # type: ignore[arg-type] # nothing is written down here
    told = [*zip(disks.for_relay(rooms, spec), disks.for_guest(rooms, spec), strict=True)]
    told[0][0].guest_path = str(vm.volumes / "vol-0")  # not this machine's /run
    vm.disk("vol0abc")
    guest = Volumes(Programs(), str(vm.volumes), root=str(vm.root))
    pki = NodePki.load(tmp_path / "pki")
    with tempfile.TemporaryDirectory() as short:
        async with carried(relay, SPEC.id, Path(short), pki, volumes=guest, attached=told) as pod:
            assert vm.mounted("vol-0")
            assert os.stat(vm.volumes / "vol-0").st_gid == 3000
            request = CreateContainerRequest(container_id="c1")
            request.oci.mounts.add(source=PATH, destination="/data", type="bind", options=["rbind", "rw"])
            await pod.connect()
            assert pod.shim is not None
            await pod.shim.send(call(1, "CreateContainer", request.SerializeToString()))
            frame = await pod.agent.receive()
            seen = CreateContainerRequest.FromString(Request.FromString(frame[HEADER.size :]).payload)
            assert seen.oci.mounts[0].source == str(vm.volumes / "vol-0")
            assert json.loads(seen.oci.annotations[names.CLOUD_VOLUMES]) == {
                "vol-0": {
                    "mount_point": "/data",
                    "fs_type": "ext4",
                    "lun": "0",
                    "disk_id": "vol-0abc",
                    "fs_group": "3000",
                }
            }
            await pod.shim.send(call(3, "DestroySandbox", b""))
            await pod.agent.receive()
            assert not vm.mounted("vol-0")
