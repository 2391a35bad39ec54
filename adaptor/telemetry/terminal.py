"""Text of strangers (a guest's console, a cloud's words) made fit for a terminal or an event. Pure."""

import re
from typing import Final

# ECMA-48: CSI sequences, strings that end in BEL or ST (titles, links), and the short ones. None goes over a line's end:
# garbage that looks like the beginning of one must not swallow the rest.
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """`text` without escape sequences, control and direction characters; line ends become newlines, tabs stay."""
    return _CONTROLS.sub("", re.sub(r"\r+\n|\r", "\n", _ESCAPES.sub("", text)))


def last_lines(text: str, count: int) -> list[str]:
    """The last lines with something in them, oldest first, fit for a terminal."""
    return [line.rstrip() for line in plain(text).split("\n") if line.strip()][-count:]
