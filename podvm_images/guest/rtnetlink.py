"""rtnetlink, as far as a pod's network needs it: values in, values out. Blocks, for microseconds.

pyroute2 knows much more, and reading it in costs 0.1 s of a pod's start and 12 MiB of its VM.
"""

import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from adaptor.podnet.exchange import (
    NETLINK_ROUTE,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Exchange,
    attribute,
    attributes,
    message,
    nested,
)
from adaptor.podnet.plan import Neighbour, Route
from podvm_images.guest.layout import Address, Vxlan

_NEWLINK, _GETLINK, _NEWADDR, _GETADDR = 16, 18, 20, 22
_NEWROUTE, _GETROUTE, _NEWNEIGH, _GETNEIGH = 24, 26, 28, 30

_IFINFO: Final = struct.Struct("=BxHiII")  # family, type, index, flags, changed flags
_IFADDR: Final = struct.Struct("=BBBBI")  # family, prefix, flags, scope, index
_RTMSG: Final = struct.Struct(
    "=BBBBBBBBI"
)  # family, destination's prefix, .., tos, table, protocol, scope, type, flags
_NEXTHOP: Final = struct.Struct("=HBBi")  # length, flags, weight, index
_NDMSG: Final = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 4, 18, 28
_INFO_KIND, _INFO_DATA = 1, 2
_VXLAN_ID, _VXLAN_LEARNING, _VXLAN_PORT = 1, 7, 15
_VXLAN_GROUP: Final = {4: 2, 6: 16}
_VXLAN_LOCAL: Final = {4: 4, 6: 17}
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC = 1, 4, 5, 6, 7
_RTA_METRICS, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 8, 9, 15, 18
_RTAX_MTU: Final = 2
_NDA_DST, _NDA_LLADDR = 1, 2

_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_NODAD: Final = 0x02  # nobody else has the address: the worker's namespace has it, and is silent
_NO_PREFIX_ROUTE: Final = 0x200
_MAIN_TABLE, _RTN_UNICAST, _ON_LINK = 254, 1, 0x4
_PERMANENT: Final = 0x80
_FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_VERSION: Final = {socket.AF_INET: 4, socket.AF_INET6: 6}


@dataclass(frozen=True, slots=True)
class Link:
    """A device."""

    index: int
    name: str
    hardware_address: str
    mtu: int
    up: bool
    loopback: bool
    kind: str = ""  # empty: hardware
    vxlan: Vxlan | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Way:
    """How the kernel would send a packet."""

    index: int
    source: str
    mtu: int  # the route's own, or what was learnt of the path; 0: neither
    unicast: bool


class Rtnetlink:
    """A socket in the namespace where it was opened. Every call raises OSError, with the kernel's words."""

    def __init__(self) -> None:
        self._exchange = Exchange(NETLINK_ROUTE)

    def close(self) -> None:
        self._exchange.close()

    # what is there

    def links(self) -> list[Link]:
        return [_link(body) for body in self._exchange.dump(message(_GETLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0)))]

    def addresses(self) -> Iterator[tuple[int, Address]]:
        """With the index of its device, each."""
        for body in self._exchange.dump(message(_GETADDR, 0, _IFADDR.pack(0, 0, 0, 0, 0))):
            _, prefix, _, _, index = _IFADDR.unpack_from(body)
            told = attributes(body[_IFADDR.size :])
            peer = _text(told[_IFA_ADDRESS])
            own = _text(told[_IFA_LOCAL]) if _IFA_LOCAL in told else peer
            yield index, Address(own, prefix, "" if peer == own else peer)

    def routes(self) -> Iterator[tuple[int, Route]]:
        """The main table's, likewise. Of an IPv6 destination with several gateways the kernel makes one route with as
        many hops: they are told apart again."""
        for body in self._exchange.dump(message(_GETROUTE, 0, _RTMSG.pack(*[0] * 9))):
            family, prefix, _, _, table, protocol, scope, _, flags = _RTMSG.unpack_from(body)
            told = attributes(body[_RTMSG.size :])
            if family not in _VERSION or _number(told.get(_RTA_TABLE), table) != _MAIN_TABLE:
                continue
            for index, flags_, hop in _hops(told, flags):
                route = Route(
                    destination=f"{_text(told[_RTA_DST])}/{prefix}" if _RTA_DST in told else "",
                    family=_VERSION[family],
                    gateway=_gateway(hop),
                    source=_text(told.get(_RTA_PREFSRC, b"")),
                    scope=scope,
                    protocol=protocol,
                    metric=_number(told.get(_RTA_PRIORITY)),
                    on_link=bool(flags_ & _ON_LINK),
                    mtu=_number(attributes(told.get(_RTA_METRICS, b"")).get(_RTAX_MTU)),
                )
                yield index, route

    def neighbours(self) -> Iterator[tuple[int, Neighbour]]:
        """The permanent ones, likewise."""
        for body in self._exchange.dump(message(_GETNEIGH, 0, _NDMSG.pack(0, 0, 0, 0, 0))):
            _, index, state, _, _ = _NDMSG.unpack_from(body)
            told = attributes(body[_NDMSG.size :])
            if state & _PERMANENT and _NDA_LLADDR in told:
                yield index, Neighbour(_text(told[_NDA_DST]), _mac(told[_NDA_LLADDR]))

    def way_to(self, address: str) -> Way:
        target = ipaddress.ip_address(address)
        head = _RTMSG.pack(_FAMILY[target.version], target.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
        body = self._exchange.get(message(_GETROUTE, 0, head + attribute(_RTA_DST, target.packed)))
        told = attributes(body[_RTMSG.size :])
        return Way(
            index=_number(told.get(_RTA_OIF)),
            source=_text(told.get(_RTA_PREFSRC, b"")),
            mtu=_number(attributes(told.get(_RTA_METRICS, b"")).get(_RTAX_MTU)),
            unicast=_RTMSG.unpack_from(body)[7] == _RTN_UNICAST,
        )

    # deeds

    def add_vxlan(self, name: str, hardware_address: str, mtu: int, wanted: Vxlan, netns: int) -> None:
        """Down, in the namespace of the descriptor `netns`; its own packets go by this socket's namespace."""
        remote, local = ipaddress.ip_address(wanted.remote), ipaddress.ip_address(wanted.local)
        data = (
            attribute(_VXLAN_ID, _int(wanted.vni))
            + attribute(_VXLAN_GROUP[remote.version], remote.packed)
            + attribute(_VXLAN_LOCAL[local.version], local.packed)
            + attribute(_VXLAN_PORT, struct.pack(">H", wanted.port))
            + attribute(_VXLAN_LEARNING, bytes((wanted.learning,)))
        )
        body = (
            attribute(_IFLA_IFNAME, name.encode() + b"\0")
            + attribute(_IFLA_ADDRESS, bytes.fromhex(hardware_address.replace(":", "")))
            + attribute(_IFLA_MTU, _int(mtu))
            + attribute(_IFLA_NET_NS_FD, _int(netns))
            + nested(_IFLA_LINKINFO, attribute(_INFO_KIND, b"vxlan"), nested(_INFO_DATA, data))
        )
        self._make(_NEWLINK, NLM_F_EXCL, _IFINFO.pack(0, 0, 0, 0, 0) + body)

    def bring_up(self, index: int) -> None:
        self._exchange.do(message(_NEWLINK, 0, _IFINFO.pack(0, 0, index, _IFF_UP, _IFF_UP)))

    def set_mtu(self, index: int, mtu: int) -> None:
        self._exchange.do(message(_NEWLINK, 0, _IFINFO.pack(0, 0, index, 0, 0) + attribute(_IFLA_MTU, _int(mtu))))

    def add_address(self, index: int, address: Address) -> None:
        """Without a route of the kernel's own to its network."""
        own = ipaddress.ip_address(address.own)
        body = (
            _IFADDR.pack(_FAMILY[own.version], address.prefix, 0, 0, index)
            + attribute(_IFA_LOCAL, own.packed)
            + attribute(_IFA_ADDRESS, ipaddress.ip_address(address.peer or address.own).packed)
            + attribute(_IFA_FLAGS, _int(_NODAD | _NO_PREFIX_ROUTE))
        )
        self._make(_NEWADDR, NLM_F_EXCL, body)

    def add_neighbour(self, index: int, neighbour: Neighbour) -> None:
        address = ipaddress.ip_address(neighbour.address)
        body = (
            _NDMSG.pack(_FAMILY[address.version], index, _PERMANENT, 0, 0)
            + attribute(_NDA_DST, address.packed)
            + attribute(_NDA_LLADDR, bytes.fromhex(neighbour.hardware_address.replace(":", "")))
        )
        self._make(_NEWNEIGH, NLM_F_EXCL, body)

    def add_route(self, index: int, route: Route) -> None:
        """After those to the same destination with the same metric."""
        network = ipaddress.ip_network(route.destination) if route.destination else None
        flags = _ON_LINK if route.on_link else 0
        prefix = network.prefixlen if network else 0
        body = _RTMSG.pack(
            _FAMILY[route.family], prefix, 0, 0, _MAIN_TABLE, route.protocol, route.scope, _RTN_UNICAST, flags
        ) + attribute(_RTA_OIF, _int(index))
        if network:
            body += attribute(_RTA_DST, network.network_address.packed)
        if route.gateway:
            gateway = ipaddress.ip_address(route.gateway)
            if gateway.version == route.family:
                body += attribute(_RTA_GATEWAY, gateway.packed)
            else:
                body += attribute(_RTA_VIA, struct.pack("=H", _FAMILY[gateway.version]) + gateway.packed)
        if route.source:
            body += attribute(_RTA_PREFSRC, ipaddress.ip_address(route.source).packed)
        if route.metric:
            body += attribute(_RTA_PRIORITY, _int(route.metric))
        if route.mtu:
            body += nested(_RTA_METRICS, attribute(_RTAX_MTU, _int(route.mtu)))
        self._make(_NEWROUTE, NLM_F_APPEND, body)

    def _make(self, kind: int, flags: int, body: bytes) -> None:
        self._exchange.do(message(kind, NLM_F_CREATE | flags, body))


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    told = attributes(body[_IFINFO.size :])
    info = attributes(told.get(_IFLA_LINKINFO, b""))
    kind = info.get(_INFO_KIND, b"").rstrip(b"\0").decode()
    return Link(
        index=index,
        name=told[_IFLA_IFNAME].rstrip(b"\0").decode(errors="replace"),
        hardware_address=_mac(told.get(_IFLA_ADDRESS, b"")),
        mtu=_number(told.get(_IFLA_MTU)),
        up=bool(flags & _IFF_UP),
        loopback=bool(flags & _IFF_LOOPBACK),
        kind=kind,
        vxlan=_vxlan(attributes(info.get(_INFO_DATA, b""))) if kind == "vxlan" else None,
    )


def _vxlan(told: dict[int, bytes]) -> Vxlan:
    return Vxlan(
        vni=_number(told.get(_VXLAN_ID)),
        remote=_text(told.get(_VXLAN_GROUP[4]) or told.get(_VXLAN_GROUP[6], b"")),
        local=_text(told.get(_VXLAN_LOCAL[4]) or told.get(_VXLAN_LOCAL[6], b"")),
        port=int.from_bytes(told.get(_VXLAN_PORT, b""), "big"),
        learning=any(told.get(_VXLAN_LEARNING, b"")),
    )


def _hops(told: dict[int, bytes], flags: int) -> Iterator[tuple[int, int, dict[int, bytes]]]:
    """Index, flags and attributes of each."""
    rest = told.get(_RTA_MULTIPATH, b"")
    if not rest:
        yield _number(told.get(_RTA_OIF)), flags, told
    while len(rest) >= _NEXTHOP.size:
        length, flags, _, index = _NEXTHOP.unpack_from(rest)
        yield index, flags, attributes(rest[_NEXTHOP.size : length])
        rest = rest[max(length, _NEXTHOP.size) :]


def _gateway(hop: dict[int, bytes]) -> str:
    return _text(hop[_RTA_GATEWAY]) if _RTA_GATEWAY in hop else _text(hop.get(_RTA_VIA, b"")[2:])


def _text(address: bytes) -> str:
    return str(ipaddress.ip_address(address)) if address else ""


def _mac(address: bytes) -> str:
    return address.hex(":")


def _int(value: int) -> bytes:
    return struct.pack("=I", value)


def _number(value: bytes | None, otherwise: int = 0) -> int:
    return int.from_bytes(value, sys.byteorder) if value else otherwise
