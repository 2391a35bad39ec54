"""One ttrpc connection without its socket: bytes in, events out; answers in, bytes out.

Stream ids are the client's: odd, each larger than the last. A server refuses anything else on that very stream id and
goes on, as containerd's does. Only a stream that ends inside a frame ends a connection by itself.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from adaptor.errors import AdaptorError, Code, StatusError
from adaptor.ttrpc import frames, messages
from adaptor.ttrpc.frames import Frame, FrameReader, MessageType, Oversize
from adaptor.ttrpc.messages import Metadata

_LAST_STREAM: Final = (1 << 32) - 1  # stream ids are 32 bits and never reused on one connection
_STREAMING: Final = frames.REMOTE_CLOSED | frames.REMOTE_OPEN


class ProtocolError(AdaptorError):
    """The peer's bytes can not be followed any further: close the connection."""


class RequestReceived(NamedTuple):
    """A client's call, to be answered once by `respond` or `fail`.

    `timeout` is seconds left when it was sent (None = no deadline, 0.0 = already past); `payload` the request message;
    `size` the bytes of the whole frame's payload, for those who count what they hold.
    """

    stream_id: int
    service: str
    method: str
    payload: bytes
    timeout: float | None
    metadata: Metadata
    size: int = 0


class ResponseReceived(NamedTuple):
    """An answer: `payload` is the response message where `error` is None, else empty."""

    stream_id: int
    payload: bytes
    error: StatusError | None


class ServerConnection:
    """The side that answers.

    Refused on their own stream id, by this class, with the connection living on: frames over the limit
    (RESOURCE_EXHAUSTED), even, repeated or falling stream ids, undecodable requests and stray data frames
    (INVALID_ARGUMENT), streaming calls (UNIMPLEMENTED). Frames of unknown type are ignored: they may be a later
    version's.
    """

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._out: list[bytes] = []
        self._last_stream = 0
        self._open: set[int] = set()

    def receive(self, data: bytes | bytearray | memoryview) -> list[RequestReceived]:
        """The calls that `data` completes; never raises."""
        requests: list[RequestReceived] = []
        for frame in self._reader.feed(data):
            try:
                request = self._judge(frame)
            except StatusError as refusal:
                # A call already open on this id is still answered; which of two answers counts is the client's fault.
                self._send(frame.stream_id, messages.encode_failure(refusal))
            else:
                if request is not None:
                    self._open.add(request.stream_id)
                    requests.append(request)
        return requests

    def receive_eof(self) -> None:
        """The client ended its stream; raises ProtocolError where that cuts a frame in two."""
        _check_end(self._reader, "client")

    def respond(self, stream_id: int, payload: bytes) -> None:
        """Answer a call. One that has been answered already (its deadline passed) is left alone.

        An answer over the limit reaches the client as RESOURCE_EXHAUSTED.
        """
        if stream_id in self._open:
            self._send(stream_id, messages.encode_response(payload))
            self._open.discard(stream_id)

    def fail(self, stream_id: int, code: int, message: str, details: Iterable[bytes] = ()) -> None:
        """Answer a call with a status; `details` are serialised google.protobuf.Any. Otherwise as `respond`."""
        if stream_id in self._open:
            self._send(stream_id, messages.encode_failure(StatusError(code, message, tuple(details))))
            self._open.discard(stream_id)

    def data_to_send(self) -> bytes:
        """What the client must be sent now; hands each byte out once."""
        return _drain(self._out)

    def _judge(self, frame: Frame | Oversize) -> RequestReceived | None:
        """The call in this frame, or None for a frame to ignore; raises StatusError to refuse it."""
        if frame.stream_id % 2 == 0:
            raise StatusError(Code.INVALID_ARGUMENT, f"stream id {frame.stream_id} is even: a client's ids are odd")
        if frame.type == MessageType.REQUEST:
            if frame.stream_id <= self._last_stream:
                raise StatusError(
                    Code.INVALID_ARGUMENT,
                    f"stream id {frame.stream_id} came after {self._last_stream}: each must be larger than the last",
                )
            self._last_stream = frame.stream_id
        if isinstance(frame, Oversize):
            raise _oversize(frame, "request")
        if frame.type == MessageType.DATA:
            raise StatusError(
                Code.INVALID_ARGUMENT, f"stream {frame.stream_id} takes no data: only unary calls are served"
            )
        if frame.type != MessageType.REQUEST:
            return None
        if frame.flags & _STREAMING:
            raise StatusError(Code.UNIMPLEMENTED, "streaming calls are not served here, only unary ones")
        return RequestReceived(frame.stream_id, *messages.decode_request(frame.payload), len(frame.payload))

    def _send(self, stream_id: int, payload: bytes) -> None:
        try:
            self._out.append(frames.encode(Frame(stream_id, MessageType.RESPONSE, 0, payload)))
        except StatusError as too_large:
            self._send(stream_id, messages.encode_failure(too_large))


class ClientConnection:
    """The side that calls. It remembers no call: whoever waits for an answer drops those it does not wait for."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._out: list[bytes] = []
        self._next_stream = 1

    def request(
        self,
        service: str,
        method: str,
        payload: bytes,
        timeout: float | None = None,
        metadata: Iterable[tuple[str, str]] = (),
    ) -> int:
        """Queue a call and return its stream id; `timeout` is the seconds that are left for it now.

        Raises StatusError RESOURCE_EXHAUSTED when the request is over the limit, or when every stream id of this
        connection has been used: nothing is queued then.
        """
        stream_id = self._next_stream
        if stream_id > _LAST_STREAM:
            raise StatusError(Code.RESOURCE_EXHAUSTED, "this connection has used every stream id: open a new one")
        envelope = messages.encode_request(service, method, payload, timeout, metadata)
        self._out.append(frames.encode(Frame(stream_id, MessageType.REQUEST, 0, envelope)))
        self._next_stream += 2
        return stream_id

    def receive(self, data: bytes | bytearray | memoryview) -> list[ResponseReceived]:
        """The answers that `data` completes; one that is over the limit or no answer at all is that call's error."""
        return [_answer(frame) for frame in self._reader.feed(data)]

    def receive_eof(self) -> None:
        """The server ended its stream; raises ProtocolError where that cuts a frame in two."""
        _check_end(self._reader, "server")

    def data_to_send(self) -> bytes:
        """What the server must be sent now; hands each byte out once."""
        return _drain(self._out)


def _answer(frame: Frame | Oversize) -> ResponseReceived:
    try:
        if isinstance(frame, Oversize):
            raise _oversize(frame, "answer")
        if frame.type != MessageType.RESPONSE:
            raise StatusError(Code.INTERNAL, f"the server answered a unary call with a frame of type {frame.type}")
        return ResponseReceived(frame.stream_id, messages.decode_response(frame.payload), None)
    except StatusError as error:
        return ResponseReceived(frame.stream_id, b"", error)


def _oversize(frame: Oversize, what: str) -> StatusError:
    return StatusError(
        Code.RESOURCE_EXHAUSTED,
        f"the {what} has {frame.length} bytes, over ttrpc's limit of {frames.MAX_PAYLOAD}",
    )


def _drain(out: list[bytes]) -> bytes:
    data = b"".join(out)
    out.clear()
    return data


def _check_end(reader: FrameReader, peer: str) -> None:
    if not reader.idle:
        raise ProtocolError(f"the {peer} closed the connection in the middle of a frame")
