"""Label and field selectors: of queries, and of objects."""

import re
from collections.abc import Callable
from typing import Any, Final

from tests.worlds.kubernetes.kinds import Kind
from tests.worlds.kubernetes.refusals import bad_request

Test = Callable[[dict[str, Any]], bool]

_TERM: Final = re.compile(r"\s*(!?)\s*([\w./-]+)\s*(?:(==|=|!=|\bin\b|\bnotin\b)\s*(\([^)]*\)|[\w.-]*))?\s*(?:,|$)")
_COMMON: Final = frozenset({"metadata.name", "metadata.namespace"})
_FIELDS: Final = {
    "pods": {
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.nominatedNodeName",
    },
    "events": {
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
        "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
        "reportingComponent", "source", "type",
    },
    "nodes": {"spec.unschedulable"},
    "secrets": {"type"},
    "namespaces": {"status.phase"},
}  # fmt: skip


def by_labels(text: str) -> Test:
    """`a=b,c!=d,e in (f,g),h,!i`; raises a Refusal."""
    terms: list[Test] = []
    position = 0
    while position < len(text):
        match = _TERM.match(text, position)
        if match is None or match.end() == position:
            raise bad_request(f'unable to parse requirement: found "{text[position:]}"')
        terms.append(_term(match[1] == "!", match[2], match[3], match[4] or ""))
        position = match.end()
    return lambda obj: all(term(obj["metadata"].get("labels") or {}) for term in terms)


def _term(absent: bool, key: str, operator: str | None, operand: str) -> Test:
    values = {one.strip() for one in operand.strip("()").split(",")}
    if operator is None:
        return lambda labels: (key not in labels) if absent else key in labels
    if operator in ("!=", "notin"):
        return lambda labels: labels.get(key) not in values
    return lambda labels: key in labels and labels[key] in values


def by_fields(kind: Kind, text: str) -> Test:
    """`spec.nodeName=a,metadata.name!=b`; raises a Refusal for fields that the kind cannot be asked by."""
    terms = []
    for term in filter(None, text.split(",")):
        match = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
        if match is None:
            raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
        path = match[1]
        if path not in _COMMON and path not in _FIELDS.get(kind.plural, ()):
            raise bad_request(f"field label not supported: {path}")
        terms.append((path.split("."), match[2] == "!=", match[3]))

    def test(obj: dict[str, Any]) -> bool:
        return all((_field(obj, path) == value) is not negated for path, negated, value in terms)

    return test


def _field(obj: Any, path: list[str]) -> str:
    for part in path:
        obj = obj.get(part) if isinstance(obj, dict) else None
    if isinstance(obj, bool):
        return str(obj).lower()
    return "" if obj is None else str(obj)


def matches(selector: dict[str, Any] | None, labels: dict[str, str]) -> bool:
    """A LabelSelector object; none or an empty one matches everything."""
    selector = selector or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for term in selector.get("matchExpressions") or ():
        key, operator, values = term["key"], term["operator"], term.get("values") or ()
        fits = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not fits:
            return False
    return True
