"""The device plugin, on real sockets, with a kubelet that is played by its rules."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from adaptor import names
from adaptor.errors import Unavailable
from adaptor.kube import device_plugin
from adaptor.kube.device_plugin import DevicePlugin, preferred
from adaptor.protos import deviceplugin_pb2 as pb
from tests.worlds.kubelet_devices import DeviceManager


class Hasty:
    """A clock fifty times as fast as the wall's: the plugin waits on files, which have no virtual time."""

    def now(self) -> float:
        return asyncio.get_running_loop().time() * 50

    wall = now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 50)


class Adaptor:
    figure: int | None = 3
    ready = True
    away = False

    async def count(self) -> int | None:
        if self.away:
            raise Unavailable("the API server is away")
        return self.figure


@asynccontextmanager
async def serving(directory: Path, adaptor: Adaptor) -> AsyncIterator[None]:
    plugin = DevicePlugin(adaptor.count, lambda: adaptor.ready, Hasty(), str(directory))
    task = asyncio.create_task(plugin.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[DeviceManager]:
    kubelet = DeviceManager(tmp_path)
    await kubelet.start()
    yield kubelet
    await kubelet.stop()


async def test_kubelet_hears_of_as_many_devices_as_there_may_be_vms(kubelet: DeviceManager) -> None:
    async with serving(kubelet.directory, Adaptor()):
        await kubelet.until(healthy=3)
    (request,) = kubelet.registrations
    assert (request.version, request.endpoint, request.resource_name) == ("v1beta1", "peerpods.sock", names.VM_RESOURCE)
    assert request.options.get_preferred_allocation_available
    assert not request.options.pre_start_required


async def test_a_container_gets_devices_and_nothing_is_mounted(kubelet: DeviceManager) -> None:
    async with serving(kubelet.directory, Adaptor()):
        await kubelet.until(healthy=3)
        answer = await kubelet.allocate("vm-0")
        assert [each.SerializeToString() for each in answer.container_responses] == [b""]
        assert await kubelet.call("PreStartContainer", pb.PreStartContainerRequest(), pb.PreStartContainerResponse)
        with pytest.raises(grpc.aio.AioRpcError, match="no devices of ours: gpu-1"):
            await kubelet.allocate("vm-0", "gpu-1")


async def test_kubelet_is_asked_to_take_the_devices_that_stay_longest(kubelet: DeviceManager) -> None:
    async with serving(kubelet.directory, Adaptor()):
        await kubelet.until(healthy=3)
        assert await kubelet.prefer(["vm-10", "vm-2", "vm-1"], 2) == ["vm-1", "vm-2"]
    assert preferred(["vm-0", "vm-1", "vm-7"], ["vm-7"], 2) == ["vm-7", "vm-0"]


async def test_the_list_follows_the_figure_up_and_down(kubelet: DeviceManager) -> None:
    adaptor = Adaptor()
    async with serving(kubelet.directory, adaptor):
        await kubelet.until(healthy=3)
        adaptor.figure = 5
        await kubelet.until(healthy=5)
        adaptor.figure = 2
        await kubelet.until(healthy=2)
    assert kubelet.lists[-1] != {}
    assert len(kubelet.registrations) == 1


async def test_an_adaptor_that_is_not_ready_takes_no_new_pods(kubelet: DeviceManager) -> None:
    adaptor = Adaptor()
    async with serving(kubelet.directory, adaptor):
        await kubelet.until(healthy=3)
        adaptor.ready = False
        await kubelet.until(healthy=0)
        assert kubelet.devices == {"vm-0": "Unhealthy", "vm-1": "Unhealthy", "vm-2": "Unhealthy"}
        adaptor.ready = True
        await kubelet.until(healthy=3)


@pytest.mark.parametrize("unknown", ["away", "nobody can tell"])
async def test_a_figure_that_nobody_knows_stays_as_it_was(kubelet: DeviceManager, unknown: str) -> None:
    adaptor = Adaptor()
    async with serving(kubelet.directory, adaptor):
        await kubelet.until(healthy=3)
        adaptor.away, adaptor.figure = unknown == "away", None
        adaptor.ready = False
        await kubelet.until(healthy=0)  # so it has been counted since
        assert len(kubelet.devices or {}) == 3


async def test_a_kubelet_that_restarts_is_told_again(kubelet: DeviceManager) -> None:
    async with serving(kubelet.directory, Adaptor()):
        await kubelet.until(healthy=3)
        for times in (2, 3):
            await kubelet.stop()
            await kubelet.start()
            assert kubelet.devices is None
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
    async with serving(kubelet.directory, Adaptor()):
        await kubelet.until(healthy=3)
        (kubelet.directory / device_plugin.OURS).unlink()
        await kubelet.registered(2)
        await kubelet.until(healthy=3)


async def test_a_kubelet_that_no_longer_listens_is_told_again(kubelet: DeviceManager) -> None:
    async with serving(kubelet.directory, Adaptor()):
        await kubelet.until(healthy=3)
        await kubelet.hang_up()
        await kubelet.registered(2)
        await kubelet.until(healthy=3)


async def test_a_kubelet_that_is_not_up_yet_is_waited_for(tmp_path: Path) -> None:
    kubelet = DeviceManager(tmp_path)
    async with serving(tmp_path, Adaptor()):
        await asyncio.sleep(0.1)
        assert list(tmp_path.iterdir()) == []
        await kubelet.start()
        await kubelet.until(healthy=3)
    await kubelet.stop()


async def test_a_refusal_is_told_once_and_tried_again(kubelet: DeviceManager, caplog: pytest.LogCaptureFixture) -> None:
    kubelet.refusing = grpc.StatusCode.UNKNOWN
    async with serving(kubelet.directory, Adaptor()):
        await asyncio.sleep(0.2)
        kubelet.refusing = None
        await kubelet.until(healthy=3)
    refused = [record for record in caplog.records if "no device plugin" in record.getMessage()]
    assert len(refused) == 1


async def test_a_directory_that_cannot_be_used_is_tried_again(
    kubelet: DeviceManager, caplog: pytest.LogCaptureFixture
) -> None:
    (kubelet.directory / device_plugin.OURS).mkdir()
    async with serving(kubelet.directory, Adaptor()):
        await asyncio.sleep(0.1)
        assert "Is a directory" in caplog.text
        (kubelet.directory / device_plugin.OURS).rmdir()
        await kubelet.until(healthy=3)


async def test_an_adaptor_that_ends_leaves_no_device_to_new_pods(kubelet: DeviceManager) -> None:
    async with serving(kubelet.directory, Adaptor()):
        await kubelet.until(healthy=3)
    await kubelet.until(healthy=0)
    assert len(kubelet.devices or {}) == 3  # kubelet keeps the capacity for a while
