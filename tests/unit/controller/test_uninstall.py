"""Nothing of ours holds a cluster back once `--uninstall` has ended well; and it says what is left when it has not."""

from typing import Any

import pytest

from adaptor import names
from adaptor.cli.parser import main
from adaptor.controller.api import CONFIG_MAP, DAEMON_SET, DEPLOYMENT, LEASE, PEER_POD, POD, SECRET
from adaptor.controller.machines import Machines
from adaptor.controller.process import _told
from adaptor.controller.uninstall import Left, Uninstall
from adaptor.kube.errors import KubernetesError
from providers import tags
from providers.base import Instance, InstanceState
from providers.errors import Denied
from tests.worlds.cloud import Cloud
from tests.worlds.loop import VirtualLoop, virtually
from tests.worlds.objects import Objects


class World:
    def __init__(self) -> None:
        self.loop = VirtualLoop.running()
        self.api = Objects(self.loop)
        self.cloud = Cloud(self.loop)
        self.cloud.deleting_seconds = 40.0
        for kind, name in (LEASE, names.LEASE), (SECRET, names.WEBHOOK_TLS), (CONFIG_MAP, names.OFFERINGS):
            self.api.put(kind, {"metadata": {"name": name, "namespace": "peerpods"}})

    def peerpod(self, number: int, *, others: tuple[str, ...] = (), **spec: str) -> None:
        marks = {tags.CLUSTER: "cluster-a", tags.POD_NAMESPACE: "shop"}
        self.cloud.instances[f"i-{number}"] = Instance(f"i-{number}", InstanceState.RUNNING, tags=marks)
        metadata = {"name": f"web-{number}", "namespace": "shop", "finalizers": [*others, names.PEERPOD_FINALIZER]}
        told = {"cloudProvider": "memory", "instanceID": f"i-{number}", "nodeName": "node-1"}
        self.api.put(PEER_POD, {"metadata": metadata, "spec": {**told, **spec}})

    def finalizers(self) -> list[str]:
        return [
            each
            for key, found in self.api.held.items()
            if key[0] == PEER_POD.name
            for each in found["metadata"].get("finalizers") or []
        ]

    async def uninstall(self, *stop: Any, seconds: float = 300.0) -> Left:
        machines = Machines(self.cloud, None, "cluster-a", self.loop)
        return await Uninstall(self.api, machines, "peerpods", self.loop, seconds).run(stop)


@virtually
async def test_every_vm_is_deleted_and_no_finalizer_gate_or_object_is_left() -> None:
    world = World()
    for number in range(20):
        world.peerpod(number)
    metadata = {"name": "held", "namespace": "shop"}
    world.api.put(POD, {"metadata": metadata, "spec": {"schedulingGates": [{"name": names.QUOTA}]}})
    left = await world.uninstall()
    assert (left.finished, left.abandoned, left.stuck) == (20, [], {})
    assert world.cloud.living == []
    (held,) = world.api.held.values()
    assert held["spec"]["schedulingGates"] == []


@virtually
async def test_others_finalizers_stay() -> None:
    world = World()
    world.peerpod(1, others=("a/b",))
    await world.uninstall()
    assert world.finalizers() == ["a/b"]


@virtually
async def test_a_peerpod_of_another_cloud_is_let_go_and_its_vm_named() -> None:
    world = World()
    world.peerpod(1, cloudProvider="ibmcloud", instanceID="crn:7")
    world.peerpod(2)
    world.cloud.instances["i-2"] = Instance("i-2", InstanceState.RUNNING, tags={tags.CLUSTER: "cluster-b"})
    left = await world.uninstall()
    assert world.finalizers() == []
    assert world.cloud.living == ["i-1", "i-2"]
    said = _told(left)
    assert "left in the cloud, delete it yourself: VM crn:7 of PeerPod shop/web-1: it is at ibmcloud" in said
    assert "VM i-2 of PeerPod shop/web-2: i-2 is another cluster's (cluster-b)" in said


@virtually
async def test_a_cloud_that_refuses_keeps_the_finalizers_and_what_the_controller_made_and_says_so() -> None:
    world = World()
    world.peerpod(1)
    world.cloud.refuse["get"].extend([Denied("credentials are wrong")] * 1000)
    left = await world.uninstall(seconds=60.0)
    assert left.stuck == {"shop/web-1": "credentials are wrong"}
    assert world.finalizers() == [names.PEERPOD_FINALIZER]
    assert world.api.at(SECRET, names.WEBHOOK_TLS, "peerpods") is not None
    assert "not released: PeerPod shop/web-1: credentials are wrong" in _told(left)
    world.cloud.refuse["get"].clear()
    again = await world.uninstall()
    assert (again.finished, again.stuck) == (1, {})


@virtually
async def test_what_is_to_be_stopped_is_gone_before_the_first_vm_is_deleted() -> None:
    world = World()
    world.peerpod(1)
    for kind, name in (DAEMON_SET, "peerpods-adaptor"), (DEPLOYMENT, "peerpods-controller"):
        metadata = {"name": name, "namespace": "peerpods", "finalizers": ["foregroundDeletion"]}
        world.api.put(kind, {"metadata": metadata})
    left = await world.uninstall((DAEMON_SET, "peerpods-adaptor"), (DEPLOYMENT, "peerpods-controller"), seconds=30.0)
    assert left.running == ["DaemonSet peerpods-adaptor", "Deployment peerpods-controller"]
    deletes = [key for _, verb, key in world.api.writes if verb == "delete"]
    assert [key[0] for key in deletes[:2]] == ["DaemonSet", "Deployment"]


@pytest.mark.parametrize("verb", ["list", "get", "patch", "delete"])
def test_a_lost_reply_costs_a_round_and_nothing_else(verb: str) -> None:
    @virtually
    async def run() -> None:
        world = World()
        world.peerpod(1)
        world.api.lose[verb] = 1
        if verb == "get":
            world.api.refuse["get"].append(KubernetesError("500"))
        left = await world.uninstall()
        assert left.stuck == {}
        assert world.finalizers() == []
        assert world.cloud.living == []

    run()


@pytest.mark.parametrize("stop", ["pod/web", "daemonset", "daemonset/", "DaemonSet/x"])
def test_what_cannot_be_stopped_is_refused_before_anything_is_touched(
    stop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["controller", "--uninstall", "--stop", stop])
    assert ended.value.code == 2
    assert f"'{stop}' is not daemonset/NAME or deployment/NAME" in capsys.readouterr().err
