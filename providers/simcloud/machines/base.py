"""What the fleet asks of whatever instances run on."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from typing import Protocol

from aiohttp import web

from providers.simcloud.faults import Fate, Pool
from providers.simcloud.machines.console import Console

# Answers a request of the instance's at 169.254.169.254, as the instance's cloud does.
Metadata = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(eq=False)
class Machine:
    """One instance, as far as it is the same in every cloud."""

    id: str
    hostname: str
    address: IPv4Interface  # with its subnet's prefix; the gateway is the subnet's first address
    mac: str
    metadata: Metadata
    stops_itself: bool = True  # shutting down from inside stops it; False: terminates it
    pools: list[Pool] = field(default_factory=list)  # the places it takes, given back when it ends
    console: Console = field(default_factory=Console)
    second: tuple[IPv4Interface, str] | None = None  # address and MAC of its second network interface


class Run(Protocol):
    """One boot of an instance, from its first program to its end."""

    async def wait(self) -> int:
        """The first program's exit code, negative for a signal; returns when it and all it started are gone."""
        ...

    async def plug(self, *, connected: bool) -> None:
        """Take its network cable out, or put it back in; after its end nothing."""
        ...

    async def end(self) -> None:
        """Kill everything in it and take it off the network; returns when it is gone. May be repeated."""
        ...


class Host(Protocol):
    """Where instances run."""

    network: str  # the default VPC's range
    worker_address: str  # where instances see whoever talks to them; empty: nowhere

    async def boot(self, machine: Machine, fate: Fate) -> Run:
        """Start the instance; returns when its first program runs. Raises SimcloudError."""
        ...

    async def aclose(self) -> None:
        """Let go of everything; every run has been ended before."""
        ...


class PaperHost:
    """Instances that exist in the API only."""

    worker_address = ""

    def __init__(self, network: str) -> None:
        self.network = network

    async def boot(self, machine: Machine, fate: Fate) -> Run:
        return _PaperRun()

    async def aclose(self) -> None:
        return


class _PaperRun:
    async def wait(self) -> int:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nothing ends an instance that does not run")

    async def plug(self, *, connected: bool) -> None:
        return

    async def end(self) -> None:
        return
