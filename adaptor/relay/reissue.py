"""The link to a stock guest, whose agent-protocol-forwarder knows nothing of resuming: each link is new to it.

What it never got whole, it never carried out: that is sent on the next link. What it got and did not answer, it may
have carried out, or be about to: `TABLE` says which calls are sent again all the same, and the others are failed.

    wrap     bytes as they came; every request is kept until it is answered
    unwrap   whole answers only: whenever a link breaks, the shim is between two
    resume   after a break: requests for the new link, and answers for the shim in place of those that are failed
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from adaptor import names
from adaptor.errors import Code, StatusError
from adaptor.protos.agent_pb2 import CopyFileRequest, SignalProcessRequest
from adaptor.protos.handover_pb2 import ReissueState
from adaptor.protos.ttrpc_pb2 import Request
from adaptor.relay.splice import Piece
from adaptor.ttrpc import messages
from adaptor.ttrpc.frames import HEADER, MAX_PAYLOAD, Frame, MessageType, encode

# Bytes of unanswered requests, beyond which no more is taken from the shim: two of the largest there are, for a part of
# a file (1 MiB, one at a time) must not hold up what comes behind it. A pod that rests has some hundred of them.
WINDOW: Final = 8 << 20

Kept = bytes | bytearray  # one request's frame

_HEAD: Final = HEADER.size
_REQUEST: Final = int(MessageType.REQUEST)
_RESPONSE: Final = int(MessageType.RESPONSE)
# Signals that end a process, or only ask after it. Whoever sends one to stop a container sends it until it has stopped.
_SAME_TWICE: Final = (0, 9, 15)  # SIGKILL, SIGTERM


def always(_message: bytes) -> bool:
    """Sent again."""
    return True


def never(_message: bytes) -> bool:
    """Failed."""
    return False


def unless_last_of_several(message: bytes) -> bool:
    """Sent again, but the last part of a file in several parts is failed."""
    request = CopyFileRequest.FromString(message)
    return not request.offset or request.offset + len(request.data) < request.file_size


def if_it_ends(message: bytes) -> bool:
    """Sent again for SIGTERM, SIGKILL and 0, failed for other signals."""
    return SignalProcessRequest.FromString(message).signal in _SAME_TWICE


class Case(NamedTuple):
    """What becomes of a call that was under way when its link broke."""

    repeats: Callable[[bytes], bool]  # whether its message is sent again; may raise DecodeError
    why: str


Call = tuple[str, str]  # service and method

_QUESTION: Final = Case(always, "a question")
_SETTING: Final = Case(always, "it says how something is to be: said twice, it is no different")
_REMOVAL: Final = Case(
    always, "done once, nothing is left to do: at worst the agent says so, which is no worse than failing it"
)
_OUTPUT: Final = Case(
    always,
    "failed, the log would end for good. One piece of output per stream (up to 32 KiB) may get lost with a link: the"
    " agent still gives it to the read that went over that one",
)
_ADDITION: Final = Case(never, "it adds something, or is true at its time only; kata sends none of these to a pod VM")

_HEALTH: Final[dict[str, Case]] = {
    "Check": Case(always, "a question, and failed it would end the pod"),
    "Version": _QUESTION,
}
_AGENT: Final[dict[str, Case]] = {
    "WaitProcess": Case(
        always,
        "a question, and failed for the pause container it would end the pod. An exit status whose answer got lost is"
        " told again only if the agent still has it; else it reads 255",
    ),
    "ReadStdout": _OUTPUT,
    "ReadStderr": _OUTPUT,
    "GetOOMEvent": Case(always, "it waits for the next event. One may get lost with a link, as output may"),
    "StatsContainer": _QUESTION,
    "GetMetrics": _QUESTION,
    "GetGuestDetails": _QUESTION,
    "GetDiagnosticData": _QUESTION,
    "GetVolumeStats": _QUESTION,
    "ListInterfaces": _QUESTION,
    "ListRoutes": _QUESTION,
    "GetIPTables": _QUESTION,
    "UpdateContainer": _SETTING,
    "TtyWinResize": _SETTING,
    "CloseStdin": _SETTING,
    "SetPolicy": _SETTING,
    "UpdateEphemeralMounts": _SETTING,
    "UpdateInterface": _SETTING,
    "UpdateRoutes": _SETTING,
    "AddARPNeighbors": _SETTING,
    "SetIPTables": _SETTING,
    "OnlineCPUMem": _SETTING,
    "ReseedRandomDev": _SETTING,
    "ResizeVolume": _SETTING,
    "MemAgentMemcgSet": _SETTING,
    "MemAgentCompactSet": _SETTING,
    "PauseContainer": _SETTING,
    "ResumeContainer": _SETTING,
    "RemoveContainer": _REMOVAL,
    "RemoveStaleVirtiofsShareMounts": _REMOVAL,
    "DestroySandbox": _REMOVAL,
    "CopyFile": Case(
        unless_last_of_several,
        "a part is written where it was written before. The last one also moves the finished file to its place: a"
        " second time, it would put a file there that is empty up to this part",
    ),
    "SignalProcess": Case(
        if_it_ends,
        "who ends a process would send these again anyway; what another signal means, and means the second time, only"
        " the program knows",
    ),
    "ExecProcess": Case(never, "the command might run twice. Who asked for it hears of it, and can look first"),
    "WriteStdin": Case(never, "the program might read its input twice, and nobody would know. Its input ends instead"),
    "CreateContainer": Case(
        never,
        "image and mounts might be set up twice, over each other. The container's start fails, and kubelet makes"
        " another; for a pause container, another pod VM",
    ),
    "StartContainer": Case(
        never,
        "a container starts once, and the agent's refusal to start it again would not say why. The shim kills it, and"
        " kubelet makes another",
    ),
    "CreateSandbox": Case(
        never,
        "it begins by clearing away what the first may have set up. The pod's start fails, and kubelet makes another",
    ),
    "AddSwap": _ADDITION,
    "AddSwapPath": _ADDITION,
    "MemHotplugByProbe": _ADDITION,
    "SetGuestDateTime": _ADDITION,
}
# Every call of the agent's services, as of kata 3 and 4.
TABLE: Final[dict[Call, Case]] = {
    **{(names.HEALTH_SERVICE, method): case for method, case in _HEALTH.items()},
    **{(names.AGENT_SERVICE, method): case for method, case in _AGENT.items()},
}
UNKNOWN: Final = Case(never, "nothing is known of it")


class Reissue:
    """Both directions of one agent connection to a stock guest. Sans-io; see `carrier.Carrier` for the rest.

    A new one has its first link; one that another process has exported has none. `broke` must be called when a link is
    lost, `resume` when the next one is there. What comes from the shim in between was never sent, so no call of it is
    failed, whatever it does.

    Of a frame that is no request, or longer than ttrpc allows (the shim sends neither), nothing is kept: it passes as
    it comes, and is lost with a link, whole.
    """

    __slots__ = ("_cut", "_drop", "_kept", "_linked", "_partial", "_passing", "_sent", "_skip", "_unsent")

    def __init__(self, state: ReissueState | None = None) -> None:
        self._sent: dict[int, Kept] = {}  # requests without an answer, by stream id, as the shim sent them
        self._unsent: dict[int, Kept] = {}  # those of them that no link was given whole
        self._kept = 0  # bytes of both
        self._partial = bytearray()  # the beginning of the request that the shim is sending
        self._passing = 0  # bytes still to come of a frame of which nothing is kept
        self._drop = 0  # those of them that are of no use any more: an earlier link was given the beginning
        self._cut = bytearray()  # the beginning of an answer
        self._skip = 0  # bytes still to come of an answer that is too long
        self._linked = state is None
        if state:
            first_unsent = len(state.unanswered) - state.unsent
            for number, frame in enumerate(state.unanswered):
                self._keep(frame, self._sent if number < first_unsent else self._unsent)
            self._partial += state.partial
            self._passing = state.passing

    @property
    def full(self) -> bool:
        return self._kept > WINDOW

    @property
    def owes(self) -> bool:
        return False

    def wrap(self, pieces: Sequence[Piece]) -> bytes:
        if self._linked and len(pieces) == 1 and not (self._partial or self._passing):
            piece = pieces[0]
            if len(piece) >= _HEAD:
                length, stream_id, kind, _ = HEADER.unpack_from(piece)
                if _HEAD + length == len(piece) and kind == _REQUEST and length <= MAX_PAYLOAD:  # nearly always
                    frame = bytes(piece)
                    self._sent[stream_id] = frame
                    self._kept += len(frame)
                    return frame
        data = b"".join(pieces)
        self._remember(memoryview(data))
        if not self._linked:
            return b""
        dropped = min(self._drop, len(data))
        self._drop -= dropped
        return data[dropped:]

    def unwrap(self, data: memoryview) -> Sequence[memoryview]:
        if len(data) >= _HEAD and not (self._cut or self._skip):
            length, stream_id, kind, _ = HEADER.unpack_from(data)
            if _HEAD + length == len(data) and kind == _RESPONSE and length <= MAX_PAYLOAD:  # nearly always
                self._kept -= len(self._sent.pop(stream_id, b""))
                return (data,)
        return self._unwrap(data)

    def acknowledge(self) -> bytes:
        return b""

    def broke(self) -> None:
        """There is no link any more: what is wrapped from now on waits for `resume`. May be repeated."""
        self._linked = False
        self._cut = bytearray()
        self._skip = 0

    def resume(self) -> tuple[bytes, bytes]:
        """Begin a new link; returns what to send first, and whole frames for the shim, which answer what is failed.

        What is returned counts as sent, so another break may fail what this one did not.
        """
        self.broke()
        first, answers = bytearray(), bytearray()
        repeated: dict[int, Kept] = {}
        for stream_id, frame in (self._sent | self._unsent).items():
            error = _not_kept(frame) or (None if stream_id in self._unsent else _failure(frame))
            if error:
                payload = messages.encode_failure(error)
                answers += encode(Frame(stream_id, MessageType.RESPONSE, 0, payload))
            else:
                first += frame
                repeated[stream_id] = frame
        self._sent, self._unsent = repeated, {}
        self._kept = sum(map(len, repeated.values()))
        first += self._partial
        self._drop = self._passing
        self._linked = True
        return bytes(first), bytes(answers)

    def export(self) -> ReissueState:
        """What another process needs to go on from here, over a new link."""
        return ReissueState(
            unanswered=[bytes(frame) for frame in (*self._sent.values(), *self._unsent.values())],
            partial=bytes(self._partial),
            unsent=len(self._unsent),
            passing=self._passing,
        )

    def _remember(self, data: memoryview) -> None:
        """Cut the shim's bytes into requests, wherever they were cut before."""
        at, size = 0, len(data)
        while at < size:
            if self._passing:
                passed = min(self._passing, size - at)
                self._passing -= passed
                at += passed
                continue
            partial = self._partial
            wanted = _HEAD if len(partial) < _HEAD else _HEAD + HEADER.unpack_from(partial)[0]
            piece = data[at : at + wanted - len(partial)]
            partial += piece
            at += len(piece)
            if len(partial) < wanted:
                return
            length, _, kind, _ = HEADER.unpack_from(partial)
            if kind != _REQUEST or length > MAX_PAYLOAD:
                self._passing = length
            elif len(partial) < _HEAD + length:
                continue
            if kind == _REQUEST:
                self._keep(partial, self._sent if self._linked else self._unsent)
            self._partial = bytearray()

    def _keep(self, frame: Kept, where: dict[int, Kept]) -> None:
        _, stream_id, _, _ = HEADER.unpack_from(frame)
        where[stream_id] = frame
        self._kept += len(frame)

    def _unwrap(self, data: memoryview) -> Sequence[memoryview]:
        """Cut the guest's bytes into whole frames; what is left of them waits for the rest."""
        if self._cut:
            self._cut += data
            if len(self._cut) < _HEAD:
                return ()
            length, _, _, _ = HEADER.unpack_from(self._cut)
            if len(self._cut) < _HEAD + length <= _HEAD + MAX_PAYLOAD:
                return ()
            data, self._cut = memoryview(self._cut), bytearray()
        pieces = []
        size = len(data)
        at = min(self._skip, size)
        self._skip -= at
        start = at  # from here to `at` are whole frames that pass
        while size - at >= _HEAD:
            length, stream_id, kind, _ = HEADER.unpack_from(data, at)
            end = at + _HEAD + length
            if length > MAX_PAYLOAD:
                pieces.append(data[start:at])
                pieces.append(self._in_place_of(stream_id, kind, length))
                self._skip = max(0, end - size)
                start = end = min(end, size)
            elif end > size:
                break
            if kind == _RESPONSE:
                self._kept -= len(self._sent.pop(stream_id, b""))
            at = end
        pieces.append(data[start:at])
        self._cut += data[at:]
        return [piece for piece in pieces if piece]

    @staticmethod
    def _in_place_of(stream_id: int, kind: int, length: int) -> memoryview:
        """What the shim gets for a frame that is longer than ttrpc allows: what it would make of it itself."""
        if kind != _RESPONSE:
            return memoryview(b"")
        error = StatusError(
            Code.RESOURCE_EXHAUSTED, f"an answer of {length} bytes is over ttrpc's limit of {MAX_PAYLOAD}"
        )
        return memoryview(encode(Frame(stream_id, MessageType.RESPONSE, 0, messages.encode_failure(error))))


def _failure(frame: Kept) -> StatusError | None:
    """The error for a request that a link was given whole, unless it bears to be sent again."""
    method = ""
    try:
        request = Request.FromString(bytes(frame[_HEAD:]))
        method = request.method
        if TABLE.get((request.service, method), UNKNOWN).repeats(request.payload):
            return None
    except DecodeError:
        pass
    return StatusError(
        Code.UNAVAILABLE,
        f"{method or 'A call'} was under way when the link to the pod's VM broke; it may or may not have been carried"
        " out",
    )


def _not_kept(frame: Kept) -> StatusError | None:
    """The error for a request of which only the head was kept."""
    length, _, _, _ = HEADER.unpack_from(frame)
    if len(frame) == _HEAD + length:
        return None
    return StatusError(
        Code.UNAVAILABLE,
        f"A call of {length} bytes was under way when the link to the pod's VM broke. That is over ttrpc's limit of"
        f" {MAX_PAYLOAD}, so it was not kept to be sent again",
    )
