"""The node's status says how many pod VMs there may be, whatever others do to it. Time passes by hand; the API server
is the strict one of the tests, over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adaptor import names
from adaptor.kube import capacity
from adaptor.kube import client as api
from adaptor.kube.capacity import Capacity, Demand
from adaptor.kube.place import Place
from adaptor.telemetry import metrics
from tests.worlds.hand import HandClock
from tests.worlds.kubernetes.faults import Fault
from tests.worlds.kubernetes.world import World

VM = names.VM_RESOURCE
NODE = "worker-1"


class Worker:
    """The world, one node of it, and the adaptor's token there: a service account with the rights that are needed."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.clock = HandClock()
        self.held = 0
        self.limit = 10
        self.plugin: Callable[[int], None] | None = None
        self._kind = world.kind("v1", "Node")
        self._pods = world.kind("v1", "Pod")
        self._kubeconfig = world.kubeconfig(
            directory / "kubeconfig", world.service_account("peerpods", "peerpods-adaptor")
        )

    async def make(self) -> None:
        await self.world.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        rules = [
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        ]
        await self.grant("peerpods-adaptor", rules)

    async def grant(self, name: str, rules: list[dict[str, Any]]) -> None:
        rbac, group = "rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
        await self.world.create({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules})
        subject = {"kind": "ServiceAccount", "name": "peerpods-adaptor", "namespace": "peerpods"}
        role = {"apiGroup": group, "kind": "ClusterRole", "name": name}
        binding = {"metadata": {"name": name}, "subjects": [subject], "roleRef": role}
        await self.world.create({"apiVersion": rbac, "kind": "ClusterRoleBinding", **binding})

    @asynccontextmanager
    async def adaptor(self) -> AsyncIterator[None]:
        client = api.connect(Place(kubeconfig=str(self._kubeconfig)))
        demand = Demand(client, NODE, self.limit, lambda: self.held)
        task = asyncio.create_task(Capacity(client, demand, self.clock, self.plugin).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await client.close()

    @property
    def figure(self) -> str | None:
        node = self.world.get(self._kind, "", NODE)
        assert node is not None
        return (node.get("status", {}).get("capacity") or {}).get(VM)

    async def set(self, figure: str | None) -> None:
        """As somebody else would."""
        patch = {"status": {"capacity": {VM: figure}}}
        await self.world.patch(self._kind, "", NODE, patch, subresource="status", manager="kubelet")

    async def drain(self, wanted: str | None) -> None:
        await self.world.patch(self._kind, "", NODE, {"metadata": {"annotations": {names.DRAIN: wanted}}})

    async def pod(self, name: str, phase: str = "Running", node: str = NODE) -> None:
        container = {"name": "c", "image": "i", "resources": {"requests": {VM: "1"}, "limits": {VM: "1"}}}
        spec = {"containers": [container], "nodeName": node}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}
        await self.world.create(pod)
        await self.ends(name, phase)

    async def ends(self, name: str, phase: str = "Succeeded") -> None:
        await self.world.patch(self._pods, "default", name, {"status": {"phase": phase}}, subresource="status")

    async def until(self, figure: str | None) -> None:
        await eventually(lambda: self.figure == figure)

    async def passes(self, seconds: float, figure: str | None) -> None:
        """Time, until the figure is so."""
        async with asyncio.timeout(5):
            while self.figure != figure:
                self.clock.advance(seconds)
                await asyncio.sleep(0.01)

    async def watching(self) -> None:
        """Until the adaptor has looked, and watches."""
        await eventually(lambda: self.world.server.watches == 1 and bool(self.clock.sleeping))

    @property
    def patches(self) -> int:
        return sum(each.startswith("patch nodes/status") for each in self.world.server.requests)


async def eventually(true: Callable[[], bool], within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not true():
            await asyncio.sleep(0.005)


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    async with World(tls=False) as world:
        worker = Worker(world, tmp_path)
        await worker.make()
        yield worker


async def test_the_limit_is_advertised_at_the_start_and_stays_when_the_adaptor_ends(worker: Worker) -> None:
    async with worker.adaptor():
        await worker.until("10")
    assert worker.figure == "10"


async def test_a_figure_that_is_right_is_not_written_again(worker: Worker) -> None:
    await worker.set("10")
    metrics.ADVERTISED_VMS.set(0)
    async with worker.adaptor():
        await worker.watching()
        assert metrics.ADVERTISED_VMS._value.get() == 10
        for _ in range(3):
            worker.clock.advance(2 * capacity.EVERY)
            await worker.watching()
    assert worker.patches == 0


@pytest.mark.parametrize("reset", [None, "0", "3", "99"])
async def test_what_others_make_of_it_is_put_right_at_once_and_without_waiting_for_the_next_look(
    worker: Worker, reset: str | None
) -> None:
    async with worker.adaptor():
        await worker.until("10")
        await worker.watching()
        await worker.set(reset)
        await worker.until("10")


async def test_upstreams_adaptor_that_ends_after_us_is_corrected_and_named(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker.adaptor():
        await worker.until("10")
        await worker.watching()
        kind = worker.world.kind("v1", "Node")
        await worker.world.patch(kind, "", NODE, {"metadata": {"annotations": {names.UPSTREAM_OWNER: "its-pod"}}})
        await worker.set("4")
        await worker.until("10")
        await eventually(lambda: "somebody else has set the number" in caplog.text)
    assert "its-pod" in caplog.text


async def test_who_overwrites_it_again_and_again_is_met_with_patience_until_a_quiet_time(worker: Worker) -> None:
    async def corrected() -> float:
        """Seconds until it was."""
        await worker.watching()
        began = worker.clock.now()
        await worker.set("3")
        while worker.figure != "10":
            await asyncio.sleep(0.02)
            if worker.figure != "10":
                worker.clock.advance(0.1)
        return worker.clock.now() - began

    async with worker.adaptor():
        await worker.until("10")
        waited = [await corrected() for _ in range(5)]
        assert waited[0] < 0.5
        assert waited[2] >= 0.5
        assert waited[4] >= 2.0
        for _ in range(3):
            await worker.watching()
            worker.clock.advance(capacity.EVERY)
        assert await corrected() < 0.5


async def test_a_watch_that_broke_is_begun_anew_and_sees_what_was_missed(worker: Worker) -> None:
    async with worker.adaptor():
        await worker.until("10")
        await worker.watching()
        worker.world.server.cut_watches()
        await eventually(lambda: worker.world.server.watches == 0)
        await worker.set("3")
        await worker.passes(1.0, "10")
        await worker.watching()


async def test_without_any_watch_the_next_look_puts_it_right(worker: Worker) -> None:
    worker.world.faults.add(Fault("watch", "nodes", times=1000, status=403))
    async with worker.adaptor():
        await worker.until("10")
        await worker.set("3")
        await worker.passes(2 * capacity.EVERY, "10")


async def test_a_lower_limit_waits_for_the_pods_and_follows_them_down_and_never_to_0(worker: Worker) -> None:
    await worker.set("10")
    for name in ("a", "b", "c"):
        await worker.pod(name)
    await worker.pod("over", "Succeeded")
    await worker.pod("elsewhere", node="worker-2")
    worker.limit = 1
    async with worker.adaptor():
        await worker.until("3")
        await worker.watching()
        await worker.ends("a")
        worker.clock.advance(capacity.FOLLOWING)
        await worker.until("2")
        await worker.watching()
        await worker.ends("b", "Failed")
        worker.clock.advance(capacity.FOLLOWING)
        await worker.until("1")
        await worker.ends("c")
        await worker.watching()
        worker.clock.advance(2 * capacity.EVERY)
        await worker.watching()
        assert worker.figure == "1"


async def test_a_drain_lowers_it_to_what_is_in_use_and_ends_with_the_annotation(worker: Worker) -> None:
    await worker.pod("a")
    async with worker.adaptor():
        await worker.until("10")
        await worker.watching()
        await worker.drain("true")
        await worker.until("1")
        await worker.ends("a")
        await worker.watching()
        worker.clock.advance(capacity.FOLLOWING)
        await worker.until("0")
        await worker.drain(None)
        await worker.until("10")


async def test_a_cordoned_node_is_nothing_special(worker: Worker) -> None:
    async with worker.adaptor():
        await worker.until("10")
        await worker.watching()
        await worker.world.patch(worker.world.kind("v1", "Node"), "", NODE, {"spec": {"unschedulable": True}})
        worker.clock.advance(2 * capacity.EVERY)
        await worker.watching()
    assert worker.figure == "10"
    assert worker.patches == 1


async def test_vms_count_while_the_pods_cannot_be_listed(worker: Worker) -> None:
    worker.world.faults.add(Fault("list", "pods", times=1000, status=503))
    worker.limit, worker.held = 1, 4
    async with worker.adaptor():
        await worker.until("4")
        worker.world.faults.clear()
        await worker.passes(capacity.FOLLOWING, "1")


async def test_where_the_pods_cannot_be_listed_nothing_is_lowered(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.world.faults.add(Fault("list", "pods", times=1000, status=403))
    await worker.set("10")
    worker.limit = 1
    async with worker.adaptor():
        await worker.watching()
        worker.clock.advance(2 * capacity.EVERY)
        await worker.watching()
        assert worker.figure == "10"
        worker.world.faults.clear()
        await worker.passes(2 * capacity.EVERY, "1")
    told = [each for each in caplog.records if "cannot be listed" in each.getMessage()]
    assert len(told) == 1


async def test_a_negative_limit_leaves_the_figure_to_others(worker: Worker) -> None:
    worker.limit = -1
    await worker.set("5")
    async with worker.adaptor():
        await asyncio.sleep(0.05)
    assert worker.figure == "5"
    assert worker.patches == 0


async def test_an_api_server_that_is_away_is_asked_again_ever_more_slowly_and_told_of_once(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    await worker.world.server.stop()
    async with worker.adaptor():
        for _ in range(4):
            await eventually(lambda: len(worker.clock.sleeping) == 2)
            worker.clock.advance(max(worker.clock.sleeping))
        await eventually(lambda: len(worker.clock.sleeping) == 2)
        assert max(worker.clock.sleeping) >= 4.0
        await worker.world.server.start()
        await worker.passes(capacity.EVERY, "10")
    assert len([each for each in caplog.records if "cannot be told" in each.getMessage()]) == 1


async def test_a_reply_that_was_lost_costs_nothing(worker: Worker) -> None:
    worker.world.faults.add(Fault("patch", "nodes/status", lost_reply=True))
    async with worker.adaptor():
        await worker.until("10")
        await eventually(lambda: bool(worker.clock.sleeping))
        worker.clock.advance(1.0)
        await worker.watching()
    assert worker.figure == "10"


async def test_a_node_that_is_not_there_yet_is_waited_for(worker: Worker) -> None:
    kind = worker.world.kind("v1", "Node")
    stored = worker.world.get(kind, "", NODE)
    assert stored is not None
    worker.world.faults.add(Fault("get", "nodes", times=2, status=404))
    async with worker.adaptor():
        await worker.passes(0.1, "10")


async def test_two_adaptors_of_one_node_that_disagree_do_not_flood_the_api_server(worker: Worker) -> None:
    """Which their lock on the node's state prevents; somebody's other tool has no lock."""
    async with worker.adaptor():
        worker.limit = 5
        async with worker.adaptor():
            await eventually(lambda: worker.world.server.watches == 2)
            for _ in range(240):
                worker.clock.advance(0.5)
                await asyncio.sleep(0.005)
    assert 2 <= worker.patches <= 30  # in two minutes


async def test_a_plugin_is_told_each_new_figure_once_and_the_status_is_kubelets(worker: Worker) -> None:
    told: list[int] = []
    worker.plugin = told.append
    await worker.pod("a")
    await worker.set("10")  # of the last adaptor, say
    async with worker.adaptor():
        await worker.watching()
        assert told == [10]
        await worker.set("3")  # kubelet's own doing
        worker.clock.advance(2 * capacity.EVERY)
        await asyncio.sleep(0.05)
        await worker.watching()
        await worker.drain("true")
        await eventually(lambda: told == [10, 1])
        await worker.drain(None)
        await eventually(lambda: told == [10, 1, 10])
    assert worker.patches == 0
