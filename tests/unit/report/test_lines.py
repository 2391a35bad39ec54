"""Which log lines are a pod's, and how they read."""

import json

import pytest

from adaptor.report import lines

ABOUT = ("shop/web", "aa" * 32, "i-1", "")


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        ('{"message":"x","pod":"shop/web"}', True),
        (json.dumps({"message": "x", "sandbox": "aa" * 32}), True),
        ('{"message":"x","instance":"i-1"}', True),
        ('{"message":"x","pod":"shop/webber"}', False),
        ('{"message":"i-1 shop/web"}', False),
        ('{"message":"x"}', False),
        ("12:00:00 INFO  x pod=shop/web", True),
        ("12:00:00 INFO  x pod=shop/webber", False),
        ("[1, 2]", False),
        ("", False),
    ],
)
def test_a_line_is_a_pods_when_a_field_names_it(line: str, ours: bool) -> None:
    assert lines.concerns(lines.parsed(line), ABOUT) is ours


def test_a_pod_without_its_namespace_is_found_by_name() -> None:
    assert lines.concerns(lines.parsed('{"pod":"shop/web"}'), ["web"])
    assert lines.concerns(lines.parsed("INFO x pod=shop/web"), ["web"])
    assert not lines.concerns(lines.parsed('{"pod":"web/other"}'), ["web"])


def test_what_a_cri_runtime_wrote_before_the_line_is_left_out() -> None:
    for stamp in ("2026-11-21T18:00:00.123456789Z stderr F ", "2026-11-21T18:00:00.1+01:00 stdout P "):
        assert lines.parsed(stamp + '{"message":"x"}\n') == {"message": "x"}


def test_a_line_reads_as_one_line_with_its_fields() -> None:
    fields = {"time": "2026-11-21T18:00:00.123Z", "level": "error", "logger": "sandbox", "sandbox": "aa", "pod": "a/b"}
    told = lines.shown({**fields, "message": "no\nluck", "error": "it is so", "seconds": 1.5, "list": ["a"]})
    assert told == '18:00:00.123 ERROR   no luck  error="it is so" seconds=1.5 list=["a"]'


def test_nothing_in_a_line_moves_the_terminal() -> None:
    told = lines.shown({"message": "\x1b]0;title\x07\x1b[2Jx\u202e", "field": "\x1b[31m", "trace": "a\n\x1bcb"})
    assert "\x1b" not in told
    assert told == "--:--:--             x  field=\na\nb"
    assert lines.shown("a\x1b[1m\tb\n") == "a\tb "
