"""A pod with disks on a whole node in virtual time: checked before anything is paid for, attached, told on, let go of."""

import asyncio
import dataclasses
from typing import Any, cast

import pytest

from adaptor.errors import InvalidRequest, StartFailed
from adaptor.sandbox.model import Phase, SandboxSpec
from adaptor.sandbox.registry import Registry
from adaptor.volumes.records import DirectVolume
from providers.base import Device, Offering, Volume
from providers.errors import Denied, Transient
from tests.worlds.cloud import Cloud
from tests.worlds.node import Node, spec

DATA = DirectVolume("/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/data/mount", "vol-1", fs_group=1000)
LOGS = DirectVolume("/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/logs/mount", "vol-2", read_only=True)
WEB = spec(pod_uid="uid", volumes=(DATA, LOGS))
OTHER = spec("other", pod_uid="other-uid", volumes=(DATA, LOGS))
OFFERINGS = tuple(Offering("m6a.large", 2, 8192, zone=zone) for zone in ("a", "b", "c"))


@pytest.fixture(autouse=True)
def disks(node: Node) -> None:
    node.cloud.zones |= {"vol-1": "b", "vol-2": "b"}
    node.cloud.offered = OFFERINGS


async def fails(node: Node, wanted: SandboxSpec = WEB) -> str:
    """What the pod's event says; nothing may have been paid for."""
    async with node.adaptor() as registry:
        await registry.create(wanted)
        with pytest.raises((InvalidRequest, StartFailed)) as caught:
            await registry.start(wanted.id)
        await node.gone(registry)
    assert not node.cloud.calls["create"]
    return str(caught.value)


async def test_a_pod_gets_its_disks_in_their_zone_and_leaves_them_free(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        (machine,) = node.cloud.living
        assert node.cloud.specs[machine].zone == "b"
        assert node.cloud.specs[machine].volumes == (Volume("vol-1"), Volume("vol-2", read_only=True))
        assert node.cloud.holders == {"vol-1": machine, "vol-2": machine}
        await registry.stop(WEB.id, "StopVM")
        await node.gone(registry)
    await node.clock.sleep(node.cloud.release_seconds + 1)
    assert all(not disk.attached_to for disk in (await node.cloud.disks(["vol-1", "vol-2"])).values())


async def test_relay_and_guest_hear_how_to_find_each_disk_and_where_it_goes(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
    first, second = node.relay.rewrites[WEB.id]["volumes"]
    assert (first.name, first.path, first.disk_id, first.fs_group, first.lun) == (
        "vol-0",
        DATA.path,
        "vol-1",
        "1000",
        "0",
    )
    assert (first.guest_path, second.guest_path) == ("/run/cloud-volumes/vol-0", "/run/cloud-volumes/vol-1")
    data, logs = node.relay.binds[WEB.id].volumes
    assert (data.name, data.serial, data.fs_group, data.read_only) == ("vol-0", "vol1", 1000, False)
    assert (logs.name, logs.serial, logs.read_only, logs.HasField("fs_group")) == ("vol-1", "vol2", True, False)


async def test_a_pod_without_volumes_costs_not_one_call_more(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(spec())
        await registry.start(spec().id)
    assert not node.cloud.calls["disks"]
    assert not node.cloud.calls["attach"]
    assert not node.relay.binds[spec().id].volumes


async def test_attaching_is_tried_again_until_the_machine_runs(node: Node) -> None:
    node.cloud.running_seconds = 20.0
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING
    assert node.cloud.calls["attach"] > 2


async def test_a_cloud_that_attaches_at_create_is_asked_once(node: Node) -> None:
    node.cloud.at_create = True
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
    assert node.cloud.calls["attach"] == 1


async def test_a_machine_that_never_runs_ends_the_start_and_its_vm(node: Node) -> None:
    node.cloud.running_seconds = 10_000.0
    async with node.adaptor() as registry:
        await registry.create(WEB)
        with pytest.raises(StartFailed, match="cannot be attached to i-0001 in time: i-0001 is pending"):
            await registry.start(WEB.id)
        await node.gone(registry)


async def test_a_refused_attach_ends_the_start_and_its_vm_at_once(node: Node) -> None:
    node.cloud.refuse["attach"].append(Denied("not allowed", code="UnauthorizedOperation"))
    async with node.adaptor() as registry:
        await registry.create(WEB)
        with pytest.raises(StartFailed, match="cannot be attached to i-0001: not allowed"):
            await registry.start(WEB.id)
        assert node.cloud.calls["attach"] == 1
        await node.gone(registry)


async def test_a_vm_that_dies_while_its_disks_are_attached_is_told_as_such(node: Node) -> None:
    node.cloud.running_seconds = 100.0
    async with node.adaptor(patrol=True) as registry:
        await registry.create(WEB)

        async def start() -> None:
            await registry.start(WEB.id)

        starting = asyncio.create_task(start())
        await node.clock.sleep(5)
        node.cloud.kill("i-0001", "spot interruption")
        with pytest.raises(StartFailed, match="spot interruption"):
            await starting


async def test_a_disk_that_does_not_exist_is_refused_before_anything_is_paid_for(node: Node) -> None:
    del node.cloud.zones["vol-2"]
    assert await fails(node) == (
        f"memory has no such disk in this account and region: vol-2, the volume at {LOGS.path}"
    )


async def test_disks_of_two_zones_are_refused(node: Node) -> None:
    node.cloud.zones["vol-2"] = "c"
    assert "vol-1 is in b, vol-2 is in c" in await fails(node)


async def test_disks_in_a_zone_without_machines_are_refused_with_the_reason(node: Node) -> None:
    node.cloud.offered = OFFERINGS[:1] + OFFERINGS[2:]
    assert "the pod's disk is in b" in await fails(node)


async def test_a_living_machine_keeps_its_disk(node: Node) -> None:
    async with node.adaptor() as registry:
        await _start(registry)
        await registry.create(OTHER)
        with pytest.raises(StartFailed, match="in use: vol-1, vol-2, attached to the machine i-0001, which lives"):
            await registry.start(OTHER.id)
        assert node.cloud.calls["create"] == 1
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING


async def test_a_cloud_without_disks_refuses_at_create_vm(node: Node) -> None:
    node.cloud = cast(Any, Cloud(node.clock))
    async with node.adaptor() as registry:
        with pytest.raises(
            InvalidRequest, match="memory cannot give disks to pod VMs, and pod shop/web has vol-1, vol-2"
        ):
            await registry.create(WEB)
        await node.gone(registry)


async def test_a_stock_guest_is_refused_disks_that_it_could_only_guess_at(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.guest = dataclasses.replace(node.guest, flavor="upstream")
    async with node.adaptor() as registry:
        await registry.create(WEB)
        assert not node.relay.rewrites[WEB.id]["volumes"][0].guest_path
        monkeypatch.setattr(node.cloud, "device", lambda spec, index: Device(serial=f"disk-{index}"))
        with pytest.raises(InvalidRequest, match="stock pod VM images cannot tell the disks of memory apart"):
            await registry.create(OTHER)


async def test_the_next_pod_waits_for_the_last_ones_machine_to_let_go(node: Node) -> None:
    node.cloud.release_seconds = 40.0
    again = dataclasses.replace(WEB, id="again".ljust(64, "0"))
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        await registry.stop(WEB.id, "StopVM")
        await registry.create(again)
        began = node.clock.now()
        await registry.start(again.id)
        assert 35 < node.clock.now() - began < 70
        assert set(node.cloud.holders.values()) == set(node.cloud.living)


async def test_a_disk_that_is_never_let_go_of_ends_the_start_in_time(node: Node) -> None:
    node.cloud.holders["vol-1"] = "i-gone"
    node.cloud.release_seconds = 10_000.0
    assert "did not let go of the pod's disks in time: vol-1, attached to the machine i-gone" in await fails(node)


async def test_a_disk_that_several_may_have_is_given_to_several(node: Node) -> None:
    node.cloud.shareable |= {"vol-1", "vol-2"}
    async with node.adaptor() as registry:
        await _start(registry)
        await registry.create(OTHER)
        await registry.start(OTHER.id)


async def test_the_clouds_hiccups_over_disks_are_waited_out(node: Node) -> None:
    node.cloud.refuse["disks"].extend([Transient("no answer")] * 3)
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)


async def test_an_old_pod_vm_image_is_refused_before_the_pod_begins_without_its_data(node: Node) -> None:
    node.relay.old_image = True
    async with node.adaptor() as registry:
        await registry.create(WEB)
        with pytest.raises(StartFailed, match="too old to mount any"):
            await registry.start(WEB.id)
        assert not node.relay.binds
        await node.gone(registry)


async def test_the_pods_retry_adopts_the_vm_with_its_disks(node: Node) -> None:

    node.relay.boot_seconds = 60.0
    again = dataclasses.replace(WEB, id="again".ljust(64, "0"))
    async with node.adaptor() as registry:
        await registry.create(WEB)
        starting = asyncio.create_task(registry.start(WEB.id))
        await node.clock.sleep(20)
        assert node.cloud.holders
        starting.cancel()
        await registry.create(again)
        await registry.start(again.id)
    assert node.cloud.calls["create"] == 1
    assert len(node.relay.binds[again.id].volumes) == 2


@pytest.mark.parametrize("write", [n / 2 for n in range(14)])
async def test_an_adaptor_killed_at_any_write_leaves_a_running_pod_or_free_disks(node: Node, write: float) -> None:
    async with node.adaptor(last_write=write) as first:
        starting = asyncio.create_task(_start(first))
        await node.clock.sleep(60)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    async with node.adaptor() as second:
        await second.stop(WEB.id, "StopVM")
        await node.gone(second)
        await node.clock.sleep(node.cloud.release_seconds + 1)
        assert all(not disk.attached_to for disk in (await node.cloud.disks(["vol-1", "vol-2"])).values())


async def _start(registry: Registry) -> None:
    await registry.create(WEB)
    await registry.start(WEB.id)


async def test_a_repeated_create_vm_finds_its_sandbox_though_the_records_are_gone(node: Node) -> None:
    async with node.adaptor() as registry:
        path = await registry.create(WEB)
        assert await registry.create(dataclasses.replace(WEB, pod_uid="", volumes=())) == path
        assert registry.sandboxes[WEB.id].spec.volumes == WEB.volumes


async def test_the_volumes_outlive_a_restart_in_the_journal(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
    async with node.adaptor() as registry:
        assert registry.sandboxes[WEB.id].spec == WEB
        await registry.start(WEB.id)
    assert len(node.cloud.holders) == 2
