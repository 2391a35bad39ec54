"""Many sandboxes at an API server that fails often: whatever order things go wrong in, the end is right."""

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest
from lightkube import AsyncClient
from lightkube.types import PatchType

from adaptor.kube import peerpods
from adaptor.kube.client import PeerPod as Resource
from adaptor.kube.client import told
from adaptor.kube.errors import KubernetesError
from adaptor.kube.node import NodeCluster
from adaptor.sandbox.model import Created
from tests.worlds.cluster import END, START, Hands, Sandbox, node_of, until
from tests.worlds.kubernetes.faults import Fault, Faults
from tests.worlds.kubernetes.world import World


class Storm(Faults):
    """Two of five requests meets a fault of some kind."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.over = False

    def take(self, verb: str, resource: str, name: str) -> Fault | None:
        if self.over or self.random.random() > 0.4 or (resource == "pods" and verb == "create"):
            return None
        self.met.append(verb)
        kinds = (Fault(), Fault(lost_reply=True), *(Fault(status=code) for code in (409, 429, 500, 503)))
        return self.random.choice(kinds)


async def meddle(hands: Hands, world: World, rng: random.Random, objects: Sequence[str]) -> None:
    """Somebody deletes and changes PeerPods, and cuts watches."""
    while True:
        await asyncio.sleep(0.02)
        name = rng.choice(objects)
        try:
            with told("meddle"):
                if rng.random() < 0.5:
                    patch = {"spec": {"token": "x"}, "metadata": {"finalizers": []}}
                    await hands.client.patch(Resource, name, patch, namespace="shop", patch_type=PatchType.MERGE)
                else:
                    await hands.client.delete(Resource, name, namespace="shop")
        except KubernetesError:
            world.server.cut_watches()


async def rests(world: World) -> bool:
    """Whether nobody asks for PeerPods for a while."""
    world.server.requests.clear()
    await asyncio.sleep(0.3)
    return not [each for each in world.server.requests if "peerpods" in each and each.split()[0] != "watch"]


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_leaves_exactly_what_there_is(
    hands: Hands, connect: Callable[[], AsyncClient], world: World, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptor.kube.strangers.UNSEEN", 0.3)
    rng = random.Random(f"storm {seed}")
    pods = [hands.spec(f"web-{number}") for number in range(10)]
    for pod in pods:
        await hands.pod(pod.pod_name)
    storm = world.server._faults = Storm(seed)
    async with node_of(connect()) as cluster:
        sandboxes = [Sandbox(cluster, pod) for pod in pods]

        async def live(sandbox: Sandbox, *, ends: bool) -> None:
            for event in (Created(sandbox.spec), *START, *(END if ends else ())):
                sandbox.happens(event)
                await asyncio.sleep(rng.random() * 0.15)
            if ends:
                sandbox.forgotten()

        meddling = asyncio.create_task(meddle(hands, world, rng, [each.name for each in sandboxes]))
        await asyncio.gather(*(live(each, ends=number % 2 == 0) for number, each in enumerate(sandboxes)))
        meddling.cancel()
        storm.over = True
        kept = {each.name for each in sandboxes[1::2]}

        async def right() -> bool:
            found = await hands.peerpods()
            return set(found) == kept and all(
                (each.phase, each.instance_id, each.token, len(each.finalizers)) == ("running", "i-1", "token-1", 1)
                for each in found.values()
                if not each.deleting or each.finalizers
            )

        await until(right, 60)  # who met many faults waits half a minute before it tries again
        assert len(storm.met) > 10
        await until(lambda: len(cluster.peerpods) == len(kept))
        await until(lambda: rests(world), 60)


async def test_endings_that_cannot_be_written_are_bounded(
    hands: Hands, cluster: NodeCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peerpods, "_ENDING_LIMIT", 5)
    await world.server.stop()
    for number in range(20):
        web = Sandbox(cluster, hands.spec(f"web-{number}")).happens(Created(hands.spec(f"web-{number}")), *START)
        await asyncio.sleep(0)
        web.ends()
    assert len(cluster.peerpods) <= 6
    await world.server.start()
