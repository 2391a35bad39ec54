"""What nodes that are gone have left in the cloud: judged purely, and swept in virtual time."""

from dataclasses import replace

import pytest

from adaptor import names
from adaptor.controller import claims, gates
from adaptor.controller.api import NODE, PEER_POD, POD
from adaptor.controller.claims import Claims
from adaptor.controller.leftovers import Leftovers
from adaptor.controller.mirror import Mirror
from adaptor.kube.errors import KubernetesError
from adaptor.kube.peerpod import PeerPod
from adaptor.sandbox.sweep import Standing
from providers import tags
from providers.base import Ownership, Resource, ResourceKind
from tests.worlds.leaks import Leaks
from tests.worlds.loop import VirtualLoop, virtually
from tests.worlds.objects import Objects

MARKS = {
    **tags.ownership(Ownership("cluster-a", "node-1")),
    tags.TOKEN: "t-1",
    tags.POD_NAMESPACE: "shop",
    tags.POD_NAME: "web",
}
VM = Resource(ResourceKind.INSTANCE, "i-1", tags=MARKS, created_at=0.0)
HOLDER = PeerPod("web-abc", "shop", instance_id="i-1", finalizers=(names.PEERPOD_FINALIZER,))
GONE = Claims("cluster-a", {"node-1": 300.0}, frozenset(), 300.0, (), frozenset())


@pytest.mark.parametrize(
    ("resource", "known", "standing", "reason"),
    [
        (VM, GONE, Standing.LEAKED, "node node-1 is gone, and no PeerPod names it"),
        (VM, replace(GONE, gone={"node-1": 299.0}), Standing.YOUNG, "is gone for 299 s"),
        (VM, replace(GONE, gone={}), Standing.FOREIGN, "left to node node-1"),
        (VM, replace(GONE, strange=frozenset({"node-1"})), Standing.FOREIGN, "never seen to have node node-1"),
        (VM, replace(GONE, peerpods=(HOLDER,)), Standing.OWNED, "PeerPod shop/web-abc names it"),
        (VM, replace(GONE, peerpods=(replace(HOLDER, instance_id="", token="t-1"),)), Standing.OWNED, "names it"),
        (VM, replace(GONE, peerpods=(replace(HOLDER, finalizers=()),)), Standing.LEAKED, ""),
        (VM, replace(GONE, peerpods=(replace(HOLDER, instance_id="i-2"),)), Standing.LEAKED, ""),
        (
            VM,
            replace(GONE, pods=frozenset({("node-1", "shop", "web")})),
            Standing.OWNED,
            "its pod shop/web still exists",
        ),
        (VM, replace(GONE, pods=frozenset({("node-2", "shop", "web")})), Standing.LEAKED, ""),
        (replace(VM, attached_to="i-9"), GONE, Standing.HELD, "i-9"),
        (replace(VM, created_at=9_000.0), GONE, Standing.YOUNG, ""),
        (replace(VM, tags={**MARKS, tags.CLUSTER: "cluster-b"}), GONE, Standing.FOREIGN, ""),
        (replace(VM, tags={tags.CLUSTER: "cluster-a"}), GONE, Standing.FOREIGN, "nobody can tell whose it is"),
    ],
)
def test_the_table_of_standings(resource: Resource, known: Claims, standing: Standing, reason: str) -> None:
    (verdict,) = claims.judge([resource], known, now=9_500.0, grace=900.0, first_seen={})
    assert verdict.standing is standing
    assert reason in verdict.reason


class World:
    def __init__(self) -> None:
        self.loop = VirtualLoop.running()
        self.api = Objects(self.loop)
        self.cloud = Leaks()
        self.cloud.put(VM, replace(VM, id="i-2", tags={**MARKS, tags.NODE: "node-2"}))
        for node in ("node-1", "node-2"):
            self.api.put(NODE, {"metadata": {"name": node}})
        self.memory: dict[str, str] = {}
        self.follow()

    def follow(self) -> None:
        """The next leader, who has the Lease's memory and no other."""
        pods = Mirror(self.api, POD, lambda found: gates.pod_facts(found, ("kata-remote",)), self.loop)
        self.leftovers = Leftovers(
            self.api, self.cloud, "cluster-a", pods, self.memory, self.loop, grace=900.0, node_grace=300.0
        )

    async def sweep(self) -> None:
        await self.leftovers.sweeper.sweep(delete=True)


@virtually
async def test_a_node_is_swept_once_it_has_been_gone_for_the_grace_and_nodes_that_exist_never() -> None:
    world = World()
    await world.sweep()
    world.api.drop(NODE, "node-1")
    await world.sweep()
    await world.loop.sleep(200)
    await world.sweep()
    assert world.cloud.removed == []
    await world.loop.sleep(100)
    await world.sweep()
    assert world.cloud.removed == ["i-1"]


@virtually
async def test_a_node_that_comes_back_for_one_look_starts_its_grace_anew() -> None:
    world = World()
    await world.sweep()
    world.api.drop(NODE, "node-1")
    await world.sweep()
    await world.loop.sleep(400)
    world.api.put(NODE, {"metadata": {"name": "node-1"}})
    await world.sweep()
    world.api.drop(NODE, "node-1")
    await world.sweep()
    assert world.cloud.removed == []


@pytest.mark.parametrize("verb", ["list"])
def test_an_api_server_that_cannot_be_asked_makes_nothing_leaked(verb: str) -> None:
    @virtually
    async def run() -> None:
        world = World()
        await world.sweep()
        world.api.drop(NODE, "node-1")
        await world.sweep()
        await world.loop.sleep(400)
        world.api.refuse[verb].append(KubernetesError("503"))
        await world.sweep()
        assert world.cloud.removed == []
        await world.sweep()
        assert world.cloud.removed == ["i-1"]

    run()


@virtually
async def test_a_node_that_joins_while_the_cloud_is_listed_keeps_what_it_made() -> None:
    world = World()
    await world.sweep()
    world.api.drop(NODE, "node-1")
    await world.sweep()
    await world.loop.sleep(400)

    def join() -> None:
        world.api.put(NODE, {"metadata": {"name": "node-1"}})

    world.cloud.after_list = join
    await world.sweep()
    assert world.cloud.removed == []


@virtually
async def test_a_peerpod_that_holds_it_keeps_it_for_whoever_finishes_the_peerpod() -> None:
    world = World()
    await world.sweep()
    world.api.drop(NODE, "node-1")
    metadata = {"name": "web-abc", "namespace": "shop", "finalizers": [names.PEERPOD_FINALIZER]}
    world.api.put(PEER_POD, {"metadata": metadata, "spec": {"token": "t-1"}})
    await world.sweep()
    await world.loop.sleep(400)
    await world.sweep()
    assert world.cloud.removed == []
    world.api.drop(PEER_POD, "web-abc", "shop")
    await world.sweep()
    assert world.cloud.removed == ["i-1"]


@virtually
async def test_nodes_that_this_cluster_never_had_are_another_clusters_with_the_same_mark() -> None:
    world = World()
    world.cloud.put(replace(VM, id="i-3", tags={**MARKS, tags.NODE: "node-3"}))
    for _ in range(3):
        await world.sweep()
        await world.loop.sleep(1000)
    assert world.cloud.removed == []


@virtually
async def test_a_new_leader_sweeps_the_nodes_that_the_last_one_saw_and_forgets_those_with_nothing_left() -> None:
    world = World()
    await world.sweep()
    assert world.memory == {names.SEEN_NODES: "node-1,node-2"}
    world.api.drop(NODE, "node-1")
    world.follow()
    await world.sweep()
    await world.loop.sleep(300)
    await world.sweep()
    assert world.cloud.removed == ["i-1"]
    await world.sweep()
    assert world.memory == {names.SEEN_NODES: "node-2"}
