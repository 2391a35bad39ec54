"""JSON patch, merge patch and strategic merge patch as pure functions; each leaves its arguments as they were."""

import copy
from typing import Any, Final

from tests.worlds.kubernetes.refusals import Refusal, bad_request
from tests.worlds.kubernetes.schema import Schema, resolve

_MISSING = object()
_REJECTED: Final = "the server rejected our request due to an error in our request"


def json_patch(document: Any, operations: Any) -> Any:
    """RFC 6902; raises a Refusal: 422 for a path or test that fails, 400 for what is no patch."""
    if not isinstance(operations, list):
        raise bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        )
    document = copy.deepcopy(document)
    for operation in operations:
        document = _operate(document, operation)
    return document


def _operate(document: Any, operation: dict[str, Any]) -> Any:
    verb, path = operation.get("op"), operation.get("path")
    if path is None or verb not in ("add", "remove", "replace", "test", "move", "copy"):
        raise Refusal(422, _REJECTED)
    if verb == "test":
        if _get(document, path) != operation.get("value"):
            raise Refusal(422, _REJECTED)
        return document
    if verb in ("move", "copy"):
        value = _get(document, operation["from"])
        if value is _MISSING:
            raise _no_such(verb, operation["from"])
        value = copy.deepcopy(value)
        if verb == "move":
            document = _set("remove", document, operation["from"], None)
        return _set("add", document, path, value)
    return _set(verb, document, path, copy.deepcopy(operation.get("value")))


def _no_such(verb: str, path: str) -> Refusal:
    return Refusal(422, _REJECTED)  # which operation and path, the API server keeps to itself


def _parts(path: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _get(document: Any, path: str) -> Any:
    for part in _parts(path):
        try:
            document = document[int(part)] if isinstance(document, list) else document[part]
        except (KeyError, IndexError, ValueError, TypeError):
            return _MISSING
    return document


def _set(verb: str, document: Any, path: str, value: Any) -> Any:
    parts = _parts(path)
    if not parts:
        return value
    target = (
        _get(document, "/" + "/".join(p.replace("~", "~0").replace("/", "~1") for p in parts[:-1]))
        if parts[1:]
        else document
    )
    last = parts[-1]
    if isinstance(target, list):
        at = len(target) if last == "-" else int(last) if last.isdigit() else -1
        if not 0 <= at <= len(target) - (verb != "add"):
            raise _no_such(verb, path)
        if verb == "add":
            target.insert(at, value)
        elif verb == "replace":
            target[at] = value
        else:
            del target[at]
        return document
    if not isinstance(target, dict) or (verb == "remove" and last not in target):  # replace adds, as there
        raise _no_such(verb, path)
    if verb == "remove":
        del target[last]
    else:
        target[last] = value
    return document


def merge_patch(document: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_merge(document: Any, patch: dict[str, Any], schema: Schema) -> Any:
    """Kubernetes' own merge: lists by their merge key, `$patch: replace|delete`, `$retainKeys`,
    `$setElementOrder` and `$deleteFromPrimitiveList`; raises a Refusal."""
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    result = dict(document) if isinstance(document, dict) else {}
    if "$retainKeys" in patch:
        result = {key: value for key, value in result.items() if key in patch["$retainKeys"]}
    for key, value in patch.items():
        if key.startswith("$setElementOrder/") or key in ("$patch", "$retainKeys"):
            continue
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [item for item in result.get(name, []) if item not in value]
            continue
        if key.startswith("$"):
            raise bad_request(f"unknown directive {key} in a strategic merge patch")
        its = schema.get("properties", {}).get(key) or schema.get("additionalProperties") or {}
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _strategic_value(result.get(key), value, its)
    return result


def _strategic_value(old: Any, value: Any, field: Schema) -> Any:
    schema, _ = resolve(field)
    if isinstance(value, dict):
        return strategic_merge(old, value, schema)
    merges = "merge" in field.get("x-kubernetes-patch-strategy", "").split(",")
    if not isinstance(value, list) or not merges:
        return copy.deepcopy(value)
    key = field.get("x-kubernetes-patch-merge-key")
    if key is None:
        return [*(old or []), *(item for item in value if item not in (old or []))]
    items, _ = resolve(schema["items"])
    return _merge_list(old or [], value, key, items)


def _merge_list(old: list[Any], patch: list[Any], key: str, items: Schema) -> list[Any]:
    result = list(old)
    if any(item.get("$patch") == "replace" and len(item) == 1 for item in patch):
        return [item for item in patch if "$patch" not in item]
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        at = next((i for i, one in enumerate(result) if one.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            result = [one for one in result if one.get(key) != item[key]]
        elif at is None:
            result.append(strategic_merge({}, item, items))
        else:
            result[at] = strategic_merge(result[at], item, items)
    return result
