"""The device plugin, on real sockets, with a kubelet that is played by its rules."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from adaptor import names
from adaptor.kube import device_plugin
from adaptor.kube.device_plugin import DevicePlugin, preferred
from adaptor.protos import deviceplugin_pb2 as pb
from tests.worlds.hand import HastyClock
from tests.worlds.kubelet_devices import DeviceManager


@asynccontextmanager
async def serving(directory: Path, ready: Callable[[], bool] = lambda: True) -> AsyncIterator[DevicePlugin]:
    """A plugin with three devices."""
    plugin = DevicePlugin(3, ready, HastyClock(), str(directory))
    task = asyncio.create_task(plugin.run())
    try:
        yield plugin
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[DeviceManager]:
    kubelet = DeviceManager(tmp_path)
    await kubelet.start()
    yield kubelet
    await kubelet.stop()


async def test_kubelet_hears_of_as_many_devices_as_there_may_be_vms(kubelet: DeviceManager) -> None:
    async with serving(kubelet.directory):
        await kubelet.until(healthy=3)
    (request,) = kubelet.registrations
    assert (request.version, request.endpoint, request.resource_name) == ("v1beta1", "peerpods.sock", names.VM_RESOURCE)
    assert request.options.get_preferred_allocation_available
    assert not request.options.pre_start_required


async def test_a_container_gets_devices_and_nothing_is_mounted(kubelet: DeviceManager) -> None:
    async with serving(kubelet.directory):
        await kubelet.until(healthy=3)
        answer = await kubelet.allocate("vm-0")
        assert [each.SerializeToString() for each in answer.container_responses] == [b""]
        assert await kubelet.call("PreStartContainer", pb.PreStartContainerRequest(), pb.PreStartContainerResponse)
        with pytest.raises(grpc.aio.AioRpcError, match="no devices of ours: gpu-1"):
            await kubelet.allocate("vm-0", "gpu-1")


async def test_kubelet_is_asked_to_take_the_devices_that_stay_longest(kubelet: DeviceManager) -> None:
    async with serving(kubelet.directory):
        await kubelet.until(healthy=3)
        assert await kubelet.prefer(["vm-10", "vm-2", "vm-1"], 2) == ["vm-1", "vm-2"]
    assert preferred(["vm-0", "vm-1", "vm-7"], ["vm-7"], 2) == ["vm-7", "vm-0"]


async def test_the_list_follows_the_figure_up_and_down(kubelet: DeviceManager) -> None:
    async with serving(kubelet.directory) as plugin:
        await kubelet.until(healthy=3)
        plugin.offer(5)
        await kubelet.until(healthy=5)
        plugin.offer(2)
        await kubelet.until(healthy=2)
        plugin.offer(2)
    assert [len(each) for each in kubelet.lists] == [3, 5, 2], "told once each, and never fewer in between"
    assert len(kubelet.registrations) == 1


async def test_an_adaptor_that_is_not_ready_takes_no_new_pods(kubelet: DeviceManager) -> None:
    ready = True
    async with serving(kubelet.directory, lambda: ready):
        await kubelet.until(healthy=3)
        ready = False
        await kubelet.until(healthy=0)
        assert kubelet.devices == {"vm-0": "Unhealthy", "vm-1": "Unhealthy", "vm-2": "Unhealthy"}
        ready = True
        await kubelet.until(healthy=3)


async def test_a_kubelet_that_restarts_is_told_again(kubelet: DeviceManager) -> None:
    async with serving(kubelet.directory):
        await kubelet.until(healthy=3)
        for times in (2, 3):
            await kubelet.stop()
            await kubelet.start()
            assert kubelet.devices == {}
            await kubelet.registered(times)
            await kubelet.until(healthy=3)


def test_a_new_kubelet_socket_with_the_old_ones_inode_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a real node: the file is made so soon after that the filesystem gives it the same number."""

    def stat(path: Path) -> os.stat_result:
        found = os.stat(path)
        return os.stat_result([found.st_mode, 4711, *found[2:]], {"st_ctime_ns": found.st_ctime_ns})

    monkeypatch.setattr(Path, "stat", stat)
    seen = []
    for _ in range(2):
        path = tmp_path / "kubelet.sock"
        path.unlink(missing_ok=True)
        path.touch()
        for _ in range(2000):  # the filesystem's clock ticks in milliseconds
            if device_plugin.identity(path) not in seen:
                break
            time.sleep(0.0005)
            path.unlink()
            path.touch()
        seen.append(device_plugin.identity(path))
    assert seen[0][1] == seen[1][1] == 4711  # type: ignore[index]
    assert seen[0] != seen[1]
    assert device_plugin.identity(tmp_path / "none") is None


async def test_a_socket_that_somebody_removed_is_made_again(kubelet: DeviceManager) -> None:
    async with serving(kubelet.directory):
        await kubelet.until(healthy=3)
        (kubelet.directory / device_plugin.OURS).unlink()
        await kubelet.registered(2)
        await kubelet.until(healthy=3)


async def test_a_kubelet_that_no_longer_listens_is_told_again(kubelet: DeviceManager) -> None:
    async with serving(kubelet.directory):
        await kubelet.until(healthy=3)
        await kubelet.hang_up()
        await kubelet.registered(2)
        await kubelet.until(healthy=3)


async def test_a_kubelet_that_is_not_up_yet_is_waited_for_and_told_of_when_it_takes_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kubelet = DeviceManager(tmp_path)
    async with serving(tmp_path):
        await eventually(lambda: "no kubelet to register with" in caplog.text)
        await asyncio.sleep(0.1)
        assert list(tmp_path.iterdir()) == []
        await kubelet.start()
        await kubelet.until(healthy=3)
    await kubelet.stop()
    assert caplog.text.count("no kubelet to register with") == 1


async def test_a_refusal_is_told_once_and_tried_again(kubelet: DeviceManager, caplog: pytest.LogCaptureFixture) -> None:
    kubelet.refusing = grpc.StatusCode.UNKNOWN
    async with serving(kubelet.directory):
        await eventually(lambda: kubelet.refused > 2)
        kubelet.refusing = None
        await kubelet.until(healthy=3)
    refused = [record for record in caplog.records if "no device plugin" in record.getMessage()]
    assert len(refused) == 1


async def test_a_directory_that_cannot_be_used_is_tried_again(
    kubelet: DeviceManager, caplog: pytest.LogCaptureFixture
) -> None:
    (kubelet.directory / device_plugin.OURS).mkdir()
    async with serving(kubelet.directory):
        await eventually(lambda: "Is a directory" in caplog.text)
        (kubelet.directory / device_plugin.OURS).rmdir()
        await kubelet.until(healthy=3)


async def test_an_adaptor_that_ends_leaves_no_device_to_new_pods(kubelet: DeviceManager) -> None:
    async with serving(kubelet.directory):
        await kubelet.until(healthy=3)
    await kubelet.until(healthy=0)
    assert len(kubelet.devices or {}) == 3  # kubelet keeps the capacity for a while


def test_a_node_that_advertises_in_its_status_does_without_grpc() -> None:
    look = "import sys, adaptor.kube.opening; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-c", look], check=True, timeout=60)
