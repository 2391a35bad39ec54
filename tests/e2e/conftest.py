"""Real processes in private namespaces: `make test` runs everything inside them, so does

python -m adaptor.demo.enter pytest tests/e2e
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from adaptor.demo import enter
from adaptor.demo.world import World


@pytest.fixture(autouse=True, scope="session")
def private_namespaces() -> None:
    if not os.environ.get(enter.PRIVATE):
        pytest.fail("these tests start clouds and nodes: run them as `python -m adaptor.demo.enter pytest tests/e2e`")


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
    # The journal remembers a pod until the cloud says that its VM is gone; the adaptor looks every few seconds.
    deadline = asyncio.get_running_loop().time() + 30
    while world.journal_rows() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.1)
    assert world.journal_rows() == []
