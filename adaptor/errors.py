"""What can go wrong, as the person who reads the pod's event needs to hear it.

    AdaptorError
    ├── StatusError         a ttrpc status, received from a peer or chosen on purpose
    ├── InvalidRequest      the caller's input is unusable: say which field, and what is allowed
    ├── UnknownSandbox      no such sandbox on this node
    ├── Conflict            the call contradicts what this sandbox already is
    ├── StartFailed         the pod's VM could not be brought up: what failed, on what, why, what to do
    │   ├── NoCapacity      the cloud has no room (or quota) for any machine that fits
    │   └── GuestUnreachable  a VM exists but its guest never became usable
    ├── LinkLost            the tunnel to a running pod's VM is gone
    └── Unavailable         a part this call needs (relay, cloud, journal) is away: try again

The message is the user interface: kata passes it verbatim into the pod's event.
"""

from enum import IntEnum
from typing import Final


class Code(IntEnum):
    """gRPC status codes, which ttrpc shares (google.rpc.Code)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class AdaptorError(Exception):
    """Base of every error this program raises on purpose; anything else that escapes is a bug."""


class StatusError(AdaptorError):
    """A ttrpc status: `code`, `message` and the raw google.protobuf.Any `details` that came with it."""

    def __init__(self, code: int, message: str, details: tuple[bytes, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def __repr__(self) -> str:
        return f"StatusError({code_name(self.code)}, {self.message!r})"


class InvalidRequest(AdaptorError):
    """The caller's input is unusable."""


class UnknownSandbox(AdaptorError):
    """No such sandbox on this node."""


class Conflict(AdaptorError):
    """The call contradicts what this sandbox already is."""


class StartFailed(AdaptorError):
    """The pod's VM could not be brought up."""


class NoCapacity(StartFailed):
    """The cloud has no room, or no quota, for any machine that fits."""


class GuestUnreachable(StartFailed):
    """A VM exists, but its guest never became usable."""


class NetworkFailed(StartFailed):
    """The pod's network could not be carried to its VM."""


class LinkLost(AdaptorError):
    """The tunnel to a running pod's VM is gone."""


class Unavailable(AdaptorError):
    """A part this call needs is away; the same call may succeed later."""


# The one table error -> ttrpc status. The most derived class that is listed wins.
CODE_OF: Final[dict[type[AdaptorError], Code]] = {
    InvalidRequest: Code.INVALID_ARGUMENT,
    UnknownSandbox: Code.NOT_FOUND,
    Conflict: Code.FAILED_PRECONDITION,
    StartFailed: Code.INTERNAL,
    NoCapacity: Code.RESOURCE_EXHAUSTED,
    GuestUnreachable: Code.DEADLINE_EXCEEDED,
    LinkLost: Code.UNAVAILABLE,
    Unavailable: Code.UNAVAILABLE,
}


def code_of(error: AdaptorError) -> int:
    """The status code that `error` travels as."""
    if isinstance(error, StatusError):
        return error.code
    for cls in type(error).__mro__:
        if cls in CODE_OF:
            return CODE_OF[cls]
    return Code.UNKNOWN


def code_name(code: int) -> str:
    """`DEADLINE_EXCEEDED` for 4; the bare number for a code that gRPC does not define."""
    try:
        return Code(code).name
    except ValueError:
        return str(code)
