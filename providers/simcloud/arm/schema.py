"""Requests against Azure's own schema, as the SDK's models carry it: names, types, enums, what is required.

A model class knows its fields (`rest_field`: the name on the wire, whether it is read-only) and their types as
annotations. What is read-only is accepted and dropped, as Azure does: whoever GETs, changes and PUTs sends it back.
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from providers.simcloud.arm.errors import Refused

Wrong = Callable[[str, str], Refused]  # path, what is wrong

# Azure takes more than the model says: the SDK's spelling of some fields is not the service's only one.
_OPEN: Final = frozenset({"id", "name", "type"})
# Enums that Azure has ceased to keep: any text is taken, and judged by what there is.
_OUTDATED: Final = frozenset({"VirtualMachineSizeTypes"})


@dataclass(frozen=True, slots=True)
class Field:
    """One property of a model."""

    type: Any
    read_only: bool
    required: bool


def cleaned(model: type[Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """The body without what is read-only. Raises Refused for what the schema does not have."""
    wrong = _compute if ".compute." in model.__module__ else _network
    made = _object(model, body, "", wrong)
    assert isinstance(made, dict)
    return made


@cache  # a class is hashable, which mypy does not see
def fields(model: Any) -> Mapping[str, Field]:
    """By the name on the wire."""
    import sys

    module = sys.modules[model.__module__]
    package = sys.modules[model.__module__.rpartition(".")[0]]
    hints = get_type_hints(model, vars(module), {"_models": package})
    made = {}
    for base in reversed(model.__mro__):
        for attribute, rest in vars(base).items():
            if type(rest).__name__ == "_RestField":
                name = rest._rest_name_input or attribute  # noqa: SLF001 - the SDK has no other way to tell
                kind = hints[attribute]
                read_only = rest._visibility == ["read"]  # noqa: SLF001
                optional = type(None) in get_args(kind)
                made[name] = Field(_without_none(kind), read_only, required=not optional and not read_only)
    return made


def _object(model: type[Any], value: Any, path: str, wrong: Wrong) -> Any:
    if not isinstance(value, Mapping):
        raise wrong(path, _unreadable(value, model.__name__, path))
    known = fields(_concrete(model, value))  # type: ignore[arg-type]
    lower = {name.lower(): name for name in known}
    made = {}
    for key, inner in value.items():
        where = f"{path}.{key}" if path else key
        name = lower.get(key.lower())
        if name is None:
            raise wrong(
                where,
                f"Could not find member '{key}' on object of type '{_shown(model)}'. Path '{where}', line 1, position"
                f" {len(where)}.",
            )
        if inner is not None and not (known[name].read_only and name not in _OPEN):
            made[name] = _value(known[name].type, inner, where, wrong)
    for name, field in known.items():
        if field.required and name not in made:
            where = f"{path}.{name}" if path else name
            raise wrong(where, f"Required parameter '{where}' is missing (null).")
    return made


def _value(kind: Any, value: Any, path: str, wrong: Wrong) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(kind), value, path, wrong)
    if origin is Literal:
        _in([str(each) for each in get_args(kind)], value, path, wrong)
        return value
    if origin in (list, dict):
        return _container(origin, get_args(kind), value, path, wrong)
    if isinstance(kind, type) and hasattr(kind, "_is_model"):
        return _object(kind, value, path, wrong)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _in([str(each.value) for each in kind], value, path, wrong)
    if not _fits(kind, value):
        raise wrong(path, _unreadable(value, _NAMES.get(kind, str(kind)), path))
    return value


def _one_of(kinds: tuple[Any, ...], value: Any, path: str, wrong: Wrong) -> Any:
    """`Union[str, SomeEnum]` is the SDK's way to write an enum; any other union has no tighter check."""
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)]
    if enums and enums[0].__name__ in _OUTDATED:
        return _value(str, value, path, wrong)
    if enums:
        return _value(enums[0], value, path, wrong)
    return _value(next(kind for kind in kinds if kind is not type(None)), value, path, wrong)


def _container(origin: Any, inner: tuple[Any, ...], value: Any, path: str, wrong: Wrong) -> Any:
    if origin is list:
        if not isinstance(value, list):
            raise wrong(path, _unreadable(value, "List", path))
        return [_value(inner[0], each, f"{path}[{n}]", wrong) for n, each in enumerate(value)]
    if not isinstance(value, Mapping):
        raise wrong(path, _unreadable(value, "Dictionary", path))
    return {key: _value(inner[1], each, f"{path}.{key}", wrong) for key, each in value.items()}


def _in(known: list[str], value: Any, path: str, wrong: Wrong) -> str:
    """Enums are read whatever their case, and shown as they are written."""
    for each in known:
        if isinstance(value, str) and each.lower() == value.lower():
            return each
    raise wrong(
        path, f"The value '{value}' of parameter '{path}' is not allowed. Allowed values are: {','.join(known)}."
    )


def _fits(kind: Any, value: Any) -> bool:
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind in (str, bytes, datetime):
        return isinstance(value, str)
    return True


_NAMES: Final = {bool: "System.Boolean", int: "System.Int32", float: "System.Double", str: "System.String"}


def _concrete(model: type[Any], value: Mapping[str, Any]) -> type[Any]:
    """A model with variants is told apart by one field's value."""
    variants: Mapping[str, type[Any]] = getattr(model, "__mapping__", {})
    for rest in vars(model).values():
        if getattr(rest, "_is_discriminator", False):
            return variants.get(str(value.get(rest._rest_name_input or "")), model)  # noqa: SLF001
    return model


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    kept = tuple(each for each in get_args(kind) if each is not type(None))
    return kept[0] if len(kept) == 1 else Union[kept]  # noqa: UP007 - made, not written


def _shown(model: type[Any]) -> str:
    return model.__name__


def _unreadable(value: Any, wanted: str, path: str) -> str:
    return f"Error converting value {_quoted(value)} to type '{wanted}'. Path '{path}', line 1, position {len(path)}."


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _compute(path: str, message: str) -> Refused:
    """ARM itself reads the outermost level, the compute provider the rest."""
    if message.startswith("Could not find") and "." not in path:
        return Refused(
            "InvalidRequestContent",
            f"The request content was invalid and could not be deserialized: '{message}'.",
        )
    code = "InvalidParameter" if message.startswith(("The value", "Required")) else "BadRequest"
    return Refused(code, message, target=path)


def _network(path: str, message: str) -> Refused:
    if message.startswith("Could not find") and "." not in path:
        return _compute(path, message)
    code = "InvalidJson" if not message.startswith("Required") else "MissingJsonProperty"
    return Refused("InvalidRequestFormat", "Cannot parse the request.", details=[{"code": code, "message": message}])
