"""ttrpc frames: a 10-byte header, then the payload.

 0       4         8     9      10
┌───────┬─────────┬─────┬───────┬─────────┐
│length │stream id│type │ flags │ payload │   big-endian; length counts the payload only
└───────┴─────────┴─────┴───────┴─────────┘
"""

from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from adaptor.errors import Code, StatusError

HEADER: Final = Struct(">IIBB")  # length, stream id, type, flags

# Bytes of one frame's payload, both ways. Every implementation in the field has this limit (4 MiB); a peer that is
# sent more would discard it.
MAX_PAYLOAD: Final = 4 << 20


class MessageType(IntEnum):
    """What a frame is; a peer may send other numbers, which `Frame.type` then holds as they are."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


REMOTE_CLOSED: Final = 1  # streaming: the sender sends no more on this stream
REMOTE_OPEN: Final = 2  # streaming: the sender will send data frames
NO_DATA: Final = 4  # a data frame that only carries flags


class Frame(NamedTuple):
    """One whole frame; `type` is a MessageType or a number this version does not know."""

    stream_id: int
    type: int
    flags: int
    payload: bytes


class Oversize(NamedTuple):
    """A frame over MAX_PAYLOAD was announced: its `length` bytes are dropped as they come, the next frame is intact."""

    stream_id: int
    type: int
    length: int


def encode(frame: Frame) -> bytes:
    """The frame's bytes.

    Raises StatusError RESOURCE_EXHAUSTED for a payload over MAX_PAYLOAD: nothing was sent, the connection is fine.
    """
    if len(frame.payload) > MAX_PAYLOAD:
        raise StatusError(
            Code.RESOURCE_EXHAUSTED, f"a message of {len(frame.payload)} bytes is over ttrpc's limit of {MAX_PAYLOAD}"
        )
    return HEADER.pack(len(frame.payload), frame.stream_id, frame.type, frame.flags) + frame.payload


class FrameReader:
    """Cuts a byte stream into frames. Holds at most one unfinished frame, so never more than MAX_PAYLOAD + a header.

    Every byte sequence is a valid prefix of some frames: this never raises.
    """

    __slots__ = ("_buffer", "_skip")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0  # bytes of an oversize payload that are still to come

    @property
    def idle(self) -> bool:
        """Nothing of an unfinished frame has arrived: the stream may end here without a loss."""
        return not self._buffer and not self._skip

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame | Oversize]:
        """The frames that `data` completes, and the oversize ones it announces, in their order."""
        dropped = min(self._skip, len(data))
        self._skip -= dropped
        buffer = self._buffer
        buffer += memoryview(data)[dropped:]
        found: list[Frame | Oversize] = []
        at = 0
        while len(buffer) - at >= HEADER.size:
            length, stream_id, kind, flags = HEADER.unpack_from(buffer, at)
            start, end = at + HEADER.size, at + HEADER.size + length
            if length > MAX_PAYLOAD:
                found.append(Oversize(stream_id, kind, length))
                self._skip = max(0, end - len(buffer))
                at = min(end, len(buffer))
            elif end <= len(buffer):
                found.append(Frame(stream_id, kind, flags, bytes(buffer[start:end])))
                at = end
            else:
                break
        del buffer[:at]
        return found
