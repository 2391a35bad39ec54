"""A pod's network as values: what its namespace holds, what the VM must make of it, what the worker will have made; pure.

    PodNetwork ──guest half──► GuestPlan ─ JSON in Bind ─► the VM        its answer: GuestAnswer, JSON in BindResponse
         └─────worker half───► Tunnel   ─ the journal ──► `operations` ──► `netlink`

Worker and guest share this module. Addresses are text as iproute2 writes them; with a prefix length where they name a
network or an interface's address.
"""

import base64
import binascii
import dataclasses
import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

from adaptor.errors import AdaptorError, InvalidRequest

VERSION: Final = 1  # of both JSON forms; a guest refuses a plan of another
MOST_INTERFACES: Final = 16  # of a pod; each costs a device, a VNI and two filters on the worker

# What neither end reads more of: far above what a pod has, far below what would hurt.
_MOST_BYTES: Final = 1 << 20
_MOST_ADDRESSES: Final = 64  # of an interface
_MOST_ROUTES: Final = 512  # of an interface; neighbours likewise
_MOST_NETWORKS: Final = 256  # that stay inside

# The kernel takes a family's addresses off an interface with less.
LEAST_MTU: Final = {4: 68, 6: 1280}
_NAME: Final = re.compile(r"[^\s/:\0]+")  # what Linux takes for a device's name, up to its length
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


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
    port: int  # UDP: where the VM listens. The plan tells it, the answer agrees; the worker begins, from any port


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


# -- the VM's half ------------------------------------------------------------------------------------


def guest_plan(
    network: PodNetwork,
    tunnel: Tunnel,
    *,
    left: int,
    worker: str,
    wireguard: WireGuard | None = None,
    egress: Egress | None = None,
    imds: bool = False,
) -> GuestPlan:
    """What the VM must make of `network`; `left` is the MTU that the path and the tunnel leave (`vxlan.inner_mtu`),
    `worker` the address that the VXLAN comes from.

    Raises: InvalidRequest when the path is too narrow for the pod's addresses, or the namespace is no longer what the
    tunnel was intended for.
    """
    named = [interface.name for interface in network.interfaces]
    if named != [cord.interface for cord in tunnel.cords]:
        raise InvalidRequest(
            f"the pod's network namespace {tunnel.netns} had the interfaces "
            f"{', '.join(cord.interface for cord in tunnel.cords)}, and now has {', '.join(named)}: it must not change "
            "while the pod starts"
        )
    try:
        plan = GuestPlan(
            interfaces=tuple(_ordered(fitted(interface, left)) for interface in network.interfaces),
            vnis=tuple(cord.vni for cord in tunnel.cords),
            port=tunnel.port,
            worker=worker,
            wireguard=wireguard,
            egress=egress,
            imds=imds,
        )
        guest_plan_from_json(to_json(plan))  # nothing goes out that a VM would not read
    except PlanFault as fault:
        raise InvalidRequest(f"the pod's network cannot be carried to its VM: {fault}") from None
    return plan


def fitted(interface: Interface, left: int) -> Interface:
    """The interface where no more than `left` bytes pass; its routes' own MTUs too.

    Raises: PlanFault when that is less than its addresses need.
    """
    mtu = min(interface.mtu, left)
    for address in interface.addresses:
        if mtu < (least := LEAST_MTU[_family(address)]):
            raise PlanFault(
                f"the way between worker and VM leaves {interface.name} an MTU of {mtu}, and its address {address} "
                f"needs {least}: raise the MTU of the VM's network"
            )
    return replace(interface, mtu=mtu, routes=tuple(replace(r, mtu=min(r.mtu, mtu)) for r in interface.routes))


def _ordered(interface: Interface) -> Interface:
    """Routes without a gateway first: the kernel takes a gateway only where another route leads to it. Else as they
    were, for among equals it prefers the first."""
    return replace(interface, routes=tuple(sorted(interface.routes, key=lambda route: bool(route.gateway))))


def _family(address: str) -> int:
    return 6 if ":" in address else 4


# -- the form that travels ------------------------------------------------------------------------------


def guest_plan_from_json(data: bytes) -> GuestPlan:
    """Raises: PlanFault, for all that `to_json` would not write of a plan that makes sense."""
    at = _read(data, GuestPlan)
    interfaces = tuple(_interface(each) for each in at["interfaces"].items(MOST_INTERFACES))
    if not interfaces:
        at["interfaces"].fault("at least one")
    names = [interface.name for interface in interfaces]
    if len(set(names)) < len(names):
        at["interfaces"].fault("different names")
    vnis = tuple(each.number(1, (1 << 24) - 1) for each in at["vnis"].items(MOST_INTERFACES))
    if len(set(vnis)) < len(vnis) or len(vnis) != len(interfaces):
        at["vnis"].fault(f"a different number for each of the {len(interfaces)} interfaces")
    return GuestPlan(
        interfaces=interfaces,
        vnis=vnis,
        port=at["port"].number(1, 65535),
        worker=at["worker"].address(),
        wireguard=_wireguard(at["wireguard"]),
        egress=_egress(at["egress"]),
        imds=at["imds"].flag(),
    )


def guest_answer_from_json(data: bytes) -> GuestAnswer:
    """Raises: PlanFault, as above."""
    return GuestAnswer(wireguard=_wireguard(_read(data, GuestAnswer)["wireguard"]))


def _read(data: bytes, kind: type[GuestPlan | GuestAnswer]) -> "dict[str, _Place]":
    """The fields of the outermost object, of our version."""
    if len(data) > _MOST_BYTES:
        raise PlanFault(f"{len(data)} bytes, expected at most {_MOST_BYTES}")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_once)
    except PlanFault:
        raise
    except (ValueError, RecursionError) as error:
        raise PlanFault(f"not JSON: {error}") from None
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version != VERSION:
        raise PlanFault(f"version {version}, expected {VERSION}: worker and pod VM image are of different releases")
    at = _Place("", value).fields(kind)
    at["version"].number(VERSION, VERSION)
    return at


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise PlanFault(f"a key is there twice, among {', '.join(key for key, _ in pairs)[:200]}")
    return found


def _interface(place: "_Place") -> Interface:
    at = place.fields(Interface)
    addresses = tuple(each.interface_address() for each in at["addresses"].items(_MOST_ADDRESSES))
    own = {address.partition("/")[0] for address in addresses}
    for each in (peers := at["peers"].items(_MOST_ADDRESSES)):
        address, _, peer = each.text().partition("=")
        if address not in own or _Place(each.path, peer).address(_family(address)) != peer:
            each.fault("one of the addresses, = and its peer")
    mac = at["hardware_address"].mac()
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        at["hardware_address"].fault("a MAC address of one interface")
    return Interface(
        name=at["name"].device(),
        hardware_address=mac,
        mtu=at["mtu"].number(LEAST_MTU[4], 65535),
        addresses=addresses,
        routes=tuple(_route(each) for each in at["routes"].items(_MOST_ROUTES)),
        neighbours=tuple(_neighbour(each) for each in at["neighbours"].items(_MOST_ROUTES)),
        peers=tuple(each.text() for each in peers),
    )


def _route(place: "_Place") -> Route:
    at = place.fields(Route)
    family = at["family"].number(4, 6)
    if family == 5:
        at["family"].fault("4 or 6")
    gateway = at["gateway"].optional_address()
    if gateway and family == 6 and _family(gateway) == 4:
        at["gateway"].fault("an IPv6 address")
    return Route(
        destination=at["destination"].network(family) if at["destination"].value != "" else "",
        family=family,
        gateway=gateway,
        source=at["source"].optional_address(family),
        scope=at["scope"].number(0, 255),
        protocol=at["protocol"].number(0, 255),
        metric=at["metric"].number(0, (1 << 32) - 1),
        on_link=at["on_link"].flag(),
        mtu=at["mtu"].number(0, 65535),
    )


def _neighbour(place: "_Place") -> Neighbour:
    at = place.fields(Neighbour)
    return Neighbour(address=at["address"].address(), hardware_address=at["hardware_address"].mac())


def _wireguard(place: "_Place") -> WireGuard | None:
    if place.value is None:
        return None
    at = place.fields(WireGuard)
    return WireGuard(public_key=at["public_key"].key(), port=at["port"].number(0, 65535))


def _egress(place: "_Place") -> Egress | None:
    if place.value is None:
        return None
    at = place.fields(Egress)
    inside = tuple(each.network() for each in at["inside"].items(_MOST_NETWORKS))
    return Egress(inside=inside, nic=at["nic"].flag())


@dataclass(frozen=True, slots=True)
class _Place:
    """A value and where it stands; each method returns it as what it must be, or raises PlanFault."""

    path: str
    value: Any

    def fault(self, expected: str) -> NoReturn:
        found = json.dumps(self.value)
        shown = found if len(found) <= 100 else f"{found[:100]}..."
        raise PlanFault(f"{self.path or 'the whole'}: expected {expected}, found {shown}")

    def fields(self, kind: type[Any]) -> "dict[str, _Place]":
        names = [field.name for field in dataclasses.fields(kind)]
        if not isinstance(self.value, dict) or set(self.value) != set(names):
            self.fault(f"an object with the keys {', '.join(names)}")
        return {name: _Place(f"{self.path}.{name}".lstrip("."), self.value[name]) for name in names}

    def items(self, most: int) -> "list[_Place]":
        if not isinstance(self.value, list) or len(self.value) > most:
            self.fault(f"a list of at most {most}")
        return [_Place(f"{self.path}[{index}]", each) for index, each in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value.isprintable():  # lone surrogates are not
            self.fault("text")
        return self.value

    def number(self, least: int, most: int) -> int:
        if type(self.value) is not int or not least <= self.value <= most:
            self.fault(f"a number from {least} to {most}")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            self.fault("true or false")
        return self.value

    def device(self) -> str:
        name = self.text()
        if not _NAME.fullmatch(name) or len(name.encode()) > 15 or name in (".", "..", "lo"):
            self.fault("an interface's name, of at most 15 bytes")
        return name

    def mac(self) -> str:
        if not _MAC.fullmatch(self.text()):
            self.fault("a MAC address such as 02:00:00:00:00:01")
        return self.text()

    def address(self, family: int | None = None) -> str:
        """One that a packet can be sent to."""
        try:
            address = ipaddress.ip_address(self.text().replace("%", " "))  # no scope
        except ValueError:
            self.fault("an IP address")
        if address.is_multicast or address.is_unspecified or address.is_loopback:
            self.fault("an IP address that can be sent to")
        if family not in (None, address.version):
            self.fault(f"an IPv{family} address")
        return self.text()

    def optional_address(self, family: int | None = None) -> str:
        return self.address(family) if self.value != "" else ""

    def interface_address(self) -> str:
        address, slash, prefix = self.text().partition("/")
        place = _Place(self.path, address)
        most = 32 if _family(place.address()) == 4 else 128
        if not slash or not re.fullmatch("[0-9]{1,3}", prefix) or not 1 <= int(prefix) <= most:
            self.fault("an address with its prefix length")
        return self.text()

    def network(self, family: int | None = None) -> str:
        try:
            network = ipaddress.ip_network(self.text().replace("%", " "))
        except ValueError as error:
            self.fault(f"a network with its prefix length ({error})")
        if family not in (None, network.version):
            self.fault(f"an IPv{family} network")
        return self.text()

    def key(self) -> str:
        try:
            length = len(base64.b64decode(self.text(), validate=True))
        except (binascii.Error, ValueError):
            length = 0
        if length != 32:
            self.fault("32 bytes in base64")
        return self.text()
