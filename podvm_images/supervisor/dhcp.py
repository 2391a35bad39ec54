"""DHCP for IPv4 (RFC 2131, 2132, 3442), as far as a VM in a cloud needs it: packets out of values, and values out of packets; pure.

What a server says is not trusted further than the network that it serves: addresses must be addresses, and no text of
its leaves this module.
"""

import ipaddress
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

CLIENT_PORT, SERVER_PORT = 68, 67
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6

_BOOTP: Final = struct.Struct(">BBBBIHH4s4s4s4s16s192x4s")
_COOKIE: Final = b"\x63\x82\x53\x63"
_MASK, _ROUTER, _DNS, _DOMAIN, _MTU, _ADDRESS, _LEASE, _TYPE, _SERVER, _WISHES, _CLIENT, _ROUTES = (
    1, 3, 6, 15, 26, 50, 51, 53, 54, 55, 61, 121,
)  # fmt: skip
_ASKED: Final = bytes((_MASK, _ROUTER, _DNS, _MTU, _LEASE, _ROUTES))
_LEAST_MTU: Final = 576
_LEAST_LEASE, _FOREVER = 60, 0xFFFFFFFF  # seconds
_DEFAULT_LEASE: Final = 3600
_NOBODY: Final = IPv4Address(0)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server offers or grants. `routes`: (network, gateway; None: on the link itself)."""

    kind: int
    address: str
    prefix: int
    server: str
    routes: tuple[tuple[str, str | None], ...] = ()
    names: tuple[str, ...] = ()  # the name servers
    mtu: int = 0
    seconds: int = _DEFAULT_LEASE


def discover(transaction: int, hardware: bytes) -> bytes:
    """A whole IP packet, as are the others."""
    return _packet(transaction, hardware, [(_TYPE, bytes((DISCOVER,)))])


def request(transaction: int, hardware: bytes, address: str, server: str) -> bytes:
    """For an address that was offered; with `server` empty for one that we have, of whichever server knows of it."""
    if not server:
        return _packet(transaction, hardware, [(_TYPE, bytes((REQUEST,)))], IPv4Address(address))
    wanted = [(_ADDRESS, IPv4Address(address).packed), (_SERVER, IPv4Address(server).packed)]
    return _packet(transaction, hardware, [(_TYPE, bytes((REQUEST,))), *wanted])


def answer(packet: bytes, transaction: int, hardware: bytes) -> Offer | None:
    """What the IP packet answers to us; None: it is somebody else's, no DHCP, or damaged."""
    try:
        return _answer(packet, transaction, hardware)
    except (ValueError, IndexError, struct.error):
        return None


def _answer(packet: bytes, transaction: int, hardware: bytes) -> Offer | None:
    head = (packet[0] & 0x0F) * 4
    if packet[0] >> 4 != 4 or packet[9] != 17 or struct.unpack_from(">HH", packet, head) != (SERVER_PORT, CLIENT_PORT):
        return None
    body = packet[head + 8 :]
    operation, _, _, _, number, _, _, _, yours, _, _, asker, cookie = _BOOTP.unpack_from(body)
    if operation != 2 or number != transaction or asker[: len(hardware)] != hardware or cookie != _COOKIE:
        return None
    told = _options(body[_BOOTP.size :])
    kind = told[_TYPE][0] if _TYPE in told else 0
    if kind not in (OFFER, ACK, NAK):
        return None
    mask = told.get(_MASK, b"\xff" * 4)
    prefix = IPv4Network(f"0.0.0.0/{IPv4Address(mask)}").prefixlen
    return Offer(
        kind,
        str(IPv4Address(yours)),
        prefix,
        str(IPv4Address(told[_SERVER])) if _SERVER in told else "",
        _routes(told, IPv4Address(yours), prefix),
        tuple(map(str, _addresses(told.get(_DNS, b"")))),
        mtu if (mtu := int.from_bytes(told.get(_MTU, b""), "big")) >= _LEAST_MTU else 0,
        max(_LEAST_LEASE, int.from_bytes(told.get(_LEASE, _DEFAULT_LEASE.to_bytes(4, "big")), "big")),
    )


def _routes(told: dict[int, bytes], address: IPv4Address, prefix: int) -> tuple[tuple[str, str | None], ...]:
    """The network's own, and those by gateways. Where a server names routes, its router counts for nothing."""
    own = [(str(IPv4Network((address, prefix), strict=False)), None)] if prefix < 32 else []
    if _ROUTES not in told:
        return (*own, *(("0.0.0.0/0", str(router)) for router in _addresses(told.get(_ROUTER, b""))[:1]))
    rest, found = told[_ROUTES], []
    while rest:
        width = rest[0]
        size = (width + 7) // 8
        network = ipaddress.IPv4Network((rest[1 : 1 + size].ljust(4, b"\0"), width), strict=False)
        gateway = IPv4Address(rest[1 + size : 5 + size])
        found.append((str(network), None if gateway == _NOBODY else str(gateway)))
        rest = rest[5 + size :]
    return (*own, *found)


def _addresses(value: bytes) -> list[IPv4Address]:
    return [IPv4Address(value[at : at + 4]) for at in range(0, len(value) - 3, 4)]


def _options(body: bytes) -> dict[int, bytes]:
    """One that is there several times is one long one (RFC 3396)."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(body) and body[at] != 255:
        if body[at] == 0:
            at += 1
            continue
        code, length = body[at], body[at + 1]
        value = body[at + 2 : at + 2 + length]
        if len(value) < length:
            raise ValueError("an option is cut off")
        found[code] = found.get(code, b"") + value
        at += 2 + length
    return found


def _packet(
    transaction: int, hardware: bytes, options: list[tuple[int, bytes]], client: IPv4Address = _NOBODY
) -> bytes:
    zero = bytes(4)
    # 0x8000: answer to everybody, for we may have no address yet to be answered at
    head = _BOOTP.pack(
        1, 1, len(hardware), 0, transaction, 0, 0 if int(client) else 0x8000,
        client.packed, zero, zero, zero, hardware, _COOKIE,
    )  # fmt: skip
    asked = [*options, (_CLIENT, b"\x01" + hardware), (_WISHES, _ASKED)]
    body = head + b"".join(bytes((code, len(value))) + value for code, value in asked) + b"\xff"
    body = body.ljust(300, b"\0")  # some relays drop shorter ones
    datagram = struct.pack(">HHHH", CLIENT_PORT, SERVER_PORT, 8 + len(body), 0) + body  # no checksum: none is needed
    address = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0, client.packed, b"\xff" * 4)
    return address[:10] + struct.pack(">H", _checksum(address)) + address[12:] + datagram


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
