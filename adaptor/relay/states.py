"""What a sandbox's session in the relay can be, and what leads from one to the next.

    LISTENING ── DIAL ──► DIALLING ── REACHED ──► DIALLED ── BOUND ──► JOINED ── SHIM_CLOSED ──► SHIM_GONE
     ▲     ▲                 │                     │   │                  │
     │     └─── GAVE_UP ─────┘                     │   └── BIND_UNKNOWN ──┴─── LINK_ENDED ─────► LINK_LOST
     └──────────────────── LINK_ENDED ─────────────┘
"""

from enum import Enum, IntEnum, auto
from typing import Final

from adaptor.protos import relay_pb2


class State(IntEnum):
    """As on the wire."""

    LISTENING = relay_pb2.LISTENING
    DIALLING = relay_pb2.DIALLING
    DIALLED = relay_pb2.DIALLED
    JOINED = relay_pb2.JOINED
    SHIM_GONE = relay_pb2.SHIM_GONE
    LINK_LOST = relay_pb2.LINK_LOST


class Event(Enum):
    DIAL = auto()
    GAVE_UP = auto()
    REACHED = auto()
    BOUND = auto()
    BIND_UNKNOWN = auto()
    SHIM_CLOSED = auto()
    LINK_ENDED = auto()


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.LISTENING, Event.DIAL): State.DIALLING,
    (State.DIALLING, Event.GAVE_UP): State.LISTENING,  # deadline, wrong peer, or the caller went away
    (State.DIALLING, Event.REACHED): State.DIALLED,
    (State.DIALLED, Event.BOUND): State.JOINED,
    (State.DIALLED, Event.LINK_ENDED): State.LISTENING,  # the VM is nobody's yet: it may be dialled again
    (State.DIALLED, Event.BIND_UNKNOWN): State.LINK_LOST,  # it may have been carried out, and is so only once
    (State.JOINED, Event.SHIM_CLOSED): State.SHIM_GONE,  # the shim dials once: the pod is over
    (State.JOINED, Event.LINK_ENDED): State.LINK_LOST,  # re-dial and resume will begin here
}

# Nothing leads out of these; the shim is told by closing its connection.
OVER: Final = frozenset({State.SHIM_GONE, State.LINK_LOST})
