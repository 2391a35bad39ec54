"""The forms a setting's value can take; each accepts TOML's own type and the text an environment gives."""

import ipaddress
import math
import re
from collections.abc import Callable
from typing import Any, Final

from providers.settings import Form

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not a text")
    return value


def _nonempty(value: Any) -> str:
    if not _text(value).strip():
        raise ValueError("is empty")
    return str(value).strip()


def _path(value: Any) -> str:
    if not _text(value).startswith("/"):
        raise ValueError("is not an absolute path")
    if ":" in value:
        raise ValueError("holds a ':', which kata's shim cannot use in a socket path")
    return str(value)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    match str(value).lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
    raise ValueError("is neither true nor false")


def _duration(value: Any) -> float:
    """Seconds. A number is seconds; a text has a unit, also several as Go writes them (1m30s)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", str(value))
        if not parts or "".join(n + u for n, u in parts) != str(value):
            raise ValueError("is not a duration")
        seconds = sum(float(n) * _UNITS[u] for n, u in parts)
    if seconds < 0 or not math.isfinite(seconds):  # TOML has inf and nan
        raise ValueError("is no length of time")
    return seconds


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d+", str(value)):
        raise ValueError("is not a whole number")
    return int(value)


def _strings(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(p, str) for p in parts):
        raise ValueError("is not a list of texts")
    return tuple(p.strip() for p in parts if p.strip())


def _pairs(value: Any) -> dict[str, str]:
    if isinstance(value, dict):
        if not all(isinstance(v, str) for v in value.values()):
            raise ValueError("has a value that is not a text")
        return dict(value)
    pairs = [part.partition("=") for part in _strings(value)]
    if not all(key and equals for key, equals, _ in pairs):
        raise ValueError("is not a list of key=value")
    return {key.strip(): val.strip() for key, _, val in pairs}


def _host_port(value: Any) -> tuple[str, int]:
    host, _, port = _text(value).rpartition(":")
    host = host.strip("[]")
    try:
        if host:
            ipaddress.ip_address(host)
        return host, port_number(port)
    except ValueError:
        raise ValueError("is not an address and a port") from None


def port_number(value: Any) -> int:
    """A TCP or UDP port; raises ValueError."""
    number = _integer(value)
    if not 1 <= number <= 65535:
        raise ValueError("is not a port")
    return number


text = Form("any text", _text)
nonempty = Form("a text that is not empty", _nonempty)
path = Form("an absolute path without ':'", _path)
boolean = Form("true or false", _boolean)
duration = Form('seconds, or a text like "30s", "5m", "1m30s"', _duration)
port = Form("a port from 1 to 65535", port_number)
strings = Form('a list of texts (in the environment: "a,b")', _strings)
pairs = Form('a table of texts (in the environment: "key=value,...")', _pairs)
host_port = Form('an address and a port: "127.0.0.1:8000", ":8000" for every address', _host_port)


def integer(low: int, high: int) -> Form:
    """A whole number from `low` to `high`."""

    def parse(value: Any) -> int:
        number = _integer(value)
        if not low <= number <= high:
            raise ValueError("is out of range")
        return number

    return Form(f"a whole number from {low} to {high}", parse)


def choice(*allowed: str) -> Form:
    """One of these words, in any case."""

    def parse(value: Any) -> str:
        word = _text(value).lower()
        if word not in allowed:
            raise ValueError("is none of them")
        return word

    return Form(" | ".join(allowed), parse)


def matching(pattern: str, allowed: str) -> Form:
    """A text that matches `pattern` as a whole."""

    def parse(value: Any) -> str:
        if not re.fullmatch(pattern, _text(value)):
            raise ValueError("does not have that form")
        return str(value)

    return Form(allowed, parse)


def optional(form: Form, unset: Callable[[Any], bool] = lambda value: value in ("", None)) -> Form:
    """`form`, or nothing (None) when the value is empty."""
    return Form(f"{form.allowed}, or empty", lambda value: None if unset(value) else form.parse(value))


def each(form: Form) -> Form:
    """A list of texts, every one of them as `form` wants it."""
    return Form(f"a list, each {form.allowed}", lambda value: tuple(form.parse(part) for part in _strings(value)))


def tags(problem: Callable[[str, str], str], reserved: tuple[str, ...], cloud: str) -> Form:
    """`pairs` that the cloud takes as tags, sorted: `problem` says why it would not take one, `reserved` are the
    beginnings of keys that `cloud` or peerpods writes."""

    def parse(value: Any) -> tuple[tuple[str, str], ...]:
        found = _pairs(value)
        for key, val in found.items():
            if why := problem(key, val):
                raise ValueError(f"has the tag {key!r}, which {why}")
            if key.lower().startswith(reserved) or key == "Name":
                raise ValueError(f"has the tag {key!r}, which is written by peerpods or {cloud} itself")
        return tuple(sorted(found.items()))

    return Form(pairs.allowed, parse)
