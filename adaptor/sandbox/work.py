"""What the steps of a sandbox's life are made of."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from adaptor.sandbox.model import Event, SandboxState
from adaptor.sandbox.rooms import Rooms
from adaptor.telemetry.logs import Log


class Work:
    """What a step may use: the rooms, the state as it is now, and the ways to change it.

    `record` journals one event and applies it, never half of that. `adopt` takes over the VM of an earlier sandbox of
    this pod, if one is kept; True when the launch is now this sandbox's.
    """

    def __init__(
        self,
        rooms: Rooms,
        state: Callable[[], SandboxState],
        record: Callable[[Event], Awaitable[None]],
        adopt: Callable[[], Awaitable[bool]],
        log: Log,
    ) -> None:
        self.rooms = rooms
        self._state = state
        self.record = record
        self.adopt = adopt
        self.log = log
        self.deadline = rooms.clock.now() + rooms.guest.start_timeout

    @property
    def state(self) -> SandboxState:
        return self._state()

    def time_left(self) -> float:
        """Seconds until the start must have ended; at least one, so that a late step still gets a chance."""
        return max(1.0, self.deadline - self.rooms.clock.now())


@dataclass(frozen=True, slots=True)
class Step:
    """A deed and its inverse."""

    name: str
    do: Callable[[Work], Awaitable[None]]
    undo: Callable[[Work], Awaitable[None]]
