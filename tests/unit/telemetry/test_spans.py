"""Spans: one construct, three audiences."""

import asyncio
import logging
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from adaptor.telemetry import logs, spans
from adaptor.telemetry.logs import Line
from adaptor.telemetry.spans import SpanEvent, record, span

LOG = logs.get("test").bind(sandbox="abc")


@pytest.fixture
def events() -> Iterator[list[SpanEvent]]:
    seen: list[SpanEvent] = []
    remove = spans.add_listener(seen.append)
    yield seen
    remove()


def observed(phase: str, outcome: str) -> float:
    return REGISTRY.get_sample_value("peerpods_phase_seconds_count", {"phase": phase, "outcome": outcome}) or 0.0


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(r.levelname, r.msg.message) for r in caplog.records if isinstance(r.msg, Line)]


def test_success_is_told_to_the_log_the_histogram_and_the_listeners(
    caplog: pytest.LogCaptureFixture, events: list[SpanEvent]
) -> None:
    caplog.set_level(logging.DEBUG)
    before = observed("instance.create", "complete")
    with span(LOG, "instance.create", type="m6a.large") as s:
        s.note(instance="i-1")
    assert lines(caplog) == [("DEBUG", "instance.create started"), ("INFO", "instance.create complete")]
    assert observed("instance.create", "complete") == before + 1
    assert [(e.name, e.phase) for e in events] == [("instance.create", "started"), ("instance.create", "complete")]
    assert events[0].seconds == 0.0
    assert events[1].fields == {"sandbox": "abc", "type": "m6a.large", "instance": "i-1"}
    assert events[1].seconds >= 0
    assert events[1].at >= events[0].at


def test_failure_warns_with_the_error_and_lets_it_pass(
    caplog: pytest.LogCaptureFixture, events: list[SpanEvent]
) -> None:
    before = observed("instance.create", "failed")
    with pytest.raises(ValueError, match="no room"), span(LOG, "instance.create"):
        raise ValueError("no room")
    assert lines(caplog) == [("WARNING", "instance.create failed")]
    assert 'error="ValueError: no room"' in caplog.text
    assert observed("instance.create", "failed") == before + 1
    assert events[-1].phase == "failed"


async def test_being_cancelled_is_counted_apart_and_is_no_warning(
    caplog: pytest.LogCaptureFixture, events: list[SpanEvent]
) -> None:
    caplog.set_level(logging.INFO)
    before = observed("guest.dial", "cancelled")
    entered = asyncio.Event()

    async def dial() -> None:
        with span(LOG, "guest.dial"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(dial())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert lines(caplog) == [("INFO", "guest.dial cancelled")]
    assert observed("guest.dial", "cancelled") == before + 1
    assert events[-1].phase == "failed"
    assert events[-1].fields["error"] == "cancelled"


async def test_an_inner_span_knows_its_parent_and_takes_over_its_sandbox(events: list[SpanEvent]) -> None:
    plain = logs.get("test")

    async def inner(name: str) -> None:
        with span(plain, name):
            await asyncio.sleep(0)

    with span(LOG, "sandbox.start"):
        await asyncio.gather(inner("instance.create"), inner("guest.dial"))
    await inner("instance.delete")
    ends = {e.name: e for e in events if e.phase == "complete"}
    assert ends["instance.create"].parent == ends["guest.dial"].parent == "sandbox.start"
    assert ends["guest.dial"].fields["sandbox"] == "abc"
    assert ends["sandbox.start"].parent == ""
    assert ends["instance.delete"].parent == ""
    assert "sandbox" not in ends["instance.delete"].fields


def test_a_span_of_another_sandbox_keeps_its_own(events: list[SpanEvent]) -> None:
    with span(LOG, "sandbox.start"), span(LOG.bind(sandbox="other"), "instance.delete"):
        pass
    assert next(e for e in events if e.name == "instance.delete").fields["sandbox"] == "other"


def test_what_happened_elsewhere_can_be_recorded(events: list[SpanEvent]) -> None:
    before = observed("guest.hello", "failed")
    record(LOG, "guest.hello", 0.25, TimeoutError("late"), address="10.0.0.4")
    assert observed("guest.hello", "failed") == before + 1
    (event,) = events
    assert (event.seconds, event.phase, event.fields["address"]) == (0.25, "failed", "10.0.0.4")


def test_a_listener_that_breaks_breaks_nothing(caplog: pytest.LogCaptureFixture, events: list[SpanEvent]) -> None:
    def broken(_: SpanEvent) -> None:
        raise RuntimeError("listener")

    remove = spans.add_listener(broken)
    try:
        with span(LOG, "guest.bind"):
            pass
    finally:
        remove()
    assert [e.phase for e in events] == ["started", "complete"]
    assert "span listener failed" in caplog.text


def test_a_removed_listener_hears_nothing_more(events: list[SpanEvent]) -> None:
    seen: list[SpanEvent] = []
    remove = spans.add_listener(seen.append)
    remove()
    remove()
    with span(LOG, "guest.bind"):
        pass
    assert seen == []
    assert events
