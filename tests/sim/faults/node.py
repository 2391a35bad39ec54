"""The worker node: its disk, and the adaptor that is started again whenever it ends."""

import asyncio
from pathlib import Path
from typing import Any, cast

from adaptor.config import Config
from adaptor.daemon import DRAIN, Daemon
from adaptor.errors import AdaptorError
from adaptor.pki import NodePki
from adaptor.sandbox.consoles import Consoles
from adaptor.sandbox.fair import FairGate
from adaptor.sandbox.model import fold
from adaptor.sandbox.registry import Registry
from adaptor.sandbox.rooms import GuestSettings, Rooms
from adaptor.sandbox.watch import InstanceWatch
from providers.base import Ownership
from tests.sim.faults.cloud import CloudLine, SimCloud
from tests.sim.faults.disk import SimJournal
from tests.sim.faults.networks import NetworksLine
from tests.sim.faults.process import Process
from tests.sim.faults.relay import RelayLine, SimRelay
from tests.sim.faults.stage import Stage
from tests.worlds.networks import Kernel

# Seconds from StartVM to a bound guest; short of the default, for a mute guest is polled all that time.
START_TIMEOUT = 60.0
# Whoever supervises the adaptor waits so long before it starts one that could not come up. Seconds.
_BACK_OFF = 2.0


class _Daemon(Daemon):
    """The real one's recovery and its eye on the relay; its rooms are the run's."""

    def __init__(self, registry: Registry, relay: RelayLine, sim: SimRelay, stage: Stage) -> None:
        super().__init__(cast(Config, None), stage.clock)
        self._registry = registry
        self._relay = cast(Any, relay)
        self._sim = sim

    async def recover(self, rooms: Rooms) -> None:
        assert self._registry is not None
        states = {sandbox: fold(events) for sandbox, events in (await rooms.journal.load()).items()}
        await self._recover(self._registry, rooms, states, None)

    async def _revive_relay(self) -> None:
        self._sim.start()


class Node:
    """`registry` while an adaptor serves; None: nobody listens on the hypervisor socket."""

    def __init__(self, stage: Stage, cloud: SimCloud, relay: SimRelay, directory: Path, pki: NodePki) -> None:
        self.registry: Registry | None = None
        self.process = Process("no adaptor yet")
        self.booted = asyncio.Event()
        self.booted.set()
        self.calls: dict[asyncio.Task[Any], None] = {}  # on the hypervisor socket
        self.kernel = Kernel(relay.ends)
        self.kernel.interfaces = ("eth0", "net1")
        self._stage, self._cloud, self._relay, self._pki = stage, cloud, relay, pki
        self._journal_path = directory / "journal.db"
        self._journals: list[SimJournal] = []
        self._observed: SimJournal | None = None
        self._away = 0.0
        stage.kill_adaptor = self.kill

    async def supervise(self) -> None:
        """Start an adaptor, wait for its end, and again. For ever."""
        while True:
            await self.booted.wait()
            self._away = _BACK_OFF
            self.process = process = Process("adaptor", self._stage.violated)
            process.spawn(self._adaptor(process))
            await process.ended.wait()
            self.registry = None
            await process.bury()
            await self._stage.sleep(self._away)

    def kill(self, why: str, away: float) -> None:
        """kill -9."""
        if self.process.alive:
            self._stage.tell(f"adaptor: killed ({why}), away for {away:g} s")
            self._away, self.registry = away, None
            self.process.kill()

    async def upgrade(self, away: float) -> None:
        """SIGTERM: no new calls, those under way may finish; then the next one."""
        registry, process = self.registry, self.process
        if registry is None:
            return
        self.registry = None
        if calls := list(self.calls):
            _, late = await asyncio.wait(calls, timeout=DRAIN)
            for call in late:
                call.cancel()
        if process.alive:
            closing = process.spawn(registry.aclose())
            await asyncio.wait({closing})
        self.kill("it has ended in order", away)

    async def aclose(self) -> None:
        self.process.kill()
        await self.process.bury()
        for journal in self._journals:
            await journal.aclose()

    async def journal(self) -> SimJournal:
        """The file as the verdict reads it, beside any adaptor."""
        if self._observed is None:
            self._observed = cast(SimJournal, await SimJournal.open(self._journal_path, self._stage.clock))
            self._journals.append(self._observed)
        return self._observed

    async def _adaptor(self, process: Process) -> None:
        try:
            self._relay.start()
            journal = await SimJournal.mount(self._journal_path, self._stage, process)
            self._journals.append(journal)
            relay = RelayLine(self._relay, self._stage, process)
            rooms = self._rooms(journal, relay, process)
            daemon = _Daemon(Registry(rooms), relay, self._relay, self._stage)
            await daemon.recover(rooms)
            self.registry = daemon._registry
            self._stage.tell("adaptor: ready")
            await daemon.run()
        except AdaptorError as error:
            self._stage.tell(f"adaptor: cannot start: {error}")
        except Exception as error:
            self._stage.violated(f"the adaptor ended: {type(error).__name__}: {error}")
        finally:
            process.ended.set()

    def _rooms(self, journal: SimJournal, relay: RelayLine, process: Process) -> Rooms:
        line = CloudLine(self._cloud, self._stage, process)
        cloud = line
        return Rooms(
            owner=Ownership("cluster", "node"),
            provider=cloud,
            relay=cast(Any, relay),
            journal=journal,
            pki=self._pki,
            networks=NetworksLine(self.kernel, self._stage, process),
            watch=InstanceWatch(cloud, self._stage.clock),
            clock=self._stage.clock,
            guest=GuestSettings(flavor="own", port=15150, start_timeout=START_TIMEOUT),
            pods_dir="/run/peerpod/pods",
            creates=FairGate(16),
            consoles=Consoles(cloud, self._journal_path.parent, self._stage.clock),
        )
