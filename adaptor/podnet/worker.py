"""What a tunnel asks of this worker's kernel, on the one thread that may leave its namespace; and what its refusals
mean to whoever reads the pod's event."""

import errno
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from adaptor.errors import AdaptorError, InvalidRequest, Unavailable
from adaptor.podnet import devices, inspect, namespaces, netlink, probe
from adaptor.podnet.devices import NameTaken
from adaptor.podnet.encryption import Encryption
from adaptor.podnet.exchange import NETLINK_ROUTE, Exchange
from adaptor.podnet.namespaces import Visitor
from adaptor.podnet.nftables import Table
from adaptor.podnet.operations import (
    AddPeer,
    AddVxlan,
    Admit,
    Dismiss,
    Join,
    Leave,
    LetIn,
    OfPod,
    Operation,
    Raise,
    SendOut,
)
from adaptor.podnet.plan import PodNetwork, Tunnel, WireGuard

_T = TypeVar("_T")

_FORBIDDEN: Final = frozenset({errno.EPERM, errno.EACCES})
_NO_SUPPORT: Final = frozenset({errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ENOENT})


class Worker:
    """This worker, for one thread: that of the first call."""

    def __init__(self, encryption: Encryption | None) -> None:
        self._encryption = encryption
        self._visitor: Visitor | None = None
        self._host: Exchange | None = None
        self._table: Table | None = None

    def close(self) -> None:
        """Let go of its sockets; the next call opens them anew."""
        for held in (self._host, self._table, self._visitor):
            if held is not None:
                held.close()
        self._host = self._table = self._visitor = None

    def describe(self, netns: str, ours: Sequence[str]) -> PodNetwork:
        """What the pod's namespace holds besides our devices. Raises: InvalidRequest, Unavailable."""
        try:
            with namespaces.opened(netns) as descriptor:
                if descriptor is None:
                    raise InvalidRequest(f"the pod's network namespace {netns} is gone")
                with self._at_home().inside(descriptor):
                    rows = netlink.read_here()
        except OSError as error:
            said = f"the pod's network namespace {netns} cannot be read: {_said(error)}"
            raise (Unavailable if error.errno in _FORBIDDEN else InvalidRequest)(said) from error
        return inspect.describe(netns, rows, ours)

    def address(self, known: str, interface: str | None) -> str:
        """Ours, with prefix length, as upstream's images are told; `known` is the one on the way to the VM, if any.
        Raises: Unavailable."""
        self._at_home()
        return netlink.worker_address(known, interface)

    def carry_out(self, tunnel: Tunnel, wanted: Iterable[Operation]) -> None:
        """In their order, until one fails. Raises: NumberTaken, InvalidRequest, Unavailable."""
        self._in_pod(tunnel, lambda pod, netns: self._all(tunnel, wanted, pod, netns))

    def undo(self, tunnel: Tunnel, wanted: Iterable[Operation]) -> None:
        """All of them, also after one has failed; those of a namespace that is gone are done. Raises: Unavailable."""
        failed: list[AdaptorError] = []

        def each(pod: Exchange | None, netns: int) -> None:
            for operation in wanted:
                if pod is None and isinstance(operation, OfPod):
                    continue
                try:
                    self._one(tunnel, operation, pod, netns)
                except AdaptorError as error:
                    failed.append(error)

        self._in_pod(tunnel, each, gone=True)
        if failed:
            raise failed[0]

    def keep_only(self, admitted: Sequence[Admit], encrypted: Mapping[str, str]) -> None:
        """Take away every admission but these, and every peer but those of these tunnels. Raises: Unavailable."""
        try:
            self._at_home()
            self._firewall().keep_only(admitted)
        except OSError as error:
            if error.errno not in _NO_SUPPORT:
                raise Unavailable(f"nftables does not say what is left of earlier tunnels: {_said(error)}") from error
        if self._encryption is not None:
            self._encryption.recall(encrypted)

    def taps(self, tunnel: Tunnel, names: Iterable[str]) -> list[socket.socket]:
        """A probe's socket on each of these devices of the pod. Raises: Unavailable."""
        found: list[socket.socket] = []
        try:
            with namespaces.opened(tunnel.netns) as descriptor:
                if descriptor is None:
                    raise InvalidRequest(f"the pod's network namespace {tunnel.netns} is gone")
                with self._at_home().inside(descriptor):
                    found.extend(probe.tap(name) for name in names)  # the first ones also where a later one fails
        except OSError as error:
            for tap in found:
                tap.close()
            raise Unavailable(f"{_where(tunnel)}: the tunnel cannot be tried: {error}") from error
        return found

    def join(self, name: str) -> WireGuard:
        """Have WireGuard for a tunnel; what its VM is told of this end. Raises: Unavailable."""
        return self._wireguard().join(name)

    # one visit

    def _at_home(self) -> Visitor:
        """Raises: OSError."""
        if self._visitor is None:
            self._visitor = Visitor()
        self._visitor.go_home()
        return self._visitor

    def _in_pod(self, tunnel: Tunnel, visit: Callable[..., _T], *, gone: bool = False) -> _T:
        """`visit` with a socket that speaks to the pod's namespace, and that namespace's descriptor. `gone`: it may be,
        and is visited as None then."""
        try:
            with namespaces.opened(tunnel.netns) as descriptor:
                visitor = self._at_home()
                if descriptor is None:
                    if gone:
                        return visit(None, -1)
                    raise InvalidRequest(f"the pod's network namespace {tunnel.netns} is gone")
                with visitor.inside(descriptor):
                    pod = Exchange(NETLINK_ROUTE)
                with pod:
                    return visit(pod, descriptor)
        except OSError as error:
            raise Unavailable(f"{_where(tunnel)} cannot be entered: {_said(error)}") from error

    def _all(self, tunnel: Tunnel, wanted: Iterable[Operation], pod: Exchange, netns: int) -> None:
        for operation in wanted:
            self._one(tunnel, operation, pod, netns)

    def _one(self, tunnel: Tunnel, operation: Operation, pod: Exchange | None, netns: int) -> None:
        """Raises: NumberTaken, InvalidRequest, Unavailable."""
        try:
            match operation:
                case Admit():
                    self._firewall().admit(operation)
                case Dismiss():
                    self._firewall().dismiss(operation)
                case Join(name):
                    self.join(name)
                case AddPeer(name, public_key, address):
                    self._wireguard().connect(name, public_key, address)
                case Leave(name, public_key):
                    self._wireguard().leave(name, public_key)
                case _:
                    if self._host is None:
                        self._host = Exchange(NETLINK_ROUTE)
                    assert pod is not None
                    devices.carry_out(operation, self._host, pod, netns)
        except NameTaken as taken:
            raise InvalidRequest(
                f"{_where(tunnel)} has a device {taken} that is not this tunnel's: does another cloud adaptor serve this "
                "pod, or has one left it behind?"
            ) from None
        except OSError as error:
            raise _meaning(tunnel, operation, error) from error

    def _firewall(self) -> Table:
        if self._table is None:
            self._table = Table()
        return self._table

    def _wireguard(self) -> Encryption:
        if self._encryption is None:
            raise Unavailable("the pod's network is encrypted, and this node has no WireGuard")
        return self._encryption


def _where(tunnel: Tunnel) -> str:
    return f"the pod's network namespace {tunnel.netns}"


def _meaning(tunnel: Tunnel, operation: Operation, error: OSError) -> AdaptorError:
    """The kernel's refusal of this operation, for people."""
    said, number = _said(error), error.errno
    match operation:
        case Admit() | Dismiss() if number in _NO_SUPPORT:
            return Unavailable(
                f"the pod's tunnel cannot be fenced: this node's kernel lacks nftables or a part of it ({said}). Load "
                "the modules nf_tables and nft_ct"
            )
        case Admit() | Dismiss():
            return Unavailable(f"the pod's tunnel cannot be fenced: nftables says: {said}")
        case AddVxlan() if number in _NO_SUPPORT:
            return Unavailable(f"this node's kernel makes no VXLAN device: {said}. Load the module vxlan")
        case Raise() if number == errno.EADDRINUSE:
            return Unavailable(
                f"UDP port {tunnel.port} is another program's on this node, such as a CNI plugin's own VXLAN: set "
                "[network] vxlan_port to one that is free on nodes and VMs"
            )
        case LetIn() | SendOut() if number in _NO_SUPPORT:
            return Unavailable(
                f"this node's kernel cannot redirect the pod's packets: {said}. Load the modules sch_ingress, cls_u32 "
                "and act_mirred"
            )
        case LetIn() | SendOut() if number == errno.ENODEV:
            return InvalidRequest(f"{_where(tunnel)} has changed while the pod started: {said}")
        case _:
            return Unavailable(f"{_where(tunnel)}: {type(operation).__name__} failed: {said}")


def _said(error: OSError) -> str:
    said = error.strerror or str(error)
    if error.errno in _FORBIDDEN:
        return f"{said}. The adaptor needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN"
    return said
