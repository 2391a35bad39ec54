"""The composition root: builds every room once, serves until told to stop, and leaves the pods running.

    load journal ─► plan with relay sessions and the cloud's instances ─► listen on hypervisor.sock ─► ready
    SIGTERM, SIGINT ─► no new calls, let starts finish (a second signal: at once) ─► exit; the relay stays

Cloud SDK and relay are brought up side by side: the SDK's import is most of a start.
"""

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from adaptor import __version__, names
from adaptor.catalog.chooser import Chooser, constraints
from adaptor.clock import Clock, RealClock
from adaptor.config import Config
from adaptor.errors import AdaptorError, Unavailable
from adaptor.hypervisor import Hypervisor
from adaptor.kube import place
from adaptor.pki import NodePki
from adaptor.podnet import encryption, trial
from adaptor.podnet.encryption import Encryption
from adaptor.podnet.hosts import HostNetworks
from adaptor.relay.client import RelayClient, ensure_relay
from adaptor.sandbox import journal_file, rebuild, recovery, state_lock
from adaptor.sandbox.consoles import Consoles
from adaptor.sandbox.fair import FairGate
from adaptor.sandbox.journal import Journal
from adaptor.sandbox.metered import open_metered
from adaptor.sandbox.model import JournalFault, SandboxState, fold
from adaptor.sandbox.registry import Registry
from adaptor.sandbox.rooms import Alone, Cluster, GuestSettings, Rooms
from adaptor.sandbox.sweep import Known
from adaptor.sandbox.sweeper import FIRST_SEEN, Sightings, Sweeper
from adaptor.sandbox.watch import InstanceWatch, survey
from adaptor.telemetry import logs, metrics
from adaptor.telemetry.http import Http
from adaptor.ttrpc.aio import Server
from adaptor.volumes.node import NodeVolumes
from providers import batch, tags
from providers.base import Ownership, Provider, SupportsBatchCreate, SupportsSweep
from providers.errors import ProviderError

if TYPE_CHECKING:
    from adaptor.kube.node import NodeCluster

# After SIGTERM, for StartVM calls under way: a rolling update must not fail pods that are seconds from running.
# Kubernetes sends SIGKILL after terminationGracePeriodSeconds, 30 by default. Seconds.
DRAIN: Final = 25.0
# For the cloud's word on what became of the VMs, at a start. A describe takes half a second; a cloud that is away
# must not keep the shim waiting, and the patrol asks it again. Seconds.
_SURVEY: Final = 2.0
# Between looks at a relay that does not answer, and at a start, how long one that is started by somebody else may take.
# Then this process ends, and whoever started it tries again. Seconds.
_RELAY_RETRY: Final = 1.0
_RELAY_PATIENCE: Final = 15.0

log = logs.get("daemon")


def main(config: Config) -> int:
    """Run the adaptor until a signal; returns the process's exit code.

    Raises: AdaptorError when it cannot start.
    """
    logs.setup(config.log.format, config.log.level)
    for warning in config.warnings:
        log.warning("configuration", note=warning)
    return asyncio.run(_run(config))


async def _run(config: Config) -> int:
    async with AsyncExitStack() as stack:
        daemon = Daemon(config, RealClock())
        stack.push_async_callback(daemon.aclose)
        stop = _signals()
        await daemon.open()
        _notify("READY=1")
        await _until(stop, daemon.run())
        log.info("stopping; pods keep running", drain=DRAIN)
        _notify("STOPPING=1")
        draining = asyncio.create_task(daemon.drain(DRAIN))
        second = asyncio.create_task(stop.wait())
        await asyncio.wait({draining, second}, return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, second):
            task.cancel()
    return 0


class Daemon:
    """Every room of one adaptor."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._stack = AsyncExitStack()
        self._server: Server | None = None
        self._relay: RelayClient | None = None
        self._registry: Registry | None = None
        self._encryption: Encryption | None = None
        self._unready: list[str] = ["starting"]
        self._trouble = ""  # why this node carries no pod's network

    async def open(self) -> None:
        """Come up, recover, serve; raises AdaptorError saying what is in the way."""
        config = self._config
        state_dir = Path(config.node.state_dir)
        self._stack.enter_context(state_lock.held(state_dir))
        if config.http.listen is not None:
            self._stack.callback(Http(config.http.listen, self.readiness).close)
        pki = NodePki.load(state_dir / "pki")
        owner = ownership(config)
        journal = await Journal.open(state_dir / names.JOURNAL, self._clock, owner)
        self._stack.push_async_callback(journal.aclose)
        provider, relay = await asyncio.gather(open_provider(config, owner), self._find_relay())
        self._relay = relay
        self._stack.push_async_callback(relay.aclose)
        self._stack.push_async_callback(provider.aclose)
        states = {sandbox: fold(events) for sandbox, events in (await journal.load()).items()}
        networks = await self._networks(states.values())
        cluster = await self._cluster(provider)
        rooms = self._rooms(owner, provider, relay, journal, pki, networks, cluster or Alone())
        self._stack.push_async_callback(rooms.watch.aclose)
        if rooms.consoles is not None:
            self._stack.push_async_callback(rooms.consoles.aclose)
        registry = self._registry = Registry(rooms)
        self._stack.push_async_callback(registry.aclose)
        await self._recover(registry, rooms, states, cluster)
        volumes = config.volumes
        self._server = Server(
            [Hypervisor(registry, networks, NodeVolumes(volumes.directory, volumes.bundles)).service()]
        )
        _make_directory(Path(config.node.hypervisor_socket).parent)
        _make_directory(Path(config.node.pods_dir))
        await self._server.listen_unix(config.node.hypervisor_socket)
        self._stack.push_async_callback(self._server.aclose)
        self._unready.clear()
        self._warm_up(provider)
        self._try_network()
        self._sweep(registry, provider, owner)
        log.info(
            "ready", version=__version__, cloud=provider.name, socket=config.node.hypervisor_socket, node=owner.node
        )

    async def run(self) -> None:
        """For ever: what a serving adaptor does besides answering calls."""
        assert self._registry is not None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.follow_relay(), name="follow-relay")
            tasks.create_task(self._registry.patrol(), name="patrol")
            if self._encryption is not None:
                tasks.create_task(self._follow_encryption(self._encryption), name="follow-encryption")

    async def _follow_encryption(self, watched: Encryption) -> None:
        """For ever: have the encrypted pods' WireGuard whole again when it was killed."""
        while True:
            await asyncio.to_thread(watched.look)
            await self._clock.sleep(encryption.LOOK)

    async def follow_relay(self) -> None:
        """For ever: reap pods whose session has ended, keep readiness and metrics true, and bring up a relay when
        there is none."""
        assert self._relay is not None
        assert self._registry is not None
        generation = 0
        while True:
            try:
                listing = await self._relay.watch(generation)
                await self._registry.reap()
            except AdaptorError as error:
                metrics.RELAY_UP.set(0)
                self._unready = ["the relay does not answer"]
                log.error("the relay does not answer", error=str(error))
                await self._clock.sleep(_RELAY_RETRY)
                await self._revive_relay()
                continue
            generation = listing.generation
            self._unready.clear()
            metrics.RELAY_UP.set(1)
            _count_sessions([session.state.name.lower() for session in listing.sessions])

    async def drain(self, grace: float) -> None:
        """Take no new call; wait for those under way, `grace` seconds at most."""
        self._unready = ["stopping"]
        if self._server is not None:
            await self._server.aclose(grace)

    async def aclose(self) -> None:
        """Let go of everything; sandboxes, VMs and the relay live on."""
        await self._stack.aclose()

    def readiness(self) -> tuple[bool, Sequence[str]]:
        """For /readyz."""
        trouble = (self._trouble, self._encryption.trouble if self._encryption is not None else "")
        reasons = (*self._unready, *filter(None, trouble))
        return not reasons, reasons

    def _rooms(
        self,
        owner: Ownership,
        provider: Provider,
        relay: RelayClient,
        journal: Journal,
        pki: NodePki,
        networks: HostNetworks,
        cluster: Cluster,
    ) -> Rooms:
        guest = self._config.guest
        per_call = batch.MOST if isinstance(provider, SupportsBatchCreate) else 1
        return Rooms(
            owner=owner,
            provider=provider,
            relay=relay,
            journal=journal,
            pki=pki,
            networks=networks,
            watch=InstanceWatch(provider, self._clock),
            clock=self._clock,
            guest=GuestSettings(
                flavor=guest.flavor,
                port=guest.port,
                start_timeout=guest.start_timeout,
                link_grace=guest.link_grace,
                adopt_grace=guest.adopt_grace,
                initdata=guest.initdata,
                scratch_space=guest.scratch_space,
            ),
            pods_dir=self._config.node.pods_dir,
            creates=FairGate(self._config.limits.creates_at_once * per_call),
            chooser=Chooser(constraints(self._config.selection), self._config.prices),
            consoles=(
                Consoles(provider, Path(self._config.node.state_dir), self._clock) if guest.console_on_failure else None
            ),
            cluster=cluster,
            network=self._config.network,
        )

    async def _cluster(self, provider: Provider) -> "NodeCluster | None":
        """The cluster that this node is in; the client's library is imported in a thread, and only where there is one.

        Raises: Unavailable when it is wanted and cannot be reached by what is given.
        """
        settings = self._config.kubernetes
        where = place.find(settings)
        if where is None:
            return None

        def load() -> Any:
            from adaptor.kube import opening

            return opening

        try:
            opening = await asyncio.to_thread(load)
        except ModuleNotFoundError as error:
            if settings.enabled == "on":
                raise Unavailable(f"kubernetes.enabled is on: install peerpods[kubernetes] ({error})") from error
            log.warning("going on without the cluster that this node is in: install peerpods[kubernetes]")
            return None
        cluster: NodeCluster = opening.open_cluster(
            where,
            self._config,
            provider,
            self._clock,
            lambda: len(self._registry.sandboxes) if self._registry is not None else 0,
            lambda: self.readiness()[0],
        )
        self._stack.push_async_callback(cluster.aclose)
        return cluster

    def _warm_up(self, provider: Provider) -> None:
        """Have the provider learn its offerings before the first pod needs them; a failure shows again there."""

        async def learn() -> None:
            try:
                await provider.offerings()
            except ProviderError as error:
                log.warning("cannot find out what the cloud offers yet", cloud=provider.name, error=str(error))

        task = asyncio.create_task(learn(), name="warm-up")
        self._stack.callback(task.cancel)

    def _try_network(self) -> None:
        """See whether this node can carry pods' networks at all, before the first pod has paid for a VM."""

        async def attempt() -> None:
            try:
                await asyncio.to_thread(trial.attempt, self._config.network.vxlan_port)
            except Unavailable as error:
                self._trouble = str(error)
                log.error("no pod can start here", reason=self._trouble)

        task = asyncio.create_task(attempt(), name="try-network")
        self._stack.callback(task.cancel)

    def _sweep(self, registry: Registry, provider: Provider, owner: Ownership) -> None:
        """Look for leaked resources of this node from time to time."""
        relay, settings = self._relay, self._config.sweep
        if not isinstance(provider, SupportsSweep) or not settings.interval or relay is None:
            return

        async def known() -> Known:
            sessions = {session.sandbox_id: session.address for session in await relay.sessions()}
            return Known(owner, registry.sandboxes, sessions)

        sightings = Sightings(Path(self._config.node.state_dir) / FIRST_SEEN)
        sweeper = Sweeper(provider, known, sightings, self._clock, settings.grace)
        task = asyncio.create_task(sweeper.run(settings.interval, delete=settings.delete), name="sweep")
        self._stack.callback(task.cancel)

    async def _networks(self, states: Iterable[SandboxState]) -> HostNetworks:
        """Raises: Unavailable where pods' networks must be encrypted and cannot be."""
        settings = self._config.network
        encrypted = [state for state in states if state.network is not None and state.network.encrypted]
        if settings.encryption == "required" or encrypted:  # those that run stay so when the setting is changed
            self._encryption = await asyncio.to_thread(
                Encryption.open, settings.wireguard, settings.wireguard_port, spawn=self._config.node.spawn_relay
            )
            log.info("pods' networks are encrypted", wireguard=self._encryption.kind, pods=len(encrypted))
        networks = HostNetworks(settings, self._encryption)
        self._stack.push_async_callback(networks.aclose)
        return networks

    async def _recover(
        self, registry: Registry, rooms: Rooms, states: Mapping[str, SandboxState], cluster: "NodeCluster | None"
    ) -> None:
        sessions, instances = await asyncio.gather(
            rooms.relay.sessions(), survey(rooms.provider, self._clock, states, _SURVEY)
        )
        if not states and (running := rebuild.running(sessions)):
            raise JournalFault(
                f"the journal in {self._config.node.state_dir} knows no sandbox and the relay carries {len(running)} running "
                f"pods, which would end now: the journal was lost. {journal_file.REPAIR}. To have them ended, end the relay"
            )
        plan = recovery.plan(states, sessions, instances, self._clock.wall())
        if plan:
            log.info("recovering what the last adaptor left", sandboxes=len(plan))
        if cluster is not None:
            cluster.know(states)
            cluster.begin()
        await registry.recover(plan)

    async def _find_relay(self) -> RelayClient:
        """One of its own where that is allowed, else another's, which may still be starting. Raises Unavailable."""
        node = self._config.node
        patience = 0.0 if node.spawn_relay else _RELAY_PATIENCE
        deadline = self._clock.now() + patience
        while True:
            try:
                return await ensure_relay(node.relay_socket, spawn=node.spawn_relay)
            except Unavailable:
                if self._clock.now() >= deadline:
                    raise
                self._unready = ["waiting for the relay"]
            await self._clock.sleep(_RELAY_RETRY)

    async def _revive_relay(self) -> None:
        """The pods of a relay that died are over; the next ones need one."""
        try:
            fresh = await ensure_relay(self._config.node.relay_socket, spawn=self._config.node.spawn_relay)
        except AdaptorError as error:
            log.error("no relay can be started", error=str(error))
        else:
            await fresh.aclose()


async def open_provider(config: Config, owner: Ownership) -> Provider:
    """The configured cloud's provider. Raises: Unavailable."""
    return await open_metered(config.cloud.provider, config.settings, owner)


def ownership(config: Config, *, make: bool = True) -> Ownership:
    """This node's mark on its cloud resources; without a configured cluster an id of its own, made once.

    Raises: Unavailable when there is none yet and none is to be made.
    """
    return Ownership(config.node.cluster or _cluster_id(Path(config.node.state_dir), make=make), config.node.name)


def _cluster_id(state_dir: Path, *, make: bool) -> str:
    path = state_dir / "cluster"
    if not path.exists():
        if not make:
            raise Unavailable(
                f"{path} is missing, and with it the mark of this node's VMs: set node.cluster to the value of the tag "
                f"{tags.CLUSTER} that they have in the cloud"
            )
        path.write_text(f"node-{secrets.token_hex(8)}\n")
    return path.read_text().strip()


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"cannot make the directory {path}: {error}") from error


def _signals() -> asyncio.Event:
    """Set by SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until `stop`; its end before that is a bug and ends the daemon with its error."""
    running = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        for each in (running, stopped):
            each.cancel()
        await asyncio.gather(running, stopped, return_exceptions=True)
    stop.clear()


def _count_sessions(states: Sequence[str]) -> None:
    metrics.RELAY_SESSIONS.clear()
    for state in states:
        metrics.RELAY_SESSIONS.labels(state=state).inc()


def _notify(message: str) -> None:
    """Tell systemd, when it started us."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
