"""Reads network namespaces over netlink, in the form that `inspect` documents.

Written by hand rather than with pyroute2, for every pod's namespace is read once: it takes a tenth of the time. The
tests hold it to what pyroute2 reads.
"""

import ipaddress
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from adaptor.errors import Unavailable
from adaptor.podnet import filters
from adaptor.podnet.exchange import NETLINK_ROUTE, Exchange, attribute, attributes, message
from adaptor.podnet.inspect import AddressRow, LinkRow, NeighbourRow, QdiscRow, RouteRow, Rows, RuleRow

_GETLINK, _GETADDR, _GETROUTE, _GETNEIGH, _GETRULE, _GETQDISC = 18, 22, 26, 30, 34, 38
_IFINFO: Final = struct.Struct("=BxHiII")  # family, type, index, flags, changed
_IFADDR: Final = struct.Struct("=BBBBI")  # family, prefix, flags, scope, index
_ROUTE: Final = struct.Struct("=8BI")  # family, prefixes, tos, table, protocol, scope, type; flags. A rule's is alike
_NEIGHBOUR: Final = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_TC: Final = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_NEXT_HOP: Final = struct.Struct("=HBBi")  # length, flags, hops, index
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_EXT_MASK = 1, 3, 4, 18, 29
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_METRICS = 1, 2, 4, 5, 6, 7, 8
_RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA, _RTA_ENCAP, _RTAX_MTU = 9, 15, 18, 22, 2
_NDA_DST, _NDA_LLADDR = 1, 2
_FRA_IIFNAME, _FRA_FWMARK, _FRA_OIFNAME = 3, 10, 17  # the others as a route's
_KIND: Final = 1  # of a link, within its info; of a qdisc
_NO_STATISTICS: Final = 8
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_FAMILIES: Final = {2: 4, 10: 6}  # rtnetlink's number: ours. Multicast routing has more


def read_here() -> Rows:
    """The namespace that this thread is in, its packet filter too. Raises: OSError."""
    with Exchange(NETLINK_ROUTE) as route:
        rows = Rows(
            list(_links(route)),
            list(_addresses(route)),
            list(_routes(route)),
            list(_neighbours(route)),
            list(_rules(route)),
            list(_qdiscs(route)),
        )
    return replace(rows, filters=filters.tables())


def worker_address(known: str, interface: str | None) -> str:
    """This host's address with its prefix length: `known`, if it is not empty; else the one that `interface` has, or
    the default route's. Raises: Unavailable."""
    with Exchange(NETLINK_ROUTE) as route:
        links = {link["index"]: link for link in _links(route)}
        preferred = [row["index"] for row in _routes(route) if row["destination"] == "" and row["gateway"]]
        rows = [row for row in _addresses(route) if row["family"] == 4 and row["index"] in links]
    if known:
        rows = [row for row in rows if row["address"] == known]
    elif interface:
        rows = [row for row in rows if links[row["index"]]["name"] == interface]
    rows = [row for row in rows if links[row["index"]]["flags"] & (_IFF_UP | _IFF_LOOPBACK) == _IFF_UP]
    rows.sort(key=lambda row: row["index"] not in preferred)
    if not rows:
        by = f" {known}" if known else f" on {interface}" if interface else ""
        raise Unavailable(f"this worker has no IPv4 address{by} that a pod VM could reach")
    return f"{rows[0]['address']}/{rows[0]['prefix']}"


def _links(route: Exchange) -> Iterator[LinkRow]:
    asked = bytes(_IFINFO.size) + attribute(_IFLA_EXT_MASK, struct.pack("=I", _NO_STATISTICS))
    for body in route.dump(message(_GETLINK, 0, asked)):
        _, kind, index, flags, _ = _IFINFO.unpack_from(body)
        told = attributes(body[_IFINFO.size :])
        yield {
            "index": index,
            "name": _text(told, _IFLA_IFNAME),
            "kind": _text(attributes(told.get(_IFLA_LINKINFO, b"")), _KIND),
            "address": told.get(_IFLA_ADDRESS, b"").hex(":"),
            "mtu": _number(told, _IFLA_MTU),
            "flags": flags,
            "type": kind,
        }


def _addresses(route: Exchange) -> Iterator[AddressRow]:
    """Of IPv4 the kernel always says both ends (the same where there is but one), of IPv6 only where they differ."""
    for body in route.dump(message(_GETADDR, 0, bytes(_IFADDR.size))):
        family, prefix, flags, scope, index = _IFADDR.unpack_from(body)
        if family not in _FAMILIES:
            continue
        told = attributes(body[_IFADDR.size :])
        address, local = _address(told, _IFA_ADDRESS), _address(told, _IFA_LOCAL)
        yield {
            "index": index,
            "family": _FAMILIES[family],
            "address": local or address,
            "prefix": prefix,
            "peer": address if local and address != local else "",
            "scope": scope,
            "flags": _number(told, _IFA_FLAGS, flags),
        }


def _routes(route: Exchange) -> Iterator[RouteRow]:
    for body in route.dump(message(_GETROUTE, 0, bytes(_ROUTE.size))):
        family, prefix, origin, tos, table, protocol, scope, kind, flags = _ROUTE.unpack_from(body)
        if family not in _FAMILIES:
            continue
        told = attributes(body[_ROUTE.size :])
        yield {
            "family": _FAMILIES[family],
            "table": _number(told, _RTA_TABLE, table),
            "type": kind,
            "index": _number(told, _RTA_OIF),
            "destination": f"{_address(told, _RTA_DST)}/{prefix}" if prefix else "",
            "origin": f"{_address(told, _RTA_SRC)}/{origin}" if origin else "",
            "gateway": _address(told, _RTA_GATEWAY) or _ip(told.get(_RTA_VIA, b"")[2:]),
            "source": _address(told, _RTA_PREFSRC),
            "scope": scope,
            "protocol": protocol,
            "metric": _number(told, _RTA_PRIORITY),
            "flags": flags,
            "tos": tos,
            "mtu": _number(attributes(told.get(_RTA_METRICS, b"")), _RTAX_MTU),
            "hops": _hops(told.get(_RTA_MULTIPATH, b"")),
            "encapsulated": _RTA_ENCAP in told,
        }


def _hops(multipath: bytes) -> int:
    found = at = 0
    while at + _NEXT_HOP.size <= len(multipath):
        length = _NEXT_HOP.unpack_from(multipath, at)[0]
        at += max(length + -length % 4, _NEXT_HOP.size)
        found += 1
    return found


def _neighbours(route: Exchange) -> Iterator[NeighbourRow]:
    for body in route.dump(message(_GETNEIGH, 0, bytes(_NEIGHBOUR.size))):
        family, index, state, flags, _ = _NEIGHBOUR.unpack_from(body)
        if family not in _FAMILIES:
            continue
        told = attributes(body[_NEIGHBOUR.size :])
        yield {
            "index": index,
            "family": _FAMILIES[family],
            "address": _address(told, _NDA_DST),
            "hardware_address": told.get(_NDA_LLADDR, b"").hex(":"),
            "state": state,
            "flags": flags,
        }


def _rules(route: Exchange) -> Iterator[RuleRow]:
    for body in route.dump(message(_GETRULE, 0, bytes(_ROUTE.size))):
        family, to, origin, _, table, _, _, _, _ = _ROUTE.unpack_from(body)
        if family not in _FAMILIES:
            continue
        told = attributes(body[_ROUTE.size :])
        words = [f"from {_address(told, _RTA_SRC)}/{origin}" if origin else "from all"]
        words += [f"to {_address(told, _RTA_DST)}/{to}"] if to else []
        words += [f"fwmark {mark:#x}"] if (mark := _number(told, _FRA_FWMARK)) else []
        words += [f"iif {name}"] if (name := _text(told, _FRA_IIFNAME)) else []
        words += [f"oif {name}"] if (name := _text(told, _FRA_OIFNAME)) else []
        yield {
            "family": _FAMILIES[family],
            "priority": _number(told, _RTA_PRIORITY),
            "table": _number(told, _RTA_TABLE, table),
            "text": " ".join(words),
        }


def _qdiscs(route: Exchange) -> Iterator[QdiscRow]:
    for body in route.dump(message(_GETQDISC, 0, bytes(_TC.size))):
        _, index, handle, parent, _ = _TC.unpack_from(body)
        kind = _text(attributes(body[_TC.size :]), _KIND)
        yield {"index": index, "kind": kind, "handle": handle, "parent": parent}


def _number(told: dict[int, bytes], kind: int, otherwise: int = 0) -> int:
    return int.from_bytes(told[kind], sys.byteorder) if kind in told else otherwise


def _text(told: dict[int, bytes], kind: int) -> str:
    return told.get(kind, b"").rstrip(b"\0").decode(errors="surrogateescape")


def _address(told: dict[int, bytes], kind: int) -> str:
    return _ip(told.get(kind, b""))


def _ip(packed: bytes) -> str:
    """As text; empty for what is not there, or is no IP address."""
    return str(ipaddress.ip_address(packed)) if len(packed) in (4, 16) else ""
