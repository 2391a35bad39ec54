"""PeerPods and events as a node writes them, with no more rights than it says it needs, on both kinds of cluster."""

import dataclasses
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest
from lightkube import AsyncClient
from lightkube.resources.core_v1 import Pod
from lightkube.types import CascadeType

from adaptor import names
from adaptor.config import Kubernetes
from adaptor.kube import client as api
from adaptor.kube import rights
from adaptor.kube.node import NodeCluster
from adaptor.kube.place import Place
from adaptor.sandbox.model import Created, SandboxSpec
from providers.base import Grade
from tests.contract.kubernetes.cluster import Cluster
from tests.worlds.cluster import END, KEPT, START, Hands, Sandbox, Sky, again, node_of

ACCOUNT = "peerpods-adaptor"


@pytest.fixture
async def account(cluster: Cluster) -> str:
    """A service account with the node's rights and no others."""
    verbs: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for right in rights.needed(Kubernetes()):
        verbs[right.group, right.resource].add(right.verb)
    rules = [
        {"apiGroups": [group], "resources": [resource], "verbs": sorted(allowed)}
        for (group, resource), allowed in verbs.items()
    ]
    await cluster.grant(ACCOUNT, rules, everywhere=True)
    return ACCOUNT


async def connected(cluster: Cluster, account: str) -> AsyncClient:
    """As the adaptor connects."""
    return api.connect(Place(kubeconfig=str(await cluster.kubeconfig(account))))


@pytest.fixture
async def node(cluster: Cluster, account: str) -> AsyncIterator[NodeCluster]:
    async with node_of(await connected(cluster, account), node=cluster.worker) as made:
        yield made


@pytest.fixture
def hands(cluster: Cluster) -> Hands:
    return Hands(cluster.admin, cluster.namespace)


async def bound_pod(cluster: Cluster, name: str = "web") -> Pod:
    return await cluster.pod(name, nodeName=cluster.worker)


def spec(cluster: Cluster, pod: Pod, *, uid: bool = True) -> SandboxSpec:
    assert pod.metadata is not None
    return SandboxSpec(
        "c0ffee".ljust(64, "0"), "web", cluster.namespace, "/x", pod_uid=(pod.metadata.uid or "") if uid else ""
    )


async def phase(hands: Hands, name: str, wanted: str) -> Any:
    found = await hands.peerpod(name)
    return found if found is not None and found.phase == wanted else None


async def test_a_node_with_the_rights_it_asks_for_needs_no_others(
    cluster: Cluster, account: str, hands: Hands, node: NodeCluster
) -> None:
    client = await connected(cluster, account)
    found = await rights.findings(client, Kubernetes())
    assert [each.grade for each in found] == [Grade.OK], found
    await client.aclose()
    pod = await bound_pod(cluster)
    web = await Sandbox(node, spec(cluster, pod, uid=False)).starts()
    running = await cluster.until(lambda: phase(hands, web.name, "running"))
    assert pod.metadata is not None
    await cluster.until(lambda: owned(hands, web.name, pod.metadata.uid or ""))  # type: ignore[union-attr]
    assert running.finalizers == (names.PEERPOD_FINALIZER,)
    assert set(running.times) == {"created", *(event.kind for event in START)}
    events = await cluster.until(lambda: told(hands, 3))
    assert [each.reason for each in events] == ["VMLaunched", "VMReached", "VMReady"]
    assert {each.involvedObject.uid for each in events} == {pod.metadata.uid}
    web.ends()
    await cluster.until(lambda: nothing(hands))


async def owned(hands: Hands, name: str, uid: str) -> bool:
    found = await hands.peerpod(name)
    return found is not None and found.owners == (uid,)


async def told(hands: Hands, count: int) -> Any:
    found = await hands.events()
    return found if len(found) >= count else None


async def nothing(hands: Hands) -> bool:
    return not await hands.peerpods()


@pytest.mark.parametrize("cascade", list(CascadeType))
async def test_a_deleted_pods_peerpod_stays_until_its_vm_is_gone(
    cluster: Cluster, hands: Hands, node: NodeCluster, cascade: CascadeType
) -> None:
    pod = await bound_pod(cluster)
    web = await Sandbox(node, spec(cluster, pod)).starts()
    await cluster.until(lambda: phase(hands, web.name, "running"))
    assert pod.metadata is not None
    await cluster.until(lambda: owned(hands, web.name, pod.metadata.uid or ""))  # type: ignore[union-attr]
    await cluster.admin.delete(Pod, "web", namespace=cluster.namespace, cascade=cascade, grace_period=0)
    await cluster.gone(cluster.here("pods", "web"))

    async def seen() -> bool:
        found = await hands.peerpod(web.name)
        assert found is not None, "the VM lives, and nothing names it"
        return not found.owners if cascade is CascadeType.ORPHAN else bool(found.deleting)

    await cluster.until(seen)
    web.happens(*END)
    stopping = await cluster.until(lambda: phase(hands, web.name, "stopping"))
    assert stopping.finalizers == (names.PEERPOD_FINALIZER,)
    web.forgotten()
    await cluster.until(lambda: nothing(hands))


async def test_the_pods_next_sandbox_takes_the_vm_over_and_the_first_peerpod_goes(
    cluster: Cluster, hands: Hands, node: NodeCluster
) -> None:
    pod = await bound_pod(cluster)
    first = Sandbox(node, spec(cluster, pod)).happens(Created(spec(cluster, pod)), *START[:3], KEPT)
    await cluster.until(lambda: phase(hands, first.name, "kept"))
    second = Sandbox(node, again(first.spec))
    second.happens(Created(second.spec), START[0])
    first.given_to(second)
    first.forgotten()
    second.happens(*START[3:])
    await cluster.until(lambda: phase(hands, second.name, "running"))
    await cluster.gone(cluster.here("peerpods", first.name, api="/apis/confidentialcontainers.org/v1alpha1"))
    assert (await hands.peerpods())[second.name].instance_id == "i-1"


async def test_a_restarted_node_makes_what_is_missing_and_lets_go_of_what_is_over(
    cluster: Cluster, account: str, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptor.kube.strangers.UNSEEN", 0.1)
    monkeypatch.setattr("adaptor.kube.strangers.EVERY", 0.1)
    pod = await bound_pod(cluster)
    lives = spec(cluster, pod)
    over = dataclasses.replace(lives, id="dead".ljust(64, "0"))
    async with node_of(await connected(cluster, account), node=cluster.worker) as node:
        web, old = Sandbox(node, lives), Sandbox(node, over)
        for each in (web, old):
            await each.starts()
            await cluster.until(lambda name=each.name: phase(hands, name, "running"))  # type: ignore[misc]
    before = (await hands.peerpods())[web.name]
    async with node_of(await connected(cluster, account), Sky(), node=cluster.worker) as node:
        node.know({lives.id: web.now})
        await cluster.gone(cluster.here("peerpods", old.name, api="/apis/confidentialcontainers.org/v1alpha1"))
        assert (await hands.peerpods())[web.name].times == before.times


async def test_upstreams_peerpod_of_the_same_pod_is_left_alone(
    cluster: Cluster, hands: Hands, node: NodeCluster
) -> None:
    pod = await bound_pod(cluster)
    await cluster.peerpod("web-resource-x7k2p", {"cloudProvider": "aws", "instanceID": "i-theirs"})
    web = await Sandbox(node, spec(cluster, pod)).starts()
    await cluster.until(lambda: phase(hands, web.name, "running"))
    web.ends()

    async def only_theirs() -> bool:
        return list(await hands.peerpods()) == ["web-resource-x7k2p"]

    await cluster.until(only_theirs)
