"""Schemas, walked once per write: types, limits and enums are checked, what is unknown is pruned, quantities and times
take the form that the API server gives them back in."""

import base64
import binascii
import functools
import re
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final

import msgspec

from tests.worlds.kubernetes import quantity

Schema = dict[str, Any]
VERSION: Final = "1.36.0"

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
_MICRO: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
_MINE: Final = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}  # known at the top of every object


@functools.cache
def _definitions() -> dict[str, Schema]:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{VERSION}-local"
    found: dict[str, Schema] = msgspec.json.decode((folder / "_definitions.json").read_bytes())["$defs"]
    return found


@functools.cache
def _names() -> dict[tuple[str, str], str]:
    """(apiVersion, kind) of every object: its definition's name."""
    found = {}
    for name, definition in _definitions().items():
        for gvk in definition.get("x-kubernetes-group-version-kind", ()):
            version = f"{gvk['group']}/{gvk['version']}" if gvk["group"] else gvk["version"]
            found[version, gvk["kind"]] = name
    return found


def built_in(api_version: str, kind: str) -> Schema:
    """Kubernetes' own schema of a kind."""
    return _definitions()[_names()[api_version, kind]]


METADATA: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def resolve(schema: Schema) -> tuple[Schema, str]:
    """The schema behind a reference, and the reference's name."""
    name = ""
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = _definitions()[name]
    return schema, name.rpartition(".")[2]


class Walk:
    """One pass over an object; `custom`: a CRD's rules, where null and a wrong type are told as the CRD's server does."""

    def __init__(self, *, custom: bool) -> None:
        self._custom = custom
        self.faults: list[tuple[str, str]] = []  # (path, what is wrong): 422
        self.broken: list[str] = []  # cannot even be decoded: 400
        self.unknown: list[str] = []  # pruned

    def object(self, schema: Schema, value: dict[str, Any]) -> dict[str, Any]:
        if self._custom:
            schema = dict(schema, properties=dict(schema.get("properties", {}), metadata=_definitions()[METADATA]))
        schema = dict(schema, properties=_MINE | schema.get("properties", {}))
        walked: dict[str, Any] = self.value(schema, value, "")
        return walked

    def value(self, schema: Schema, value: Any, path: str) -> Any:
        schema, name = resolve(schema)
        if name == "Quantity":
            return self._quantity(value, path)
        if name == "MicroTime":
            return self._micro_time(value, path)
        if name in ("JSON", "FieldsV1", "RawExtension", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrArray"):
            return value
        if not self._typed(schema, value, path):
            return value
        if schema.get("format") == "byte" and not _is_base64(value):
            self.broken.append("illegal base64 data at input byte 0")
        if schema.get("format") == "date-time":
            value = self._time(value, path)
        self._limits(schema, value, path)
        if isinstance(value, dict):
            return self._map(schema, value, path)
        if isinstance(value, list) and "items" in schema:
            return [self.value(schema["items"], item, f"{path}[{i}]") for i, item in enumerate(value)]
        return value

    def _map(self, schema: Schema, value: dict[str, Any], path: str) -> dict[str, Any]:
        known, rest = schema.get("properties"), schema.get("additionalProperties")
        keep = schema.get("x-kubernetes-preserve-unknown-fields") or (known is None and rest in (None, True))
        result = {}
        for key, item in value.items():
            inside = f"{path}.{key}" if path else key
            its = (known or {}).get(key, rest if isinstance(rest, dict) else None)
            if item is None and not (its or {}).get("nullable"):
                continue  # as Go's decoder sees it, and pruning: not there
            if its is None and not keep:
                self.unknown.append(inside)
            else:
                result[key] = item if its is None else self.value(its, item, inside)
        for key in schema.get("required", ()):
            if key not in result:
                self.faults.append((f"{path}.{key}" if path else key, "Required value"))
        for key, its in (known or {}).items():
            if "default" in its and key not in result and self._custom:
                result[key] = its["default"]
        return result

    def _typed(self, schema: Schema, value: Any, path: str) -> bool:
        if schema.get("x-kubernetes-int-or-string") or "oneOf" in schema:
            types: list[str] = ["integer", "string"]
        else:
            declared = schema.get("type", [])
            types = [declared] if isinstance(declared, str) else [name for name in declared if name != "null"]
        if not types or (value is None and schema.get("nullable")):
            return value is not None
        if any(
            isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool)) for name in types
        ):
            return True
        if self._custom:
            has = "null" if value is None else _name(value)
            self.faults.append((path, f'Invalid value: "{has}": {path} in body must be of type {types[0]}: "{has}"'))
        else:
            self.broken.append(f"json: cannot unmarshal {_name(value)} into Go struct field .{path} of type {types[0]}")
        return False

    def _limits(self, schema: Schema, value: Any, path: str) -> None:
        said = []
        if "enum" in schema and value not in schema["enum"]:
            listed = ", ".join(f'"{one}"' for one in schema["enum"])
            said.append(f'Unsupported value: "{value}": supported values: {listed}')
        if isinstance(value, str):
            if len(value) > schema.get("maxLength", len(value)):
                said.append(f"Too long: may not be more than {schema['maxLength']} bytes")
            if len(value) < schema.get("minLength", 0):
                said.append(
                    f'Invalid value: "{value}": {path} in body should be at least {schema["minLength"]} chars long'
                )
            if "pattern" in schema and not re.search(schema["pattern"], value):
                last = path.rpartition(".")[2]
                said.append(f"Invalid value: \"{value}\": {last} in body should match '{schema['pattern']}'")
        if isinstance(value, list):
            if len(value) > schema.get("maxItems", len(value)):
                said.append(f"Too many: {len(value)}: must have at most {schema['maxItems']} items")
            said += self._double_keys(schema, value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if value < schema.get("minimum", value):
                said.append(
                    f"Invalid value: {value}: {path} in body should be greater than or equal to {schema['minimum']}"
                )
            if value > schema.get("maximum", value):
                said.append(
                    f"Invalid value: {value}: {path} in body should be less than or equal to {schema['maximum']}"
                )
        self.faults += [(path, one) for one in said]

    def _double_keys(self, schema: Schema, value: list[Any]) -> list[str]:
        """Custom resources only: built-in kinds have their own checks, where they have any."""
        keys = schema.get("x-kubernetes-list-map-keys", ())
        seen: list[Any] = []
        said = []
        for item in value if keys and self._custom else ():
            key = {name: item.get(name) for name in keys} if isinstance(item, dict) else item
            if key in seen:
                said.append(f"Duplicate value: {msgspec.json.encode(key).decode()}")
            seen.append(key)
        return said

    def _quantity(self, value: Any, path: str) -> Any:
        try:
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                raise ValueError("quantities are strings")
            return quantity.canonical(value)
        except ValueError as error:
            self.broken.append(f"{path}: {error}")
            return value

    def _time(self, value: str, path: str) -> str:
        if self._custom and path not in ("metadata.creationTimestamp", "metadata.deletionTimestamp"):
            if not _is_time(value):
                self.faults.append(
                    (path, f'Invalid value: "{value}": {path} in body must be of type date-time: "{value}"')
                )
            return value
        if not _is_time(value):
            self.broken.append(f'parsing time "{value}" as "2006-01-02T15:04:05Z07:00"')
            return value
        return stamp(datetime.fromisoformat(value).timestamp())

    def _micro_time(self, value: Any, path: str) -> Any:
        if not isinstance(value, str) or not _MICRO.fullmatch(value):  # Go's parser wants all six digits
            self.broken.append(f'{path}: parsing time "{value}" as "2006-01-02T15:04:05.000000Z07:00"')
        return value


def _is_base64(value: str) -> bool:
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error:
        return False
    return True


def _is_time(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def stamp(wall: float) -> str:
    """Seconds since the epoch as Kubernetes writes times."""
    return datetime.fromtimestamp(int(wall), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> float:
    """The reverse."""
    return datetime.fromisoformat(text).timestamp()


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return next((name for name, types in _TYPES.items() if isinstance(value, types)), "null")
