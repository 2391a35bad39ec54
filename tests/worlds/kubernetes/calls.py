"""One request as the verbs see it, whoever brought it, and its body as an object."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import yaml

from tests.worlds.kubernetes import metadata, pods, workloads
from tests.worlds.kubernetes.access import User
from tests.worlds.kubernetes.kinds import Kind, Kinds
from tests.worlds.kubernetes.refusals import Refusal, bad_request, invalid
from tests.worlds.kubernetes.schema import Walk
from tests.worlds.kubernetes.store import Object

JSON: Final = "application/json"


@dataclass(slots=True)
class Call:
    """`query`: the last of each parameter. `warnings` are for the answer's headers."""

    verb: str
    kind: Kind
    user: User
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    content_type: str = JSON
    agent: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def dry_run(self) -> bool:
        asked = self.query.get("dryRun")
        if asked not in (None, "", "All"):
            options = f"{self.verb.title()}Options.meta.k8s.io"
            raise Refusal(
                422, f'{options} "" is invalid: dryRun: Unsupported value: ["{asked}"]: supported values: "All"'
            )
        return asked == "All"

    @property
    def manager(self) -> str:
        """Who will own what is written: the parameter, else the program's name."""
        given = self.query.get("fieldManager", "")
        if len(given) > 128:
            raise bad_request("fieldManager: Too long: may not be more than 128 bytes")
        return given or self.agent.partition("/")[0] or "unknown"

    def decoded(self) -> Any:
        """The body; raises 400, or 415 for what is no JSON or YAML by its name."""
        sort = self.content_type.partition(";")[0].strip()
        try:
            if sort.endswith("yaml"):
                return yaml.safe_load(self.body)
            if sort == JSON or sort.endswith("+json"):
                return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, yaml.YAMLError) as error:
            raise bad_request(f"the object provided is unrecognized: {error}") from error
        raise Refusal(
            415,
            f"the body of the request was in an unknown format ({sort}) - accepted media types include: application/json",
        )


def taken(kinds: Kinds, call: Call, given: Any) -> Object:
    """An object of the call's kind: known fields only, defaults set. Raises 400 for what cannot be decoded; faults of
    custom resources are left to `checked`."""
    if not isinstance(given, dict):
        raise bad_request("the object provided is unrecognized (must be of type Object)")
    kind = call.kind
    if kind.custom and not given.get("kind"):
        raise bad_request(
            f"the object provided is unrecognized (must be of type {kind.kind}): Object 'Kind' is missing"
        )
    given = {"apiVersion": kind.api_version, "kind": kind.kind} | given
    if given["apiVersion"] != kind.api_version:
        raise bad_request(
            f"the API version in the data ({given['apiVersion']}) does not match the expected API version ({kind.api_version})"
        )
    if given["kind"] != kind.kind:
        raise bad_request(f"the object provided is unrecognized (must be of type {kind.kind}): is a {given['kind']}")
    if not isinstance(given.setdefault("metadata", {}), dict):
        raise bad_request("json: cannot unmarshal string into Go struct field ObjectMeta")
    walk = Walk(custom=bool(kind.custom))
    obj = walk.object(kinds.schema(kind), given)
    if walk.broken:
        raise bad_request(
            f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {walk.broken[0]}'
        )
    _unknown(call, walk.unknown)
    if kind.plural == "pods":
        pods.default(obj)
    workloads.default(kind, obj)
    if kind.plural == "mutatingadmissionpolicies":
        call.warnings.append("this world keeps MutatingAdmissionPolicies and does nothing by them")
    return obj


def _unknown(call: Call, fields: list[str]) -> None:
    mode = call.query.get("fieldValidation", "Warn")
    if mode not in ("Strict", "Warn", "Ignore", ""):
        raise bad_request(f'fieldValidation: Unsupported value: "{mode}"')
    said = [f'unknown field "{name}"' for name in fields]
    if said and mode == "Strict":
        raise bad_request(
            f'{call.kind.kind} in version "{call.kind.version}" cannot be handled as a {call.kind.kind}: strict decoding error: {", ".join(said)}'
        )
    if mode in ("Warn", ""):
        call.warnings += said


def walked(kinds: Kinds, call: Call, config: Object) -> Object:
    """A part of an object, as apply takes it: known fields in their canonical form, nothing added."""
    walk = Walk(custom=bool(call.kind.custom))
    part = walk.object(kinds.schema(call.kind), config)
    if walk.broken:
        raise bad_request(f"failed to create typed patch object: {walk.broken[0]}")
    if walk.unknown:  # apply is always strict about these
        raise Refusal(
            500,
            f"failed to create typed patch object ({call.namespace}/{call.name}; {call.kind.api_version}, Kind={call.kind.kind}): .{walk.unknown[0]}: field not declared in schema",
        )
    return part


def pruned(kinds: Kinds, kind: Kind, obj: Object) -> Object:
    """After admission has changed it: decoded and defaulted anew."""
    return taken(kinds, Call("update", kind, User(""), query={"fieldValidation": "Ignore"}), obj)


def check(kinds: Kinds, kind: Kind, obj: Object, old: Object | None, subresource: str = "") -> None:
    """Raises 422 with all that is wrong."""
    walk = Walk(custom=bool(kind.custom))
    walk.object(kinds.schema(kind), obj)
    faults = [*metadata.check(kind, obj["metadata"]), *walk.faults]
    if kind.plural == "pods":
        faults += pods.faults(obj)
        if old is not None:
            faults += (pods.resize_faults if subresource == "resize" else pods.forbidden_changes)(obj, old)
    faults += workloads.faults(kind, obj, old)
    if faults:
        raise invalid(kind, obj["metadata"].get("name", ""), faults)
