"""Typed settings out of a TOML table and the environment, with every fault found, not just the first.

Measured before this was written: pydantic adds 10 MiB when imported and more for each model, of the 95 MiB an
adaptor may use; dataclasses and the dozen forms below cost nothing.

A settings class is a frozen dataclass whose fields are made by `setting(...)`:

    @dataclass(frozen=True, slots=True)
    class Relay:
        socket: str = setting(forms.path, "/run/peerpod/relay.sock", "where the adaptor finds the relay")

`read(Relay, table, where="relay", env=os.environ, faults=faults)` returns a Relay with defaults in place of
whatever was faulty; the caller refuses to go on when `faults` is not empty.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

T = TypeVar("T")
MISSING: Final = dataclasses.MISSING


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong: the key (or environment name) it was given under, and what would be right."""

    key: str
    problem: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}; allowed: {self.allowed}"


Faults = list[Fault]


@dataclass(frozen=True, slots=True)
class Form:
    """How one kind of value is written. `parse` takes the TOML value or the environment's text and raises
    ValueError with the problem; `allowed` says in words what it accepts.
    """

    allowed: str
    parse: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What `setting` attaches to a field."""

    form: Form
    help: str
    env: tuple[str, ...]  # names in order of precedence; upstream's come as they are
    secret: bool
    inverted: tuple[str, ...] = ()  # those of `env` whose true is our false


def setting(
    form: Form,
    default: Any = MISSING,
    help: str = "",
    *,
    env: tuple[str, ...] = (),
    secret: bool = False,
    inverted: tuple[str, ...] = (),
) -> Any:
    """A dataclass field read by `read`. No default = it must be given."""
    metadata = {"setting": Setting(form, help, env, secret, inverted)}
    if isinstance(default, (list, dict, set)):
        raise TypeError("defaults are shared: use a tuple or a frozen value")
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


def read(cls: type[T], table: Mapping[str, Any], *, where: str, env: Mapping[str, str], faults: Faults) -> T:
    """`cls` from `table` (TOML, at dotted path `where`) and `env`, which wins over the file."""
    values: dict[str, Any] = {}
    known = {field.name: rule for field, rule in settings_of(cls)}
    for key in table:
        if key not in known:
            faults.append(Fault(f"{where}.{key}", "unknown key", ", ".join(sorted(known))))
    for field, rule in settings_of(cls):
        key, raw = _source(f"{where}.{field.name}", rule, table.get(field.name, MISSING), env)
        if raw is MISSING:
            values[field.name] = _default(field, rule, key, faults)
            continue
        try:
            value = rule.form.parse(raw)
            values[field.name] = not value if key in rule.inverted else value
        except ValueError as error:
            shown = "(secret)" if rule.secret else repr(raw)
            faults.append(Fault(key, f"{shown} {error}", rule.form.allowed))
            values[field.name] = None if field.default is MISSING else field.default
    return cls(**values)


def settings_of(cls: type) -> Iterator[tuple["dataclasses.Field[Any]", Setting]]:
    """Every setting of a settings class, in order: for reference pages and `--help`."""
    for field in dataclasses.fields(cls):
        if "setting" in field.metadata:
            yield field, field.metadata["setting"]


def _source(key: str, rule: Setting, from_file: Any, env: Mapping[str, str]) -> tuple[str, Any]:
    for name in rule.env:
        if env.get(name, "") != "":  # a chart renders unset values as empty strings
            return name, env[name]
    return key, from_file


def _default(field: "dataclasses.Field[Any]", rule: Setting, key: str, faults: Faults) -> Any:
    if field.default is not MISSING:
        return field.default
    faults.append(
        Fault(key, "must be given", rule.form.allowed + "".join(f", or {n} in the environment" for n in rule.env[:1]))
    )
    return None
