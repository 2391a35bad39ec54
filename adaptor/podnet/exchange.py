"""Netlink messages out, the kernel's verdicts in: one socket, in the namespace where it was opened.

Several messages that go out as one datagram are carried out within one system call: no signal, and so no end of this
process, comes between them.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x200, 0x400, 0x800
_NLM_F_DUMP_INTR, _NLM_F_ACK_TLVS = 0x10, 0x200
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLMSGERR_ATTR_MSG: Final = 1

_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 10, 11

HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE: Final = struct.Struct("=HH")
_ATTRIBUTE_TYPE: Final = 0x3FFF  # without the flags "nested" and "network order"
_NESTED: Final = 0x8000

_LARGEST: Final = 1 << 16  # bytes of a datagram: the kernel's dumps fill 32 KiB at most
_PATIENCE: Final = 10  # seconds for what the kernel answers within microseconds
_TRIES: Final = 8  # of a dump that changes while it is read


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one message."""

    number: int  # errno; 0: done
    why: str = ""  # in the kernel's words, where it has any

    def __str__(self) -> str:
        return f"{os.strerror(self.number)} ({self.why})" if self.why else os.strerror(self.number)


class Refused(OSError):
    """The kernel's refusal of one message; `errno` says how a caller goes on, the text is for people."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.number, str(verdict))

    def __str__(self) -> str:
        return str(self.strerror)


_Message = tuple[int, int, int, bytes]  # type, flags, sequence, body


class Exchange:
    """A netlink socket. Not for several threads at once."""

    def __init__(self, protocol: int) -> None:
        """In the namespace that this thread is in. Raises: OSError."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _PATIENCE, 0))
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            self._socket.bind((0, 0))
        except BaseException:
            self._socket.close()
            raise
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self, *messages: bytes) -> list[Verdict]:
        """Send them as one datagram; the verdict on each, in their order. Raises: OSError."""
        first = self._sequence + 1
        self._send(messages, NLM_F_ACK)
        verdicts: dict[int, Verdict] = {}
        while len(verdicts) < len(messages):
            for kind, flags, sequence, body in self._receive():
                if kind == _NLMSG_ERROR and first <= sequence < first + len(messages):
                    verdicts[sequence - first] = _verdict(flags, body)
        return [verdicts[place] for place in range(len(messages))]

    def do(self, *messages: bytes) -> None:
        """Likewise; raises Refused for the first that was not done."""
        for verdict in self.tell(*messages):
            if verdict.number:
                raise Refused(verdict)

    def transact(self, begin: bytes, messages: Sequence[bytes], end: bytes) -> list[Verdict]:
        """Likewise, as one transaction: the first verdict is on the whole, which kernels do not always acknowledge."""
        first = self._sequence + 1
        self._send([begin, *messages, end], NLM_F_ACK)
        verdicts = [Verdict(0)] + [Verdict(errno.EIO, "no answer")] * len(messages)
        heard = False
        # All answers are there when the kernel returns from the sending; how many depends on where it stopped.
        while chunk := self._receive_now():
            for kind, flags, sequence, body in chunk:
                if kind == _NLMSG_ERROR and first <= sequence < first + len(messages) + 2:
                    place, heard = (sequence - first) % (len(messages) + 1), True
                    verdicts[place] = _verdict(flags, body)
        if not heard or verdicts[0].number:
            return [verdicts[0] if heard else Verdict(errno.EIO, "no answer")]
        return verdicts

    def get(self, message: bytes) -> bytes:
        """The body of the one answer. Raises: Refused, OSError."""
        (body,) = self._answers(message, 0)
        return body

    def dump(self, message: bytes) -> list[bytes]:
        """The bodies of all answers. Raises: Refused, OSError."""
        for _ in range(_TRIES):
            try:
                return self._answers(message, NLM_F_DUMP)
            except _Torn:
                continue
        raise Refused(Verdict(errno.EAGAIN, "it changes faster than it can be read"))

    def _answers(self, message: bytes, flags: int) -> list[bytes]:
        self._send([message], flags)
        found: list[bytes] = []
        torn = False
        while True:
            for kind, seen, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                torn |= bool(flags and seen & _NLM_F_DUMP_INTR)
                if kind == _NLMSG_DONE:
                    if torn:
                        raise _Torn
                    return found
                if kind == _NLMSG_ERROR:
                    raise Refused(_verdict(seen, body))
                found.append(body)
            if not flags and found:
                return found

    def _send(self, messages: Sequence[bytes], flags: int) -> None:
        out = bytearray()
        for message in messages:
            self._sequence += 1
            _, kind, given, _, _ = HEADER.unpack_from(message)
            out += HEADER.pack(len(message), kind, given | flags | NLM_F_REQUEST, self._sequence, 0)
            out += message[HEADER.size :]
        self._socket.sendto(out, (0, 0))

    def _receive(self) -> Iterator[_Message]:
        """The messages of the next datagram."""
        return _messages(self._socket.recv(_LARGEST))

    def _receive_now(self) -> list[_Message]:
        """Likewise; none when none is there."""
        try:
            return list(_messages(self._socket.recv(_LARGEST, socket.MSG_DONTWAIT)))
        except BlockingIOError:
            return []


def _messages(data: bytes) -> Iterator[_Message]:
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, at)
        if length < HEADER.size:
            return
        yield kind, flags, sequence, data[at + HEADER.size : at + length]
        at += length + -length % 4


class _Torn(Exception):
    """What was dumped changed meanwhile."""


def _verdict(flags: int, body: bytes) -> Verdict:
    (number,) = struct.unpack_from("=i", body)
    if not flags & _NLM_F_ACK_TLVS:
        return Verdict(-number)
    told = attributes(body[4 + HEADER.size :])  # the header that it is about comes first
    return Verdict(-number, told.get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace"))


def message(kind: int, flags: int, body: bytes) -> bytes:
    """One message, but for its sequence number, which is the socket's."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, 0, 0) + body + bytes(-len(body) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute made of others."""
    return attribute(kind | _NESTED, b"".join(attributes))


def attributes(data: bytes) -> dict[int, bytes]:
    """By type; the last of its kind where there are several."""
    return dict(pairs(data))


def pairs(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and values, in their order."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _ATTRIBUTE_TYPE, data[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4
