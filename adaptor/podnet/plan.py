"""A pod's network as values: what its namespace holds, what the VM must make of it, what the worker will have made; pure.

    PodNetwork ──guest half──► GuestPlan ─ JSON in Bind ─► the VM        its answer: GuestAnswer, JSON in BindResponse
         └─────worker half───► Tunnel   ─ the journal ──► `operations` ──► `netlink`

Worker and guest share this module. Addresses are text as iproute2 writes them; with a prefix length where they name a
network or an interface's address.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Final

from adaptor.errors import AdaptorError

VERSION: Final = 1  # of both JSON forms; a guest refuses a plan of another
MOST_INTERFACES: Final = 16  # of a pod; each costs a device, a VNI and two filters on the worker


class PlanFault(ValueError):
    """A plan or answer that cannot be read, or makes no sense; says where and what is expected."""


class VniTaken(AdaptorError):
    """A tunnel's number is in use by another program of this worker, in that network namespace and on that port."""


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route of the main table; an empty destination is the default of `family`."""

    destination: str  # network with prefix length
    family: int  # 4 | 6
    gateway: str = ""  # of the other family where the pod's is (IPv4 by way of an IPv6 neighbour)
    source: str = ""  # preferred source address
    scope: int = 0  # rtnetlink's numbers
    protocol: int = 3
    metric: int = 0
    on_link: bool = False  # the gateway is reachable although no route says so
    mtu: int = 0  # the route's own; 0: none


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry that will not be learnt again (permanent)."""

    address: str
    hardware_address: str


@dataclass(frozen=True, slots=True)
class Interface:
    """One outward interface of the pod, and what goes by it."""

    name: str
    hardware_address: str
    mtu: int
    addresses: tuple[str, ...]  # with prefix length; link-local ones too
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    peers: tuple[str, ...] = ()  # point-to-point peers, "address=peer", where they differ


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """What the pod's namespace has besides loopback."""

    interfaces: tuple[Interface, ...]


@dataclass(frozen=True, slots=True)
class Cord:
    """One interface's tunnel."""

    interface: str
    vni: int
    device: str  # the VXLAN device in the pod's namespace on the worker


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The worker's half as intended: all that is needed to take it away again, whatever became of it."""

    netns: str
    port: int  # UDP
    cords: tuple[Cord, ...]
    peer: str = ""  # the VM's address on the path that the packets take; empty until it was reached
    worker: str = ""  # ours on that path, likewise
    encrypted: bool = False
    public_key: str = ""  # base64; the VM's, where encrypted and once it was told


@dataclass(frozen=True, slots=True)
class WireGuard:
    """What one end tells the other of itself. Its inner address follows from the key (`wireguard.inner_address`)."""

    public_key: str  # base64
    port: int  # UDP; where it listens, 0: it begins


@dataclass(frozen=True, slots=True)
class Egress:
    """Traffic that leaves from the VM itself instead of through the worker."""

    inside: tuple[str, ...]  # networks that stay in the tunnel: the cluster's pods and services
    nic: bool = False  # by the VM's second network card; else by its first


@dataclass(frozen=True, slots=True)
class GuestPlan:
    """The VM's half, as Bind carries it."""

    interfaces: tuple[Interface, ...]  # with the MTU that the tunnel leaves, as the worker sees the path
    vnis: tuple[int, ...]  # of each of them
    port: int  # UDP
    worker: str  # whence the tunnel's packets come and where they go; where encrypted that is inside WireGuard
    wireguard: WireGuard | None = None  # the worker's
    egress: Egress | None = None
    imds: bool = False  # the pod may reach the VM's metadata service
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class GuestAnswer:
    """What the VM says when its half stands."""

    wireguard: WireGuard | None = None
    version: int = VERSION


def to_json(value: "GuestPlan | GuestAnswer") -> bytes:
    """The form that travels."""
    return json.dumps(dataclasses.asdict(value), separators=(",", ":")).encode()
