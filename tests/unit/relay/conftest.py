"""Loops, papers, guests and relays for the tests of this room."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop

from adaptor.errors import Unavailable
from adaptor.relay.pump import Side
from adaptor.relay.splice import Splice
from tests.unit.relay.nodes import Node
from tests.unit.relay.pods import Pod, RunningRelay
from tests.unit.relay.tunnel_ends import Tunnel, joined
from tests.worlds.tunnel import Guest, Pki, server_context

# The relay and the guest run on uvloop; what must also work on asyncio's own loop is tested on both.
ON_BOTH_LOOPS = {"test_pump", "test_link"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "uvloop": uvloop.new_event_loop,
        "asyncio": asyncio.SelectorEventLoop,
    }
    return factories if item.path.stem in ON_BOTH_LOOPS else {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def pki() -> Pki:
    return Pki()


@pytest.fixture
def guest(pki: Pki) -> Iterator[Guest]:
    """A VM with our guest, launched by this node."""
    with Guest(server_context(pki.guest, pki.ca.pem), pki.guest) as started:
        yield started


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRelay]:
    """A relay process for the tests of one module."""
    with RunningRelay(tmp_path_factory.mktemp("relay")) as running:
        yield running


@pytest.fixture
async def pod(relay: RunningRelay, guest: Guest, pki: Pki) -> AsyncIterator[Pod]:
    """A sandbox of its own in the relay, not opened, and its VM."""
    made = Pod(relay, guest, pki)
    yield made
    await made.relay.close(made.sandbox_id)
    made.close()


@pytest.fixture
async def tunnel(pki: Pki) -> AsyncIterator[Callable[..., Tunnel]]:
    """Makes a pump, not started, between a shim's socket and a VM's link."""
    tunnels: list[Tunnel] = []

    async def make(splice: Splice | None = None, requests_from: Side = Side.UNIX) -> Tunnel:
        tunnels.append(await joined(pki, splice, requests_from))
        return tunnels[-1]

    yield make  # type: ignore[misc]
    for each in tunnels:
        each.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    started = Node(tmp_path)
    yield started
    started.close()


@pytest.fixture
async def running(node: Node, guest: Guest, pki: Pki) -> AsyncIterator[Pod]:
    """A pod of the node's relay, not opened."""
    made = Pod(node.relay, guest, pki)
    yield made
    with suppress(Unavailable):
        await made.relay.close(made.sandbox_id)
    made.close()
