"""Something that starts, takes time, and completes or fails: said once, told to three.

    with span(log, "instance.create", type="m6a.large") as s:
        instance = await provider.create(...)
        s.note(instance=instance.id)

    instance.create started   ─► debug line
    instance.create complete  ─► info line with seconds ─┐
    instance.create failed    ─► warning line, error ────┴─► histogram, every listener

A span inside another knows its parent and takes over its sandbox. Names in use: sandbox.start, instance.create,
guest.dial, guest.hello, network.open, network.plan, guest.bind, network.connect, instance.delete.
"""

import time
from asyncio import CancelledError
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self

from adaptor.telemetry import logs, metrics

Phase = Literal["started", "complete", "failed"]
Listener = Callable[["SpanEvent"], None]

_log: Final = logs.get(__name__)
_listeners: Final[list[Listener]] = []
_current: ContextVar["Span | None"] = ContextVar("span", default=None)
_INHERITED: Final = "sandbox"


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """One moment of a span. `seconds` since it started (0.0 for started); `at` is wall time; `parent` its name."""

    name: str
    phase: Phase
    seconds: float
    fields: Mapping[str, Any]
    at: float
    parent: str = ""


class Span:
    """Made by `span`; enter it once."""

    def __init__(self, log: logs.Log, name: str, fields: Mapping[str, Any]) -> None:
        self.name = name
        self.parent: Span | None = None
        self._log = log
        self._fields = dict(fields)
        self._began = 0.0
        self._token: Token[Span | None] | None = None

    def note(self, **fields: Any) -> None:
        """Add what is known only now to the closing line and event."""
        self._fields.update(fields)

    @property
    def fields(self) -> dict[str, Any]:
        """Everything the span knows: its log's bound fields, its own, those noted."""
        return {**self._log.fields, **self._fields}

    def __enter__(self) -> Self:
        self.parent = _current.get()
        if self.parent is not None and _INHERITED in self.parent.fields and _INHERITED not in self.fields:
            self.note(**{_INHERITED: self.parent.fields[_INHERITED]})
        self._token = _current.set(self)
        self._began = time.monotonic()
        self._log.debug(f"{self.name} started", **self._fields)
        self._tell("started", 0.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
        seconds = round(time.monotonic() - self._began, 4)
        self.close(seconds, error)

    def close(self, seconds: float, error: BaseException | None) -> None:
        """Count and tell the end. Leaving the `with` block calls this."""
        cancelled = isinstance(error, CancelledError)
        outcome = "complete" if error is None else "cancelled" if cancelled else "failed"
        if error is not None:
            self.note(error="cancelled" if cancelled else error)
        metrics.PHASE_SECONDS.labels(phase=self.name, outcome=outcome).observe(seconds)
        # Being cancelled is somebody's decision and no fault, so it is not worth a warning.
        write = self._log.warning if outcome == "failed" else self._log.info
        write(f"{self.name} {outcome}", **{**self._fields, "seconds": seconds})
        self._tell("complete" if error is None else "failed", seconds)

    def _tell(self, phase: Phase, seconds: float) -> None:
        parent = self.parent.name if self.parent else ""
        event = SpanEvent(self.name, phase, seconds, self.fields, time.time(), parent)
        for listener in tuple(_listeners):
            try:
                listener(event)
            except Exception:  # whoever watches must not break what is watched
                _log.exception("span listener failed", span=self.name)


def span(log: logs.Log, name: str, /, **fields: Any) -> Span:
    """A context manager around the work called `name`; exceptions pass through it."""
    return Span(log, name, fields)


def record(log: logs.Log, name: str, seconds: float, /, error: BaseException | None = None, **fields: Any) -> None:
    """A span that took place elsewhere (in the relay, in the guest) and took `seconds`."""
    past = Span(log, name, fields)
    past.parent = _current.get()
    past.close(seconds, error)


def add_listener(listener: Listener) -> Callable[[], None]:
    """Call `listener` with every event, on the thread and task where it happens; returns what takes it off again."""
    _listeners.append(listener)

    def remove() -> None:
        if listener in _listeners:
            _listeners.remove(listener)

    return remove
