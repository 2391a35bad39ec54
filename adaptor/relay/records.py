"""The link between our relay and our guest, once the VM is bound: two byte streams that survive their connection.

    record   u32 taken | u32 length | data     big-endian; `taken`: how many bytes of the other end's stream have been
                                               taken since the last record that said so; no data: only that

Each end keeps what it sent until the other has taken it. After a break, `Resume` (guest.proto) tells each end how much
the other has, and it sends the rest again: every byte arrives once and in order, so every agent call is carried out
once. TCP's own acknowledgements would not do: what it has acknowledged may still be lost in a buffer of the other end.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final

from adaptor.protos.handover_pb2 import RecordsState
from adaptor.relay.carrier import CarrierFault
from adaptor.relay.splice import Piece

_HEAD: Final = Struct(">II")
# Bytes kept for the other end at most, before no more is taken from the unix peer: the largest agent call there is
# (4 MiB). Less, and the calls behind a large one would have to wait for an acknowledgement of a part of it.
WINDOW: Final = 4 << 20
# What is taken is told with whatever is sent next, and by itself after this many bytes.
_TELL: Final = 256 << 10


class Records:
    """One end's half of both streams. Sans-io; see `carrier.Carrier` for the rest."""

    __slots__ = ("_left", "_partial", "_taken", "_unconfirmed", "received", "sent")

    def __init__(self, state: RecordsState | None = None) -> None:
        self.sent = state.sent if state else 0  # bytes of our stream, ever
        self.received = state.received if state else 0  # bytes of the other's
        self._unconfirmed = bytearray(state.unconfirmed if state else b"")  # the last of what was sent
        self._taken = 0  # of `received`, what the other end has not been told
        self._left = 0  # bytes still to come of the record under way
        self._partial = b""  # the beginning of a cut head

    @property
    def full(self) -> bool:
        return len(self._unconfirmed) >= WINDOW

    @property
    def owes(self) -> bool:
        return self._taken >= _TELL

    def wrap(self, pieces: Sequence[Piece]) -> bytes:
        before = len(self._unconfirmed)
        for piece in pieces:
            self._unconfirmed += piece
        size = len(self._unconfirmed) - before
        self.sent += size
        return b"".join((self._head(size), *pieces))

    def unwrap(self, data: memoryview) -> Sequence[memoryview]:
        if len(data) >= _HEAD.size and not (self._left or self._partial):
            taken, length = _HEAD.unpack_from(data)
            if _HEAD.size + length == len(data):  # one record, whole: nearly always
                self._confirm(taken)
                self._take(length)
                return (data[_HEAD.size :],) if length else ()
        return self._unwrap(data)

    def acknowledge(self) -> bytes:
        return self._head(0)

    def resume(self, other_received: int) -> bytes:
        """Begin a new link, now that the other end has told how much of our stream it has; returns what to send first.

        Bytes may come from the new link only after this. Raises CarrierFault when the other end has lost what it had,
        or never had what it claims.
        """
        first = self.sent - len(self._unconfirmed)
        if not first <= other_received <= self.sent:
            raise CarrierFault(
                f"the other end says that it has {other_received} bytes, and what is kept here are bytes {first} to"
                f" {self.sent}: it is not the program that the last link was with"
            )
        del self._unconfirmed[: other_received - first]
        self._taken = self._left = 0
        self._partial = b""
        return self._head(len(self._unconfirmed)) + self._unconfirmed if self._unconfirmed else b""

    def export(self) -> RecordsState:
        """What another process needs to go on from here, over a new link."""
        return RecordsState(sent=self.sent, received=self.received, unconfirmed=bytes(self._unconfirmed))

    def _head(self, length: int) -> bytes:
        taken, self._taken = self._taken, 0
        return _HEAD.pack(taken, length)

    def _unwrap(self, data: memoryview) -> Sequence[memoryview]:
        pieces = []
        at, size = 0, len(data)
        while at < size:
            if not self._left:
                head = self._partial + bytes(data[at : at + _HEAD.size - len(self._partial)])
                at += len(head) - len(self._partial)
                self._partial = b""
                if len(head) < _HEAD.size:
                    self._partial = head
                    break
                taken, self._left = _HEAD.unpack(head)
                self._confirm(taken)
            piece = data[at : at + self._left]
            if piece:
                self._left -= len(piece)
                self._take(len(piece))
                pieces.append(piece)
                at += len(piece)
        return pieces

    def _take(self, size: int) -> None:
        self.received += size
        self._taken += size

    def _confirm(self, taken: int) -> None:
        if taken > len(self._unconfirmed):
            raise CarrierFault(
                f"the other end says that it took {taken} bytes, of {len(self._unconfirmed)} that are on their way"
            )
        if taken:
            del self._unconfirmed[:taken]
