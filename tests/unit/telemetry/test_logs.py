"""Log lines: what they look like, and what can never be in one."""

import io
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from adaptor.telemetry import logs
from adaptor.telemetry.logs import Secret
from adaptor.telemetry.redact import VALUE_LIMIT, render

pytestmark = pytest.mark.usefixtures("clean_logging")
PEM = "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clean_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("peerpods")
    before = list(root.handlers), root.level, ours.level
    yield
    root.handlers[:], level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)


def json_lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def logged(**fields: Any) -> str:
    """What one line with `fields` looks like in both formats, together."""
    stream = io.StringIO()
    for form in ("json", "text"):
        logs.setup(form, "debug", stream)
        logs.get("test").info("message", **fields)
    return stream.getvalue()


def test_off_a_terminal_each_line_is_one_json_object_with_the_bound_and_the_given_fields() -> None:
    stream = io.StringIO()
    logs.setup(stream=stream)
    logs.get("adaptor.sandbox").bind(sandbox="abc").info("instance is running", instance="i-1", seconds=3.25)
    (line,) = json_lines(stream)
    moment = line.pop("time")
    assert line == {
        "level": "info",
        "logger": "adaptor.sandbox",
        "message": "instance is running",
        "sandbox": "abc",
        "instance": "i-1",
        "seconds": 3.25,
    }
    assert abs(time.mktime(time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S")) - time.mktime(time.gmtime())) < 5


def test_on_a_terminal_a_line_is_columns_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    logs.setup(stream=stream)
    logs.get("x").warning("no room", zone="us-east-2a", why="two words")
    line = stream.getvalue()
    assert "\x1b[33mwarning" in line
    assert line.index("no room") < line.index("zone=") < line.index('"two words"')


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    logs.setup(stream=stream)
    logs.get("x").warning("no room", zone="us-east-2a")
    assert "\x1b" not in stream.getvalue()
    assert "zone=us-east-2a" in stream.getvalue()


def test_binding_makes_a_new_log_and_leaves_the_old_one_alone() -> None:
    stream = io.StringIO()
    logs.setup("json", stream=stream)
    plain = logs.get("x")
    bound = plain.bind(sandbox="a").bind(instance="i")
    plain.info("one")
    bound.info("two", sandbox="b")
    one, two = json_lines(stream)
    assert "sandbox" not in one
    assert (two["sandbox"], two["instance"]) == ("b", "i")


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    logs.setup("json", "warning", stream)
    log = logs.get("x")
    log.debug("a")
    log.info("b")
    log.error("c")
    assert [line["message"] for line in json_lines(stream)] == ["c"]


def test_other_libraries_speak_from_warning_upwards_even_at_debug() -> None:
    stream = io.StringIO()
    logs.setup("json", "debug", stream)
    logging.getLogger("botocore.auth").debug("signature of %s", "request")
    logging.getLogger("botocore.auth").warning("slow %s", "answer")
    assert [(line["logger"], line["message"]) for line in json_lines(stream)] == [("botocore.auth", "slow answer")]


def test_a_second_setup_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.setup("json", stream=first)
    logs.setup("json", stream=second)
    logs.get("x").info("once")
    assert first.getvalue() == ""
    assert len(json_lines(second)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"launched_with": Secret("hunter2")},
        {"launch_token": "hunter2"},
        {"AWS_SECRET_ACCESS_KEY": "hunter2"},
        {"Authorization": "hunter2"},
        {"password": "hunter2"},
        {"env": {"registry_auth": "hunter2"}},
        {"calls": [{"nested": {"apiKey": "hunter2"}}]},
        {"payload": b"hunter2"},
        {"payload": bytearray(b"hunter2")},
        {"payload": memoryview(b"hunter2")},
        {"pem": f"hunter2 {PEM}"},
        {"error": ValueError(f"hunter2 {PEM}")},
        {"inside": [Secret("hunter2"), (Secret("hunter2"),), {Secret("hunter2")}]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_secret_never_reaches_a_line(fields: dict[str, Any]) -> None:
    assert "hunter2" not in logged(**fields)


def test_a_dataclass_or_named_tuple_shows_its_fields_by_the_same_rules() -> None:
    @dataclass
    class Launch:
        image: str
        launch_token: str

    class Login(NamedTuple):
        user: str
        password: str

    line = logged(launch=Launch("ami-1", "hunter2"), login=Login("root", "hunter2"))
    assert "ami-1" in line
    assert "root" in line
    assert "hunter2" not in line


def test_bytes_show_their_length_only() -> None:
    assert render(b"12345") == "(5 bytes)"


def test_whether_there_is_a_secret_may_be_told() -> None:
    assert render(value=True, key="has_token") is True
    assert render(None, key="token") is None


def test_a_secret_prints_as_one_everywhere_and_compares_by_value() -> None:
    secret = Secret("hunter2")
    assert f"{secret} {secret!r} {[secret]}" == "(secret) (secret) [(secret)]"
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2")
    assert secret != Secret("other")
    assert len({secret, Secret("hunter2")}) == 1


def test_a_long_value_is_cut_and_says_by_how_much() -> None:
    shown = render("x" * (VALUE_LIMIT + 5))
    assert shown == "x" * VALUE_LIMIT + "… (5 more)"


def test_a_long_list_and_a_deep_or_endless_table_are_cut() -> None:
    assert render(list(range(100)))[-1] == "… 80 more"
    endless: dict[str, Any] = {}
    endless["self"] = endless
    assert "1 items" in json.dumps(render(endless))
    assert render({str(n): n for n in range(25)})["…"] == "5 more"


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Hostile(), "(unprintable Hostile)"),
        (float("nan"), "nan"),
        (Path("/run"), "/run"),
        ({Hostile(): 1}, {"(unprintable Hostile)": 1}),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_any_value_can_be_logged(value: Any, shown: Any) -> None:
    assert render(value) == shown
    assert logged(value=value)


def test_a_value_cannot_forge_a_line_or_steer_the_terminal() -> None:
    stream = io.StringIO()
    logs.setup("text", stream=stream)
    logs.get("x").info("pod said", words="a\n12:00:00.000 error forged", word="a\nforged\x1b[2J\x9b")
    logging.getLogger("library").warning("one\ntwo \x1b[2J")
    assert len(stream.getvalue().splitlines()) == 2
    assert "\x1b" not in stream.getvalue()
    assert "\x9b" not in stream.getvalue()


def test_fields_cannot_displace_what_every_line_has() -> None:
    stream = io.StringIO()
    logs.setup("json", stream=stream)
    logs.get("x").info("said", message="other", level="high")
    (line,) = json_lines(stream)
    assert (line["message"], line["level"], line["message_"], line["level_"]) == ("said", "info", "other", "high")


def test_an_exception_brings_its_trace_in_both_formats() -> None:
    stream = io.StringIO()
    for form in ("json", "text"):
        logs.setup(form, stream=stream)
        try:
            raise ValueError("broken")
        except ValueError as error:
            logs.get("x").exception("call failed", error=error)
    first, rest = stream.getvalue().split("\n", 1)
    assert json.loads(first)["error"] == "ValueError: broken"
    assert json.loads(first)["trace"].endswith("ValueError: broken")
    assert rest.rstrip().endswith("ValueError: broken")


def test_a_trace_keeps_its_end() -> None:
    stream = io.StringIO()
    logs.setup("json", stream=stream)
    try:
        raise ValueError("x" * logs.TRACE_LIMIT + " the end")
    except ValueError:
        logs.get("x").exception("call failed")
    trace = json_lines(stream)[0]["trace"]
    assert trace.endswith(" the end")
    assert len(trace) < logs.TRACE_LIMIT + 100


def test_before_setup_warnings_reach_stderr_with_their_fields_and_without_secrets() -> None:
    program = "from adaptor.telemetry import logs; logs.get('x').bind(a=1).warning('early', launch_token='hunter2')"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr == "early a=1 launch_token=(secret)\n"


def test_importing_logs_brings_in_nothing_heavy() -> None:
    program = "import sys, adaptor.telemetry.logs; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"asyncio", "socket", "ssl", "prometheus_client", "rich", "structlog", "http.server"}
    assert not heavy & set(result.stdout.split())
