"""What the worker does for a pod's tunnel, in order, and how each deed is undone; pure.

    open:     Admit ─► AddVxlan ─► LetIn ─► Raise            connect:  (AddPeer ─► Admit ─► Point) ─► SendOut
    remove:   the inverses, last deed first, from the Tunnel alone

The pod's interface is joined to its tunnel by redirects in both directions; nothing else of the pod's namespace is
touched. What sits on the tunnel's own device goes with it, so it has no inverse.
"""

from collections.abc import Callable
from dataclasses import dataclass

from adaptor.podnet.plan import Tunnel


@dataclass(frozen=True, slots=True)
class Admit:
    """Packets with these numbers are let in from `peer` and from nobody else, past connection tracking; before a peer
    is known, from nobody. Inverse: Dismiss."""

    port: int
    vnis: tuple[int, ...]
    peer: str
    sealed: bool = False  # they come and go by WireGuard's device only


@dataclass(frozen=True, slots=True)
class Dismiss:
    """The numbers are nobody's."""

    port: int
    vnis: tuple[int, ...]
    peer: str
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class AddVxlan:
    """The tunnel's device, down, in the pod's namespace; its UDP socket is the worker's. Inverse: RemoveVxlan."""

    device: str
    vni: int
    port: int
    peer: str  # empty: not known yet
    worker: str
    link: str = ""  # the worker's interface that its packets must leave by; empty: whichever leads to the peer


@dataclass(frozen=True, slots=True)
class RemoveVxlan:
    """If it is that tunnel's: a namespace's path may have been given to another pod."""

    device: str
    vni: int
    port: int


@dataclass(frozen=True, slots=True)
class LetIn:
    """What comes out of the tunnel leaves by the pod's interface, towards the worker."""

    device: str
    interface: str


@dataclass(frozen=True, slots=True)
class Raise:
    """The device is up, and says nothing by itself."""

    device: str


@dataclass(frozen=True, slots=True)
class Point:
    """The device's packets go to the peer, which is known by now."""

    device: str
    peer: str


@dataclass(frozen=True, slots=True)
class SendOut:
    """What the worker sends to the pod's interface goes into the tunnel. Inverse: KeepIn."""

    interface: str
    device: str


@dataclass(frozen=True, slots=True)
class KeepIn:
    """The interface's packets are its namespace's own again."""

    interface: str


@dataclass(frozen=True, slots=True)
class AddPeer:
    """WireGuard's peer. Inverse: RemovePeer."""

    public_key: str
    address: str  # the VM's, outside
    port: int  # UDP, where its WireGuard listens


@dataclass(frozen=True, slots=True)
class RemovePeer:
    public_key: str


Operation = (
    Admit | Dismiss | AddVxlan | RemoveVxlan | LetIn | Raise | Point | SendOut | KeepIn | AddPeer | RemovePeer
)  # fmt: skip

OfPod = AddVxlan | RemoveVxlan | LetIn | Raise | Point | SendOut | KeepIn
"""Those that need the pod's namespace."""

Inner = Callable[[str], str]
"""The address inside WireGuard that goes with a public key."""


def inverse(operation: Operation) -> Operation | None:
    """What undoes it; None where that is another's undoing."""
    match operation:
        case Admit(port, vnis, peer, sealed):
            return Dismiss(port, vnis, peer, sealed)
        case AddVxlan(device, vni, port):
            return RemoveVxlan(device, vni, port)
        case SendOut(interface):
            return KeepIn(interface)
        case AddPeer(public_key):
            return RemovePeer(public_key)
        case _:
            return None


def opening(tunnel: Tunnel, worker: str, link: str = "") -> list[Operation]:
    """`worker`: the packets' source address; inside WireGuard where encrypted. `link`: as in AddVxlan."""
    peer = "" if tunnel.encrypted else tunnel.peer
    return [
        Admit(tunnel.port, _vnis(tunnel), peer, tunnel.encrypted),
        *(AddVxlan(cord.device, cord.vni, tunnel.port, peer, worker, link) for cord in tunnel.cords),
        *(LetIn(cord.device, cord.interface) for cord in tunnel.cords),
        *(Raise(cord.device) for cord in tunnel.cords),
    ]


def connecting(tunnel: Tunnel, inner: Inner, port: int = 0) -> list[Operation]:
    """`inner` is asked where encrypted; `port` is that of the VM's WireGuard."""
    done: list[Operation] = []
    if tunnel.encrypted:
        peer = inner(tunnel.public_key)
        done += [AddPeer(tunnel.public_key, tunnel.peer, port), Admit(tunnel.port, _vnis(tunnel), peer, sealed=True)]
        done += [Point(cord.device, peer) for cord in tunnel.cords]
    return done + [SendOut(cord.interface, cord.device) for cord in tunnel.cords]


def removing(tunnel: Tunnel, inner: Inner) -> list[Operation]:
    """Whatever of it was done."""
    done = opening(tunnel, "")
    if tunnel.public_key or not tunnel.encrypted:
        done += connecting(tunnel, inner)
    return [undo for each in reversed(done) if (undo := inverse(each)) is not None]


def _vnis(tunnel: Tunnel) -> tuple[int, ...]:
    return tuple(cord.vni for cord in tunnel.cords)
