"""Log lines: a constant message, fields beside it, and no way for a secret to get through.

    log = logs.get(__name__).bind(sandbox=sandbox_id)
    log.info("instance is running", instance="i-0abc", seconds=3.2)

Fields are rendered by rules when the line is made, so it does not matter where the record ends up: a `Secret`, and
any value whose key speaks of keys, tokens, passwords or authorisation, becomes `(secret)`; bytes become their
length; long values are cut. Without `setup` warnings and errors reach stderr, as Python's logging does it.

The relay and the guest import this module: it must stay on the standard library's light side.
"""

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any, Final, TextIO

from adaptor.telemetry.redact import HIDDEN, Secret, cut, render

__all__ = ["Line", "Log", "Secret", "get", "setup"]

# Characters of a trace, the end kept: that is where the error is. A CRI runtime splits lines at 16 KiB.
TRACE_LIMIT: Final = 12 * 1024

_ROOT: Final = "peerpods"
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_ENCODE: Final = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one for every line
_RESERVED: Final = frozenset({"time", "level", "logger", "message", "trace"})
_COLOURS: Final = {logging.DEBUG: "2", logging.INFO: "32", logging.WARNING: "33", logging.ERROR: "31"}


class Log:
    """A named source of log lines with the fields it adds to each of them."""

    __slots__ = ("_logger", "fields")

    def __init__(self, logger: logging.Logger, fields: Mapping[str, Any]) -> None:
        self._logger = logger
        self.fields = fields

    def bind(self, **fields: Any) -> "Log":
        """The same log, with these fields on every line from now on."""
        return Log(self._logger, {**self.fields, **fields})

    def debug(self, message: str, /, **fields: Any) -> None:
        self._write(logging.DEBUG, message, fields)

    def info(self, message: str, /, **fields: Any) -> None:
        self._write(logging.INFO, message, fields)

    def warning(self, message: str, /, **fields: Any) -> None:
        self._write(logging.WARNING, message, fields)

    def error(self, message: str, /, **fields: Any) -> None:
        self._write(logging.ERROR, message, fields)

    def exception(self, message: str, /, **fields: Any) -> None:
        """An error line with the trace of the exception being handled."""
        self._write(logging.ERROR, message, fields, trace=True)

    def _write(self, level: int, message: str, fields: Mapping[str, Any], *, trace: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, Line(message, {**self.fields, **fields}), exc_info=trace, stacklevel=3)


class Line:
    """What a record carries: the message and its fields, rendered. Prints as one line of text."""

    __slots__ = ("fields", "message")

    def __init__(self, message: str, fields: Mapping[str, Any]) -> None:
        self.message = message
        self.fields: dict[str, Any] = {key: render(value, key) for key, value in fields.items()}

    def __str__(self) -> str:
        return " ".join([_one_line(self.message), *(f"{key}={_column(value)}" for key, value in self.fields.items())])


def get(name: str) -> Log:
    """The log called `name`; callers pass `__name__`. May be called, and used, before `setup`."""
    return Log(logging.getLogger(f"{_ROOT}.{name}"), {})


def setup(format: str = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Send lines to `stream` (stderr). `auto` is text on a terminal, JSON elsewhere. May be called again.

    Other libraries' logs pass from warning upwards, whatever `level` is: at debug an SDK writes signed requests.
    """
    target = sys.stderr if stream is None else stream
    terminal = target.isatty()
    handler = _Handler(target)
    if format == "json" or (format == "auto" and not terminal):
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(_Text(colour=terminal and not os.environ.get("NO_COLOR")))
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line shows them
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(_LEVELS[level])


def _one_line(text: str) -> str:
    """`text` without anything that could end the line or move a terminal's cursor."""
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _column(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=True)
    plain = value and value.isprintable() and not any(c in value for c in ' "=')
    return value if plain or value == HIDDEN else json.dumps(value, ensure_ascii=not value.isprintable())


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that a second `setup` finds it among those of a test runner."""


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = _line_of(record)
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix(f"{_ROOT}."),
            "message": line.message,
        }
        entry |= {f"{key}_" if key in _RESERVED else key: value for key, value in line.fields.items()}
        if record.exc_info:
            entry["trace"] = _trace(record)
        return _ENCODE(entry)


class _Text(logging.Formatter):
    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        line = _line_of(record)
        source = {} if line is record.msg else {"logger": record.name}
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = self._paint(f"{record.levelname.lower():7}", _COLOURS.get(record.levelno, "31"))
        fields = " ".join(self._paint(f"{key}=", "2") + _column(value) for key, value in (source | line.fields).items())
        text = f"{clock}.{int(record.msecs):03d} {level} {_one_line(line.message):38} {fields}".rstrip()
        return f"{text}\n{_trace(record)}" if record.exc_info else text

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text


def _line_of(record: logging.LogRecord) -> Line:
    if isinstance(record.msg, Line):
        return record.msg
    return Line(cut(record.getMessage()), {})  # a library's own line


def _trace(record: logging.LogRecord) -> str:
    if record.exc_info is None or record.exc_info[0] is None:
        return ""
    text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return text if len(text) <= TRACE_LIMIT else f"({len(text) - TRACE_LIMIT} characters cut)…{text[-TRACE_LIMIT:]}"
