"""Log lines of an adaptor: which are about a sandbox, and how they read. Pure."""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from adaptor.telemetry.terminal import plain

# What a CRI runtime puts before each line of a container's log file.
_CRI = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d) std(?:out|err) [FP] ")
_FIRST = ("time", "level", "message")
_LEFT_OUT = ("logger", "sandbox", "pod")  # those that are the same on every line
_ABOUT = ("sandbox", "pod", "instance", "token")


def parsed(line: str) -> dict[str, Any] | str:
    """The fields of a structured line; else the line itself, without what the CRI runtime added."""
    text = _CRI.sub("", line.rstrip("\r\n"), count=1)
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except ValueError:
            return text
        if isinstance(found, dict):
            return found
    return text


def concerns(line: Mapping[str, Any] | str, marks: Collection[str]) -> bool:
    """Whether it is about what `marks` name: the sandbox's id, `namespace/pod` or `pod`, the VM's id."""
    known = {mark for mark in marks if mark}
    if isinstance(line, str):
        words = set(re.split(r"[\s\"'=,:;()]+", line))
        return bool(known & (words | {word.rpartition("/")[2] for word in words}))
    values = {str(line.get(key) or "") for key in _ABOUT}
    return bool(known & (values | {str(line.get("pod") or "").rpartition("/")[2]}))


def shown(line: Mapping[str, Any] | str) -> str:
    """`12:01:02.345 INFO    message  key=value ...`, safe for a terminal; what is no structured line as it is."""
    if isinstance(line, str):
        return plain(line).replace("\n", " ")
    when = re.search(r"T(\d\d:\d\d:\d\d(?:\.\d{1,3})?)", str(line.get("time", "")))
    rest = {key: value for key, value in line.items() if key not in (*_FIRST, *_LEFT_OUT, "trace")}
    fields = " ".join(f"{key}={_value(value)}" for key, value in rest.items())
    clock = when[1] if when else "--:--:--"
    text = f"{clock:<12} {str(line.get('level', '')).upper():7} {line.get('message', '')}  {fields}"
    trace = f"\n{line['trace']}" if line.get("trace") else ""
    return plain(text).replace("\n", " ").rstrip() + plain(trace)


def _value(value: Any) -> str:
    if isinstance(value, str) and value and not re.search(r'[\s"=]', value):
        return value
    return json.dumps(value, ensure_ascii=False)
