"""The few nftables rules that a cluster's own programs have on a host: a service's DNAT, a policy's drop."""

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterator, Sequence

from tests.worlds.pods.namespaces import Namespace

_NETFILTER = 12
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE = 0xA00, 0xA02, 0xA03, 0xA06
_BEGIN, _END = 16, 17
IPV4, NETDEV, IPV6 = 2, 5, 10
_EQ, _DROP = 0, 0
_PREROUTING = 0
_TCP = 6


@contextlib.contextmanager
def service(host: Namespace, address: str, port: int, backend: str, backend_port: int) -> Iterator[None]:
    """What is for the service's address goes to the backend meanwhile."""
    six = ":" in address
    where, length = (24, 16) if six else (16, 4)
    rule = (
        *_to_port(_TCP, port),
        _payload(1, where, length),
        _compare(ipaddress.ip_address(address).packed),
        _immediate(1, ipaddress.ip_address(backend).packed),
        _immediate(2, struct.pack(">H", backend_port)),
        _expression("nat", _number(1, 1), _number(2, IPV6 if six else IPV4), _number(3, 1), _number(5, 2)),
    )
    hook = _nested(4, _number(1, _PREROUTING), _attribute(2, struct.pack(">i", -100)))
    with _table(host, IPV6 if six else IPV4, "services", "nat", hook, rule):
        yield


@contextlib.contextmanager
def drop(host: Namespace, device: str, port: int) -> Iterator[None]:
    """What comes in at the device for this TCP port is dropped meanwhile, as by a NetworkPolicy."""
    verdict = _expression("immediate", _number(1, 0), _nested(2, _nested(2, _number(1, _DROP))))
    hook = _nested(4, _number(1, 0), _attribute(2, struct.pack(">i", 0)), _text(3, device))
    with _table(host, NETDEV, "policy", "filter", hook, (*_to_port(_TCP, port), verdict)):
        yield


@contextlib.contextmanager
def _table(host: Namespace, family: int, table: str, kind: str, hook: bytes, rule: Sequence[bytes]) -> Iterator[None]:
    """With one chain, which has one rule."""
    named = _family(family) + _text(1, table)
    base = _text(2, "base")
    made = [
        (_NEWTABLE, named),
        (_NEWCHAIN, named + _text(3, "base") + hook + _text(7, kind)),
        (_NEWRULE, named + base + _nested(4, *rule)),
    ]
    _change(host, made)
    try:
        yield
    finally:
        _change(host, [(_DELTABLE, named)])


def _change(host: Namespace, changes: Sequence[tuple[int, bytes]]) -> None:
    edge = struct.pack(">BBH", 0, 0, 10)
    messages = [_message(kind, number, body) for number, (kind, body) in enumerate(changes, start=1)]
    with host.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as kernel:
        kernel.bind((0, 0))
        kernel.send(b"".join([_message(_BEGIN, 0, edge), *messages, _message(_END, 0, edge)]))
        for _ in changes:
            answer = kernel.recv(65536)
            (number,) = struct.unpack_from("=i", answer, 16)
            if number:
                raise OSError(-number, f"nftables refuses message {struct.unpack_from('=I', answer, 8)[0]}")


def _to_port(protocol: int, port: int) -> tuple[bytes, ...]:
    meta = _expression("meta", _number(1, 1), _number(2, 16))
    return meta, _compare(bytes((protocol,))), _payload(2, 2, 2), _compare(struct.pack(">H", port))


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression("payload", _number(1, 1), _number(2, base), _number(3, offset), _number(4, length))


def _compare(value: bytes) -> bytes:
    return _expression("cmp", _number(1, 1), _number(2, _EQ), _nested(3, _attribute(1, value)))


def _immediate(register: int, value: bytes) -> bytes:
    return _expression("immediate", _number(1, register), _nested(2, _attribute(1, value)))


def _expression(name: str, *attributes: bytes) -> bytes:
    return _nested(1, _text(1, name), _nested(2, *attributes))


def _family(family: int) -> bytes:
    return struct.pack(">BBH", family, 0, 0)


def _message(kind: int, sequence: int, body: bytes) -> bytes:
    flags = _REQUEST | (_ACK if kind >= _NEWTABLE else 0)
    flags |= {_NEWTABLE: _CREATE, _NEWCHAIN: _CREATE, _NEWRULE: _CREATE | _APPEND}.get(kind, 0)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _nested(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | 0x8000, b"".join(parts))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack(">I", value))
