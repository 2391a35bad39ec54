"""The worker's `table inet peerpods`: who may send into a tunnel, and which packets connection tracking leaves alone.

    prerouting, output   from or to a tunnel's VM                      notrack
    input                from its VM accept, from anybody else drop
    output               a sealed tunnel's, not into WireGuard         drop

`nft list table inet peerpods` shows it. It is made with the first tunnel and goes with the last one; no other table is
touched. Messages are written here rather than with pyroute2: its sets have no place for the types that nft shows
their elements by, and its commit does not read the kernel's answer.
"""

import errno
import ipaddress
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from adaptor import names
from adaptor.podnet.exchange import (
    NETLINK_NETFILTER,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Exchange,
    Refused,
    Verdict,
    attribute,
    attributes,
    message,
    nested,
    pairs,
)
from adaptor.podnet.operations import Admit, Dismiss

_SUBSYSTEM: Final = 10
_NFPROTO_INET, _NFPROTO_IPV4, _NFPROTO_IPV6 = 1, 2, 10
_BATCH_BEGIN, _BATCH_END, _BATCH_GENERATION = 16, 17, 1
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _NEWSET = 0, 2, 3, 6, 9
_NEWSETELEM, _GETSETELEM, _DELSETELEM, _GETGEN = 12, 13, 14, 16
_PREROUTING, _INPUT, _OUTPUT = 0, 1, 3
_RAW: Final = -300  # before connection tracking, at -200
_DROP, _ACCEPT = 0, 1
_NETWORK, _TRANSPORT = 1, 2  # a payload's base
_META_IIFNAME, _META_OIFNAME, _META_NFPROTO, _META_L4PROTO = 6, 7, 15, 16
_EQ, _NEQ = 0, 1
_UDP: Final = 17
_REG_VERDICT, _REG, _REG32 = 0, 1, 8  # the first data register, and the first of those of four bytes

_TUNNELS, _PEERS4, _PEERS6, _SEALED = "tunnels", "peers4", "peers6", "sealed"

# nft's own description of a set's key, which the kernel keeps for it: expressions as type, length, value. The numbers
# are nft's (expression payload; protocols udp, ip, ip6 and none; the header's field; the base, offset, length in bits).
_CONCAT, _PAYLOAD = 13, 7
_UDP_DPORT, _IP_SADDR, _IP6_SADDR = (6, 2), (12, 11), (13, 8)
_VNI: Final = (0, 0, 3, 96, 24)
# Key types, six bits each, with which a set's key is known where nobody reads that description.
_TYPES: Final = {_TUNNELS: 0x344, _PEERS4: 0xD107, _PEERS6: 0xD108, _SEALED: 0xD108}
_FIELDS: Final = {
    _TUNNELS: (_UDP_DPORT, _VNI),
    _PEERS4: (_UDP_DPORT, _VNI, _IP_SADDR),
    _PEERS6: (_UDP_DPORT, _VNI, _IP6_SADDR),
    _SEALED: (_UDP_DPORT, _VNI, _IP6_SADDR),
}
_LENGTHS: Final = {_TUNNELS: 8, _PEERS4: 12, _PEERS6: 24, _SEALED: 24}  # bytes

_DONE: Final = Verdict(0)
_GONE: Final = frozenset({0, errno.ENOENT})
_TRIES: Final = 8  # of a change that another one got in between


class Table:
    """Our table, in the namespace where this was made."""

    def __init__(self) -> None:
        """Raises: OSError (the kernel has no nfnetlink)."""
        self._exchange = Exchange(NETLINK_NETFILTER)

    def close(self) -> None:
        self._exchange.close()

    def admit(self, wanted: Admit) -> None:
        """Raises: Refused, OSError."""
        added = [_elements(_NEWSETELEM, set_, keys) for set_, keys in _keys(wanted)]
        for attempt in range(_TRIES):
            messages, expected = (added, errno.ENOENT) if attempt % 2 == 0 else ([*_table(), *added], errno.EEXIST)
            verdict = self._change(messages)
            if not verdict.number:
                return
            if verdict.number != expected:  # expected: the table is not there, or somebody made it meanwhile
                break
        raise Refused(verdict)

    def dismiss(self, wanted: Dismiss) -> None:
        """Raises: Refused, OSError."""
        removed = [_elements(_DELSETELEM, set_, [key]) for set_, keys in _keys(wanted) for key in keys]
        verdict = self._change(removed)
        if verdict.number == errno.ENOENT:  # not all of them are there, and none was taken away
            verdicts = [self._change([each]) for each in removed]
            verdict = next((each for each in verdicts if each.number not in _GONE), _DONE)
        if verdict.number:
            raise Refused(verdict)
        self._remove_if_empty()

    def keep_only(self, wanted: Iterable[Admit]) -> None:
        """Take out every other element, and the table if none is left. Raises: Refused, OSError."""
        kept = {(set_, key) for each in wanted for set_, keys in _keys(each) for key in keys}
        try:
            strange = [
                _elements(_DELSETELEM, set_, [key])
                for set_ in _FIELDS
                for body in self._exchange.dump(_named(_GETSETELEM, 0, 1, 2, set_))
                for key in _listed(body)
                if (set_, key) not in kept
            ]
        except Refused as refused:
            if refused.errno == errno.ENOENT:
                return
            raise
        if strange and (verdict := self._change(strange)).number:
            raise Refused(verdict)
        self._remove_if_empty()

    def _remove_if_empty(self) -> None:
        """Unless an element is added between the look and the deed: the generation that was looked at is the condition."""
        for _ in range(_TRIES):
            generation = attributes(self._exchange.get(_message(_GETGEN, 0, b""))[4:])[1]
            try:
                if any(_has_elements(body) for body in self._exchange.dump(_named(_GETSETELEM, 0, 1, 2, _TUNNELS))):
                    return
            except Refused as refused:
                if refused.errno == errno.ENOENT:
                    return
                raise
            verdict = self._change([_message(_DELTABLE, 0, _text(1, names.NFT_TABLE))], generation)
            if verdict.number in _GONE:
                return
            if verdict.number != errno.ERESTART:
                break
        raise Refused(verdict)

    def _change(self, messages: Sequence[bytes], generation: bytes = b"") -> Verdict:
        """All of it or nothing: the first refusal, if any."""
        condition = attribute(_BATCH_GENERATION, generation) if generation else b""
        begin = message(_BATCH_BEGIN, 0, struct.pack(">BBH", 0, 0, _SUBSYSTEM) + condition)
        end = message(_BATCH_END, 0, struct.pack(">BBH", 0, 0, _SUBSYSTEM))
        verdicts = self._exchange.transact(begin, messages, end)
        return next((verdict for verdict in verdicts if verdict.number), _DONE)


def _keys(wanted: Admit | Dismiss) -> Iterable[tuple[str, list[bytes]]]:
    """The sets, and what belongs in them."""
    numbers = [struct.pack(">HxxI", wanted.port, vni << 8) for vni in wanted.vnis]
    yield _TUNNELS, numbers
    if wanted.peer:
        peer = ipaddress.ip_address(wanted.peer)
        set_ = _SEALED if wanted.sealed else _PEERS4 if peer.version == 4 else _PEERS6
        yield set_, [number + peer.packed for number in numbers]


def _table() -> list[bytes]:
    """The table without elements; refused where it exists."""
    made = [_message(_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, _text(1, names.NFT_TABLE))]
    made += [_set(number, name) for number, name in enumerate(_FIELDS, start=1)]
    for chain, hook in (("prerouting", _PREROUTING), ("input", _INPUT), ("output", _OUTPUT)):
        made.append(_chain(chain, hook))
    wireguard = names.WIREGUARD_DEVICE.encode().ljust(16, b"\0")
    through = [_meta(_META_IIFNAME), _compare(_EQ, wireguard)]
    beside = [_meta(_META_OIFNAME), _compare(_NEQ, wireguard)]
    peers = ((_PEERS4, _NFPROTO_IPV4), (_PEERS6, _NFPROTO_IPV6))
    notrack = _expression("notrack")
    for set_, family in (*peers, (_SEALED, _NFPROTO_IPV6)):
        made.append(_rule("prerouting", *_sent_by(set_, family), notrack))
    for set_, family in peers:
        made.append(_rule("input", *_sent_by(set_, family), _verdict(_ACCEPT)))
    made.append(_rule("input", *through, *_sent_by(_SEALED, _NFPROTO_IPV6), _verdict(_ACCEPT)))
    made.append(_rule("input", *_carrying(), _lookup(_TUNNELS), _verdict(_DROP)))
    made.append(_rule("output", *beside, *_sent_to(_SEALED, _NFPROTO_IPV6), _verdict(_DROP)))
    for set_, family in (*peers, (_SEALED, _NFPROTO_IPV6)):
        made.append(_rule("output", *_sent_to(set_, family), notrack))
    return made


# what rules are made of


def _carrying(family: int = 0) -> list[bytes]:
    """UDP; its destination port and what is the VNI, if it is VXLAN, go to the registers where a set is looked up."""
    found = [_meta(_META_L4PROTO), _compare(_EQ, bytes((_UDP,)))]
    if family:
        found += [_meta(_META_NFPROTO), _compare(_EQ, bytes((family,)))]
    return [*found, _payload(_TRANSPORT, 2, 2, _REG), _payload(_TRANSPORT, 12, 3, _REG32 + 1)]


def _sent_by(set_: str, family: int) -> list[bytes]:
    return [*_carrying(family), _host(family, 12, 8), _lookup(set_)]


def _sent_to(set_: str, family: int) -> list[bytes]:
    return [*_carrying(family), _host(family, 16, 24), _lookup(set_)]


def _host(family: int, ipv4: int, ipv6: int) -> bytes:
    """An address of the IP header, by its place there."""
    if family == _NFPROTO_IPV4:
        return _payload(_NETWORK, ipv4, 4, _REG32 + 2)
    return _payload(_NETWORK, ipv6, 16, _REG32 + 2)


def _meta(key: int) -> bytes:
    return _expression("meta", _number(1, _REG), _number(2, key))


def _compare(operator: int, value: bytes) -> bytes:
    return _expression("cmp", _number(1, _REG), _number(2, operator), nested(3, attribute(1, value)))


def _payload(base: int, offset: int, length: int, register: int) -> bytes:
    return _expression("payload", _number(1, register), _number(2, base), _number(3, offset), _number(4, length))


def _lookup(set_: str) -> bytes:
    return _expression("lookup", _text(1, set_), _number(2, _REG))


def _verdict(code: int) -> bytes:
    return _expression("immediate", _number(1, _REG_VERDICT), nested(2, nested(2, _number(1, code))))


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(1, _text(1, name), nested(2, *attributes))


# messages


def _set(number: int, name: str) -> bytes:
    described = b"".join(_tlv(place, _field(*field)) for place, field in enumerate(_FIELDS[name]))
    typeof = _tlv(0, _int(_CONCAT)) + _tlv(1, described)
    return _named(
        _NEWSET,
        NLM_F_CREATE | NLM_F_EXCL,
        1,
        2,
        name,
        _number(3, 0),
        _number(4, _TYPES[name]),
        _number(5, _LENGTHS[name]),
        _number(10, number),
        attribute(13, _tlv(0, _int(0)) + _tlv(3, typeof)),
    )


def _field(*numbers: int) -> bytes:
    return _tlv(0, _int(_PAYLOAD)) + _tlv(1, b"".join(_tlv(place, _int(each)) for place, each in enumerate(numbers)))


def _tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind, len(value))) + value


def _int(value: int) -> bytes:
    return struct.pack("=I", value)


def _chain(name: str, hook: int) -> bytes:
    where = nested(4, _number(1, hook), attribute(2, struct.pack(">i", _RAW)))
    return _named(_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL, 1, 3, name, where, _number(5, _ACCEPT), _text(7, "filter"))


def _rule(chain: str, *expressions: bytes) -> bytes:
    return _named(_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, 1, 2, chain, nested(4, *expressions))


def _elements(kind: int, set_: str, keys: Iterable[bytes]) -> bytes:
    listed = nested(3, *(nested(1, nested(1, attribute(1, key))) for key in keys))
    return _named(kind, NLM_F_CREATE if kind == _NEWSETELEM else 0, 1, 2, set_, listed)


def _has_elements(body: bytes) -> bool:
    return bool(attributes(body[4:]).get(3))


def _listed(body: bytes) -> Iterable[bytes]:
    """The keys in one part of a dump."""
    for _, element in pairs(attributes(body[4:]).get(3, b"")):
        yield attributes(attributes(element)[1])[1]


def _named(kind: int, flags: int, table: int, what: int, name: str, *more: bytes) -> bytes:
    """About something in our table; `table` and `what` are the attributes that the two names have in this message."""
    return _message(kind, flags, _text(table, names.NFT_TABLE) + _text(what, name) + b"".join(more))


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return message(_SUBSYSTEM << 8 | kind, flags, struct.pack(">BBH", _NFPROTO_INET, 0, 0) + body)


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))
