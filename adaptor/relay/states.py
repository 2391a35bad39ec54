"""What a sandbox's session in the relay can be, and what leads from one to the next.

LISTENING ── DIAL ──► DIALLING ── REACHED ──► DIALLED ── BOUND ──► JOINED ── SHIM_CLOSED ──► SHIM_GONE
 ▲     ▲                 │                     │   │                │ │ ▲                      ▲
 │     └──── GAVE_UP ────┘                     │   └─ BIND_UNKNOWN ─┤ │ └── RESUMED ──┐       │
 └─────────────────── LINK_ENDED ──────────────┘                    │ └─ LINK_BROKE ► RESUMING ┘ SHIM_CLOSED
                                                         LINK_ENDED │                 │ GAVE_UP
                                                                    └──► LINK_LOST ◄──┘
"""

from enum import Enum, IntEnum, auto
from typing import Final

from adaptor.protos import relay_pb2


class SessionState(IntEnum):
    """As on the wire."""

    LISTENING = relay_pb2.LISTENING
    DIALLING = relay_pb2.DIALLING
    DIALLED = relay_pb2.DIALLED
    JOINED = relay_pb2.JOINED
    SHIM_GONE = relay_pb2.SHIM_GONE
    LINK_LOST = relay_pb2.LINK_LOST
    RESUMING = relay_pb2.RESUMING


class Event(Enum):
    DIAL = auto()
    GAVE_UP = auto()
    REACHED = auto()
    BOUND = auto()
    BIND_UNKNOWN = auto()
    SHIM_CLOSED = auto()
    LINK_ENDED = auto()  # in order, by the VM: its agent has ended
    LINK_BROKE = auto()
    RESUMED = auto()


TRANSITIONS: Final[dict[tuple[SessionState, Event], SessionState]] = {
    (SessionState.LISTENING, Event.DIAL): SessionState.DIALLING,
    (SessionState.DIALLING, Event.GAVE_UP): SessionState.LISTENING,  # deadline, wrong peer, or the caller went away
    (SessionState.DIALLING, Event.REACHED): SessionState.DIALLED,
    (SessionState.DIALLED, Event.BOUND): SessionState.JOINED,
    (SessionState.DIALLED, Event.LINK_ENDED): SessionState.LISTENING,  # the VM is nobody's yet: it may be dialled again
    (
        SessionState.DIALLED,
        Event.BIND_UNKNOWN,
    ): SessionState.LINK_LOST,  # it may have been carried out, and is so only once
    (SessionState.JOINED, Event.SHIM_CLOSED): SessionState.SHIM_GONE,  # the shim dials once: the pod is over
    (SessionState.JOINED, Event.LINK_ENDED): SessionState.LINK_LOST,
    (SessionState.JOINED, Event.LINK_BROKE): SessionState.RESUMING,
    (SessionState.RESUMING, Event.RESUMED): SessionState.JOINED,
    (SessionState.RESUMING, Event.SHIM_CLOSED): SessionState.SHIM_GONE,
    (SessionState.RESUMING, Event.GAVE_UP): SessionState.LINK_LOST,  # the grace is over, or the VM cannot resume
}

# Nothing leads out of these; the shim is told by closing its connection.
OVER: Final = frozenset({SessionState.SHIM_GONE, SessionState.LINK_LOST})
