"""Requests against the types that Google publishes: those of the SDK, which are made from the API's own description.

Google refuses what is not in them before it looks at anything else, with every fault it has found.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from google.cloud import compute_v1
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from providers.simcloud.gce.errors import Refused

_BAD_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"
_TYPE_URL: Final = "type.googleapis.com/compute.v1"
# Parameters that every method takes, beside its own; the last is a list's, which the SDK has not got.
_STANDARD: Final = frozenset(
    {"alt", "$alt", "prettyPrint", "key", "fields", "quotaUser", "access_token", "userIp", "returnPartialSuccess"}
)
# action -> the SDK's request type; the rest of them follow from the action's name.
_REQUESTS: Final = {
    "instances.getSerialPortOutput": "GetSerialPortOutputInstanceRequest",
    "instances.testIamPermissions": "TestIamPermissionsInstanceRequest",
    "images.getFromFamily": "GetFromFamilyImageRequest",
}
_INTEGERS: Final = {
    FieldDescriptor.TYPE_INT32: (32, True),
    FieldDescriptor.TYPE_UINT32: (32, False),
    FieldDescriptor.TYPE_INT64: (64, True),
    FieldDescriptor.TYPE_UINT64: (64, False),
}
_WORDS: Final = {
    FieldDescriptor.TYPE_INT32: "TYPE_INT32",
    FieldDescriptor.TYPE_UINT32: "TYPE_UINT32",
    FieldDescriptor.TYPE_INT64: "TYPE_INT64",
    FieldDescriptor.TYPE_UINT64: "TYPE_UINT64",
    FieldDescriptor.TYPE_BOOL: "TYPE_BOOL",
    FieldDescriptor.TYPE_STRING: "TYPE_STRING",
    FieldDescriptor.TYPE_FLOAT: "TYPE_FLOAT",
    FieldDescriptor.TYPE_DOUBLE: "TYPE_DOUBLE",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a request. `field` is empty where there is none of that name."""

    field: str
    words: str


def read(action: str, query: Mapping[str, str], names: Mapping[str, str], raw: bytes) -> dict[str, Any]:
    """The body of a compute/v1 call as an object, empty where there is none. Raises Refused with all faults."""
    request = _request_of(action)
    assert request is not None, "ask `knows` first"
    body_field = next((f for f in request.fields if f.name.endswith("_resource")), None)
    faults = list(_query_faults(request, query, names))
    body = _parsed(raw)
    if body_field is None and body:
        faults.append(Fault("", _unknown(next(iter(body)), "")))
    elif body_field is not None:
        faults += _message_faults(body, _message(body_field), "resource")
    if faults:
        raise _refused(faults)
    return body


def knows(action: str) -> bool:
    """Whether it is one of Compute Engine's, whose types the SDK has."""
    return _request_of(action) is not None


def plain(raw: bytes) -> dict[str, Any]:
    """The body of another service's call: any object. Raises Refused."""
    return {} if raw.startswith((b"grant_type", b"assertion")) else _parsed(raw)


def _refused(faults: list[Fault]) -> Refused:
    violations = [{"description": f.words, **({"field": f.field} if f.field else {})} for f in faults]
    message = "\n".join(f.words for f in faults)
    return Refused("badRequest", message, details=[{"@type": _BAD_REQUEST, "fieldViolations": violations}])


def _parsed(raw: bytes) -> dict[str, Any]:
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
    except (ValueError, UnicodeDecodeError) as error:
        raise Refused("parseError", f"Invalid JSON payload received. {error}") from None
    if not isinstance(body, dict):
        raise Refused("parseError", "Invalid JSON payload received. The root must be an object.")
    return body


def _query_faults(request: Descriptor, query: Mapping[str, str], names: Mapping[str, str]) -> Iterator[Fault]:
    known = {f.json_name: f for f in request.fields if not f.name.endswith("_resource")}
    for name, text in query.items():
        if name in _STANDARD:
            continue
        field = known.get(name)
        if field is None or name in names:
            words = f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.'
            yield Fault("", f"{words} Field '{name}' could not be found in request message.")
        elif field.type in _INTEGERS and not re.fullmatch(r"-?\d+", text):
            yield Fault(name, f"Invalid value at '{field.name}' ({_WORDS[field.type]}), \"{text}\"")
        elif field.type == FieldDescriptor.TYPE_BOOL and text not in ("true", "false"):
            yield Fault(name, f"Invalid value at '{field.name}' (TYPE_BOOL), \"{text}\"")


def _message_faults(body: Mapping[str, Any], message: Descriptor, where: str) -> Iterator[Fault]:
    """`where` is the path to the object, as Google writes it: "resource.disks[0]"."""
    known = {name: field for field in message.fields for name in (field.json_name, field.name)}
    for name, value in body.items():
        field = known.get(name)
        if field is None:
            yield Fault(where, _unknown(name, where))
        elif value is not None:
            yield from _field_faults(value, field, f"{where}.{field.name}")


def _unknown(name: str, where: str) -> str:
    at = f" at '{where}'" if where else ""
    return f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.'


def _field_faults(value: Any, field: FieldDescriptor, where: str) -> Iterator[Fault]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if not isinstance(value, dict):
            yield Fault(where, _wrong(where, "Map", value))
            return
        of = field.message_type.fields_by_name["value"]
        for key, each in value.items():
            yield from _value_faults(each, of, f"{where}[{key}]")
    elif field.is_repeated:
        if not isinstance(value, list):
            yield Fault(where, _wrong(where, "List", value))
            return
        for index, each in enumerate(value):
            yield from _value_faults(each, field, f"{where}[{index}]")
    else:
        yield from _value_faults(value, field, where)


def _value_faults(value: Any, field: FieldDescriptor, where: str) -> Iterator[Fault]:
    if field.message_type is not None:
        if isinstance(value, dict):
            yield from _message_faults(value, field.message_type, where)
        else:
            yield Fault(where, _wrong(where, f"{_TYPE_URL}.{_message(field).name}", value))
        return
    if not _fits(value, field):
        yield Fault(where, _wrong(where, _WORDS.get(field.type, "TYPE_BYTES"), value))
    elif (enum := _enum_of(field)) is not None and value not in _values(enum):
        yield Fault(where, _wrong(where, f"{_TYPE_URL}.{_of(field).name}.{enum.name}", value))


def _fits(value: Any, field: FieldDescriptor) -> bool:
    """64-bit numbers are texts in JSON; numbers are taken too, as Google does."""
    if field.type in _INTEGERS:
        bits, signed = _INTEGERS[field.type]
        if isinstance(value, bool) or not re.fullmatch(r"-?\d+", str(value)):
            return False
        least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
        return bool(least <= int(value) < most)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return isinstance(value, bool)
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)


def _message(field: FieldDescriptor) -> Descriptor:
    assert field.message_type is not None, "asked of objects only"
    return field.message_type


def _of(field: FieldDescriptor) -> Descriptor:
    """The message that the field is of."""
    assert field.containing_type is not None, "no extensions here"
    return field.containing_type


def _wrong(where: str, wanted: str, value: Any) -> str:
    return f"Invalid value at '{where}' ({wanted}), {json.dumps(value)}"


def _enum_of(field: FieldDescriptor) -> EnumDescriptor | None:
    """The SDK keeps enums as texts, and their values beside them under the field's name. A few live elsewhere."""
    if field.type != FieldDescriptor.TYPE_STRING:
        return None
    words = "".join(word.capitalize() for word in field.name.split("_"))
    enum = _of(field).enum_types_by_name.get(words)
    return enum if enum is not None and len(enum.values) > 1 else None


def _values(enum: EnumDescriptor) -> list[str]:
    return [value.name for value in enum.values if value.number]  # 0 is the SDK's own, for what is not set


@cache
def _request_of(action: str) -> Descriptor | None:
    kind, _, verb = action.partition(".")
    name = _REQUESTS.get(action) or (verb[0].upper() + verb[1:] + _one(kind) + "Request" if verb else "")
    for each in (name, name.replace(_one(kind) + "Request", kind[0].upper() + kind[1:] + "Request")):
        if made := getattr(compute_v1, each, None):
            descriptor: Descriptor = made.pb(made()).DESCRIPTOR
            return descriptor
    return None


def _one(kind: str) -> str:
    word = kind[0].upper() + kind[1:]
    return word.removesuffix("es") if word.endswith("sses") else word.removesuffix("s")
