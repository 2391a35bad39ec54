"""Long-running operations: what a caller polls until it is Succeeded, Failed or Canceled."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.state import SUBSCRIPTION

_LONGEST_WAIT: Final = 10  # seconds; what Azure asks pollers of a new VM to wait
_KEPT: Final = 50_000  # operations; the oldest are forgotten, as Azure forgets them after days


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation ended: Succeeded, or an error."""

    error: Refused | None = None
    canceled: bool = False

    @property
    def status(self) -> str:
        return "Canceled" if self.canceled else "Failed" if self.error else "Succeeded"


DONE: Final = Outcome()
# What an operation waits for; None: it goes on.
Ending = Callable[[], Outcome | None]


@dataclass(eq=False, slots=True)
class Operation:
    """One of them. `ending` is asked each time somebody looks, until it has an answer."""

    id: str
    namespace: str
    location: str
    ending: Ending
    about: str  # the resource's id, in lower case
    left: Callable[[], float]  # seconds it will likely take from now on
    started: datetime
    outcome: Outcome | None = None
    ended: datetime | None = None
    result: Any = None  # what its Location answers in the end

    def look(self) -> Outcome | None:
        """Its outcome; None while it goes on."""
        if self.outcome is None and (outcome := self.ending()) is not None:
            self.outcome, self.ended = outcome, datetime.now(UTC)
        return self.outcome

    def headers(self, base: str, version: str, *, located: bool = False) -> dict[str, str]:
        """For the answer that begins it; `located`: with a Location to poll, too."""
        path = f"{base}/subscriptions/{SUBSCRIPTION}/providers/{self.namespace}/locations/{self.location}/operations/"
        url = f"{path}{self.id}?api-version={version}"
        made = {"Azure-AsyncOperation": url, **self.wait()}
        if located:
            made["Location"] = url.replace("?", "?monitor=true&")
        return made

    def wait(self) -> dict[str, str]:
        """How long a poller should wait; nothing once it has ended."""
        if self.look() is not None:
            return {}
        return {"Retry-After": str(min(_LONGEST_WAIT, max(1, round(self.left()))))}

    def shown(self) -> dict[str, Any]:
        """As GET shows it."""
        outcome = self.look()
        made: dict[str, Any] = {"startTime": self.started.isoformat()}
        if outcome is None:
            return {**made, "status": "InProgress", "name": self.id}
        assert self.ended is not None
        made |= {"endTime": self.ended.isoformat(), "status": outcome.status, "name": self.id}
        return {**made, "error": outcome.error.plain()} if outcome.error else made


class Operations:
    """All operations of one subscription."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._known: dict[str, Operation] = {}

    def begin(self, about: str, ending: Ending = lambda: DONE, *, left: Callable[[], float] = lambda: 0.0) -> Operation:
        """A new one about a resource."""
        namespace = about.rsplit("/providers/", maxsplit=1)[-1].partition("/")[0]
        made = Operation(
            str(uuid.uuid4()), namespace, self._region, ending, about.lower(), left, started=datetime.now(UTC)
        )
        self._known[made.id] = made
        if len(self._known) > _KEPT:
            self._known.pop(next(iter(self._known)))
        return made

    def get(self, operation_id: str) -> Operation:
        """Raises Refused."""
        if operation_id not in self._known:
            raise Refused("NotFound", f"The entity was not found: operation {operation_id}", status=404)
        return self._known[operation_id]

    def about(self, operation_id: str) -> str:
        """The resource's id; empty for an unknown operation."""
        known = self._known.get(operation_id)
        return known.about if known else ""
