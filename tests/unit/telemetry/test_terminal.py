"""Strangers' text, fit for a terminal."""

import pytest

from adaptor.telemetry.terminal import last_lines, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31;1mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "xlink"),
        ("\x1bP1$r\x1b\\x\x1b(B\x1b=\x1bcy", "xy"),
        ("a\r\nb\rc\r\r\nd", "a\nb\nc\nd"),
        ("bell\x07 null\x00 del\x7f c1\x9b31m", "bell null del c131m"),
        ("\u202eevil\u2066", "evil"),
        ("tab\tstays, Grüße", "tab\tstays, Grüße"),
        ("cut \x1b[3", "cut "),
        ("cut \x1b]0;never ended\nnext", "cut \nnext"),
    ],
)
def test_nothing_but_text_is_left(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_the_last_lines_are_those_with_something_in_them() -> None:
    assert last_lines("a\r\n\r\nb  \n\x1b[0m\nc\n\n", 2) == ["b", "c"]
    assert last_lines("", 2) == []
