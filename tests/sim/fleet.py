"""Many nodes of one account in virtual time: whole adaptors, each with its journal, at a cloud with EC2's API limits.

The limits are those that simcloud enforces, the throttle's table and the batching those of the aws provider; what is
simulated is the account behind them. `calls` counts every request that reaches it, the refused ones too.
"""

import asyncio
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import quantiles
from typing import Any, Final, Self

from adaptor.catalog.chooser import Chooser
from adaptor.pki import NodePki
from adaptor.sandbox.fair import FairGate
from adaptor.sandbox.journal import Journal
from adaptor.sandbox.model import SandboxSpec
from adaptor.sandbox.registry import Registry
from adaptor.sandbox.rooms import GuestSettings, Rooms
from adaptor.sandbox.watch import InstanceWatch
from providers.aws import limits
from providers.base import Instance, LaunchSpec, Offering, Ownership, SupportsBatchCreate
from providers.batch import MOST, Seats, Together
from providers.errors import ProviderError, Throttled
from providers.simcloud.ec2.limits import Limits
from providers.throttle import Rank, Throttle
from tests.worlds.cloud import Cloud
from tests.worlds.loop import VirtualLoop
from tests.worlds.networks import Networks
from tests.worlds.relay import Relay

# Seconds that EC2 takes to answer, and a guest from launch to listening: performance.md's.
_ANSWER: Final = 0.2
_LAUNCH_ANSWER: Final = 1.5
BOOT: Final = 25.0
_MEMORY: Final = Path("/dev/shm")


class Account(Cloud):
    """EC2's API limits in front of the memory cloud. `also_throttled`: the part of calls refused for no reason."""

    def __init__(self, clock: VirtualLoop, *, limited: bool = True, also_throttled: float = 0.0, seed: int = 1) -> None:
        super().__init__(clock)
        self.call_seconds = 0.0
        self.requests: Counter[str] = Counter()
        self.throttled: Counter[str] = Counter()
        self.also_throttled = also_throttled
        self._limits = Limits(1.0 if limited else None)
        self._random = random.Random(f"account {seed}")

    async def request(self, action: str, form: Mapping[str, Any]) -> None:
        """One request arrives. Raises Throttled."""
        await asyncio.sleep(_ANSWER / 2)
        self.requests[action] += 1
        refused = not self._limits.admits(action, form, asyncio.get_running_loop().time())
        if refused or self._random.random() < self.also_throttled:
            self.throttled[action] += 1
            await asyncio.sleep(_ANSWER / 2)
            raise Throttled("Request limit exceeded.", code="RequestLimitExceeded")
        await asyncio.sleep((_LAUNCH_ANSWER if action == "RunInstances" else _ANSWER) - _ANSWER / 2)


class Single:
    """One node's provider: paced, each VM a call of its own."""

    name = "aws"
    user_data_limit = 16 * 1024

    def __init__(self, account: Account, seed: str) -> None:
        self.account = account
        self.throttle = Throttle(limits.rate, random=random.Random(f"node {seed}"))
        self.looks = Together(self.throttle, Rank.READ, self._look, 200, limits.DESCRIBE)
        self.ends = Together(self.throttle, Rank.DELETE, self._end, 100, limits.TERMINATE, limits.TERMINATE_MACHINES)

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        async with self.throttle.turn({limits.RUN: 1.0, limits.RUN_MACHINES: 1.0}, Rank.CREATE):
            return (await self.launch(spec, token, 1))[0]

    async def launch(self, spec: LaunchSpec, token: str, count: int) -> Mapping[int, Instance]:
        await self.account.request("RunInstances", {"MaxCount": str(count)})
        return await self.account.launch(spec, token, count)

    async def label(self, instance: Instance) -> None:
        await self._paced("CreateTags", lambda: self.account.label(instance))

    async def get(self, ids: Collection[str]) -> Mapping[str, Instance]:
        return await self.looks.ask(ids)

    async def list(self) -> Sequence[Instance]:
        found: Sequence[Instance] = await self._paced("DescribeInstances", self.account.list)
        return found

    async def delete(self, instance_id: str) -> None:
        await self.ends.ask([instance_id])

    async def offerings(self) -> Sequence[Offering]:
        return self.account.offered

    async def aclose(self) -> None:
        pass

    async def _look(self, ids: Sequence[str]) -> Mapping[str, Instance]:
        await self.account.request("DescribeInstances", {"Filter.1": "instance-id"})
        return await self.account.get(ids)

    async def _end(self, ids: Sequence[str]) -> Mapping[str, ProviderError | None]:
        await self.account.request("TerminateInstances", {f"InstanceId.{n}": id for n, id in enumerate(ids)})
        for id in ids:
            await self.account.delete(id)
        return {}

    async def _paced(self, action: str, deed: Callable[[], Awaitable[Any]]) -> Any:
        async with self.throttle.turn(action, limits.rank(action)):
            await self.account.request(action, {"Filter.1": "tag"})
            return await deed()


class Batching(Single):
    """One node's provider, as the aws one batches."""

    def __init__(self, account: Account, seed: str) -> None:
        super().__init__(account, seed)
        self.seats = Seats(self.throttle, self, limits.RUN, limits.RUN_MACHINES)

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        return await self.seats.create(spec, token)

    async def seat(self, spec: LaunchSpec, token: str) -> str:
        return await self.seats.seat(spec, token)

    def leave(self, token: str) -> None:
        self.seats.leave(token)


@dataclass
class Fleet:
    """So many nodes. `admitted`, `ready`: seconds from the beginning, by sandbox; `failed`: their StartVM's error."""

    account: Account
    nodes: int
    kind: type[Single] = Batching
    start_timeout: float = 300.0
    admitted: dict[str, float] = field(default_factory=dict)
    ready: dict[str, float] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)
    registries: list[Registry] = field(default_factory=list)
    relay: Relay = field(init=False)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._began = loop.time()
        self._directory = Path(tempfile.mkdtemp(prefix="fleet-", dir=_MEMORY if _MEMORY.is_dir() else None))
        self._closing = AsyncExitStack()
        self.relay = Relay(self.account, loop)
        self.relay.boot_seconds = BOOT
        for number in range(self.nodes):
            await self._node(loop, number)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._closing.aclose()
        shutil.rmtree(self._directory)

    async def start(self, pods: Sequence[SandboxSpec], spread: float = 0.0) -> None:
        """All of them, one node after the other has the next; each begins within `spread` seconds."""
        rng = random.Random(7)
        await asyncio.gather(
            *(self._start(self.registries[n % self.nodes], pod, rng.uniform(0, spread)) for n, pod in enumerate(pods))
        )

    async def stop(self) -> None:
        """All that run, until nothing is left of them."""
        await asyncio.gather(
            *(registry.stop(id, "StopPodSandbox") for registry in self.registries for id in registry.sandboxes)
        )
        while any(registry.sandboxes for registry in self.registries):
            await asyncio.sleep(1)

    def per_pod(self, *actions: str) -> float:
        """Requests, of these actions or of all, for each pod that was to start."""
        counted = self.account.requests
        return sum(counted[each] for each in actions or counted) / (len(self.ready) + len(self.failed))

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    async def _start(self, registry: Registry, pod: SandboxSpec, after: float) -> None:
        await asyncio.sleep(after)
        await registry.create(pod)
        try:
            await registry.start(pod.id)
        except Exception as error:
            self.failed[pod.id] = error
        else:
            self.ready[pod.id] = self.now

    async def _node(self, loop: VirtualLoop, number: int) -> None:
        provider = self.kind(self.account, str(number))
        journal = await Journal.open(self._directory / f"node-{number}.db", loop)
        self._closing.push_async_callback(journal.aclose)
        watch = InstanceWatch(provider, loop)
        self._closing.push_async_callback(watch.aclose)
        per_call = MOST if isinstance(provider, SupportsBatchCreate) else 1
        rooms = Rooms(
            owner=Ownership("cluster", f"node-{number}"),
            provider=provider,
            relay=_Noting(self, self.relay),
            journal=journal,
            pki=_pki(),
            networks=Networks(),
            watch=watch,
            clock=loop,
            guest=GuestSettings(flavor="own", port=15150, start_timeout=self.start_timeout),
            pods_dir="/run/peerpod/pods",
            creates=FairGate(16 * per_call),
            chooser=Chooser(),
        )
        registry = Registry(rooms)
        self._closing.push_async_callback(registry.aclose)
        self.registries.append(registry)


class _Noting:
    """The relay, which is asked to dial as soon as a create was answered."""

    def __init__(self, fleet: Fleet, relay: Relay) -> None:
        self._fleet, self._relay = fleet, relay

    def __getattr__(self, name: str) -> Any:
        return getattr(self._relay, name)

    async def dial(self, sandbox_id: str, *args: Any) -> Any:
        self._fleet.admitted.setdefault(sandbox_id, self._fleet.now)
        return await self._relay.dial(sandbox_id, *args)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run of many starts came to. Seconds; requests per pod."""

    by_action: dict[str, int]
    median: float
    last: float
    ready: float
    creates: float  # RunInstances, refused ones too
    refused: int  # RunInstances
    until_admitted: float  # all requests
    in_all: float  # all requests, from the start to the end of every pod


async def thousand(
    kind: type[Single], *, pods: int = 1000, nodes: int = 50, spread: float = 0.0, start_timeout: float = 300.0
) -> Figures:
    """So many pods that start together on so many nodes, and are stopped a minute later."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    async with Fleet(Account(loop), nodes, kind, start_timeout) as fleet:
        starting = asyncio.create_task(fleet.start([pod(number) for number in range(pods)], spread))
        while len(fleet.admitted) + len(fleet.failed) < pods:
            await asyncio.sleep(0.5)
        until_admitted = fleet.account.requests.total() / pods
        await starting
        assert not fleet.failed, next(iter(fleet.failed.values()))
        assert len(set(fleet.account.living)) == pods
        await asyncio.sleep(60)
        ready = max(fleet.ready.values())
        await fleet.stop()
        assert not fleet.account.living
        return Figures(
            by_action=dict(fleet.account.requests),
            median=quantiles(fleet.admitted.values(), n=2)[0],
            last=max(fleet.admitted.values()),
            ready=ready,
            creates=fleet.per_pod("RunInstances"),
            refused=fleet.account.throttled["RunInstances"],
            until_admitted=until_admitted,
            in_all=fleet.per_pod(),
        )


def pod(number: int, **wishes: Any) -> SandboxSpec:
    name = f"pod{number}"
    return SandboxSpec(f"{name}.".ljust(64, "0"), name, "shop", f"/run/netns/{name}", **wishes)


@cache
def _pki() -> NodePki:
    with tempfile.TemporaryDirectory() as directory:
        return NodePki.load(Path(directory) / "pki")
