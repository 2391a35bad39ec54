"""Recorded sessions of the kata shim, as steps that can be replayed byte by byte over real sockets.

    recording = load("r02-guestpull")
    for connection in recording.connections:                 # in the order in which the shim opened them
        played = await play(connection, lambda: asyncio.open_unix_connection(path))
        assert played.answers.keys() == connection.answered

`play` is the shim: it sends the recorded frames, and goes on at the recorded answers. `impersonate` is the other end:
it wants exactly the recorded frames and gives the recorded answers. With a relay between the two nothing of a session
may change.

How true the bytes are. Each request is encoded from the recorded JSON body by our own protos. A field that these do
not declare is carried as an unknown field where its number is known (`_UNDECLARED`: LinuxMemory.Swap, the only one in
these recordings), else dropped and named in `Request.dropped` (none in these recordings). Deadlines were recorded in
milliseconds. Map entries and fields come in our order, not the shim's. Bytes that were cut short in a recording (none
in these) are decoded as far as they go, and the field is named in `Request.dropped` too. So a frame has the recorded
length exactly when `dropped` is empty.

The hand-over of r08 shows in the file as a second process; to the shim it was one connection, and so it is here: the
requests listed again are skipped, and times go on rising.
"""

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
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
    recorded_length: int  # of the frame's payload
    dropped: tuple[str, ...]  # fields of the recorded body that `message` lacks or has only in part

    @property
    def frame(self) -> bytes:
        """The whole frame, header included."""
        payload = self.message.SerializeToString(deterministic=True)
        envelope = messages.encode_request(self.service, self.method, payload, self.timeout, self.metadata)
        return frames.encode(Frame(self.stream_id, MessageType.REQUEST, self.flags, envelope))


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


def load(name: str) -> Recording:
    """The recording `name`, one of NAMES."""
    reader = _Reader(Recording(name))
    with (FOLDER / f"{name}.jsonl").open() as lines:
        for line in lines:
            reader.take(json.loads(line))
    return reader.recording


# -- replaying --------------------------------------------------------------------------------------------------------

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Played:
    """What came back: the outcome of each answered stream, in the order of arrival."""

    answers: dict[int, Message | StatusError] = field(default_factory=dict)


async def play(
    connection: Connection,
    connect: Callable[[], Awaitable[Streams]],
    wait_for: Callable[[Request], bool] = lambda request: True,
) -> Played:
    """Be the shim on this connection, and return what was answered once it is over.

    A request is sent as soon as every answer that the recording has before it has come, on the right stream, in any
    order; calls for which `wait_for` is false are not waited for. Answers that the recording does not have are fine.
    Raises AssertionError for a frame that is no answer to an open call, and for an answer that does not come in time.
    Where the other end closed in the recording, its end of stream is awaited.
    """
    reader, writer = await connect()
    played = Played()
    arrived = asyncio.Condition()
    receiving = asyncio.create_task(_receive(connection, reader, played, arrived))
    try:
        for step in connection.steps:
            match step:
                case Request():
                    writer.write(step.frame)
                    await writer.drain()
                case Answer() if wait_for(connection.requests[step.stream_id]):
                    await _await_answer(connection, step, played, arrived, receiving)
                case Closed(by_shim=False):
                    await asyncio.wait_for(receiving, _PATIENCE)
    finally:
        writer.close()
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
    if not receiving.cancelled() and (error := receiving.exception()):
        raise error
    return played


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
    connection: Connection, reader: asyncio.StreamReader, played: Played, arrived: asyncio.Condition
) -> None:
    while True:
        try:
            frame = await _read_frame(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            break
        _, stream_id, kind, flags = HEADER.unpack_from(frame)
        assert (kind, flags) == (MessageType.RESPONSE, 0), f"a frame of type {kind}, flags {flags} came"
        assert stream_id in connection.requests, f"an answer came on stream {stream_id}, which was never opened"
        assert stream_id not in played.answers, f"a second answer came on stream {stream_id}"
        request = connection.requests[stream_id]
        async with arrived:
            played.answers[stream_id] = _outcome(request, frame[HEADER.size :])
            arrived.notify_all()
    async with arrived:
        arrived.notify_all()


async def _await_answer(
    connection: Connection, step: Answer, played: Played, arrived: asyncio.Condition, receiving: asyncio.Task[None]
) -> None:
    what = f"{connection.requests[step.stream_id].method} on stream {step.stream_id} of {connection.name}"
    try:
        async with asyncio.timeout(_PATIENCE), arrived:
            await arrived.wait_for(lambda: step.stream_id in played.answers or receiving.done())
    except TimeoutError:
        raise AssertionError(f"{what} was not answered within {_PATIENCE:g} s") from None
    if step.stream_id not in played.answers:
        await receiving  # raises what ended it
        raise AssertionError(f"{what} was not answered: the other end closed the connection")


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    header = await reader.readexactly(HEADER.size)
    return header + await reader.readexactly(HEADER.unpack(header)[0])


def _outcome(request: Request, envelope: bytes) -> Message | StatusError:
    try:
        payload = messages.decode_response(envelope)
    except StatusError as error:
        return error
    return _class_of(request.service, request.method, "output_type").FromString(payload)
