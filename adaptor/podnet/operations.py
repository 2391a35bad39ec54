"""What the worker does for a pod's tunnel, in order, and how each deed is undone; pure.

    open:     (Join) ─► Admit ─► AddVxlan ─► LetIn ─► Raise       connect:  (AddPeer ─► Admit ─► Point) ─► SendOut
    remove:   the inverses, last deed first, from the Tunnel alone

The pod's interface is joined to its tunnel by redirects in both directions; nothing else of the pod's namespace is
touched. What sits on the tunnel's own device goes with it, so it has no inverse.
"""

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
class Join:
    """WireGuard's device is there for this tunnel too. Inverse: Leave."""

    tunnel: str
    public_key: str  # the VM's; empty: not known yet


@dataclass(frozen=True, slots=True)
class AddPeer:
    """The VM is WireGuard's peer; Leave takes that away too."""

    tunnel: str
    public_key: str
    address: str  # the VM's, outside


@dataclass(frozen=True, slots=True)
class Leave:
    """This tunnel needs WireGuard no longer; the last one takes the device along."""

    tunnel: str
    public_key: str


Operation = Admit | Dismiss | AddVxlan | RemoveVxlan | LetIn | Raise | Point | SendOut | KeepIn | Join | AddPeer | Leave

OfPod = AddVxlan | RemoveVxlan | LetIn | Raise | Point | SendOut | KeepIn
"""Those that need the pod's namespace."""


def inverse(operation: Operation) -> Operation | None:
    """What undoes it; None where that is another's undoing."""
    match operation:
        case Admit(port, vnis, peer, sealed):
            return Dismiss(port, vnis, peer, sealed)
        case AddVxlan(device, vni, port):
            return RemoveVxlan(device, vni, port)
        case SendOut(interface):
            return KeepIn(interface)
        case Join(tunnel, public_key):
            return Leave(tunnel, public_key)
        case _:
            return None


def opening(tunnel: Tunnel, worker: str, link: str = "") -> list[Operation]:
    """`worker`: the packets' source address; inside WireGuard where encrypted. `link`: as in AddVxlan."""
    peer = "" if tunnel.encrypted else tunnel.peer
    return [
        *([Join(tunnel.netns, tunnel.public_key)] if tunnel.encrypted else []),
        Admit(tunnel.port, _vnis(tunnel), peer, tunnel.encrypted),
        *(AddVxlan(cord.device, cord.vni, tunnel.port, peer, worker, link) for cord in tunnel.cords),
        *(LetIn(cord.device, cord.interface) for cord in tunnel.cords),
        *(Raise(cord.device) for cord in tunnel.cords),
    ]


def connecting(tunnel: Tunnel, inner: str) -> list[Operation]:
    """`inner`: the VM's address inside WireGuard, where encrypted."""
    return [
        *_pointed(tunnel, inner),
        *(SendOut(cord.interface, cord.device) for cord in tunnel.cords),
    ]


def removing(tunnel: Tunnel, inner: str) -> list[Operation]:
    """Undo whatever of it was done; `inner` as above, empty where the VM's key is not known."""
    done = opening(tunnel, "") + connecting(tunnel, inner)
    return [undo for each in reversed(done) if (undo := inverse(each)) is not None]


def _pointed(tunnel: Tunnel, inner: str) -> list[Operation]:
    if not inner:
        return []
    return [
        AddPeer(tunnel.netns, tunnel.public_key, tunnel.peer),
        Admit(tunnel.port, _vnis(tunnel), inner, sealed=True),
        *(Point(cord.device, inner) for cord in tunnel.cords),
    ]


def _vnis(tunnel: Tunnel) -> tuple[int, ...]:
    return tuple(cord.vni for cord in tunnel.cords)
