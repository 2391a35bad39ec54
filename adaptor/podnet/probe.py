"""Does a frame that goes into a tunnel come back from the VM? Asked by the pod's own address: ARP, or neighbour discovery.

The question is built so that nobody remembers it: an ARP probe has no sender address to learn (RFC 5227), and the IPv6
one comes from a link-local address that is nobody's. The answer is addressed to a MAC that is nobody's either; the
tunnel's device drops what comes for it (`devices`), after this module's socket has seen it.
"""

import asyncio
import ipaddress
import socket
import struct
from contextlib import suppress
from ctypes import addressof, create_string_buffer
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from adaptor.podnet.plan import PodNetwork

MAC: Final = bytes.fromhex("027070000001")  # locally administered; the same in all tunnels, which never meet
LINK_LOCAL: Final = IPv6Address("fe80::70:70ff:fe00:1")

_EVERY: Final = 0.05  # seconds between questions
_ETH_P_ALL, _ARP, _IPV6 = 0x0003, 0x0806, 0x86DD
_REQUEST, _REPLY = 1, 2
_ARP_BODY: Final = struct.Struct(">HHBBH6s4s6s4s")
_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 135, 136
_SOURCE_LINK_LAYER: Final = bytes((1, 1))  # option, length in units of 8 bytes
_SO_ATTACH_FILTER: Final = 26
_LONGEST: Final = 256  # bytes of a frame that are looked at

Address = IPv4Address | IPv6Address


def tap(device: str) -> socket.socket:
    """A socket that sends frames into the device, of the namespace that this thread is in, and sees what comes for MAC
    before any filter of the device. Raises: OSError."""
    # Only those that ask for every protocol see frames before the device's filters take them away.
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        program = b"".join(
            struct.pack("=HBBI", *line)
            for line in (
                (0x20, 0, 0, 0),  # ld [0]: the destination, its first four bytes
                (0x15, 0, 3, int.from_bytes(MAC[:4], "big")),
                (0x28, 0, 0, 4),  # ldh [4]
                (0x15, 0, 1, int.from_bytes(MAC[4:], "big")),
                (0x06, 0, 0, _LONGEST),
                (0x06, 0, 0, 0),
            )
        )
        kept = create_string_buffer(program, len(program))
        found.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program) // 8, addressof(kept)))
        found.bind((device, _ETH_P_ALL))
    except BaseException:
        found.close()
        raise
    return found


async def answered(tap: socket.socket, address: Address, timeout: float) -> bool:
    """Ask until the VM answers for `address`; False when `timeout` seconds have passed. Raises: OSError."""
    loop = asyncio.get_running_loop()
    asked = question(address)
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while True:
                with suppress(BlockingIOError):  # a full queue: the next one is soon
                    tap.send(asked)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_EVERY):
                        while not is_answer(await loop.sock_recv(tap, _LONGEST), address):
                            pass
                        return True
    return False


def addresses(network: PodNetwork) -> dict[str, Address | None]:
    """What to ask for, by interface: the first IPv4 address, for every VM answers for that without conditions, else
    the first IPv6 one; None where it has none."""
    found: dict[str, Address | None] = {}
    for interface in network.interfaces:
        own = [ipaddress.ip_interface(address).ip for address in interface.addresses]
        own.sort(key=lambda address: (address.version, address.version == 6 and address.is_link_local))
        found[interface.name] = own[0] if own else None
    return found


def question(address: Address) -> bytes:
    """The frame that asks who has `address`."""
    if isinstance(address, IPv4Address):
        body = _ARP_BODY.pack(1, 0x0800, 6, 4, _REQUEST, MAC, bytes(4), bytes(6), address.packed)
        return b"\xff" * 6 + MAC + _ARP.to_bytes(2, "big") + body
    tail = address.packed[-3:]
    group = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:-3] + tail
    ask = struct.pack(">BBHI", _SOLICITATION, 0, 0, 0) + address.packed + _SOURCE_LINK_LAYER + MAC
    pseudo = LINK_LOCAL.packed + group + struct.pack(">II", len(ask), _ICMPV6)
    ask = ask[:2] + _checksum(pseudo + ask).to_bytes(2, "big") + ask[4:]
    header = struct.pack(">IHBB", 6 << 28, len(ask), _ICMPV6, 255) + LINK_LOCAL.packed + group
    return b"\x33\x33\xff" + tail + MAC + _IPV6.to_bytes(2, "big") + header + ask


def is_answer(frame: bytes, address: Address) -> bool:
    """Whether the frame says that `address` is there."""
    if frame[:6] != MAC:
        return False
    kind, body = int.from_bytes(frame[12:14], "big"), frame[14:]
    if isinstance(address, IPv4Address):
        if kind != _ARP or len(body) < _ARP_BODY.size:
            return False
        *_, operation, _, sender, _, _ = _ARP_BODY.unpack_from(body)
        return (operation, sender) == (_REPLY, address.packed)
    return (
        kind == _IPV6
        and len(body) >= 64
        and body[6] == _ICMPV6
        and body[40] == _ADVERTISEMENT
        and body[48:64] == address.packed
    )


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
