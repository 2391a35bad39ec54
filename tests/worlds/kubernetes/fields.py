"""Who owns which field, and server-side apply. Pure: sets of paths in, sets and objects out.

A path is a tuple of steps as in managedFields: `f:spec`, `k:{"name":"c"}`, `v:"x"`; `.` ends that of a list's item.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from tests.worlds.kubernetes.refusals import Refusal
from tests.worlds.kubernetes.schema import METADATA, Schema, resolve

Path = tuple[str, ...]
Leaves = dict[Path, Any]

_SERVERS: Final = frozenset(
    {
        "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
        "deletionGracePeriodSeconds", "managedFields", "selfLink", "generateName",
    }
)  # fmt: skip
_OBJECT: Final[Schema] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Owner:
    """One entry of managedFields."""

    manager: str
    operation: str  # Apply or Update
    subresource: str
    api_version: str
    time: str
    fields: frozenset[Path]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.manager, self.operation, self.subresource

    def render(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for path in sorted(self.fields):
            node = tree
            for step in path:
                node = node.setdefault(step, {})
        entry = {
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": tree,
        }
        return entry | ({"subresource": self.subresource} if self.subresource else {})


def leaves(schema: Schema, obj: dict[str, Any]) -> Leaves:
    """Every field that can be owned, with its value."""
    found: Leaves = {}
    for key, value in obj.items():
        if key not in ("apiVersion", "kind", "metadata"):
            _collect(schema.get("properties", {}).get(key, {}), value, (f"f:{key}",), found)
    meta = {name: item for name, item in obj.get("metadata", {}).items() if name not in _SERVERS}
    if meta:
        _collect({"$ref": METADATA}, meta, ("f:metadata",), found)
    return found


def _collect(field: Schema, value: Any, path: Path, found: Leaves) -> None:
    schema = _whole(field)
    if isinstance(value, dict) and value and schema.get("x-kubernetes-map-type") != "atomic":
        known = schema.get("properties", {})
        rest = schema.get("additionalProperties")
        for key, item in value.items():
            its = known.get(key, rest if isinstance(rest, dict) else {})
            _collect(its, item, (*path, f"f:{key}"), found)
    elif isinstance(value, list) and schema.get("x-kubernetes-list-type") in ("map", "set"):
        for item in value:
            step = _step(schema, item)
            found[(*path, step, ".")] = None
            if isinstance(item, dict):
                _collect(schema["items"], item, (*path, step), found)
    else:
        found[path] = value


def _whole(field: Schema) -> Schema:
    """The schema behind a reference with what the field itself adds."""
    resolved, _ = resolve(field)
    return {**resolved, **field} if "$ref" in field else resolved


def _step(schema: Schema, item: Any) -> str:
    keys = schema.get("x-kubernetes-list-map-keys")
    if not keys:
        return "v:" + msgspec.json.encode(item).decode()
    defaults = {"protocol": "TCP"}  # of ports, the one key that has a default
    return "k:" + msgspec.json.encode({key: item.get(key, defaults.get(key)) for key in keys}).decode()


def updated(owners: Sequence[Owner], me: Owner, before: Leaves, after: Leaves) -> list[Owner]:
    """After a plain write: what I changed is mine and no longer another's; what is gone is nobody's."""
    changed = {path for path, value in after.items() if path not in before or before[path] != value}
    held: list[Owner] = []
    mine: frozenset[Path] = frozenset(changed)
    for owner in owners:
        if owner.key == me.key:
            mine |= owner.fields & after.keys()
        elif left := (owner.fields - changed) & after.keys():
            held.append(replace(owner, fields=frozenset(left)))
    return [*held, replace(me, fields=mine)] if mine else held


def conflicts(owners: Iterable[Owner], me: Owner, wanted: Leaves, live: Leaves) -> list[tuple[Owner, Path]]:
    """Fields that I would change and another holds."""
    differing = {path for path, value in wanted.items() if path in live and live[path] != value and path[-1] != "."}
    return [(owner, path) for owner in owners if owner.key != me.key for path in sorted(owner.fields & differing)]


def refusal(found: Sequence[tuple[Owner, Path]]) -> Refusal:
    """409 as the API server words it."""

    def said(owner: Owner) -> str:
        part = f' with subresource "{owner.subresource}"' if owner.subresource else ""
        using = f" using {owner.api_version}" if owner.operation == "Update" else ""
        return f'conflict with "{owner.manager}"{part}{using}'

    count = f"{len(found)} conflict{'s' if len(found) > 1 else ''}"
    if len({owner.key for owner, _ in found}) == 1:
        words = said(found[0][0])
        listed = [show(path) for _, path in found]
        text = f"{words}: {listed[0]}" if len(found) == 1 else f"{words}:\n" + "\n".join(f"- {one}" for one in listed)
    else:
        text = "\n".join(f"{said(owner)}:\n- {show(path)}" for owner, path in found)
    causes = [{"reason": "FieldManagerConflict", "message": said(owner), "field": show(path)} for owner, path in found]
    return Refusal(409, f"Apply failed with {count}: {text}", details={"causes": causes})


def show(path: Path) -> str:
    parts = []
    for step in path:
        sort, _, rest = step.partition(":")
        if sort == "f":
            parts.append(f".{rest}")
        elif sort == "k":
            pairs = ",".join(f"{k}={msgspec.json.encode(v).decode()}" for k, v in msgspec.json.decode(rest).items())
            parts.append(f"[{pairs}]")
        elif sort == "v":
            parts.append(f"[={rest}]")
    return "".join(parts)


def merged(schema: Schema, live: Any, config: Any) -> Any:
    """`config` laid over `live`: maps by key, lists of maps by their keys, sets united, all else replaced."""
    schema = _whole(schema)
    if isinstance(config, dict) and isinstance(live, dict) and schema.get("x-kubernetes-map-type") != "atomic":
        known, rest = schema.get("properties", {}), schema.get("additionalProperties")
        result = dict(live)
        for key, value in config.items():
            its = known.get(key, rest if isinstance(rest, dict) else {})
            result[key] = merged(its, live[key], value) if key in live else copy.deepcopy(value)
        return result
    if isinstance(config, list) and isinstance(live, list) and schema.get("x-kubernetes-list-type") in ("map", "set"):
        items = {_step(schema, item): item for item in live}
        for item in config:
            step = _step(schema, item)
            items[step] = merged(schema["items"], items[step], item) if step in items else copy.deepcopy(item)
        return list(items.values())
    return copy.deepcopy(config)


def without(schema: Schema, obj: Any, paths: Iterable[Path]) -> Any:
    """The object without those fields; what this leaves empty stays, as an owner of something else may want it."""
    result = copy.deepcopy(obj)
    for path in sorted(paths, key=len, reverse=True):
        _remove(schema, result, path)
    return result


def _remove(schema: Schema, value: Any, path: Path) -> None:
    schema = _whole(schema)
    step, rest = path[0], path[1:]
    if isinstance(value, list):
        for index, item in enumerate(value):
            if _step(schema, item) == step:
                if rest in ((), (".",)):
                    del value[index]
                else:
                    _remove(schema["items"], item, rest)
                return
        return
    key = step.partition(":")[2]
    if not isinstance(value, dict) or key not in value:
        return
    if not rest:
        del value[key]
        return
    more = schema.get("additionalProperties")
    _remove(schema.get("properties", {}).get(key, more if isinstance(more, dict) else {}), value[key], rest)
    if value[key] == {}:
        del value[key]
