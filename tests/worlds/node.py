"""A worker node in memory: registry, journal on a real disk, relay, cloud; time is virtual."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from adaptor.config_network import Network
from adaptor.pki import NodePki
from adaptor.sandbox import recovery
from adaptor.sandbox.consoles import Consoles
from adaptor.sandbox.fair import FairGate
from adaptor.sandbox.journal import Journal
from adaptor.sandbox.model import Event, SandboxSpec, fold
from adaptor.sandbox.registry import Registry
from adaptor.sandbox.rooms import Alone, Cluster, GuestSettings, Rooms
from adaptor.sandbox.watch import InstanceWatch, survey
from providers.base import Ownership
from tests.worlds.clock import VirtualClock
from tests.worlds.disks import DiskCloud
from tests.worlds.networks import Kernel, Networks
from tests.worlds.relay import Relay

T = TypeVar("T")


class StillJournal(Journal):
    """The journal, during whose writes virtual time stands still.

    `last_write`: after so many the process dies, before the next one (or, with `.5`, right after it was written and
    before anybody heard of it). Who dies writes no more.
    """

    last_write: float | None = None
    writes = 0
    dead = False
    answer_seconds = 0.0  # from a row's being durable to the caller's hearing of it

    async def append_all(self, entries: Sequence[tuple[str, Event]]) -> None:
        self.dead |= self.last_write is not None and self.writes >= self.last_write
        self._mortal()
        await super().append_all(entries)
        if self.answer_seconds:
            await self._clock.sleep(self.answer_seconds)
        self.writes += 1
        self.dead |= self.last_write == self.writes - 0.5
        self._mortal()

    async def forget(self, sandbox: str) -> None:
        self._mortal()
        await super().forget(sandbox)

    def _mortal(self) -> None:
        if self.dead:
            raise asyncio.CancelledError

    async def _call(self, work: Callable[[], T]) -> T:
        assert isinstance(self._clock, VirtualClock)
        with self._clock.busy():
            return await super()._call(work)


class Node:
    """What outlives an adaptor: cloud, relay, disk. `adaptor` runs one upon it."""

    def __init__(self, directory: Path) -> None:
        self.clock = VirtualClock()
        self.journal_seconds = 0.0
        self.cloud = DiskCloud(self.clock)
        self.relay = Relay(self.cloud, self.clock)
        self.kernel = Kernel(self.relay.ends)
        self.networks = Networks(self.kernel, self.clock)  # the last adaptor's
        self.encrypted = False
        self.network = Network()
        self.guest = GuestSettings(flavor="own", port=15150, start_timeout=300.0)
        self.cluster: Cluster = Alone()
        self._directory = directory
        self._pki = NodePki.load(directory / "pki")

    @asynccontextmanager
    async def adaptor(self, *, last_write: float | None = None, patrol: bool = False) -> AsyncIterator[Registry]:
        """An adaptor from start to kill: its end takes nothing down. `last_write`: see StillJournal."""
        journal = await StillJournal.open(self._directory / "journal.db", self.clock)
        assert isinstance(journal, StillJournal)
        rooms = self._rooms(journal)
        registry = Registry(rooms)
        states = {sandbox: fold(events) for sandbox, events in (await journal.load()).items()}
        instances = await survey(self.cloud, self.clock, states, 2.0)
        await registry.recover(recovery.plan(states, await self.relay.sessions(), instances, self.clock.wall()))
        journal.last_write, journal.answer_seconds = last_write, self.journal_seconds
        patrolling = asyncio.create_task(registry.patrol()) if patrol else None
        try:
            yield registry
        finally:
            journal.dead = True
            if patrolling:
                patrolling.cancel()
            await registry.aclose()
            await rooms.watch.aclose()
            await journal.aclose()

    async def journal_rows(self) -> dict[str, list[str]]:
        """Kinds of the events on disk, by sandbox."""
        async with self.journal() as journal:
            return {sandbox: [event.kind for event in events] for sandbox, events in (await journal.load()).items()}

    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        """As it is on disk."""
        journal = await StillJournal.open(self._directory / "journal.db", self.clock)
        try:
            yield journal
        finally:
            await journal.aclose()

    async def gone(self, registry: Registry, patience: float = 1000.0) -> float:
        """Until the teardown that goes on behind an answer has ended; the seconds that took. Fails with what is left."""
        began = self.clock.now()
        while registry.sandboxes and self.clock.now() - began < patience:
            await self.clock.sleep(1)
        assert not registry.sandboxes, registry.sandboxes
        assert await self.nothing_is_left()
        return self.clock.now() - began

    async def nothing_is_left(self) -> bool:
        rows = await self.journal_rows()
        return not (self.cloud.living or self.relay.open_sessions or rows or self.kernel.leftovers)

    def _rooms(self, journal: Journal) -> Rooms:
        self.networks = Networks(self.kernel, self.clock, encrypted=self.encrypted)
        return Rooms(
            owner=Ownership("cluster", "node"),
            provider=self.cloud,
            relay=self.relay,
            journal=journal,
            pki=self._pki,
            networks=self.networks,
            watch=InstanceWatch(self.cloud, self.clock),
            clock=self.clock,
            guest=self.guest,
            pods_dir="/run/peerpod/pods",
            creates=FairGate(16),
            consoles=Consoles(self.cloud, self._directory, self.clock),
            cluster=self.cluster,
            network=self.network,
        )


def spec(name: str = "web", **wishes: Any) -> SandboxSpec:
    """A pod's sandbox; its id is made of its name."""
    return SandboxSpec(name.ljust(64, "0"), name, "shop", f"/run/netns/{name}", **wishes)
