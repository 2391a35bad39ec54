"""Starts pods' VMs on a simulated cloud, many at a time, and gathers from everybody's logs when what happened.

The logs cut times to the millisecond: what is taken from them may look earlier by that much.
"""

import asyncio
import json
import shlex
import socket
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from adaptor import names
from adaptor.demo.shim import Shim
from adaptor.demo.world import World
from adaptor.relay.client import Identity, OwnGuest, RelayClient
from providers import tags
from tests.bench import _incumbent
from tests.bench._guest import AGENT, LISTENS

_NETWORK: Final = "172.31.0.0/16"
_WORKER: Final = "172.31.0.4"  # where simcloud's VMs see their worker in that network
_POLL: Final = 0.01


@dataclass(frozen=True, slots=True)
class Scenario:
    """How VMs come up: after `boot_delay` the network is there and refuses connections; the guest begins up to `pause`
    seconds later. While `silent` packets vanish instead, until the guest listens."""

    name: str
    boot_delay: str
    pause: float = 0.0
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """One pod's. Seconds after its guest listened; `bind` and `agent`, its share of that, are how long they took."""

    noticed: float
    greeted: float
    answered: float
    incumbent: float
    bind: float
    agent: float


@dataclass(frozen=True, slots=True)
class _Pod:
    """What was seen from outside; `answered` and `incumbent` in seconds since the epoch."""

    sandbox: str
    answered: float
    handshake: float  # seconds
    incumbent: float


async def play(scenario: Scenario, vms: int, directory: Path) -> tuple[str, list[Start]]:
    """Start so many at once and stop each when everybody has found it.

    Returns what comes of a connect to a VM that has just been created, and the starts.
    """
    async with _node(scenario, vms, directory) as world:
        incumbents = _Incumbents()
        following = asyncio.create_task(incumbents.follow(world))
        pods = await asyncio.gather(*(_live(world, f"bench/p{n}", incumbents) for n in range(vms)))
        following.cancel()
        return await incumbents.before(), _starts(world, pods, await world.instances())


@asynccontextmanager
async def _node(scenario: Scenario, vms: int, directory: Path) -> AsyncIterator[World]:
    settings = {"limits": {"creates_at_once": vms}, "guest": {"start_timeout": "120s"}}
    guest = [sys.executable, "-m", "tests.bench._guest", str(scenario.pause), _WORKER if scenario.silent else ""]
    async with World(directory, boot_delay=scenario.boot_delay, settings=settings) as world:
        await world.start_cloud("--rate-limits", "off", "--network", _NETWORK, "--program", shlex.join(guest))
        await world.spawn("relay", "--socket", world.relay_socket)  # ours, for its log
        while not _listens(world.relay_socket):
            await asyncio.sleep(_POLL)
        await world.start_adaptor()
        yield world
        await world.stop("adaptor")  # before the relay, or it would start another
        await world.stop("relay")


async def _live(world: World, pod: str, incumbents: "_Incumbents") -> _Pod:
    with world.pod_netns() as netns:
        return await _start(world, netns, pod, incumbents)


async def _start(world: World, netns: str, pod: str, incumbents: "_Incumbents") -> _Pod:
    async with Shim(world.hypervisor_socket, pod=pod, netns=netns) as shim:
        await shim.create_vm()
        await shim.start_vm()
        answered = time.time()
        # A session that has been dialled answers what it answered then, whatever is asked for.
        anything = Identity(b"", b""), OwnGuest(b"")
        dialled = await RelayClient(world.relay_socket).dial(shim.sandbox_id, [], names.GUEST_PORT, 1.0, *anything)
        found = await incumbents.connected[shim.sandbox_id]
        await shim.stop_vm()
        return _Pod(shim.sandbox_id, answered, dialled.handshake_seconds, found)


class _Incumbents:
    """One dialler for each VM, from the moment that our own dialling begins. `connected`: when, by sandbox."""

    def __init__(self) -> None:
        self.connected: dict[str, asyncio.Future[float]] = defaultdict(asyncio.get_running_loop().create_future)
        self._probe: asyncio.Task[str] | None = None
        self._dialling: set[asyncio.Task[None]] = set()

    async def follow(self, world: World) -> None:
        """Dial what the adaptor's log says is being dialled, for ever."""
        async for line in world.spans():
            if line["message"] == "guest.reach started":
                address = line["address"]
                self._probe = self._probe or asyncio.create_task(_incumbent.one_connect(address, names.GUEST_PORT))
                self._dialling.add(asyncio.create_task(self._dial(line["sandbox"], address)))

    async def before(self) -> str:
        """What came of a connect to the first VM when it had just been created."""
        assert self._probe is not None, "no VM was dialled"
        return await self._probe

    async def _dial(self, sandbox: str, address: str) -> None:
        self.connected[sandbox].set_result(await _incumbent.dial(address, names.GUEST_PORT))


def _starts(world: World, pods: list[_Pod], instances: list[dict[str, Any]]) -> list[Start]:
    greeted = {line["sandbox"]: _time(line) for line in _log(world, "relay") if line.get("state") == "DIALLED"}
    bind = {
        line["sandbox"]: line["seconds"] for line in _log(world, "adaptor") if line["message"] == "guest.bind complete"
    }
    consoles = {instance["tags"][tags.SANDBOX]: instance["console"] for instance in instances}
    starts = []
    for pod in pods:
        console = consoles[pod.sandbox].splitlines()
        listens, agent = (_stopwatch(console, what) for what in (LISTENS, AGENT))
        starts.append(
            Start(
                noticed=greeted[pod.sandbox] - pod.handshake - listens,
                greeted=greeted[pod.sandbox] - listens,
                answered=pod.answered - listens,
                incumbent=pod.incumbent - listens,
                bind=bind[pod.sandbox],
                agent=agent,
            )
        )
    return starts


def _stopwatch(console: list[str], what: str) -> float:
    return next(float(line.split()[1]) for line in console if line.startswith(what))


def _log(world: World, name: str) -> Iterator[dict[str, Any]]:
    text = (world.directory / f"{name}.log").read_text()
    return (json.loads(line) for line in text.splitlines() if line.startswith("{"))


def _time(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0
