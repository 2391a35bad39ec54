"""The little of CEL that match conditions and guard rails here are written in. Pure.

Literals, lists, `a.b`, `a["b"]`, `has()`, `in`, comparisons, `!`, `&&`, `||`, `? :`, `.?field`, `.orValue(x)`, `size()`,
`startsWith`, `endsWith`, `contains`, `matches`, `exists(x, ...)`, `all(x, ...)`. As in CEL a missing field is an error,
which `&&` and `||` can absorb.
"""

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final


class Wrong(ValueError):
    """The expression cannot be read, or has no value here."""


Variables = Mapping[str, Any]
Part = Callable[[Variables], Any]

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<name>[A-Za-z_]\w*)"""
    r"""|(?P<sign>\.\?|==|!=|<=|>=|&&|\|\||[-\[\](){}.,!<>?:+]))"""
)
_COMPARE: Final = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_METHODS: Final[dict[str, Callable[..., Any]]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": lambda text, part: part in text,
    "matches": lambda text, pattern: re.search(pattern, text) is not None,
    "size": len,
}
_MACROS: Final[dict[str, Callable[[Iterable[bool]], bool]]] = {"exists": any, "all": all}
_NOTHING: Final = object()  # an optional without a value


def parse(text: str) -> Part:
    """Raises Wrong for what is not among the forms above."""
    reader = _Reader(text)
    part = reader.ternary()
    if reader.peek():
        raise Wrong(f"unexpected {reader.peek()!r}")
    return part


def evaluate(text: str, variables: Variables) -> Any:
    return parse(text)(variables)


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        position, text = 0, text.strip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise Wrong(f"Syntax error: token recognition error at: {text[position:]!r}")
            self._tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            position = match.end()

    def peek(self) -> str:
        return self._tokens[0][1] if self._tokens else ""

    def _take(self, *signs: str) -> str:
        """The next token if it is one of these, else nothing."""
        if self._tokens and self._tokens[0][0] != "string" and self._tokens[0][1] in signs:
            return self._tokens.pop(0)[1]
        return ""

    def _need(self, sign: str) -> None:
        if not self._take(sign):
            raise Wrong(f"Syntax error: expected {sign!r}, found {self.peek()!r}")

    def _name(self) -> str:
        if not self._tokens or self._tokens[0][0] != "name":
            raise Wrong(f"Syntax error: expected a name, found {self.peek()!r}")
        return self._tokens.pop(0)[1]

    def ternary(self) -> Part:
        test = self._either()
        if not self._take("?"):
            return test
        yes = self.ternary()
        self._need(":")
        no = self.ternary()
        return lambda given: yes(given) if _boolean(test(given)) else no(given)

    def _either(self) -> Part:
        part = self._both()
        while self._take("||"):
            part = _logic(part, self._both(), decided=True)
        return part

    def _both(self) -> Part:
        part = self._relation()
        while self._take("&&"):
            part = _logic(part, self._relation(), decided=False)
        return part

    def _relation(self) -> Part:
        left = self._sum()
        if sign := self._take(*_COMPARE):
            right, compare = self._sum(), _COMPARE[sign]
            return lambda given: compare(left(given), right(given))
        if self._take("in"):
            among = self._sum()
            return lambda given: left(given) in among(given)
        return left

    def _sum(self) -> Part:
        part = self._unary()
        while self._take("+"):
            part = _plus(part, self._unary())
        return part

    def _unary(self) -> Part:
        if self._take("!"):
            inner = self._unary()
            return lambda given: not _boolean(inner(given))
        return self._members()

    def _members(self) -> Part:
        part = self._primary()
        while sign := self._take(".", ".?", "["):
            if sign == "[":
                key = self.ternary()
                self._need("]")
                part = _index(part, key)
                continue
            name = self._name()
            if sign == "." and self._take("("):
                part = self._macro(part, name) if name in _MACROS else _method(part, name, self._arguments(")"))
            else:
                part = _field(part, name, optional=sign == ".?")
        return part

    def _macro(self, part: Part, name: str) -> Part:
        variable = self._name()
        self._need(",")
        inner = self.ternary()
        self._need(")")
        fold = _MACROS[name]
        return lambda given: fold(_boolean(inner({**given, variable: item})) for item in part(given))

    def _primary(self) -> Part:
        if not self._tokens:
            raise Wrong("Syntax error: the expression ends too early")
        sort, text = self._tokens.pop(0)
        if sort == "string":
            value: Any = re.sub(r"\\(.)", r"\1", text[1:-1])
        elif sort == "number":
            value = float(text) if "." in text else int(text)
        elif text in ("true", "false", "null"):
            value = {"true": True, "false": False, "null": None}[text]
        elif sort == "name":
            return self._call(text) if self._take("(") else _variable(text)
        elif text == "(":
            inner = self.ternary()
            self._need(")")
            return inner
        elif text == "[":
            items = self._arguments("]")
            return lambda given: [item(given) for item in items]
        elif text == "{":
            self._need("}")
            return lambda given: {}
        else:
            raise Wrong(f"Syntax error: unexpected {text!r}")
        return lambda given: value

    def _call(self, name: str) -> Part:
        arguments = self._arguments(")")
        if name == "has" and len(arguments) == 1:
            return lambda given: _has(arguments[0], given)
        if name == "size" and len(arguments) == 1:
            return lambda given: len(arguments[0](given))
        raise Wrong(f"undeclared reference to {name!r}")

    def _arguments(self, end: str) -> list[Part]:
        arguments: list[Part] = []
        while not self._take(end):
            if arguments:
                self._need(",")
            arguments.append(self.ternary())
        return arguments


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Wrong("no such overload: a boolean was expected")
    return value


def _logic(left: Part, right: Part, *, decided: bool) -> Part:
    """`decided` is the value that settles it whatever the other side says, an error included."""

    def value(given: Variables) -> bool:
        try:
            one = _boolean(left(given))
        except Wrong:
            if _boolean(right(given)) is decided:
                return decided
            raise
        return one if one is decided else _boolean(right(given))

    return value


def _plus(left: Part, right: Part) -> Part:
    return lambda given: left(given) + right(given)


def _variable(name: str) -> Part:
    def value(given: Variables) -> Any:
        if name not in given:
            raise Wrong(f"undeclared reference to {name!r}")
        return given[name]

    return value


def _field(part: Part, name: str, *, optional: bool) -> Part:
    def value(given: Variables) -> Any:
        held = part(given)
        if held is _NOTHING:
            return _NOTHING
        if isinstance(held, Mapping) and name in held:
            return held[name]
        if optional:
            return _NOTHING
        raise Wrong(f"no such key: {name}")

    return value


def _index(part: Part, key: Part) -> Part:
    def value(given: Variables) -> Any:
        wanted = key(given)
        try:
            return part(given)[wanted]
        except (KeyError, IndexError, TypeError) as error:
            raise Wrong(f"no such key: {wanted}") from error

    return value


def _method(part: Part, name: str, arguments: list[Part]) -> Part:
    if name == "orValue" and len(arguments) == 1:

        def otherwise(given: Variables) -> Any:
            held = part(given)
            return arguments[0](given) if held is _NOTHING else held

        return otherwise
    if name not in _METHODS:
        raise Wrong(f"undeclared reference to {name!r}")
    call = _METHODS[name]
    return lambda given: call(part(given), *(argument(given) for argument in arguments))


def _has(part: Part, given: Variables) -> bool:
    """Only the last step may be missing, but who leaves out a parent means the same."""
    try:
        return part(given) is not _NOTHING
    except Wrong as error:
        if str(error).startswith("no such key"):
            return False
        raise
