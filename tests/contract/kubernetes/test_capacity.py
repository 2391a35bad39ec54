"""How many pod VMs a node has room for, from the adaptor to the pods: what was found on a real kubelet, event by event,
for each way to advertise and each place of the request.

On a real cluster the resource has a name of this test's own; what needs a kubelet that restarts is played.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from lightkube import ApiError
from lightkube.resources.core_v1 import Node, Pod

from adaptor import names
from adaptor.clock import RealClock
from adaptor.kube import client as api
from adaptor.kube.capacity import Capacity, Demand
from adaptor.kube.device_plugin import DevicePlugin
from adaptor.kube.errors import KubernetesError
from adaptor.kube.place import Place
from tests.contract.kubernetes.cluster import Cluster
from tests.contract.kubernetes.clusters import PlayedCluster
from tests.worlds.hand import HastyClock
from tests.worlds.kubelet_devices import DeviceManager

world = pytest.mark.world
STATUS, PLUGIN = "status patch", "device plugin"
CONTAINER, OVERHEAD = "container request", "overhead"
LIMIT = 3


class Site:
    """A node with a kubelet, and the adaptor on it; `resource` is what it advertises."""

    def __init__(self, cluster: Cluster, mode: str, directory: Path) -> None:
        self.cluster = cluster
        self.mode = mode
        self.resource = names.VM_RESOURCE
        self.limit = LIMIT
        self.devices = DeviceManager(directory)
        self._account = cluster.name("adaptor")
        self._classes: dict[str, str] = {}

    async def make(self) -> None:
        rules = [
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "watch"]},
            {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        ]  # no more than the chart grants
        await self.cluster.token(self._account)
        await self.cluster.grant(self._account, rules, everywhere=True)
        if self.mode is PLUGIN:
            self.kubelet.devices, self.kubelet.resource = self.devices, self.resource
            await self.devices.start()

    @property
    def kubelet(self) -> Any:
        assert isinstance(self.cluster, PlayedCluster), "mark this test with @pytest.mark.world"
        return self.cluster.kubelet

    @asynccontextmanager
    async def adaptor(self) -> AsyncIterator[None]:
        client = api.connect(Place(kubeconfig=str(await self.cluster.kubeconfig(self._account))))
        demand = Demand(client, self.cluster.worker, self.limit, lambda: 0)
        if self.mode is PLUGIN:
            plugin = DevicePlugin(self.limit, lambda: True, HastyClock(), str(self.devices.directory))
            running = [plugin.run(), Capacity(client, demand, RealClock(), plugin.offer).run()]
        else:
            running = [Capacity(client, demand, RealClock()).run()]
        tasks = [asyncio.create_task(each) for each in running]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await client.close()

    async def figures(self) -> tuple[str | None, str | None]:
        """Capacity and allocatable."""
        status = (await self.cluster.admin.get(Node, self.cluster.worker)).status
        assert status is not None
        return (status.capacity or {}).get(self.resource), (status.allocatable or {}).get(self.resource)

    async def until(self, capacity: str | None, allocatable: str | None) -> None:
        async def so() -> bool:
            return await self.figures() == (capacity, allocatable)

        await self.cluster.until(so)

    async def patch(self, figure: str | None) -> None:
        """As an admin."""
        path, patch = f"/api/v1/nodes/{self.cluster.worker}/status", {"status": {"capacity": {self.resource: figure}}}
        await self.cluster.sure("PATCH", path, patch, content_type="application/merge-patch+json")

    async def pod(self, place: str) -> Pod:
        """One that asks for a VM."""
        spec: dict[str, Any] = {"nodeSelector": {"kubernetes.io/hostname": self.cluster.worker}}
        if place is CONTAINER:
            one = {self.resource: "1"}
            return await self.cluster.pod(requests=one, limits=one, **spec)
        if place not in self._classes:
            self._classes[place] = await self.cluster.runtime_class(overhead={"podFixed": {self.resource: "1"}})
        return await self.cluster.pod(runtimeClassName=self._classes[place], **spec)

    async def state(self, pod: Pod) -> tuple[str, str]:
        """(phase, reason); "Bound" for one that kubelet still has to start."""
        assert pod.metadata is not None
        found = await self.cluster.admin.get(Pod, pod.metadata.name or "", namespace=self.cluster.namespace)
        assert found.status is not None
        assert found.spec is not None
        phase = "Bound" if found.spec.nodeName and found.status.phase == "Pending" else found.status.phase or ""
        return phase, found.status.reason or ""

    async def runs(self, pod: Pod) -> None:
        await self.cluster.until(lambda: self._is(pod, "Running"))

    async def is_placed(self, pod: Pod) -> None:
        """On a real node nobody serves the runtime class: bound there, and not refused."""
        await self.cluster.until(lambda: self._is(pod, "Running", "Bound"))

    async def is_killed(self, pod: Pod) -> None:
        await self.cluster.until(lambda: self._is(pod, "Failed"))
        assert (await self.state(pod))[1] == f"OutOf{self.resource}"

    async def finds_no_room(self, pod: Pod) -> None:
        async def told() -> bool:
            found = await self.cluster.admin.get(Pod, pod.metadata.name, namespace=self.cluster.namespace)  # type: ignore[union-attr,arg-type]
            said = [each.message or "" for each in (found.status.conditions if found.status else None) or ()]
            return any(f"Insufficient {self.resource}" in each for each in said)

        await self.cluster.until(told)

    async def runs_still(self, pod: Pod) -> None:
        """After kubelet has had its say."""
        await self.kubelet._turn()
        assert await self.state(pod) == ("Running", "")

    async def _is(self, pod: Pod, *phases: str) -> bool:
        return (await self.state(pod))[0] in phases


@asynccontextmanager
async def opened(cluster: Cluster, mode: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(names, "VM_RESOURCE", f"test.peerpods.io/vm-{secrets.token_hex(4)}")
    site = Site(cluster, mode, directory)
    await site.make()
    try:
        yield site
    finally:
        await site.devices.stop()
        await site.patch(None)


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    directory = tmp_path / "device-plugins"
    directory.mkdir()
    return directory


@pytest.fixture
async def status(cluster: Cluster, devices: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    async with opened(cluster, STATUS, devices, monkeypatch) as site:
        yield site


@pytest.fixture
async def plugin(cluster: Cluster, devices: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    async with opened(cluster, PLUGIN, devices, monkeypatch) as site:
        yield site


both = pytest.mark.parametrize("place", [CONTAINER, OVERHEAD])


# -- allocatable appears ----------------------------------------------------------------------------


@both
async def test_one_patch_makes_room_for_as_many_pods_as_the_limit_says(status: Site, place: str) -> None:
    async with status.adaptor():
        await status.until(str(LIMIT), str(LIMIT))
        for _ in range(LIMIT):
            await status.is_placed(await status.pod(place))
        await status.finds_no_room(await status.pod(place))


@world
@both
async def test_a_registered_plugin_makes_room_for_as_many_pods_as_the_limit_says(plugin: Site, place: str) -> None:
    async with plugin.adaptor():
        await plugin.until(str(LIMIT), str(LIMIT))
        for _ in range(LIMIT):
            await plugin.runs(await plugin.pod(place))
        await plugin.finds_no_room(await plugin.pod(place))


# -- kubelet restarts, the adaptor is up --------------------------------------------------------------


@world
@both
async def test_kubelet_restarts_and_by_the_status_every_pod_fits_again(status: Site, place: str) -> None:
    async with status.adaptor():
        await status.until(str(LIMIT), str(LIMIT))
        pods = [await status.pod(place) for _ in range(LIMIT)]
        for pod in pods:
            await status.runs(pod)
        await status.kubelet.restart()
        for pod in pods:
            await status.runs_still(pod)
        assert await status.figures() == (str(LIMIT), str(LIMIT))


@world
async def test_kubelet_restarts_and_a_container_keeps_its_device_though_there_is_none_until_the_plugin_is_back(
    plugin: Site,
) -> None:
    async with plugin.adaptor():
        await plugin.until(str(LIMIT), str(LIMIT))
        pod = await plugin.pod(CONTAINER)
        await plugin.runs(pod)
        before = len(plugin.devices.registrations)
        await plugin.kubelet.restart()
        assert await plugin.state(pod) == ("Running", "")
        await plugin.devices.registered(before + 1)
        await plugin.until(str(LIMIT), str(LIMIT))
        await plugin.runs_still(pod)


@world
async def test_kubelet_restarts_and_a_pod_whose_overhead_asks_is_killed_before_the_plugin_is_back(plugin: Site) -> None:
    async with plugin.adaptor():
        await plugin.until(str(LIMIT), str(LIMIT))
        pod = await plugin.pod(OVERHEAD)
        await plugin.runs(pod)
        await plugin.kubelet.restart()
        await plugin.is_killed(pod)


@world
@both
@pytest.mark.parametrize("reset", [None, "0"])
async def test_a_kubelet_that_resets_the_figure_when_it_restarts_is_corrected_before_it_admits(
    status: Site, place: str, reset: str | None
) -> None:
    """As kubernetes#126943 may have it one day; the admin's patch is the same to us."""
    async with status.adaptor():
        await status.until(str(LIMIT), str(LIMIT))
        pod = await status.pod(place)
        await status.runs(pod)
        await status.patch(reset)
        await status.until(str(LIMIT), str(LIMIT))
        await status.kubelet.restart()
        await status.runs_still(pod)


# -- the key is removed, or set to 0, while no adaptor is there; then kubelet restarts ------------------


async def _run_and_leave(status: Site, place: str) -> Pod:
    async with status.adaptor():
        await status.until(str(LIMIT), str(LIMIT))
        pod = await status.pod(place)
        await status.runs(pod)
    return pod


@world
async def test_the_key_is_removed_and_a_container_that_asks_runs_on(status: Site) -> None:
    pod = await _run_and_leave(status, CONTAINER)
    await status.patch(None)
    await status.until(None, None)
    await status.kubelet.restart()
    await status.runs_still(pod)


@world
async def test_the_key_is_removed_and_a_pod_whose_overhead_asks_is_killed(status: Site) -> None:
    pod = await _run_and_leave(status, OVERHEAD)
    await status.patch(None)
    await status.until(None, None)
    await status.kubelet.restart()
    await status.is_killed(pod)


@world
@both
async def test_the_figure_is_0_and_kubelet_kills_whatever_asks(status: Site, place: str) -> None:
    pod = await _run_and_leave(status, place)
    await status.patch("0")
    await status.until("0", "0")
    await status.kubelet.restart()
    await status.is_killed(pod)


@world
@both
async def test_an_adaptor_never_writes_the_0_that_kills_even_when_nobody_may_be_placed_any_more(
    status: Site, place: str
) -> None:
    pod = await _run_and_leave(status, place)
    status.limit = 0
    async with status.adaptor():
        await status.until("1", "1")
        await status.kubelet.restart()
        await status.runs_still(pod)
        await status.finds_no_room(await status.pod(place))


# -- the adaptor is gone ------------------------------------------------------------------------------


@both
async def test_the_figure_of_the_status_stays_when_the_adaptor_is_gone(status: Site, place: str) -> None:
    async with status.adaptor():
        await status.until(str(LIMIT), str(LIMIT))
    await status.is_placed(await status.pod(place))
    assert await status.figures() == (str(LIMIT), str(LIMIT))


@world
async def test_a_plugin_that_is_gone_leaves_its_capacity_and_nothing_to_allocate(plugin: Site) -> None:
    async with plugin.adaptor():
        await plugin.until(str(LIMIT), str(LIMIT))
        pod = await plugin.pod(CONTAINER)
        await plugin.runs(pod)
    await plugin.until(str(LIMIT), "0")
    await plugin.runs_still(pod)
    await plugin.finds_no_room(await plugin.pod(CONTAINER))


# -- an admin patches the capacity ----------------------------------------------------------------------


@pytest.mark.parametrize("figure", ["1", "99", "0", None])
async def test_an_admins_figure_in_the_status_is_put_right_by_the_adaptor(status: Site, figure: str | None) -> None:
    async with status.adaptor():
        await status.until(str(LIMIT), str(LIMIT))
        await status.patch(figure)
        await status.until(str(LIMIT), str(LIMIT))


@world
async def test_an_admins_figure_for_devices_is_put_right_by_kubelet(plugin: Site) -> None:
    async with plugin.adaptor():
        await plugin.until(str(LIMIT), str(LIMIT))
        await plugin.patch("99")
        await plugin.until(str(LIMIT), str(LIMIT))


# -- and besides ------------------------------------------------------------------------------------------


async def test_a_lower_limit_takes_room_only_as_pods_end(status: Site) -> None:
    pods = []
    async with status.adaptor():
        await status.until(str(LIMIT), str(LIMIT))
        pods = [await status.pod(CONTAINER) for _ in range(2)]
        for pod in pods:
            await status.runs(pod)
    status.limit = 1
    async with status.adaptor():
        await status.until("2", "2")
        assert pods[0].metadata is not None
        await status.cluster.admin.delete(Pod, pods[0].metadata.name or "", namespace=status.cluster.namespace)
        await status.cluster.gone(status.cluster.here("pods", pods[0].metadata.name or ""))
    async with status.adaptor():  # at once, instead of at the next look
        await status.until("1", "1")


async def test_server_side_apply_would_conflict_with_kubelet_once_it_has_copied_the_figure(status: Site) -> None:
    """Why the figure is a merge patch."""
    async with status.adaptor():
        await status.until(str(LIMIT), str(LIMIT))
    path = f"/api/v1/nodes/{status.cluster.worker}/status"
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": status.cluster.worker}}
    body["status"] = {"capacity": {status.resource: "7"}}
    answer = await status.cluster.ask(
        "PATCH", path, body, content_type="application/apply-patch+yaml", fieldManager="somebody"
    )
    assert answer.status_code == 409


async def test_without_the_right_to_list_pods_the_limit_is_still_advertised(cluster: Cluster, status: Site) -> None:
    account = cluster.name("blind")
    client = await cluster.client(account)
    rules = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "watch"]}]
    rules.append({"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]})
    await cluster.grant(account, rules, everywhere=True)
    with pytest.raises(ApiError):
        await client.get(Pod, "x", namespace=cluster.namespace)
    capacity = Capacity(client, Demand(client, cluster.worker, LIMIT, lambda: 0), RealClock())

    async def advertised() -> bool:
        try:
            await capacity.look()
        except KubernetesError:  # roles take a moment
            return False
        return True

    await cluster.until(advertised)
    await status.until(str(LIMIT), str(LIMIT))
