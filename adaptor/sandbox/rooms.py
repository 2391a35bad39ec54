"""What a driver works with: one frozen bundle, built once by the daemon."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from adaptor.catalog.chooser import Chooser
from adaptor.clock import Clock
from adaptor.config_network import Network
from adaptor.errors import AdaptorError
from adaptor.pki import NodePki
from adaptor.podnet.plan import Egress, Tunnel
from adaptor.protos.relay_pb2 import DirectVolume
from adaptor.relay.client import Dialled, Identity, OwnGuest, Session, UpstreamGuest
from adaptor.sandbox.consoles import Consoles
from adaptor.sandbox.fair import FairGate
from adaptor.sandbox.journal import Journal
from adaptor.sandbox.launch import LaunchTokens
from adaptor.sandbox.model import Event, SandboxSpec, SandboxState
from adaptor.sandbox.watch import InstanceWatch
from providers.base import Offering, Ownership, Provider
from providers.errors import ProviderError


class Relay(Protocol):
    """The adaptor's side of relay.sock (`relay.client.RelayClient`); every call idempotent."""

    async def open(
        self,
        sandbox_id: str,
        socket_path: str,
        *,
        all_gpus: bool = False,
        volumes: Sequence[DirectVolume] = (),
        volumes_unknown: bool = False,
    ) -> None: ...

    async def dial(
        self,
        sandbox_id: str,
        addresses: Sequence[str],
        port: int,
        timeout: float,
        identity: Identity,
        trust: OwnGuest | UpstreamGuest,
        link_grace: float,
    ) -> Dialled: ...

    async def bind(self, sandbox_id: str, bind: bytes, timeout: float) -> bytes: ...

    async def close(self, sandbox_id: str) -> None: ...

    async def sessions(self) -> Sequence[Session]: ...


class Tunnels(Protocol):
    """The worker's half of pods' networks (`podnet.hosts`), and what the VM is told of its own; every call idempotent.

    intend ─► reached ─► open ─► plan ─► (Bind) ─► answered ─► connect        any time: remove
    journal    journal                              journal
    """

    def check(self, netns: str) -> None:
        """Raises InvalidRequest unless it is a network namespace that can be opened."""
        ...

    def recall(self, tunnels: Iterable[Tunnel]) -> None:
        """Those that the journal knows, at a start: their numbers are given to nobody else."""
        ...

    async def keep_only(self, tunnels: Iterable[Tunnel]) -> None:
        """Take away what this node's own namespace has of ours for any other tunnel (table elements, WireGuard peers):
        an adaptor whose journal was lost has left it. Those of `tunnels` are not touched. Raises: Unavailable."""
        ...

    async def intend(self, netns: str) -> Tunnel:
        """Look at the pod's namespace, and number its tunnels; nothing is made.

        Raises: InvalidRequest (what the namespace holds cannot be carried to a VM), Unavailable (no number is left).
        """
        ...

    async def reached(self, tunnel: Tunnel, peer: str) -> Tunnel:
        """With the VM's address, and ours on the way there. Raises: Unavailable."""
        ...

    async def open(self, tunnel: Tunnel) -> None:
        """Make its devices, which hold the numbers, and let in what comes from the VM and nobody else. Nothing of the
        pod's passes yet.

        Raises: VniTaken (intend anew: the number is remembered as taken), InvalidRequest, Unavailable.
        """
        ...

    async def plan(self, tunnel: Tunnel, egress: Egress | None, *, imds: bool) -> bytes:
        """The VM's half, for Bind. Raises: InvalidRequest."""
        ...

    async def apf(self, tunnel: Tunnel) -> dict[str, Any]:
        """The VM's half as stock upstream images read it. Raises: InvalidRequest (a shape that they do not know)."""
        ...

    def answered(self, tunnel: Tunnel, answer: bytes) -> Tunnel:
        """With what the VM said in its BindResponse. Raises: StartFailed when that makes no sense."""
        ...

    async def connect(self, tunnel: Tunnel, timeout: float) -> None:
        """Join the pod's interfaces to its tunnels, and see a frame come back from the VM.

        Raises: StartFailed (nothing came back within `timeout` seconds: says what may be in between), Unavailable.
        """
        ...

    async def remove(self, tunnel: Tunnel) -> None:
        """Take away all that `open` and `connect` made, however far they came; its numbers are free again. What is gone
        already is fine, the namespace too. Raises: Unavailable."""
        ...


class Cluster(Protocol):
    """The Kubernetes cluster around this node (`kube.node`). Nothing here raises, and nothing holds a pod up for more
    than a few seconds: the journal is what counts, Kubernetes is told."""

    async def announce(self, state: SandboxState) -> None:
        """Have the sandbox's PeerPod exist, before the first create call: what is launched is known to the cluster
        even if this node never comes back."""
        ...

    def changed(self, state: SandboxState, event: Event | None) -> None:
        """`event` has been journalled and made `state` of the sandbox; None: it was forgotten (phase GONE)."""
        ...

    def failed(self, state: SandboxState, error: AdaptorError) -> None:
        """A start has come to a bad end."""
        ...

    def chose(self, state: SandboxState, offering: Offering, why: Callable[[], str]) -> None:
        """`offering` is asked for next; `why` puts it into words."""
        ...

    def tried(self, state: SandboxState, offering: Offering, error: ProviderError) -> None:
        """The cloud had no room for `offering`; the next one is tried."""
        ...

    def lost(self, state: SandboxState, reason: str) -> None:
        """The VM of a running pod has ended, or its link, and nobody asked for that."""
        ...

    async def registry_auth(self, state: SandboxState) -> bytes:
        """The pod's image pull secrets as one auth.json; empty where it has none."""
        ...

    async def labels(self, spec: SandboxSpec) -> Mapping[str, str]:
        """Those of the pod's labels that become tags in the cloud; empty where nobody can tell."""
        ...


class Alone:
    """A node without Kubernetes."""

    async def announce(self, state: SandboxState) -> None:
        pass

    def changed(self, state: SandboxState, event: Event | None) -> None:
        pass

    def failed(self, state: SandboxState, error: AdaptorError) -> None:
        pass

    def chose(self, state: SandboxState, offering: Offering, why: Callable[[], str]) -> None:
        pass

    def tried(self, state: SandboxState, offering: Offering, error: ProviderError) -> None:
        pass

    def lost(self, state: SandboxState, reason: str) -> None:
        pass

    async def registry_auth(self, state: SandboxState) -> bytes:
        return b""

    async def labels(self, spec: SandboxSpec) -> Mapping[str, str]:
        return {}


@dataclass(frozen=True, slots=True)
class GuestSettings:
    """How VMs of this node are booted and reached."""

    flavor: str  # own | upstream
    port: int
    start_timeout: float  # seconds from StartVM to a bound guest
    link_grace: float = 120.0  # seconds for which the relay dials a running pod's VM again
    adopt_grace: float = 180.0  # seconds that a launch is kept for the pod's next sandbox; 0: not at all
    initdata: str | None = None  # TOML for pods that bring none
    scratch_space: bool = False


@dataclass(frozen=True, slots=True)
class Rooms:
    """Everything a sandbox's life touches."""

    owner: Ownership
    provider: Provider
    relay: Relay
    journal: Journal
    pki: NodePki
    networks: Tunnels
    watch: InstanceWatch
    clock: Clock
    guest: GuestSettings
    pods_dir: str
    creates: FairGate  # bounds the VMs that are being asked for at once
    tokens: LaunchTokens = field(default_factory=LaunchTokens)
    chooser: Chooser = field(default_factory=Chooser)
    network: Network = field(default_factory=Network)
    cluster: Cluster = field(default_factory=Alone)
    consoles: Consoles | None = None  # None: guest.console_on_failure is off
