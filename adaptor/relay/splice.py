"""What becomes of an agent call as it passes: the same bytes (nearly always), another message, or an answer from here.

    requests   shim ──bytes──► pieces for the VM      cut by frame header; a call that the rules name is held until it
                                                      is whole, then its rule decides
    responses  VM ───bytes───► pieces for the shim    whole frames: whenever the VM falls silent, answers from here can
                                                      go between two frames, never into one

Views in, views out: nothing is copied but a call that a rule wants, the beginning of one that was cut before its
method, and a response that was cut. Whatever is oversize, malformed or of unknown type passes as it came, for it is the agent's judgement that the
shim must see. This is no defence either: what a guest must refuse, its agent refuses.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from google.protobuf.message import DecodeError

from adaptor.errors import Code, StatusError
from adaptor.protos.handover_pb2 import SpliceState
from adaptor.protos.ttrpc_pb2 import Request
from adaptor.ttrpc import messages
from adaptor.ttrpc.frames import HEADER, MAX_PAYLOAD, Frame, MessageType, encode


@dataclass(frozen=True, slots=True)
class Answer:
    """Reply from here, with a message or with an error; nothing of the request goes on."""

    message: bytes = b""
    error: StatusError | None = None


@dataclass(frozen=True, slots=True)
class Watch:
    """Let it pass as it came, but stand ready: until its response has passed, `answer_watched` replies with this."""

    message: bytes


# What a rule says of a request's message: another one, an answer, or None to let it pass as it came.
Verdict = bytes | Answer | Watch | None
Rule = Callable[[bytes], Verdict]
Rules = Mapping[tuple[str, str], Rule]  # by service and method

# Never empty. A view is of the caller's buffer and good until that changes.
Piece = memoryview | bytes

_REQUEST: Final = int(MessageType.REQUEST)
_HEAD: Final = HEADER.size
_LENGTH_STREAM: Final = Struct(">II")
# A response of up to this many bytes is held until it is whole. No answer of the agent's is longer (32 KiB of output,
# some tens of metrics); one that is passes in pieces, and answers from here wait for its end.
_HOLD: Final = 256 << 10
# Envelopes begin with tag, length, service, tag, length, method; every encoder in the field writes them so.
_SERVICE_TAG: Final = 0x0A
_METHOD_TAG: Final = 0x12
_SHORT: Final = 0x80  # lengths below this are one byte
_SNIFF: Final = 2 * (2 + _SHORT - 1)  # bytes that hold any service and method of such lengths


class Splice:
    """Both directions of one agent connection, from its first byte on."""

    __slots__ = (
        "_cut",
        "_dropped",
        "_held",
        "_left",
        "_prefixes",
        "_rules",
        "_skip",
        "_wanted",
        "_watched",
        "answers",
        "requests_seen",
    )

    def __init__(self, rules: Rules) -> None:
        self.answers = bytearray()  # whole frames that wait for `take_answers`
        self.requests_seen = 0
        self._rules = rules
        self._prefixes = frozenset(Request(service=s, method=m).SerializeToString() for s, m in rules)
        self._skip = 0  # requests: bytes still to come of a frame that passes
        self._held = bytearray()  # requests: the beginning of a frame that nothing is decided on yet
        self._wanted = 0  # bytes of it that are needed to decide
        self._left = 0  # responses: bytes still to come of a long frame that passes in pieces
        self._cut = b""  # responses: the beginning of a frame that is held until it is whole
        self._watched: dict[int, bytes] = {}  # stream ids of requests that passed, and what to answer in their place
        self._dropped: set[int] = set()  # stream ids that were answered from here: the VM's own answer comes too late

    def requests(self, data: memoryview) -> Sequence[Piece]:
        """What the VM must be sent now that these bytes of the shim have come, in order."""
        size = len(data)
        if self._skip >= size:
            self._skip -= size
            return (data,)
        pieces: list[Piece] = []
        start, at = 0, self._skip  # between them lies what passes; at `at` begins a frame
        self._skip = 0
        if self._held:
            start, at = self._resume(data, pieces)
        while at < size:
            needed, whole = self._look(data, at, size - at)
            if not needed:
                at += whole
                continue
            if start < at:
                pieces.append(data[start:at])
            start = at + needed
            if start > size:
                self._held += data[at:]
                self._wanted = needed
                return pieces
            pieces += self._decide(bytes(data[at:start]))
            at = start
        self._skip = at - size
        if start < size:
            pieces.append(data[start:] if start else data)
        return pieces

    def responses(self, data: memoryview) -> Sequence[Piece]:
        """What the shim must be sent now that these bytes of the VM have come, in order."""
        if not (self._cut or self._left or self._watched or self._dropped) and len(data) >= _HEAD:
            length, _ = _LENGTH_STREAM.unpack_from(data)
            if _HEAD + length == len(data):  # nearly always
                return (data,)
        return self._responses(data)

    def take_answers(self) -> bytes:
        """Answers that may be sent to the shim at once: none while a response is under way. Handed out once."""
        if self._left:
            return b""
        answers = bytes(self.answers)
        self.answers.clear()
        return answers

    def answer_watched(self) -> None:
        """Answer every watched request from here; the VM's answer to it, if one comes, is dropped."""
        for stream_id, message in self._watched.items():
            self._answer(stream_id, messages.encode_response(message))
        self._dropped |= self._watched.keys()
        self._watched.clear()

    def export(self) -> SpliceState:
        """Where both directions stand, for `restore` in another process."""
        return SpliceState(
            answers=bytes(self.answers),
            requests_seen=self.requests_seen,
            skip=self._skip,
            held=bytes(self._held),
            wanted=self._wanted,
            left=self._left,
            cut=self._cut,
            watched=self._watched,
            dropped=self._dropped,
        )

    def restore(self, state: SpliceState) -> None:
        """Go on where another splice stood; before the first byte."""
        self.answers += state.answers
        self.requests_seen = state.requests_seen
        self._skip, self._held, self._wanted = state.skip, bytearray(state.held), state.wanted
        self._left, self._cut = state.left, state.cut
        self._watched, self._dropped = dict(state.watched), set(state.dropped)

    def _look(self, data: memoryview | bytearray, at: int, have: int) -> tuple[int, int]:
        """Of the frame at `at`: how many bytes are needed to go on (none: it passes), and how many it has in all."""
        if have < _HEAD:
            return _HEAD, 0
        length, _, kind, _ = HEADER.unpack_from(data, at)
        whole = _HEAD + length
        if kind == _REQUEST:
            if length <= MAX_PAYLOAD and self._prefixes:
                at += _HEAD
                seen = bytes(data[at : at + min(length, _SNIFF)])
                needed = self._sniff(seen, length)
                if needed:
                    return _HEAD + needed, whole
            self.requests_seen += 1
        return 0, whole

    def _sniff(self, seen: bytes, length: int) -> int:
        """How many bytes are needed of a request's payload that begins with `seen`; none if no rule names the call."""
        try:
            size = _prefix_size(seen)
        except IndexError:
            size = len(seen) + 1
        if size > len(seen):
            enough = min(length, _SNIFF)
            return enough if len(seen) < enough else 0
        if size and seen[:size] not in self._prefixes:
            return 0
        return length

    def _resume(self, data: memoryview, pieces: list[Piece]) -> tuple[int, int]:
        """Go on with the held frame; returns where in `data` the rest to pass begins, and where the next frame does."""
        held, taken = self._held, 0
        while True:
            more = data[taken : taken + self._wanted - len(held)]
            held += more
            taken += len(more)
            if len(held) < self._wanted:
                return taken, taken
            needed, whole = self._look(held, 0, len(held))
            if needed <= len(held):
                break
            self._wanted = needed
        frame = bytes(held)
        held.clear()
        if needed:
            pieces += self._decide(frame)
            return taken, taken
        pieces.append(frame)
        return taken, taken + whole - len(frame)

    def _decide(self, frame: bytes) -> tuple[Piece, ...]:
        """Ask the rule of this whole request what to send instead of it."""
        self.requests_seen += 1
        _, stream_id, kind, flags = HEADER.unpack_from(frame)
        try:
            envelope = Request.FromString(frame[_HEAD:])
        except DecodeError:
            return (frame,)
        rule = self._rules.get((envelope.service, envelope.method))
        verdict = rule(envelope.payload) if rule else None
        if isinstance(verdict, Watch):
            self._watched[stream_id] = verdict.message
            return (frame,)
        if verdict is None:
            return (frame,)
        if isinstance(verdict, bytes):
            envelope.payload = verdict  # timeout, metadata and what we do not know stay as they are
            payload = envelope.SerializeToString()
            if len(payload) <= MAX_PAYLOAD:
                return (encode(Frame(stream_id, kind, flags, payload)),)
            verdict = Answer(error=_grown(envelope.method, len(frame) - _HEAD, len(payload)))
        payload = messages.encode_failure(verdict.error) if verdict.error else messages.encode_response(verdict.message)
        self._answer(stream_id, payload)
        return ()

    def _responses(self, data: memoryview) -> Sequence[Piece]:
        pieces: list[Piece] = []
        if self._cut:
            data = memoryview(self._cut + data)
            self._cut = b""
        size = len(data)
        at = min(self._left, size)
        if at:
            self._left -= at
            pieces.append(data[:at])
            if self.answers:
                pieces.append(self.take_answers())
        start = at  # from here to `at` are whole frames that pass
        while size - at >= _HEAD:
            length, stream_id = _LENGTH_STREAM.unpack_from(data, at)
            end = at + _HEAD + length
            if end > size and length <= _HOLD:
                break
            if stream_id in self._dropped and end <= size:
                self._dropped.remove(stream_id)
                pieces.append(data[start:at])
                start = end
            self._watched.pop(stream_id, None)
            self._left = max(0, end - size)
            at = min(end, size)
        pieces.append(data[start:at])
        self._cut = bytes(data[at:])
        return [piece for piece in pieces if piece]

    def _answer(self, stream_id: int, payload: bytes) -> None:
        self.answers += encode(Frame(stream_id, MessageType.RESPONSE, 0, payload))


def _prefix_size(seen: bytes) -> int:
    """Bytes of service and method at the start of a payload, 0 if it starts otherwise; IndexError if it ends before."""
    if seen[0] != _SERVICE_TAG or seen[1] >= _SHORT:
        return 0
    method = 2 + seen[1]
    if seen[method] != _METHOD_TAG or seen[method + 1] >= _SHORT:
        return 0
    return method + 2 + seen[method + 1]


def _grown(method: str, before: int, after: int) -> StatusError:
    return StatusError(
        Code.RESOURCE_EXHAUSTED,
        f"{method} has {after} bytes with what this node adds to it ({before} without), over ttrpc's limit of"
        f" {MAX_PAYLOAD}: make the container's spec or annotations smaller",
    )
