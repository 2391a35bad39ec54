"""This host, for the contract suite: with namespaces in place of VMs, which are there in a hundredth of the time.

What runs in them is `sleep`: the suite asks for machines, not for guests. Faults come in where the provider meets its
host, as what the kernel says.
"""

import asyncio
import errno
import os
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from adaptor.demo import enter, netns
from providers.base import (
    Instance,
    InstanceState,
    LaunchSpec,
    Offering,
    Ownership,
    Provider,
    Purchase,
    ResourceKind,
    Tee,
)
from providers.errors import Capacity, Denied, ProviderError, Quota, Throttled, Transient
from providers.local import hosts
from providers.local.config import LocalConfig
from providers.local.errors import Refused
from providers.local.machines import Machines
from providers.local.provider import LocalProvider
from providers.local.requests import Intent, Seen
from tests.contract.world import Verb

T = TypeVar("T")

HELD = 0.5  # seconds an answer is held back
IMAGE = "/var/lib/peerpods/images/min-1a2b"  # that nobody reads: there is no VM to boot it
ANSWERS = {
    Capacity: errno.ENOMEM,
    Quota: errno.EDQUOT,
    Throttled: errno.EAGAIN,
    Denied: errno.EACCES,
    Transient: errno.EIO,
}


class Spoilt(Machines):
    """A host that says what the test wants: before the deed, after it, or late."""

    def __init__(self, config: LocalConfig, world: "LocalWorld") -> None:
        super().__init__(config, ("sleep", "infinity"))
        self._world = world

    def create(self, spec: LaunchSpec, token: str, owner: Ownership) -> Instance:
        return self._world.through(Verb.CREATE, lambda: super(Spoilt, self).create(spec, token, owner))

    def describe(self, ids: Collection[str]) -> dict[str, Instance]:
        return self._world.through(Verb.GET, lambda: super(Spoilt, self).describe(ids))

    def everything(self) -> list[Seen]:
        return self._world.through(Verb.LIST, super().everything)

    def delete(self, id: str) -> None:
        self._world.through(Verb.DELETE, lambda: super(Spoilt, self).delete(id))

    def look_at_host(self) -> str:
        return self._world.through(Verb.OFFERINGS, super().look_at_host)

    def console(self, id: str) -> bytes:
        return self._world.through(Verb.CONSOLE, lambda: super(Spoilt, self).console(id))

    def usage(self) -> list[Intent]:
        return self._world.through(Verb.QUOTA, super().usage)


class LocalWorld:
    """World for this host."""

    unknown_id = "vm-0123456789abcdef"
    user_data_limit = 16384
    truths: tuple[Offering, ...] = (
        Offering("local.small", 1, 1024),
        Offering("local.medium", 2, 2048),
        Offering("local.4x6144", 4, 6144),
    )
    confidential = ("", "local.small")
    zones = ("", "")
    disk_gib = 0
    kinds = (ResourceKind.INSTANCE,)
    lacks = frozenset({"zones", "spot", "TEEs", "request ids", "root volumes", "calls worth saving"})

    def __init__(self, config: LocalConfig, closing: AsyncExitStack) -> None:
        self.config = config
        self.owner = Ownership("cluster-a", "node-1")
        self.counted: dict[Verb, int] = dict.fromkeys(Verb, 0)
        self.faults: dict[Verb, list[tuple[str, int]]] = {verb: [] for verb in Verb}
        self.down = False
        self.forbidden = False
        self._lock = threading.Lock()
        self._closing = closing
        self.truths = tuple(replace(each, architecture=hosts.architecture(), price=None) for each in self.truths)
        self.provider = self.connect(self.owner)

    def through(self, verb: Verb, work: Callable[[], T]) -> T:
        with self._lock:
            self.counted[verb] += 1
            fault, number = self.faults[verb].pop(0) if self.faults[verb] else ("", 0)
        if self.down:
            raise OSError(errno.EIO, os.strerror(errno.EIO), self.config.state_dir)
        if self.forbidden and verb is Verb.OFFERINGS:
            raise Refused(Denied, "EPERM", "it needs root")
        if fault == "before":
            raise OSError(number, os.strerror(number) if number < 1000 else "Strange.Novelty")
        done = work()
        if fault == "after":
            raise OSError(number, os.strerror(number))
        if fault == "late":
            time.sleep(HELD)
        return done

    def spec(self, **changes: Any) -> LaunchSpec:
        plain = LaunchSpec("podvm-nginx-1a2b3c4d", "local.small", b"user data", IMAGE, {"team": "blue"})
        return replace(plain, **changes)

    def connect(self, owner: Ownership) -> Provider:
        provider = LocalProvider(self.config, owner, Spoilt(self.config, self))
        self._closing.push_async_callback(provider.aclose)
        return provider

    def spot(self) -> Provider:
        return self.provider

    def unreachable(self) -> Provider:
        self.down = True
        return self.provider

    def refuse(self, verb: Verb, kind: type[ProviderError]) -> None:
        self.faults[verb].append(("before", ANSWERS[kind]))

    def refuse_strangely(self, verb: Verb) -> None:
        self.faults[verb].append(("before", 9999))

    def lose_reply(self, verb: Verb) -> None:
        self.faults[verb].append(("after", errno.ECONNRESET))

    def hold_reply(self, verb: Verb) -> None:
        self.faults[verb].append(("late", 0))

    def calls(self, verb: Verb) -> int:
        return self.counted[verb]

    def forbid(self, verb: Verb) -> None:
        self.forbidden = True

    async def user_data(self, instance_id: str) -> bytes:
        return self._place(instance_id, "user-data").read_bytes()

    async def prints(self, instance_id: str, data: bytes) -> None:
        with open(self._place(instance_id, "console.log"), "ab") as console:
            console.write(data)

    async def purchase(self, instance_id: str) -> Purchase:
        return Purchase.ON_DEMAND

    async def exists(self, kind: ResourceKind, resource_id: str) -> bool:
        seen = (await self.provider.get([resource_id])).get(resource_id)
        return seen is not None and seen.state is not InstanceState.GONE

    async def plant(self, kind: ResourceKind, tags: Mapping[str, str]) -> str:
        raise AssertionError(f"a host has no {kind} that the provider has not made")

    async def attach(self, resource_id: str, kind: ResourceKind, instance_id: str) -> None:
        raise AssertionError("nothing of a host's is attached")

    async def disk(self, zone: str) -> str:
        raise AssertionError("the local provider attaches no disks")

    async def root_gib(self, instance_id: str) -> int:
        raise AssertionError("a namespace has no disk")

    def _place(self, instance_id: str, name: str) -> Path:
        return Path(self.config.state_dir, "vms", instance_id, name)


@asynccontextmanager
async def world(**settings: Any) -> AsyncIterator[LocalWorld]:
    """A host with nothing on it, in a network of its own; afterwards nothing of it runs."""
    if not os.environ.get(enter.PRIVATE):
        pytest.skip("it needs network namespaces: run it as `python -m adaptor.demo.enter pytest tests/contract`")
    before = netns.leave()
    state_dir = tempfile.mkdtemp(prefix="pp-", dir="/run")
    config = LocalConfig(
        vmm="namespace",
        image=IMAGE,
        state_dir=state_dir,
        instance_type="local.medium",
        instance_types=("local.small", "local.4x6144"),
        tee=Tee.NONE,
        **settings,
    )
    try:
        async with AsyncExitStack() as closing:
            made = LocalWorld(config, closing)
            yield made
        machines = Machines(config)
        for seen in await asyncio.to_thread(machines.everything):
            await asyncio.to_thread(machines.delete, seen.intent.id)
    finally:
        shutil.rmtree(state_dir)
        netns.come_back(before)
