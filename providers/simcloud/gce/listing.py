"""list and aggregatedList: filters, pages, and what a region's scopes are called."""

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from providers.simcloud.gce.errors import Refused, invalid
from providers.simcloud.gce.paths import link
from providers.simcloud.gce.project import ID, Json

MOST: Final = 500  # a page's length, also when none is asked for
_TOKEN: Final = re.compile(
    r'\s*(?:(?P<paren>[()])|(?P<text>"(?:[^"\\]|\\.)*")|(?P<sign>!=|<=|>=|=|<|>|:)|(?P<word>[^\s()=<>!:"]+))'
)
Test = Callable[[Json], bool]


def page(items: Sequence[Json], query: Mapping[str, str], kind: str, path: str) -> Json:
    """The answer of a list. Raises Refused."""
    keep = test(query.get("filter", ""))
    chosen, token = cut([each for each in items if keep(each)], query)
    answer: Json = {"kind": f"compute#{kind}List", "id": path, "items": chosen, "selfLink": link(path)}
    if not chosen:
        del answer["items"]
    return {**answer, "nextPageToken": token} if token else answer


def aggregated(
    items: Iterable[tuple[str, Json]], scopes: Sequence[str], query: Mapping[str, str], kind: str, collection: str
) -> Json:
    """The answer of an aggregatedList; `items` come with their scope. Every scope is named, an empty one with a
    warning. Raises Refused.
    """
    keep = test(query.get("filter", ""))
    chosen, token = cut([(scope, each) for scope, each in items if keep(each)], query)
    answer: Json = {}
    for scope in scopes:
        here = [each for where, each in chosen if where == scope]
        answer[scope] = {collection: here} if here else {"warning": _nothing(scope)}
    path = f"projects/{ID}/aggregated/{collection}"
    made = {"kind": f"compute#{kind}AggregatedList", "id": path, "items": answer, "selfLink": link(path)}
    return {**made, "nextPageToken": token} if token else made


def cut(items: Sequence[Any], query: Mapping[str, str]) -> tuple[Sequence[Any], str]:
    """One page, and the token of the next, empty after the last."""
    most = int(query.get("maxResults", MOST))
    if not 0 <= most <= MOST:
        raise invalid("maxResults", most, f"Must be between 0 and {MOST}, inclusive.")
    start = _start(query.get("pageToken", ""))
    end = start + (most or MOST)
    return items[start:end], _token(end) if end < len(items) else ""


def test(text: str) -> Test:
    """A filter as a function. Raises Refused for one that makes no sense."""
    if not text.strip():
        return lambda item: True
    parser = _Parser(text)
    made = parser.any_of()
    if parser.peek():
        raise parser.wrong()
    return made


class _Parser:
    """Google's filters: `labels.a=b AND (status != RUNNING OR name:podvm-*)`, `name eq podvm-.*`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._words: list[str] = []
        at = 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            if found is None:
                raise self.wrong()
            self._words.append(found[0].strip())
            at = found.end()

    def wrong(self) -> Refused:
        return invalid("filter", self._text, "Invalid list filter expression.")

    def peek(self) -> str:
        return self._words[0] if self._words else ""

    def any_of(self) -> Test:
        tests = [self._all_of()]
        while self.peek() == "OR":
            self._words.pop(0)
            tests.append(self._all_of())
        return lambda item: any(each(item) for each in tests)

    def _all_of(self) -> Test:
        tests = [self._one()]
        while self.peek() and self.peek() not in ("OR", ")"):
            if self.peek() == "AND":
                self._words.pop(0)
            tests.append(self._one())
        return lambda item: all(each(item) for each in tests)

    def _one(self) -> Test:
        word = self._next()
        if word.startswith("-") and len(word) > 1:
            self._words.insert(0, word[1:])
            word = "NOT"
        if word == "NOT":
            inner = self._one()
            return lambda item: not inner(item)
        if word == "(":
            inside = self.any_of()
            if self._next() != ")":
                raise self.wrong()
            return inside
        return self._comparison(word)

    def _comparison(self, field: str) -> Test:
        sign = self._next()
        value = self._next().strip('"').replace('\\"', '"')
        if not re.fullmatch(r"[\w.\-]+", field):
            raise self.wrong()
        match sign:
            case "=" | "!=" | ":":
                return _match(field, sign, value)
            case "eq" | "ne":
                try:
                    pattern = re.compile(value)
                except re.error:
                    raise self.wrong() from None
                return lambda item: any(pattern.fullmatch(t) for t in _texts(item, field)) == (sign == "eq")
            case "<" | ">" | "<=" | ">=":
                return _order(field, sign, value)
        raise self.wrong()

    def _next(self) -> str:
        if not self._words:
            raise self.wrong()
        return self._words.pop(0)


def _match(field: str, sign: str, value: str) -> Test:
    pattern = re.compile(".*".join(map(re.escape, value.split("*"))), re.DOTALL)
    if sign == ":":  # has: a word of it, or anything at all for a star
        return lambda item: any(pattern.search(text) for text in _texts(item, field))
    wanted = sign == "="
    return lambda item: any(pattern.fullmatch(text) for text in _texts(item, field)) == wanted


def _order(field: str, sign: str, value: str) -> Test:
    def ordered(item: Json) -> bool:
        for text in _texts(item, field):
            a, b = (float(text), float(value)) if _number(text) and _number(value) else (text, value)
            if {"<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b}[sign]:  # type: ignore[operator]
                return True
        return False

    return ordered


def _number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text) is not None


def _texts(item: Any, field: str) -> list[str]:
    """Every value that the field's path leads to, lists gone through."""
    if isinstance(item, list):
        return [text for each in item for text in _texts(each, field)]
    if not field:
        if isinstance(item, bool):
            return [str(item).lower()]
        return [] if item is None or isinstance(item, dict) else [str(item)]
    if not isinstance(item, dict):
        return []
    name, _, rest = field.partition(".")
    return _texts(item[name], rest) if name in item else []


def _nothing(scope: str) -> Json:
    message = f"There are no results for scope '{scope}' on this page."
    return {"code": "NO_RESULTS_ON_PAGE", "message": message, "data": [{"key": "scope", "value": scope}]}


def _start(token: str) -> int:
    if not token:
        return 0
    try:
        return int(base64.urlsafe_b64decode(token).decode().removeprefix("from "))
    except ValueError:
        raise invalid("pageToken", token, "Invalid page token.") from None


def _token(start: int) -> str:
    return base64.urlsafe_b64encode(f"from {start}".encode()).decode()
