"""One suite for both: the world of tests/worlds/kubernetes by default, a real cluster where KUBECONFIG says so.

    async def test_...(cluster: Cluster) -> None:
        pod = await cluster.pod(requests={"cpu": "1"})
        ...

`cluster` (see cluster.py for all that it offers) has a namespace of its own, an admin's lightkube client, clients of
service accounts with the rights they are given, played or real nodes, a way to serve a webhook, and cleans up. Mark what
only the world can do (injected faults, its clock, its kubelet's restarts) with `@pytest.mark.world`: it is skipped on a
real cluster, with that reason; ask for `played` then, which is the world itself.

    KUBECONFIG=... pytest tests/contract/kubernetes       # PEERPODS_TEST_WEBHOOK_HOST: where it can reach this machine
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.kubernetes.cluster import Cluster
from tests.contract.kubernetes.clusters import PlayedCluster, RealCluster
from tests.worlds.kubernetes.world import World

REAL = os.environ.get("KUBECONFIG", "")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "world: needs the played API server (faults, time, restarts)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if REAL:
        skip = pytest.mark.skip(reason="no real cluster can be made to do this: it runs on the world only")
        for item in items:
            if item.get_closest_marker("world"):
                item.add_marker(skip)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with RealCluster(Path(REAL), tmp_path) if REAL else PlayedCluster(tmp_path) as made:
        yield made


@pytest.fixture
def played(cluster: Cluster) -> World:
    """The world behind `cluster`; only for tests marked `world`."""
    assert isinstance(cluster, PlayedCluster), "mark this test with @pytest.mark.world"
    return cluster.world
