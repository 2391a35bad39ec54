"""DHCP for VMs behind our bridge, without leases to keep: a VM's hardware address says which address it has.

So whoever answers needs no memory, and any number of adaptors may come and go. A lease is for ever: a VM asks once.
`answer` is pure; `Server` holds the socket.
"""

import asyncio
import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Final

from providers.local.requests import address_of

_COOKIE: Final = b"\x63\x82\x53\x63"
_HEAD: Final = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_DISCOVER, _OFFER, _REQUEST, _ACK, _NAK = 1, 2, 3, 5, 6
_MASK, _ROUTER, _DNS, _WANTED, _LEASE, _TYPE, _SERVER, _END = 1, 3, 6, 50, 51, 53, 54, 255
_FOR_EVER: Final = b"\xff" * 4
_SO_BINDTODEVICE: Final = 25


@dataclass(frozen=True, slots=True)
class Network:
    """What every VM is told."""

    subnet: ipaddress.IPv4Network
    name_servers: tuple[str, ...] = ()
    route: bool = True  # this host leads to others

    @property
    def host(self) -> ipaddress.IPv4Address:
        """This host's address in it."""
        return self.subnet[1]


def answer(packet: bytes, network: Network) -> bytes | None:
    """The answer to a VM's packet, to be broadcast; None for what is nobody's of ours, or no question."""
    if len(packet) < _HEAD.size + len(_COOKIE):
        return None
    op, kind, length, _, xid, _, flags, client, _, _, relay, hardware, _, _ = _HEAD.unpack_from(packet)
    if (op, kind, length) != (1, 1, 6) or relay != b"\0" * 4 or packet[_HEAD.size :][:4] != _COOKIE:
        return None
    options = _options(packet[_HEAD.size + 4 :])
    address = address_of(hardware[:6])
    if address is None or ipaddress.IPv4Address(address) not in network.subnet:
        return None
    if options.get(_SERVER, network.host.packed) != network.host.packed:
        return None  # it asks another
    ours = ipaddress.IPv4Address(address).packed
    match options.get(_TYPE, b""):
        case b"\x01":
            said, given = _OFFER, _lease(network)
        case b"\x03":
            asked = options.get(_WANTED, client)
            said, given = (_ACK, _lease(network)) if asked == ours else (_NAK, [])
        case _:
            return None
    head = _HEAD.pack(
        2, 1, 6, 0, xid, 0, flags, b"\0" * 4, ours if said != _NAK else b"\0" * 4, network.host.packed, b"\0" * 4,
        hardware, b"", b"",
    )  # fmt: skip
    sent = [(_TYPE, bytes([said])), (_SERVER, network.host.packed), *given]
    body = b"".join(bytes([code, len(value)]) + value for code, value in sent)
    return (head + _COOKIE + body + bytes([_END])).ljust(300, b"\0")


def _lease(network: Network) -> list[tuple[int, bytes]]:
    given = [(_LEASE, _FOR_EVER), (_MASK, network.subnet.netmask.packed)]
    if network.route:
        given.append((_ROUTER, network.host.packed))
    if network.name_servers:
        given.append((_DNS, b"".join(ipaddress.IPv4Address(each).packed for each in network.name_servers)))
    return given


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == 0:
            at += 1
            continue
        if at + 1 >= len(data):
            break
        end = at + 2 + data[at + 1]
        found.setdefault(data[at], data[at + 2 : end])
        at = end
    return found


class Server:
    """Answers on one bridge, while this process lives."""

    def __init__(self, bridge: str, network: Network) -> None:
        """Raises OSError."""
        self._network = network
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # another adaptor's may be there still
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, bridge.encode() + b"\0")
            self._socket.bind(("", 67))
        except BaseException:
            self._socket.close()
            raise
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        """Let go of the port."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        try:
            packet = self._socket.recv(2048)
            said = answer(packet, self._network)
            if said is not None:
                self._socket.sendto(said, ("255.255.255.255", 68))
        except OSError:
            return  # the bridge has gone, or its queue is full: a client asks again
