"""An API server for each test, and a node's side of it that does not wait long before it tries again."""

import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from lightkube import AsyncClient

from adaptor.kube import client as api
from adaptor.kube import events, node, peerpods, pods, strangers
from adaptor.kube.node import NodeCluster
from adaptor.kube.place import Place
from tests.worlds.cluster import CRD, Hands, Sky, node_of
from tests.worlds.kubernetes.world import World


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peerpods, "_PAUSE", 0.01)
    monkeypatch.setattr(peerpods, "_PAUSE_LIMIT", 0.1)
    monkeypatch.setattr(peerpods, "_LONG_PAUSE", 0.1)
    monkeypatch.setattr(pods, "_PAUSES", (0.01, 0.05, 0.1, 0.2, 0.5))
    monkeypatch.setattr(events, "_PAUSE", 0.02)
    monkeypatch.setattr(strangers, "EVERY", 0.05)
    monkeypatch.setattr(node, "ANNOUNCE", 0.5)


@pytest.fixture
async def world(quick: None) -> AsyncIterator[World]:
    async with World() as made:
        await made.install(CRD)
        await made.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        yield made


@pytest.fixture
def connect(world: World, tmp_path: Path) -> Callable[[], AsyncClient]:
    """A new client of the world's."""
    number = itertools.count()

    def connected(token: str = "") -> AsyncClient:
        path = world.kubeconfig(tmp_path / f"kubeconfig-{next(number)}", token or world.admin())
        return api.connect(Place(kubeconfig=str(path)))

    return connected


@pytest.fixture
async def hands(connect: Callable[[], AsyncClient]) -> AsyncIterator[Hands]:
    client = connect()
    yield Hands(client, "shop")
    await client.aclose()


@pytest.fixture
def sky() -> Sky:
    return Sky()


@pytest.fixture
async def cluster(connect: Callable[[], AsyncClient], sky: Sky) -> AsyncIterator[NodeCluster]:
    async with node_of(connect(), sky, tag_labels=("team",)) as made:
        yield made
