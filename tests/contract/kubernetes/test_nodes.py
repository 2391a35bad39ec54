"""What a node's figures mean to its kubelet and its pods: the table of what was found on a real one, row by row."""

import pytest

from tests.contract.kubernetes.cluster import APPLY, JSON_PATCH, MERGE, VM, Cluster, Json
from tests.contract.kubernetes.clusters import PlayedCluster
from tests.worlds.kubernetes.world import World


async def advertise(cluster: Cluster, resource: str, figure: str | None) -> None:
    path = f"/api/v1/nodes/{cluster.worker}/status"
    await cluster.sure(
        "PATCH", path, {"status": {"capacity": {resource: figure}}}, content_type=MERGE, fieldManager="t"
    )


async def figures(cluster: Cluster, resource: str) -> tuple[str | None, str | None]:
    """Capacity and allocatable."""
    status = (await cluster.sure("GET", f"/api/v1/nodes/{cluster.worker}"))["status"]
    return status["capacity"].get(resource), status["allocatable"].get(resource)


async def agree(cluster: Cluster, resource: str, capacity: str | None, allocatable: str | None) -> None:
    async def look() -> bool:
        return await figures(cluster, resource) == (capacity, allocatable)

    await cluster.until(look)


async def test_capacity_that_is_patched_becomes_allocatable_and_goes_again(cluster: Cluster) -> None:
    resource = f"test.peerpods.io/{cluster.name('x')[-8:]}"
    await advertise(cluster, resource, "3")
    try:
        await agree(cluster, resource, "3", "3")
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": cluster.worker}}
        answer = await cluster.ask(
            "PATCH",
            f"/api/v1/nodes/{cluster.worker}/status",
            node | {"status": {"allocatable": {resource: "4"}}},
            content_type=APPLY,
            fieldManager="applier",
        )
        said = f'conflict with "kubelet" with subresource "status" using v1: .status.allocatable.{resource}'
        assert (answer.status_code, answer.json()["message"]) == (409, f"Apply failed with 1 conflict: {said}")
    finally:
        await advertise(cluster, resource, None)
    await agree(cluster, resource, None, None)


async def test_a_part_of_a_vm_is_no_capacity(cluster: Cluster) -> None:
    patch = [{"op": "add", "path": "/status/capacity/kata.peerpods.io~1half", "value": "1500m"}]
    answer = await cluster.ask("PATCH", f"/api/v1/nodes/{cluster.worker}/status", patch, content_type=JSON_PATCH)
    assert answer.status_code == 422
    assert "must be an integer" in answer.json()["message"]


async def test_a_status_patch_leaves_the_spec_alone(cluster: Cluster) -> None:
    node = await cluster.node()
    both = {"spec": {"unschedulable": True}, "status": {"capacity": {VM: "2"}}}
    after = await cluster.sure("PATCH", f"/api/v1/nodes/{node}/status", both, content_type=MERGE)
    assert "unschedulable" not in after["spec"]
    assert after["status"]["capacity"][VM] == "2"
    after = await cluster.sure(
        "PATCH", f"/api/v1/nodes/{node}", both | {"status": {"capacity": {VM: "3"}}}, content_type=MERGE
    )
    assert (after["spec"]["unschedulable"], after["status"]["capacity"][VM]) == (True, "2")


# -- kubelet starts again -------------------------------------------------------------------------


async def running(cluster: Cluster, where: str) -> None:
    """A pod "p" with one VM, requested by its container or by its class's overhead, runs on the worker."""
    more: Json = {"limits": {VM: "1"}}
    if where == "overhead":
        more = {"runtimeClassName": await cluster.runtime_class(overhead={"podFixed": {VM: "1"}})}
    await cluster.pod("p", **more)
    await cluster.until(lambda: _is(cluster, "Running"))


async def _status(cluster: Cluster) -> Json:
    status: Json = (await cluster.sure("GET", cluster.here("pods", "p")))["status"]
    return status


async def _is(cluster: Cluster, phase: str) -> bool:
    return bool((await _status(cluster))["phase"] == phase)


async def after_restart(cluster: Cluster) -> str:
    assert isinstance(cluster, PlayedCluster)
    await cluster.kubelet.restart()
    status = await _status(cluster)
    return str(status.get("reason") or status["phase"])


@pytest.mark.world
@pytest.mark.parametrize("where", ["container", "overhead"])
@pytest.mark.parametrize(
    ("figure", "container", "overhead"),
    [
        ("1", "Running", "Running"),  # the daemon lives: its figure is kept
        (None, "Running", f"OutOf{VM}"),  # an unknown resource of a container is ignored, one of the overhead is not
        ("0", f"OutOf{VM}", f"OutOf{VM}"),
    ],
)
async def test_what_a_kubelets_restart_does_to_pods(
    cluster: Cluster, where: str, figure: str | None, container: str, overhead: str
) -> None:
    await advertise(cluster, VM, "1")
    await running(cluster, where)
    if figure != "1":
        await advertise(cluster, VM, figure)
        await agree(cluster, VM, figure, figure)
    assert await _is(cluster, "Running")  # nothing happens before the restart
    assert await after_restart(cluster) == (container if where == "container" else overhead)


class Devices:
    """A device manager whose plugin comes and goes as told."""

    def __init__(self) -> None:
        self.devices: dict[str, str] | None = None

    @property
    def healthy(self) -> int:
        return sum(health == "Healthy" for health in (self.devices or {}).values())

    async def start(self) -> None:
        self.devices = None

    async def stop(self) -> None: ...


@pytest.mark.world
@pytest.mark.parametrize(("where", "left"), [("container", "Running"), ("overhead", f"OutOf{VM}")])
async def test_what_a_restart_does_with_a_device_plugin(cluster: Cluster, where: str, left: str) -> None:
    assert isinstance(cluster, PlayedCluster)
    devices = cluster.kubelet.devices = Devices()
    devices.devices = {"vm-0": "Healthy"}
    await agree(cluster, VM, "1", "1")
    await running(cluster, where)
    assert await after_restart(cluster) == left
    await agree(cluster, VM, "0", "0")  # until the plugin registers again
    devices.devices = {"vm-0": "Healthy"}
    await agree(cluster, VM, "1", "1")


@pytest.mark.world
async def test_a_device_plugin_that_is_gone_keeps_its_capacity_and_takes_no_pods(cluster: Cluster) -> None:
    assert isinstance(cluster, PlayedCluster)
    devices = cluster.kubelet.devices = Devices()
    devices.devices = {"vm-0": "Healthy", "vm-1": "Healthy"}
    await agree(cluster, VM, "2", "2")
    await advertise(cluster, VM, "9")
    await agree(cluster, VM, "2", "2")  # kubelet's own figures win
    devices.devices = dict.fromkeys(devices.devices, "Unhealthy")
    await agree(cluster, VM, "2", "0")


@pytest.mark.world
async def test_a_pod_on_the_worker_runs_and_ends(cluster: Cluster) -> None:
    await cluster.pod("p")
    await cluster.until(lambda: _is(cluster, "Running"))
    await cluster.sure("DELETE", cluster.here("pods", "p"))
    await cluster.gone(cluster.here("pods", "p"))


@pytest.mark.world
async def test_a_node_that_died_is_unready_and_its_pods_stay(cluster: Cluster, played: World) -> None:
    assert isinstance(cluster, PlayedCluster)
    await cluster.pod("p")
    await cluster.until(lambda: _is(cluster, "Running"))
    await cluster.kubelet.die()
    node = await cluster.sure("GET", f"/api/v1/nodes/{cluster.worker}")
    assert node["status"]["conditions"][0]["status"] == "Unknown"
    await cluster.sure("DELETE", cluster.here("pods", "p"))
    assert (await cluster.ask("GET", cluster.here("pods", "p"))).status_code == 200
