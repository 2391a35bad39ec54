"""The settings' own descriptions, as a TOML file to fill in and as the tables of docs/configuration.md."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from adaptor.config import ROOMS, Config
from adaptor.config_forms import Usd
from adaptor.errors import InvalidRequest
from adaptor.telemetry.redact import HIDDEN
from providers import registry
from providers.settings import MISSING, Setting, settings_of

PAGE: Final = Path("docs/configuration.md")
_BEGIN: Final = "<!-- generated: settings -->\n"
_END: Final = "<!-- end -->\n"
_SHOWN: Final = 60  # characters of a value; initdata is a document

Row = tuple[str, Setting, Any]  # key, what it is, its default or MISSING


def toml(cloud: str | None = None) -> str:
    """Every setting with its meaning, commented out at its default: the file as it is changes nothing.

    Raises: InvalidRequest for a cloud that is not known here.
    """
    tables = []
    for name, room in _rooms(cloud).items():
        lines = [f"# {' '.join((room.__doc__ or '').split())}", f"[{name}]"]
        for key, rule, default in _settings(room):
            known_as = f"; environment: {', '.join(rule.env)}" if rule.env else ""
            lines += ["", f"# {rule.help}", f"# allowed: {rule.form.allowed}{known_as}"]
            lines.append(f"#{key} =    # must be given" if default is MISSING else f"#{key} = {value_text(default)}")
        tables.append("\n".join(lines))
    return "\n\n\n".join(tables) + "\n"


def markdown() -> str:
    """The same as one table per room."""
    tables = []
    for name, room in _rooms(None).items():
        lines = [f"## `[{name}]`", "", " ".join((room.__doc__ or "").split()), ""]
        lines += ["| key | default | meaning | allowed | environment |", "|---|---|---|---|---|"]
        for key, rule, default in _settings(room):
            shown = "must be given" if default is MISSING else f"`{value_text(default)}`"
            cells = (f"`{key}`", shown, rule.help, rule.form.allowed, ", ".join(f"`{name}`" for name in rule.env))
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables) + "\n"


def rewritten(page: str) -> str:
    """`page` with its generated part as the settings say now."""
    return re.sub(
        f"(?<={re.escape(_BEGIN)}).*(?={re.escape(_END)})",
        lambda _: f"\n{markdown()}\n",
        page,
        count=1,
        flags=re.DOTALL,
    )


def in_force(config: Config) -> Iterator[tuple[str, str, str]]:
    """(key, value as TOML on one short line, where it comes from) of every setting; secrets hidden."""
    for table, room in config.tables():
        for field, rule in settings_of(type(room)):
            key = f"{table}.{field.name}"
            value = getattr(room, field.name)
            text = HIDDEN if rule.secret and value is not None else value_text(value)
            yield key, text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...", config.sources[key]


def value_text(value: Any) -> str:
    """A setting's value as TOML on one line, in the form its setting reads."""
    match value:
        case None:
            return '""'
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case Usd():
            return f"{value:g}"
        case float():
            return _duration_text(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case (str(host), int(port)):
            return json.dumps(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        case Mapping():
            return f"{{ {', '.join(f'{json.dumps(key)} = {value_text(entry)}' for key, entry in value.items())} }}"
        case [(_, _), *_]:
            return value_text(dict(value))
    return f"[{', '.join(value_text(entry) for entry in value)}]"


def _duration_text(seconds: float) -> str:
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f'"{seconds / size:g}{unit}"'
    return f'"{seconds:g}s"'


def _rooms(cloud: str | None) -> Mapping[str, type]:
    known = registry.names()
    if cloud is not None and cloud not in known:
        raise InvalidRequest(f"{cloud!r} is no cloud known here; known: {', '.join(known)}")
    clouds = registry.BUILT_IN if cloud is None else [cloud]
    return {**ROOMS, **{name: type(registry.parse_config(name, {}, {}, [])) for name in clouds}}


def _settings(room: type) -> Iterator[Row]:
    for field, rule in settings_of(room):
        yield field.name, rule, field.default


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
