"""What each form takes, from TOML and from an environment, and what it says to everything else."""

from datetime import date
from typing import Any

import pytest

from providers import forms
from providers.settings import Form

small = forms.integer(2, 4)
word = forms.choice("own", "upstream")
hexes = forms.matching(r"[0-9a-f]+", "hexadecimal digits")

GOOD: list[tuple[Form, Any, Any]] = [
    (forms.text, "", ""),
    (forms.nonempty, "  x ", "x"),
    (forms.path, "/run/peerpod", "/run/peerpod"),
    (forms.boolean, True, True),
    (forms.boolean, "TRUE", True),
    (forms.boolean, "1", True),
    (forms.boolean, "off", False),
    (forms.boolean, "no", False),
    (forms.duration, 90, 90.0),
    (forms.duration, 0.5, 0.5),
    (forms.duration, "1m30s", 90.0),
    (forms.duration, "1h", 3600.0),
    (forms.duration, "1.5s", 1.5),
    (forms.duration, "250ms", 0.25),
    (forms.port, 1, 1),
    (forms.port, "65535", 65535),
    (forms.strings, "a, b,,c ", ("a", "b", "c")),
    (forms.strings, ["a", " b"], ("a", "b")),
    (forms.strings, "", ()),
    (forms.pairs, "a=1,b=x=y", {"a": "1", "b": "x=y"}),
    (forms.pairs, {"a": "1"}, {"a": "1"}),
    (forms.pairs, "", {}),
    (forms.host_port, "127.0.0.1:8000", ("127.0.0.1", 8000)),
    (forms.host_port, ":8000", ("", 8000)),
    (forms.host_port, "[::1]:8000", ("::1", 8000)),
    (small, 2, 2),
    (small, "4", 4),
    (small, "+3", 3),
    (word, "Upstream", "upstream"),
    (hexes, "0af", "0af"),
    (forms.each(hexes), "0a, 0b", ("0a", "0b")),
    (forms.each(hexes), ["0a"], ("0a",)),
    (forms.each(hexes), "", ()),
    (forms.optional(small), "", None),
    (forms.optional(small), 3, 3),
    (forms.optional(small, lambda value: value == 0), 0, None),
]
BAD: list[tuple[Form, Any, str]] = [
    (forms.text, 5, "is not a text"),
    (forms.nonempty, " ", "is empty"),
    (forms.path, "run/peerpod", "absolute"),
    (forms.path, "/run/a:b", "':'"),
    (forms.boolean, "maybe", "neither"),
    (forms.boolean, "", "neither"),
    (forms.boolean, 2, "neither"),
    (forms.duration, "5", "not a duration"),
    (forms.duration, "5 minutes", "not a duration"),
    (forms.duration, "-5s", "not a duration"),
    (forms.duration, "", "not a duration"),
    (forms.duration, True, "not a duration"),
    (forms.duration, -1, "no length of time"),
    (forms.duration, float("inf"), "no length of time"),
    (forms.duration, float("nan"), "no length of time"),
    (forms.port, 0, "not a port"),
    (forms.port, "65536", "not a port"),
    (forms.port, "http", "whole number"),
    (forms.port, True, "whole number"),
    (forms.strings, 5, "list of texts"),
    (forms.strings, ["a", 5], "list of texts"),
    (forms.strings, {"a": "b"}, "list of texts"),
    (forms.pairs, "a=1,b", "key=value"),
    (forms.pairs, "=1", "key=value"),
    (forms.pairs, {"a": 1}, "not a text"),
    (forms.pairs, 5, "list of texts"),
    (forms.host_port, "localhost:80", "an address and a port"),
    (forms.host_port, "127.0.0.1", "an address and a port"),
    (forms.host_port, "127.0.0.1:0", "an address and a port"),
    (forms.host_port, 8000, "is not a text"),
    (small, 1, "out of range"),
    (small, "5", "out of range"),
    (small, 3.0, "whole number"),
    (small, date(2026, 1, 1), "whole number"),
    (word, "theirs", "none of them"),
    (word, 1, "is not a text"),
    (hexes, "0xg", "that form"),
    (hexes, "0a\n", "that form"),
    (hexes, 10, "is not a text"),
    (forms.each(hexes), "0a,xyz", "that form"),
    (forms.each(hexes), 7, "list of texts"),
    (forms.optional(small), 9, "out of range"),
]


@pytest.mark.parametrize(("form", "given", "meant"), GOOD)
def test_a_value_means_the_same_in_a_file_and_in_the_environment(form: Form, given: Any, meant: Any) -> None:
    value = form.parse(given)
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize(("form", "given", "problem"), BAD)
def test_what_is_no_such_value_is_refused_with_the_reason(form: Form, given: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        form.parse(given)


@pytest.mark.parametrize("form", {id(form): form for form, _, _ in [*GOOD, *BAD]}.values())
def test_every_form_says_in_words_what_it_takes(form: Form) -> None:
    assert len(form.allowed.split()) >= 2
