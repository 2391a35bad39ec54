"""What a value looks like in a log line: never secret, never endless, always JSON's own types."""

import dataclasses
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

# Characters of one value. A CRI runtime splits log lines at 16 KiB: a line with several such values stays whole, and
# more of a cloud's error page or of an agent policy than this explains nothing.
VALUE_LIMIT: Final = 1024
_ITEM_LIMIT: Final = 20  # items of a list or table
_DEPTH_LIMIT: Final = 4  # tables within tables; also ends what refers to itself

HIDDEN: Final = "(secret)"
# Parts of a key that make its value a secret; rather one harmless value too many hidden than one secret shown.
_TELLING: Final = ("key", "token", "secret", "passw", "auth", "credential", "private")


class Secret(Generic[T]):
    """A value that prints as `(secret)` wherever it is printed; `reveal()` hands it out."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        return self._value

    def __repr__(self) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and bool(self._value == other._value)

    def __hash__(self) -> int:
        return hash((Secret, self._value))


def render(value: Any, key: str = "", depth: int = 0) -> Any:
    """`value` as JSON's own types, with nothing secret and nothing endless in it. Never raises."""
    if value is None or isinstance(value, (bool, Secret)):
        return HIDDEN if isinstance(value, Secret) else value
    if _is_telling(key):
        return HIDDEN
    match value:
        case int():
            return int(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes() | bytearray() | memoryview():
            return f"({len(value)} bytes)"
        case BaseException():
            return cut(f"{type(value).__name__}: {_text(value)}")
        case str():
            return cut(_text(value))
    return _render_container(value, depth)


@lru_cache(maxsize=1024)  # a program's log has some dozens of keys
def _is_telling(key: str) -> bool:
    return any(word in key.lower() for word in _TELLING)


def _render_container(value: Any, depth: int) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):  # its own repr would show every field
        value = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if not isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return cut(_text(value))
    if depth >= _DEPTH_LIMIT:
        return f"({len(value)} items)"
    left = len(value) - _ITEM_LIMIT
    if isinstance(value, Mapping):
        table = {_text(k): render(v, _text(k), depth + 1) for k, v in list(value.items())[:_ITEM_LIMIT]}
        return table | {"…": f"{left} more"} if left > 0 else table
    items = [render(item, "", depth + 1) for item in list(value)[:_ITEM_LIMIT]]
    return [*items, f"… {left} more"] if left > 0 else items


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # a foreign __str__ may do anything; a log line must not be what breaks the caller
        return f"(unprintable {type(value).__name__})"


def cut(text: str) -> str:
    """`text` at a length that is read; nothing of it when there is a PEM private key inside."""
    if "PRIVATE KEY-----" in text:
        return HIDDEN
    return text if len(text) <= VALUE_LIMIT else f"{text[:VALUE_LIMIT]}… ({len(text) - VALUE_LIMIT} more)"
