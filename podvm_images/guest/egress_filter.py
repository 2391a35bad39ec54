"""The packet filters around what leaves from the VM, as values that nftables takes; pure.

In the VM, nothing of the pod's reaches the VM itself, other VMs' guests and tunnels, or what clouds keep for the VM; the
pod's addresses become the card's. In podns, connections that came in by the tunnel are answered by the tunnel, also
where their other end is outside of the pods' networks: kubelet's probes, and clients of a NodePort.

A statement is (what, attributes) as pyroute2 names them; a rule's last attribute is a list of expressions.
"""

import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, Final

from podvm_images.guest.egress_layout import DEVICE, MARK, Way, cards

TABLE: Final = "peerpods-egress"  # family inet, in the VM and in podns
INET: Final = 1

Expression = dict[str, Any]
Statement = tuple[str, dict[str, Any]]

_R1: Final = 1  # a register of 16 bytes
_PRE, _IN, _FORWARD, _OUT, _POST = range(5)  # hooks
_MANGLE: Final = -150
_NAT: Final = 100
_DROP, _ACCEPT, _GOTO = 0, 1, -4
_EQUAL, _DIFFERENT = 0, 1
_META_MARK, _META_IIFNAME, _META_OIFNAME, _META_NFPROTO, _META_L4PROTO = 3, 6, 7, 15, 16
_CT_STATE, _CT_MARK = 0, 3
_INVALID, _RETURNING, _NEW = 1, 2 | 4, 8  # bits of the state; returning: established or related
_NFPROTO: Final = {4: 2, 6: 10}
_SOURCE: Final = {4: (12, 4), 6: (8, 16)}  # offset and length in the network header
_DESTINATION: Final = {4: (16, 4), 6: (24, 16)}
_TCP, _UDP = 6, 17
_TTL: Final = 64


def in_vm(ways: Sequence[Way], tcp_ports: Sequence[int], udp_ports: Sequence[int]) -> Iterator[Statement]:
    """The VM's table. `tcp_ports`, `udp_ports`: where other VMs' guests and tunnels listen."""
    yield "table", {"name": TABLE}
    yield _chain("prerouting", _PRE, _MANGLE)
    yield _chain("input", _IN)
    yield _chain("forward", _FORWARD)
    yield _chain("postrouting", _POST, _NAT, "nat")
    for name in ("pod", "checked"):
        yield "chain", {"table": TABLE, "name": name}
    yield _rule("input", _iif(DEVICE), _verdict(_DROP))
    yield _rule("forward", _iif(DEVICE), _verdict(_GOTO, "pod"))
    yield _rule("forward", _oif(DEVICE), _state(_RETURNING), _verdict(_ACCEPT))
    yield _rule("forward", _verdict(_DROP))  # it forwards for the pod, and for nobody else
    yield _rule("pod", _state(_INVALID), _verdict(_DROP))
    for way in ways:
        for address in way.addresses:
            yield _rule("pod", _address(address, _SOURCE), _verdict(_GOTO, "checked"))
            for name in sorted({card.name for card in cards(way)}):
                yield _rule("postrouting", _address(address, _SOURCE), _oif(name), [_expression("masq")])
    yield _rule("pod", _verdict(_DROP))
    yield from _checked(ways, tcp_ports, udp_ports)
    yield from _hop(ways)


def in_podns(ways: Sequence[Way], tunnels: Sequence[str]) -> Iterator[Statement]:
    """The table of podns; empty where only metadata leave. `tunnels`: the names of the pod's interfaces."""
    if not any(way.out for way in ways):
        return
    yield "table", {"name": TABLE}
    yield _chain("prerouting", _PRE, _MANGLE)
    yield _chain("output", _OUT, _MANGLE, "route")
    for name in tunnels:
        yield _rule("prerouting", _iif(name), _state(_NEW), _load_ct(_CT_MARK), _or_mark(), _store("ct", _CT_MARK))
    marked = [*_load_ct(_CT_MARK), *_and(struct.pack("=I", MARK)), *_compare(_DIFFERENT, bytes(4))]
    for chain in ("prerouting", "output"):  # the first for containers that a pod runs in networks behind its own
        yield _rule(chain, marked, _load_meta(_META_MARK), _or_mark(), _store("meta", _META_MARK))


def _checked(ways: Sequence[Way], tcp_ports: Sequence[int], udp_ports: Sequence[int]) -> Iterator[Statement]:
    """What of the pod's own packets may leave, by which card."""
    for way in ways:
        for network in way.metadata:
            yield _rule("checked", _network(network, _DESTINATION), _oif(way.first.name), _verdict(_ACCEPT))
        for network in way.kept:
            yield _rule("checked", _network(network, _DESTINATION), _verdict(_DROP))
    for protocol, ports in ((_TCP, tcp_ports), (_UDP, udp_ports)):
        for port in sorted(set(ports)):
            yield _rule("checked", _port(protocol, port), _verdict(_DROP))
    for way in ways:
        if way.out is not None:
            yield _rule("checked", _family(way.family), _oif(way.out.name), _verdict(_ACCEPT))
    yield _rule("checked", _verdict(_DROP))


def _hop(ways: Sequence[Way]) -> Iterator[Statement]:
    """Metadata services may answer so that the answer lives one hop (EC2's HttpPutResponseHopLimit), and the pod is
    one further: who lets it ask wants it to hear."""
    for way in ways:
        offset, summed = ((8, {"csum_type": 1, "csum_offset": 10}), (7, {}))[way.family == 6]
        for network in way.metadata:
            ttl = _expression("payload", base=1, offset=offset, len=1, sreg=_R1, **summed)
            yield _rule("prerouting", _iif(way.first.name), _network(network, _SOURCE), [_immediate(_TTL), ttl])


def _chain(name: str, hook: int, priority: int = 0, kind: str = "filter") -> Statement:
    where = {"attrs": [("NFTA_HOOK_HOOKNUM", hook), ("NFTA_HOOK_PRIORITY", priority)]}
    return "chain", {"table": TABLE, "name": name, "hook": where, "type": kind}


def _rule(chain: str, *parts: list[Expression]) -> Statement:
    return "rule", {"table": TABLE, "chain": chain, "expressions": [each for part in parts for each in part]}


def _expression(name: str, **values: Any) -> Expression:
    attributes = [(f"NFTA_{name.upper()}_{key.upper()}", value) for key, value in values.items()]
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": attributes})]}


def _value(data: bytes) -> dict[str, Any]:
    return {"attrs": [("NFTA_DATA_VALUE", data)]}


def _load_meta(key: int) -> list[Expression]:
    return [_expression("meta", key=key, dreg=_R1)]


def _load_ct(key: int) -> list[Expression]:
    return [_expression("ct", key=key, dreg=_R1)]


def _store(where: str, key: int) -> list[Expression]:
    return [_expression(where, key=key, sreg=_R1)]


def _immediate(byte: int) -> Expression:
    return _expression("immediate", dreg=_R1, data=_value(bytes([byte])))


def _compare(operation: int, data: bytes) -> list[Expression]:
    return [_expression("cmp", sreg=_R1, op=operation, data=_value(data))]


def _and(mask: bytes, xor: bytes = b"") -> list[Expression]:
    flips = _value(xor or bytes(len(mask)))
    return [_expression("bitwise", sreg=_R1, dreg=_R1, len=len(mask), mask=_value(mask), xor=flips)]


def _or_mark() -> list[Expression]:
    return _and(struct.pack("=I", ~MARK & 0xFFFF_FFFF), struct.pack("=I", MARK))


def _verdict(code: int, chain: str = "") -> list[Expression]:
    verdict = [("NFTA_VERDICT_CODE", code), *([("NFTA_VERDICT_CHAIN", chain)] if chain else [])]
    return [_expression("immediate", dreg=0, data={"attrs": [("NFTA_DATA_VERDICT", {"attrs": verdict})]})]


def _iif(name: str) -> list[Expression]:
    return [*_load_meta(_META_IIFNAME), *_compare(_EQUAL, _padded(name))]


def _oif(name: str) -> list[Expression]:
    return [*_load_meta(_META_OIFNAME), *_compare(_EQUAL, _padded(name))]


def _padded(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def _state(bits: int) -> list[Expression]:
    return [*_load_ct(_CT_STATE), *_and(struct.pack("=I", bits)), *_compare(_DIFFERENT, bytes(4))]


def _family(family: int) -> list[Expression]:
    return [*_load_meta(_META_NFPROTO), *_compare(_EQUAL, bytes([_NFPROTO[family]]))]


def _port(protocol: int, port: int) -> list[Expression]:
    """The destination's."""
    load = _expression("payload", dreg=_R1, base=2, offset=2, len=2)
    kind = [*_load_meta(_META_L4PROTO), *_compare(_EQUAL, bytes([protocol]))]
    return [*kind, load, *_compare(_EQUAL, struct.pack(">H", port))]


def _address(text: str, where: dict[int, tuple[int, int]]) -> list[Expression]:
    return _network(str(ip_network(ip_address(text))), where)


def _network(text: str, where: dict[int, tuple[int, int]]) -> list[Expression]:
    network = ip_network(text)
    offset, length = where[network.version]
    load = _expression("payload", dreg=_R1, base=1, offset=offset, len=length)
    value = _compare(_EQUAL, network.network_address.packed)
    return [*_family(network.version), load, *_and(network.netmask.packed), *value]
