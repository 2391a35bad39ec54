"""Recorded sessions of the kata shim, as steps that can be replayed byte by byte over real sockets.

    recording = load("r02-guestpull")
    for connection in recording.connections:                 # in the order in which the shim opened them
        outcomes = await play(connection, lambda: asyncio.open_unix_connection(path))
        assert outcomes.keys() == connection.answered

`play` is the shim: it sends the recorded frames, and goes on at the recorded answers. `impersonate` is the other end:
it wants exactly the recorded frames and gives the recorded answers. With a relay between the two nothing of a session
may change.

How true the bytes are. Paths in the recordings were rewritten to those of an ordinary node, which made two of them
shorter (`_REWRITTEN`); `Request.recorded_length` is the length before that. Otherwise the lengths are the recorded
ones, and this is how: each request is encoded from the recorded JSON body by our own protos. A field that these do
not declare is carried as an unknown field where its number is known (`_UNDECLARED`: LinuxMemory.Swap, the only one in
these recordings), else dropped and named in `Request.dropped` (none in these recordings). Deadlines were recorded in
milliseconds, so the digits below that are not the shim's; nor is the order of map entries. Bytes that were cut short
in a recording (none in these) are decoded as far as they go, and the field is named in `Request.dropped` too.

The hand-over of r08 shows in the file as a second process; to the shim it was one connection, and so it is here: the
requests listed again are skipped, and times go on rising.
"""

import asyncio
import base64
import binascii
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from adaptor.errors import StatusError
from adaptor.protos import agent_pb2, hypervisor_pb2
from adaptor.ttrpc import frames, messages
from adaptor.ttrpc.frames import HEADER, Frame, MessageType

FOLDER: Final = Path(__file__).parents[1] / "golden" / "shim"
NAMES: Final = tuple(sorted(path.stem for path in FOLDER.glob("*.jsonl")))

_PATIENCE: Final = 10.0  # seconds for an answer that the recording has, before the replay fails and says what it lacks

_SERVICES: Final = {
    service.full_name: service
    for file in (hypervisor_pb2.DESCRIPTOR, agent_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
}
# Number on the wire of fields that our protos leave out: message, field (folded) -> number. All are varints.
_UNDECLARED: Final = {("grpc.LinuxMemory", "swap"): 3}
# Start of a rewritten path -> bytes that it was longer as recorded. Worked out from CreateContainer, the only request
# with such paths: pause containers hold each twice, the others the first one only, and all lengths agree.
_REWRITTEN: Final = {b"/run/containerd/": 7, b"/var/log/pods/": 8}


@dataclass(frozen=True)
class Request:
    """The shim's call; `timeout` in seconds, None = no deadline."""

    at: float
    stream_id: int
    service: str
    method: str
    metadata: messages.Metadata
    timeout: float | None
    flags: int
    message: Message
    recorded_length: int  # of the frame's payload, before paths were rewritten
    dropped: tuple[str, ...]  # fields of the recorded body that `message` lacks or has only in part

    @property
    def frame(self) -> bytes:
        """The whole frame, header included."""
        payload = self.message.SerializeToString(deterministic=True)
        envelope = messages.encode_request(self.service, self.method, payload, self.timeout, self.metadata)
        return frames.encode(Frame(self.stream_id, MessageType.REQUEST, self.flags, envelope))

    @property
    def rewritten(self) -> int:
        """Bytes that rewriting its paths took from this request."""
        return sum(self.frame.count(start) * longer for start, longer in _REWRITTEN.items())


@dataclass(frozen=True)
class Answer:
    """What the shim got for the call on `stream_id`: a message, or a status."""

    at: float
    stream_id: int
    outcome: Message | StatusError

    @property
    def frame(self) -> bytes:
        """The whole frame, header included."""
        if isinstance(self.outcome, StatusError):
            envelope = messages.encode_failure(self.outcome)
        else:
            envelope = messages.encode_response(self.outcome.SerializeToString(deterministic=True))
        return frames.encode(Frame(self.stream_id, MessageType.RESPONSE, 0, envelope))


@dataclass(frozen=True)
class Closed:
    """The connection's end; a connection without one was still open when the recording stopped."""

    at: float
    by_shim: bool


Step = Request | Answer | Closed


@dataclass
class Connection:
    """One connection of the shim from its opening on; `kind` is "hyp" or "agent"."""

    name: str
    kind: str
    opened_at: float
    sandbox: str | None
    steps: list[Step] = field(default_factory=list)

    @property
    def requests(self) -> dict[int, Request]:
        """By stream id, in the order sent."""
        return {step.stream_id: step for step in self.steps if isinstance(step, Request)}

    @property
    def answered(self) -> set[int]:
        """The stream ids that were answered in the recording."""
        return {step.stream_id for step in self.steps if isinstance(step, Answer)}


@dataclass(frozen=True)
class Noted:
    """Anything else that was recorded: a socket listening, a command to the recorder."""

    at: float
    event: str
    details: dict[str, Any]


@dataclass
class Recording:
    """One session: its connections in the order of opening, and what else was noted."""

    name: str
    connections: list[Connection] = field(default_factory=list)
    notes: list[Noted] = field(default_factory=list)

    @property
    def requests(self) -> list[Request]:
        return [request for connection in self.connections for request in connection.requests.values()]

    @property
    def calls(self) -> dict[str, Connection]:
        """The connections to the hypervisor service by their one call: CreateVM, StartVM, StopVM, as far as made."""
        return {c.requests[1].method: c for c in self.connections if c.kind == "hyp"}

    @property
    def agent(self) -> Connection:
        """The shim's connection to its agent."""
        (connection,) = (c for c in self.connections if c.kind == "agent")
        return connection


def load(name: str) -> Recording:
    """The recording `name`, one of NAMES."""
    reader = _Reader(Recording(name))
    with (FOLDER / f"{name}.jsonl").open() as lines:
        for line in lines:
            reader.take(json.loads(line))
    return reader.recording


# -- replaying --------------------------------------------------------------------------------------------------------

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Outcome = Message | StatusError


async def play(
    connection: Connection,
    connect: Callable[[], Awaitable[Streams]],
    wait_for: Callable[[Request], bool] = lambda request: True,
    patience: float = _PATIENCE,
) -> dict[int, Outcome]:
    """Be the shim on this connection; returns what each answered stream got. Recorded times are not kept.

    A request is sent as soon as every answer that the recording has before it has come, on the right stream, in any
    order; calls for which `wait_for` is false are not waited for. Answers that the recording does not have are fine.
    Where the other end closed in the recording, its end of stream is awaited. Raises AssertionError for a frame that
    is no answer to an open call, and for an answer or end that does not come within `patience` seconds.
    """
    reader, writer = await connect()
    outcomes: dict[int, asyncio.Future[Outcome]] = {}
    receiving = asyncio.create_task(_receive(connection, reader, outcomes))
    try:
        for step in connection.steps:
            match step:
                case Request():
                    outcomes[step.stream_id] = asyncio.get_running_loop().create_future()
                    writer.write(step.frame)
                    with contextlib.suppress(ConnectionError):  # the answers that are now missing say so
                        await writer.drain()
                case Answer() if wait_for(request := connection.requests[step.stream_id]):
                    what = f"{request.method} on stream {step.stream_id} of {connection.name} was not answered"
                    await _await(outcomes[step.stream_id], receiving, patience, what)
                case Closed(by_shim=False):
                    await _await(receiving, receiving, patience, f"{connection.name} was not closed")
    finally:
        writer.close()
        receiving.cancel()
        (ended,) = await asyncio.gather(receiving, return_exceptions=True)
    if isinstance(ended, AssertionError):
        raise ended
    return {stream_id: outcome.result() for stream_id, outcome in outcomes.items() if outcome.done()}


async def impersonate(connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be the other end: take the recorded requests, byte for byte and in order, and answer as was answered.

    Raises AssertionError where another frame comes, and IncompleteReadError where the stream ends too early.
    """
    for step in connection.steps:
        match step:
            case Request():
                got = await _read_frame(reader)
                assert got == step.frame, f"stream {step.stream_id} ({step.method}): {got!r} instead of {step.frame!r}"
            case Answer():
                writer.write(step.frame)
                await writer.drain()
            case Closed(by_shim=True):
                assert await reader.read(1) == b"", "the shim sent more than was recorded"
    writer.close()


async def _receive(
    connection: Connection, reader: asyncio.StreamReader, outcomes: dict[int, asyncio.Future[Outcome]]
) -> None:
    """Runs until the other end closes; raises AssertionError for what is no answer to an open call."""
    while True:
        try:
            frame = await _read_frame(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        _, stream_id, kind, flags = HEADER.unpack_from(frame)
        assert (kind, flags) == (MessageType.RESPONSE, 0), f"a frame of type {kind}, flags {flags} came"
        assert stream_id in outcomes, f"an answer came on stream {stream_id}, where nothing was asked"
        assert not outcomes[stream_id].done(), f"a second answer came on stream {stream_id}"
        outcomes[stream_id].set_result(_outcome(connection.requests[stream_id], frame[HEADER.size :]))


async def _await(wanted: asyncio.Future[Any], receiving: asyncio.Task[None], patience: float, otherwise: str) -> None:
    await asyncio.wait({wanted, receiving}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
    if not wanted.done():
        if receiving.done():
            await receiving  # raises the error, if it was one
        how = "before the other end closed" if receiving.done() else f"within {patience:g} s"
        raise AssertionError(f"{otherwise} {how}")


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    header = await reader.readexactly(HEADER.size)
    return header + await reader.readexactly(HEADER.unpack(header)[0])


def _outcome(request: Request, envelope: bytes) -> Outcome:
    try:
        payload = messages.decode_response(envelope)
    except StatusError as error:
        return error
    return _class_of(request.service, request.method, "output_type").FromString(payload)


# -- reading ----------------------------------------------------------------------------------------------------------


class _Reader:
    """Turns one recorded event after the other into steps."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._open: dict[str, Connection] = {}  # by the name in the file, which a hand-over uses again
        self._cut: set[str] = set()  # connections that the recorder was told to close
        self._start = 0.0  # of the process that records now
        self._now = 0.0

    def take(self, event: dict[str, Any]) -> None:
        if event["ev"] == "ADOPTED":
            self._start = self._now
        self._now = self._start + event["t"]
        match event["ev"]:
            case "conn-open":
                self._opened(event)
            case "req":
                connection = self._open[event["conn"]]
                if event["stream"] not in connection.requests:  # else: listed again after the hand-over
                    connection.steps.append(self._request(event))
            case "resp":
                connection = self._open[event["conn"]]
                connection.steps.append(self._answer(event, connection.requests[event["stream"]]))
            case "conn-closed":
                closed = self._open.pop(event["conn"])
                closed.steps.append(Closed(self._now, by_shim=event["conn"] not in self._cut))
            case name:
                if event.get("cmd") == ["dropagent"]:
                    self._cut |= {conn for conn in self._open if conn.startswith("agent")}
                details = {key: value for key, value in event.items() if key not in ("t", "ev")}
                self.recording.notes.append(Noted(self._now, name, details))

    def _opened(self, event: dict[str, Any]) -> None:
        for name, connection in self._open.items():
            if connection.sandbox and connection.sandbox == event["sid"]:
                self._open[event["conn"]] = self._open.pop(name)  # handed over: to the shim it is the same one
                return
        kind = event["conn"].partition("#")[0]
        connection = Connection(f"{kind}#{len(self.recording.connections) + 1}", kind, self._now, event["sid"])
        self.recording.connections.append(connection)
        self._open[event["conn"]] = connection

    def _request(self, event: dict[str, Any]) -> Request:
        message = _class_of(event["svc"], event["m"], "input_type")()
        return Request(
            at=self._now,
            stream_id=event["stream"],
            service=event["svc"],
            method=event["m"],
            metadata=tuple((key, value) for key, value in event["md"]),
            timeout=event["timeout_s"] or None,
            flags=event["flags"],
            message=message,
            recorded_length=event["framelen"],
            dropped=tuple(fill(message, event["body"])),
        )

    def _answer(self, event: dict[str, Any], request: Request) -> Answer:
        if "status" in event:
            status = event["status"]
            return Answer(self._now, request.stream_id, StatusError(status["code"], status["message"]))
        message = _class_of(request.service, request.method, "output_type")()
        if dropped := list(fill(message, event["body"])):
            raise ValueError(f"the recorded answer to {request.method} has {dropped}, which our protos do not know")
        return Answer(self._now, request.stream_id, message)


def fill(message: Message, body: dict[str, Any], path: str = "") -> Iterator[str]:
    """Set `message` from a recorded JSON body; yields the path of each field that was dropped or cut short.

    Names match whatever their case and underscores. A generator: nothing happens until it is run to its end.
    """
    fields: dict[str, Any] = {_fold(field.name): field for field in message.DESCRIPTOR.fields}
    for key, value in body.items():
        here = f"{path}{key}"
        found = fields.get(_fold(key))
        if found is None:
            number = _UNDECLARED.get((message.DESCRIPTOR.full_name, _fold(key)))
            if number is None:
                yield here
            else:
                message.MergeFromString(_varint(number << 3) + _varint(int(value)))
        elif isinstance(value, dict) and found.message_type.GetOptions().map_entry:
            getattr(message, found.name).update(value)
        elif isinstance(value, dict):
            nested = getattr(message, found.name)
            nested.SetInParent()  # an empty message that is there is not one that is absent
            yield from fill(nested, value, f"{here}.")
        elif isinstance(value, list) and found.message_type is not None:
            for item in value:
                yield from fill(getattr(message, found.name).add(), item, f"{here}[].")
        elif isinstance(value, list):
            getattr(message, found.name).extend(_scalar(found, item)[0] for item in value)
        else:
            scalar, whole = _scalar(found, value)
            setattr(message, found.name, scalar)
            if not whole:
                yield here


def _scalar(field: Any, value: Any) -> tuple[Any, bool]:
    """The value as the field takes it, and whether it is all of what was sent."""
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _from_base64(value)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return field.enum_type.values_by_name[value].number, True
    if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BOOL):
        return value, True
    return int(value), True  # 64-bit numbers are strings in JSON


def _from_base64(text: str) -> tuple[bytes, bool]:
    """What `text` holds up to the first character that is none of base64's, and whether that was all of it."""
    try:
        return base64.b64decode(text, validate=True), True
    except binascii.Error:
        alphabet = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
        length = next((n for n, character in enumerate(text) if character not in alphabet), len(text))
        return base64.b64decode(text[: length - length % 4]), False


def _class_of(service: str, method: str, side: str) -> type[Message]:
    """The class of a method's `input_type` or `output_type`."""
    return GetMessageClass(getattr(_SERVICES[service].methods_by_name[method], side))


def _fold(name: str) -> str:
    return name.replace("_", "").lower()


def _varint(value: int) -> bytes:
    encoded = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
