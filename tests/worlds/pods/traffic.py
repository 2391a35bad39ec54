"""What a pod sends and gets, between namespaces, by sockets alone. Each check raises AssertionError or OSError."""

import contextlib
import errno
import hashlib
import itertools
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.worlds.pods.namespaces import Namespace

_TICKETS = itertools.count(1)
_PAYLOAD = os.urandom(1 << 20)
_PATIENCE = 5.0  # seconds for what takes milliseconds

# linux/in.h, linux/in6.h; Python has no names for them
_IP_MTU_DISCOVER, _IP_RECVERR, _IP_MTU = 10, 11, 14
_IPV6_MTU_DISCOVER, _IPV6_RECVERR, _IPV6_MTU = 23, 25, 24
_HOPS4, _HOPS6 = (socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
_DO = 2
_SO_RCVBUFFORCE = 33
_ETH_P_ALL = 3


def ping(source: Namespace, target: str) -> None:
    """One echo, of 56 bytes as everybody's."""
    six = ":" in target
    ticket = next(_TICKETS) & 0xFFFF
    request, reply = (128, 129) if six else (8, 0)
    body = struct.pack(">BBHHH", request, 0, 0, ticket, 1) + bytes(range(48))
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    with source.socket(_family(target), socket.SOCK_RAW, protocol) as made:
        if not six:
            body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
        made.sendto(body, (target, 0))
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            answer = made.recv(2048)
            answer = answer if six else answer[(answer[0] & 15) * 4 :]
            if answer[0] == reply and answer[4:8] == body[4:8]:
                assert answer[8:] == body[8:]
                return
    raise AssertionError(f"{target} does not answer a ping")


def bulk(
    client: Namespace,
    server: Namespace,
    address: str,
    port: int,
    *,
    at: tuple[str, int] | None = None,
    size: int = len(_PAYLOAD),
) -> str:
    """A TCP connection from `client` to `address` and `port`, which `server` listens on (`at` another place where the
    client does not know that); `size` bytes each way at once, which must arrive as they were. Returns the client's
    address as the server sees it."""
    with server.socket(_family(address), socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(at or (address, port))
        listening.listen()
        with connected(client, address, port) as near:
            far, peer = listening.accept()
            with far:
                far.settimeout(_PATIENCE)
                _exchange(near, far, _PAYLOAD[:size])
            return str(peer[0])


@contextlib.contextmanager
def connected(client: Namespace, address: str, port: int, patience: float = _PATIENCE) -> Iterator[socket.socket]:
    with client.socket(_family(address), socket.SOCK_STREAM) as made:
        made.settimeout(patience)
        try:
            made.connect((address, port))
        except OSError as error:
            raise type(error)(error.errno, f"TCP to {address} port {port}: {error}") from None
        made.settimeout(_PATIENCE)
        yield made


def _exchange(near: socket.socket, far: socket.socket, payload: bytes) -> None:
    def send(end: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the other end misses it, and says so
            end.sendall(payload)
            end.shutdown(socket.SHUT_WR)

    wanted = hashlib.sha256(payload).digest()
    threads = [threading.Thread(target=send, args=(end,)) for end in (near, far)]
    found: list[bytes] = []
    threads.append(threading.Thread(target=lambda: found.append(_received(far))))
    for thread in threads:
        thread.start()
    found.append(_received(near))
    for thread in threads:
        thread.join()
    assert found == [wanted, wanted], "the bytes of a TCP connection are not those that were sent"


def _received(end: socket.socket) -> bytes:
    digest = hashlib.sha256()
    while chunk := end.recv(1 << 18):
        digest.update(chunk)
    return digest.digest()


def refused(client: Namespace, address: str, port: int) -> None:
    """TCP gets no answer at all."""
    try:
        with connected(client, address, port, patience=0.1):
            pass
    except TimeoutError:
        return
    raise AssertionError(f"TCP to {address} port {port} is answered although a policy drops it")


def datagram_at_mtu(source: Namespace, target: Namespace, address: str, most: int = 65535) -> None:
    """The largest packet of UDP that leaves `source` whole, up to `most` bytes, gets there; and the largest that
    leaves `target` comes back."""
    six = ":" in address
    with _datagrams(target, address) as there, _datagrams(source, address) as here:
        there.bind((address, 0))
        here.connect((address, there.getsockname()[1]))
        size = min(mtu(here, six=six), most)
        payload = os.urandom(size - (48 if six else 28))
        here.send(payload)
        found, sender = there.recvfrom(65536)
        assert found == payload
        there.connect(sender[:2])
        back = os.urandom(min(mtu(there, six=six), most) - (48 if six else 28))
        there.send(back)
        assert here.recv(65536) == back


def mtu(made: socket.socket, *, six: bool) -> int:
    """Of the way that a connected socket's packets take, as far as it is known."""
    level, option = (socket.IPPROTO_IPV6, _IPV6_MTU) if six else (socket.IPPROTO_IP, _IP_MTU)
    return made.getsockopt(level, option)


def unreachable(source: Namespace, address: str, port: int, number: int, *, hops: int = 64) -> None:
    """A datagram, which lives for so many hops, is answered by the ICMP error that is `number` here."""
    six = ":" in address
    with _datagrams(source, address) as made:
        made.setsockopt(*(_HOPS6 if six else _HOPS4), hops)
        made.connect((address, port))
        made.send(b"is anybody there?")
        told = _told(made)
        assert told == errno.errorcode[number], f"UDP to {address} port {port}: {told}"


def path_mtu(source: Namespace, address: str, port: int, narrow: int) -> None:
    """A datagram too large for the way beyond the host is answered so that the pod learns what fits."""
    six = ":" in address
    with _datagrams(source, address) as made:
        made.connect((address, port))
        if mtu(made, six=six) > narrow:  # else it knows already
            made.send(bytes(narrow))
            told = _told(made)
            assert told == "EMSGSIZE", f"{narrow} bytes by UDP to {address}: {told}"
        assert mtu(made, six=six) == narrow


def _told(made: socket.socket) -> str:
    """The name of the error that a socket without anything to receive is told."""
    try:
        made.recv(1)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "no error, but an answer"


def _datagrams(namespace: Namespace, address: str) -> socket.socket:
    """Never in fragments, and told of ICMP errors."""
    six = ":" in address
    made = namespace.socket(_family(address), socket.SOCK_DGRAM)
    level = socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP
    made.setsockopt(level, _IPV6_RECVERR if six else _IP_RECVERR, 1)
    made.setsockopt(level, _IPV6_MTU_DISCOVER if six else _IP_MTU_DISCOVER, _DO)
    return made


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


# -- on the wire between worker and VM -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment in a tunnel's packet."""

    source: str
    length: int  # of the inner IP packet
    right: bool  # its checksum


@contextlib.contextmanager
def captured(namespace: Namespace, device: str, port: int) -> Iterator[list[Segment]]:
    """The inner TCP segments that pass `device` in VXLAN packets to UDP `port`, after the block."""
    segments: list[Segment] = []
    with namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as made:
        with contextlib.suppress(PermissionError):  # in a user namespace; some segments are missed then
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
        made.bind((device, _ETH_P_ALL))
        yield segments
        made.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                if found := _segment(made.recv(65536), port):
                    segments.append(found)


def _segment(frame: bytes, port: int) -> Segment | None:
    """None: something else."""
    outer = _transport(frame)
    if outer is None or outer[0] != socket.IPPROTO_UDP or struct.unpack_from(">H", outer[2], 2)[0] != port:
        return None
    inner = _transport(outer[2][16:])
    if inner is None or inner[0] != socket.IPPROTO_TCP:
        return None
    protocol, pseudo, segment, source, length = inner
    whole = pseudo + struct.pack(">IHBB", len(segment), 0, 0, protocol) + segment
    return Segment(source, length, checksum(whole) == 0)


def _transport(frame: bytes) -> tuple[int, bytes, bytes, str, int] | None:
    """Protocol, both addresses, payload, source and length of the IP packet in an Ethernet frame."""
    kind, packet = struct.unpack_from(">H", frame, 12)[0], frame[14:]
    if kind == 0x0800:
        head, (length,) = (packet[0] & 15) * 4, struct.unpack_from(">H", packet, 2)
        return packet[9], packet[12:20], packet[head:length], socket.inet_ntop(socket.AF_INET, packet[12:16]), length
    if kind == 0x86DD:
        length = 40 + struct.unpack_from(">H", packet, 4)[0]
        return packet[6], packet[8:40], packet[40:length], socket.inet_ntop(socket.AF_INET6, packet[8:24]), length
    return None


def checksum(data: bytes) -> int:
    """RFC 1071's; 0 over data that has its right checksum in it."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
