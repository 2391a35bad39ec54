"""Fixtures of the guest's links: its node, a stranger, a guest, and dialling it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from adaptor.pki import NodePki
from tests.unit.guest.peers import Dial, GuestWorld, Worker, client, guest

# The guest runs on uvloop; what must also work on asyncio's own loop is tested on both.
ON_BOTH_LOOPS = {"test_cuts", "test_resume"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "uvloop": uvloop.new_event_loop,
        "asyncio": asyncio.SelectorEventLoop,
    }
    return factories if item.path.stem in ON_BOTH_LOOPS else {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> NodePki:
    return NodePki.load(tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> NodePki:
    """Another node, whose CA this VM was not launched with."""
    return NodePki.load(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
async def world(tmp_path: Path, pki: NodePki) -> AsyncIterator[GuestWorld]:
    async with guest(tmp_path, pki.ca_pem) as started:
        yield started


@pytest.fixture
async def dial(pki: NodePki) -> AsyncIterator[Dial]:
    """Dial as the node's worker, or with another context; links are closed when the test ends."""
    workers: list[Worker] = []

    async def dialled(world: GuestWorld, context: ssl.SSLContext | None = None) -> Worker:
        worker = await Worker.dial(world.port, context or client(pki.worker))
        workers.append(worker)
        return worker

    yield dialled
    for worker in workers:
        worker.close()
