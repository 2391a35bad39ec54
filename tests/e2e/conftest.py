"""Real processes in private namespaces: `make test` runs everything inside them, so does

python -m adaptor.demo.enter pytest tests/e2e
"""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from adaptor.demo import enter, netns
from adaptor.demo.world import World

PATIENCE = 40.0  # seconds; only a failing test waits that long


@pytest.fixture(autouse=True, scope="session")
def private_namespaces() -> None:
    if not os.environ.get(enter.PRIVATE):
        pytest.fail("these tests start clouds and nodes: run them as `python -m adaptor.demo.enter pytest tests/e2e`")


@pytest.fixture(autouse=True)
def worker_netns(private_namespaces: None) -> Iterator[None]:
    """Each test's worker has a network of its own: bridges, tunnels and nftables have names that are there once."""
    before = netns.leave()
    try:
        netns.loopback_up()
        yield
    finally:
        netns.come_back(before)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short: unix sockets live in it."""
    path = Path(tempfile.mkdtemp(prefix="pp-", dir="/run"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def world(directory: Path) -> AsyncIterator[World]:
    """A node on a simulated EC2, up and serving; afterwards nothing of it may be left."""
    async with World(directory, settings={"guest": {"start_timeout": "15s", "adopt_grace": "3s"}}) as world:
        await world.start_cloud()
        await world.start_adaptor()
        yield world
        await clean(world)


async def clean(world: World) -> None:
    """No instance, agent socket or journal row is left. Fails with what is."""
    await world.no_instance_lives()
    assert os.listdir(world.directory / "pods") == []
    await forgotten(world)


async def forgotten(world: World) -> None:
    """Until the journal is empty: a sandbox stays in it until the cloud has been seen to call its VM gone."""
    deadline = time.monotonic() + PATIENCE
    while rows := world.journal_rows():
        assert time.monotonic() < deadline, rows
        await asyncio.sleep(0.1)
