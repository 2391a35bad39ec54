"""What a driver works with: one frozen bundle, built once by the daemon."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from adaptor.catalog.chooser import Chooser
from adaptor.clock import Clock
from adaptor.pki import NodePki
from adaptor.protos.relay_pb2 import DirectVolume
from adaptor.relay.client import Dialled, Identity, OwnGuest, Session, UpstreamGuest
from adaptor.sandbox.fair import FairGate
from adaptor.sandbox.journal import Journal
from adaptor.sandbox.launch import LaunchTokens
from adaptor.sandbox.watch import InstanceWatch
from providers.base import Ownership, Provider


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

    async def bind(self, sandbox_id: str, bind: bytes, timeout: float) -> None: ...

    async def close(self, sandbox_id: str) -> None: ...

    async def sessions(self) -> Sequence[Session]: ...


class PodNetworks(Protocol):
    """Reads a pod's network namespace (`podnet.netlink`)."""

    def check(self, netns: str) -> None: ...

    async def apf(self, netns: str) -> dict[str, Any]: ...


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
    networks: PodNetworks
    watch: InstanceWatch
    clock: Clock
    guest: GuestSettings
    pods_dir: str
    creates: FairGate  # bounds the VMs that are being asked for at once
    tokens: LaunchTokens = field(default_factory=LaunchTokens)
    chooser: Chooser = field(default_factory=Chooser)
