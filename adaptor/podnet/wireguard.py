"""WireGuard as values: keys, the addresses inside it, and the text that a userspace WireGuard is configured by; pure.

Each end makes its own key in memory; only public keys travel, in Bind. An end's inner address follows from its public
key, so nobody hands addresses out, and an end that knows a key knows whose packets those are.

    worker ppwg0 ── UDP, from any port ──► VM:names.WIREGUARD_PORT       one device per worker, one peer per VM
      inner_address(worker's key) ◄─ VXLAN ─► inner_address(VM's key)

What runs inside is VXLAN and nothing else. Two things keep it there: a blackhole route for `NETWORK` behind the device's
own (`wireguard_device`), so that nothing leaves in the open when the device is gone; and a firewall rule that drops
what claims an address of `NETWORK` and came by another device (`nftables`).
"""

import base64
import binascii
import hashlib
import ipaddress
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from adaptor.podnet.plan import PlanFault, WireGuard

_KEY_BYTES: Final = 32
_LABEL: Final = b"peerpods wireguard "
# Our inner addresses: a locally assigned /48 (RFC 4193) whose 40 bits are everybody's who uses this program. No packet
# with such an address ever leaves a host in the open, so two clusters may well have the same.
NETWORK: Final = ipaddress.IPv6Network((b"\xfd" + hashlib.sha256(_LABEL).digest()[:5] + bytes(10), 48))
# Seconds between the worker's keepalives: below the 30 s after which common NATs and firewalls forget a UDP flow.
KEEPALIVE: Final = 25
# Of the device. More than any path carries: the tunnels inside bound what they send by their own paths' MTUs.
DEVICE_MTU: Final = 65_408
# Bytes of an answer that is still believed: a peer takes some 400, and a worker has hundreds of them, not thousands.
ANSWER_LIMIT: Final = 8 << 20


class UapiFault(Exception):
    """A userspace WireGuard said what is not its protocol, or refused; never holds a key."""


class PrivateKey:
    """One end's secret. It prints as nothing; `hex` and `base64` are for the device alone."""

    __slots__ = ("_raw", "public")

    def __init__(self, raw: bytes) -> None:
        """Raises ValueError unless `raw` are 32 bytes."""
        self._raw = _clamped(raw)
        public = X25519PrivateKey.from_private_bytes(self._raw).public_key()
        self.public: str = base64.b64encode(public.public_bytes_raw()).decode()

    @classmethod
    def make(cls) -> "PrivateKey":
        return cls(X25519PrivateKey.generate().private_bytes_raw())

    def hex(self) -> str:
        return self._raw.hex()

    def base64(self) -> str:
        return base64.b64encode(self._raw).decode()

    def __repr__(self) -> str:
        return "(secret)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrivateKey) and self.public == other.public

    def __hash__(self) -> int:
        return hash(self.public)

    def __reduce__(self) -> str:
        raise TypeError("a private key is not for writing down")


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end, as a device has it."""

    public_key: str  # base64
    endpoint: tuple[str, int] | None = None  # IP address and UDP port; None: whence it calls
    allowed: tuple[str, ...] = ()  # networks that are its
    keepalive: int = 0  # seconds; 0: none
    handshake: int = 0  # when the last one was, seconds since the epoch; 0: never. Read only


@dataclass(frozen=True, slots=True)
class Device:
    """What a device answers."""

    private_key: PrivateKey | None = field(default=None, repr=False)
    public_key: str = ""  # base64; empty: it has no key yet
    port: int = 0
    peers: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What a device is to be told; what is left out stays as it is."""

    private_key: PrivateKey | None = field(default=None, repr=False)
    port: int | None = None
    peers: tuple[Peer, ...] = ()  # new, or in place of what the device knows by the same keys
    removed: tuple[str, ...] = ()  # public keys, base64


def key_bytes(public_key: str) -> bytes:
    """Raises PlanFault unless that is a public key in base64."""
    try:
        raw = base64.b64decode(public_key, validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    # The second test: base64 has several spellings of some byte strings, and one key must have one name.
    if len(raw) != _KEY_BYTES or base64.b64encode(raw).decode() != public_key:
        raise PlanFault(f"{str(public_key)[:60]!r} is not a WireGuard public key: 32 bytes in base64 are")
    if not any(raw):
        raise PlanFault("a WireGuard public key of zeros is nobody's")
    return raw


def inner_address(public_key: str) -> str:
    """The IPv6 address inside WireGuard of whoever has this public key.

    80 bits of a hash in our /48. Among a thousand VMs of a worker two have the same with odds of 1 in 2 * 10^18, and
    whoever wants another's must make 2^80 keys, to be refused by the worker then: an address is one peer's.

    Raises: PlanFault when it is no key.
    """
    digest = hashlib.sha256(_LABEL + key_bytes(public_key)).digest()
    return str(ipaddress.IPv6Address(NETWORK.network_address.packed[:6] + digest[:10]))


def worker_peer(answer: WireGuard, address: str) -> Peer:
    """The VM at `address`, for the worker's device. Raises: PlanFault."""
    if not 0 < answer.port < 1 << 16:
        raise PlanFault(f"the VM's WireGuard cannot listen on port {answer.port}")
    return Peer(
        answer.public_key,
        (str(ipaddress.ip_address(address)), answer.port),
        (f"{inner_address(answer.public_key)}/128",),
        KEEPALIVE,
    )


def guest_peer(plan: WireGuard, worker: str) -> Peer:
    """The worker, for the VM's device; `worker` is the plan's address for its tunnels. It begins, so where it is, and
    behind which NAT, is learnt from its handshake.

    Raises: PlanFault, also when that address does not follow from the key.
    """
    inner = inner_address(plan.public_key)
    if worker != inner:
        raise PlanFault(f"an encrypted tunnel cannot come from {worker}: the worker's key gives it {inner}")
    return Peer(plan.public_key, None, (f"{inner}/128",))


# -- the text protocol of userspace WireGuard: lines of key=value, an empty one ends both question and answer -------


GET: Final = b"get=1\n\n"
# A device that is to be as it was made: without key, port and peers.
RESET: Final = b"set=1\nprivate_key=" + b"00" * _KEY_BYTES + b"\nlisten_port=0\nreplace_peers=true\n\n"


def encode(change: Change) -> bytes:
    """The question that asks for `change`. Raises: PlanFault for what is no key, address or port."""
    return ("\n".join(["set=1", *_lines(change)]) + "\n\n").encode()


def decode_set(answer: bytes) -> None:
    """Raises UapiFault unless the device did as it was asked."""
    if pairs := list(_pairs(answer)):
        raise UapiFault(f"a change was answered with {pairs[0][0]!r}")


def decode_get(answer: bytes) -> Device:
    """What the device is. Keys that this program does not know are let be, those it knows must make sense.

    Raises: UapiFault.
    """
    private: PrivateKey | None = None
    port = 0
    peers: list[Peer] = []
    open_peer: dict[str, str] | None = None
    allowed: list[str] = []
    for key, value in _pairs(answer):
        if key == "public_key":
            if open_peer is not None:
                peers.append(_peer(open_peer, allowed))
            open_peer, allowed = {"public_key": value}, []
        elif open_peer is None:
            if key == "private_key":
                raw = _hex_key(key, value)
                private = PrivateKey(raw) if any(raw) else None
            elif key == "listen_port":
                port = _number(key, value, 0xFFFF)
        elif key == "allowed_ip":
            allowed.append(_network(value))
        elif key in open_peer:
            raise UapiFault(f"one peer has {key!r} twice")
        else:
            open_peer[key] = value
    if open_peer is not None:
        peers.append(_peer(open_peer, allowed))
    if len({peer.public_key for peer in peers}) != len(peers):
        raise UapiFault("one peer is listed twice")
    return Device(private, private.public if private else "", port, tuple(peers))


def _lines(change: Change) -> Iterator[str]:
    if change.private_key is not None:
        yield f"private_key={change.private_key.hex()}"
    if change.port is not None:
        yield f"listen_port={_port(change.port)}"
    for key in change.removed:
        yield f"public_key={key_bytes(key).hex()}"
        yield "remove=true"
    for peer in change.peers:
        yield f"public_key={key_bytes(peer.public_key).hex()}"
        if peer.endpoint is not None:
            yield f"endpoint={_endpoint(peer.endpoint)}"
        yield f"persistent_keepalive_interval={_port(peer.keepalive)}"
        yield "replace_allowed_ips=true"
        for network in peer.allowed:
            yield f"allowed_ip={_checked(network)}"


def _pairs(answer: bytes) -> Sequence[tuple[str, str]]:
    """All but the last, errno, which must be 0."""
    if not answer.endswith(b"\n\n"):
        raise UapiFault("the answer has no end")
    try:
        lines = answer[:-2].decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise UapiFault("the answer is not plain text") from None
    pairs = [tuple(line.partition("=")[::2]) for line in lines]
    if not all("=" in line and key for line, (key, _) in zip(lines, pairs, strict=True)):
        raise UapiFault("the answer has a line that is not key=value")
    if [key for key, _ in pairs].count("errno") != 1 or pairs[-1][0] != "errno":
        raise UapiFault("the answer does not end with its errno")
    number = pairs[-1][1].removeprefix("-")
    if not (number.isdigit() and len(number) < 6):
        raise UapiFault("the answer's errno is no number")
    if int(number):
        raise UapiFault(f"refused: {os.strerror(int(number))}")
    return [(key, value) for key, value in pairs[:-1]]


def _peer(found: dict[str, str], allowed: list[str]) -> Peer:
    return Peer(
        base64.b64encode(_hex_key("public_key", found["public_key"])).decode(),
        _parse_endpoint(found["endpoint"]) if "endpoint" in found else None,
        tuple(allowed),
        _number("keepalive", found.get("persistent_keepalive_interval", "0"), 0xFFFF),
        _number("handshake", found.get("last_handshake_time_sec", "0"), 1 << 63),
    )


def _hex_key(key: str, value: str) -> bytes:
    try:
        raw = bytes.fromhex(value) if len(value) == 2 * _KEY_BYTES else b""
    except ValueError:
        raw = b""
    if len(raw) != _KEY_BYTES:  # fromhex skips white space
        raise UapiFault(f"{key} is not 64 hexadecimal digits")
    return raw


def _number(key: str, value: str, most: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 20 and int(value) <= most):
        raise UapiFault(f"{key} is {value[:60]!r}, which is no number up to {most}")
    return int(value)


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise UapiFault(f"allowed_ip is {value[:60]!r}, which is no network") from None


def _checked(network: str) -> str:
    try:
        return str(ipaddress.ip_network(network))
    except ValueError as error:
        raise PlanFault(f"a peer's network cannot be {network!r}: {error}") from None


def _port(number: int) -> int:
    if not 0 <= number < 1 << 16:
        raise PlanFault(f"{number} is no UDP port or time between keepalives")
    return number


def _endpoint(endpoint: tuple[str, int]) -> str:
    try:
        address = ipaddress.ip_address(endpoint[0])
    except ValueError as error:
        raise PlanFault(f"a peer cannot be at {endpoint[0]!r}: {error}") from None
    return f"{address}:{_port(endpoint[1])}" if address.version == 4 else f"[{address}]:{_port(endpoint[1])}"


def _parse_endpoint(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise UapiFault(f"endpoint is {value[:60]!r}, which is no address and port") from None
    if bracketed != (address.version == 6):
        raise UapiFault(f"endpoint is {value[:60]!r}, which is no address and port")
    return str(address), _number("endpoint's port", port, 0xFFFF)


def _clamped(raw: bytes) -> bytes:
    """As Curve25519 uses it, and every device gives it back."""
    if len(raw) != _KEY_BYTES:
        raise ValueError("a WireGuard key has 32 bytes")
    return bytes([raw[0] & 248]) + raw[1:31] + bytes([raw[31] & 127 | 64])
