"""The other kinds: their defaults, and the checks that a schema cannot make. Pure."""

import base64
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from tests.worlds.kubernetes import cel, metadata, pods, quantity
from tests.worlds.kubernetes.kinds import Kind
from tests.worlds.kubernetes.store import Object

Faults = Iterator[tuple[str, str]]

_TEMPLATED: Final = frozenset({"deployments", "daemonsets", "statefulsets", "replicasets"})
_WEBHOOKS: Final = frozenset({"mutatingwebhookconfigurations", "validatingwebhookconfigurations"})
_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_SECRET_LIMIT: Final = 1024 * 1024


def default(kind: Kind, obj: Object) -> None:
    if kind.plural in _TEMPLATED:
        pods.default(obj.setdefault("spec", {}).setdefault("template", {}))
    elif kind.plural == "secrets":
        data = obj.pop("stringData", None) or {}
        if data:
            encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
            obj["data"] = (obj.get("data") or {}) | encoded
        obj.setdefault("type", "Opaque")
    elif kind.plural == "namespaces":
        name = obj["metadata"].get("name")
        if name:
            obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name
    elif kind.plural in _WEBHOOKS:
        for webhook in obj.get("webhooks") or ():
            webhook.setdefault("failurePolicy", "Fail")
            webhook.setdefault("matchPolicy", "Equivalent")
            webhook.setdefault("timeoutSeconds", 10)
            webhook.setdefault("namespaceSelector", {})
            webhook.setdefault("objectSelector", {})
            for rule in webhook.get("rules") or ():
                rule.setdefault("scope", "*")
            if service := webhook["clientConfig"].get("service"):
                service.setdefault("port", 443)
            if kind.plural.startswith("mutating"):
                webhook.setdefault("reinvocationPolicy", "Never")
    elif kind.plural == "limitranges":
        for item in obj["spec"].get("limits") or ():
            if item["type"] == "Container":
                _default_limits(item)


def _default_limits(item: dict[str, Any]) -> None:
    """Maximum, minimum and default fill each other in, as the API server's defaulting has it."""
    for name, value in (item.get("max") or {}).items():
        item.setdefault("default", {}).setdefault(name, value)
    for name, value in (item.get("default") or {}).items():
        item.setdefault("defaultRequest", {}).setdefault(name, value)
    for name, value in (item.get("min") or {}).items():
        item.setdefault("defaultRequest", {}).setdefault(name, value)


def faults(kind: Kind, obj: Object, old: Object | None) -> Faults:
    if kind.plural in _TEMPLATED:
        spec = obj["spec"]
        carried = (spec["template"].get("metadata") or {}).get("labels") or {}
        if not (spec.get("selector") or {}).get("matchLabels") and not (spec.get("selector") or {}).get(
            "matchExpressions"
        ):
            yield "spec.selector", "Required value"
        yield from metadata.selector_faults(spec.get("selector") or {}, carried, "spec.template.metadata.labels")
        for path, what in pods.faults(spec["template"]):
            yield f"spec.template.{path}", what
        if old is not None and old["spec"].get("selector") != spec.get("selector"):
            yield "spec.selector", "Invalid value: field is immutable"
    elif check := _CHECKS.get(kind.plural):
        yield from check(obj, old)


def _events(event: Object, old: Object | None) -> Faults:
    where = event["involvedObject"].get("namespace") or "default"
    if where != event["metadata"]["namespace"]:
        yield "involvedObject.namespace", f'Invalid value: "{where}": does not match event.namespace'


def _config(obj: Object, old: Object | None) -> Faults:
    data = {**(obj.get("data") or {}), **(obj.get("binaryData") or {})}
    for key in data:
        if not _KEY.fullmatch(key):
            yield (
                f"data[{key}]",
                f"Invalid value: \"{key}\": a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            )
    if sum(len(str(value)) for value in data.values()) > _SECRET_LIMIT * (4 / 3 if obj["kind"] == "Secret" else 1):
        yield "data", f"Too long: may not be more than {_SECRET_LIMIT} bytes"
    if old is not None and old.get("immutable") and old.get("data") != obj.get("data"):
        yield "data", "Forbidden: field is immutable when `immutable` is set"


def _secrets(obj: Object, old: Object | None) -> Faults:
    yield from _config(obj, old)
    wanted = {"kubernetes.io/tls": ("tls.crt", "tls.key"), "kubernetes.io/dockerconfigjson": (".dockerconfigjson",)}
    for key in wanted.get(obj["type"], ()):
        if key not in (obj.get("data") or {}):
            yield f"data[{key}]", "Required value"
    if old is not None and old.get("type") != obj.get("type"):
        yield "type", f'Invalid value: "{obj.get("type")}": field is immutable'


def _leases(obj: Object, old: Object | None) -> Faults:
    spec = obj.get("spec") or {}
    if spec.get("leaseDurationSeconds", 1) <= 0:
        yield "spec.leaseDurationSeconds", f"Invalid value: {spec['leaseDurationSeconds']}: must be greater than 0"
    if spec.get("leaseTransitions", 0) < 0:
        yield "spec.leaseTransitions", f"Invalid value: {spec['leaseTransitions']}: must be greater than or equal to 0"


def _runtime_classes(obj: Object, old: Object | None) -> Faults:
    if not metadata.is_label(obj.get("handler", "")):
        yield "handler", f'Invalid value: "{obj.get("handler", "")}"'
    if old is not None and old.get("handler") != obj.get("handler"):
        yield "handler", f'Invalid value: "{obj.get("handler")}": field is immutable'


def _nodes(obj: Object, old: Object | None) -> Faults:
    status = obj.get("status") or {}
    for what in ("capacity", "allocatable"):
        for name, value in (status.get(what) or {}).items():
            amount = quantity.parse(value)
            if amount < 0:
                yield f"status.{what}[{name}]", f'Invalid value: "{value}": must be greater than or equal to 0'
            elif "/" in name and amount.denominator != 1:
                yield f"status.{what}[{name}]", f'Invalid value: "{value}": must be an integer'


def _webhooks(obj: Object, old: Object | None) -> Faults:
    for index, webhook in enumerate(obj.get("webhooks") or ()):
        path = f"webhooks[{index}]"
        if not metadata.is_subdomain(webhook["name"]) or webhook["name"].count(".") < 2:
            yield (
                f"{path}.name",
                f'Invalid value: "{webhook["name"]}": should be a domain with at least three segments separated by dots',
            )
        if webhook.get("sideEffects") not in ("None", "NoneOnDryRun"):
            yield (
                f"{path}.sideEffects",
                f'Unsupported value: "{webhook.get("sideEffects")}": supported values: "None", "NoneOnDryRun"',
            )
        if not 1 <= webhook["timeoutSeconds"] <= 30:
            yield (
                f"{path}.timeoutSeconds",
                f"Invalid value: {webhook['timeoutSeconds']}: the timeout value must be between 1 and 30 seconds",
            )
        if not {"v1", "v1beta1"} & set(webhook.get("admissionReviewVersions") or ()):
            yield f"{path}.admissionReviewVersions", "Invalid value: must include at least one of v1, v1beta1"
        config = webhook["clientConfig"]
        if ("url" in config) == ("service" in config):
            yield f"{path}.clientConfig", "Required value: exactly one of url or service is required"
        elif "url" in config and not config["url"].startswith("https://"):
            yield (
                f"{path}.clientConfig.url",
                f"Invalid value: \"{config['url']}\": 'https' is the only allowed URL scheme",
            )
        for key, allowed in (
            ("failurePolicy", ("Fail", "Ignore")),
            ("reinvocationPolicy", ("Never", "IfNeeded")),
            ("matchPolicy", ("Equivalent", "Exact")),
        ):
            if webhook.get(key, allowed[0]) not in allowed:
                yield f"{path}.{key}", f'Unsupported value: "{webhook[key]}"'
        for at, condition in enumerate(webhook.get("matchConditions") or ()):
            try:
                cel.parse(condition["expression"])
            except cel.Wrong as error:
                yield (
                    f"{path}.matchConditions[{at}].expression",
                    f'Invalid value: "{condition["expression"]}": compilation failed: {error}',
                )


def _policies(obj: Object, old: Object | None) -> Faults:
    spec = obj["spec"]
    for part in ("matchConditions", "variables", "validations"):
        for index, entry in enumerate(spec.get(part) or ()):
            for key in ("expression", "messageExpression"):
                try:
                    cel.parse(entry.get(key) or "true")
                except cel.Wrong as error:
                    yield f"spec.{part}[{index}].{key}", f'Invalid value: "{entry[key]}": compilation failed: {error}'


def _crds(obj: Object, old: Object | None) -> Faults:
    spec = obj["spec"]
    if obj["metadata"]["name"] != f"{spec['names']['plural']}.{spec['group']}":
        yield "metadata.name", f'Invalid value: "{obj["metadata"]["name"]}": must be spec.names.plural+"."+spec.group'
    if sum(1 for version in spec["versions"] if version.get("storage")) != 1:
        yield "spec.versions", "Invalid value: must have exactly one version marked as storage version"
    for index, version in enumerate(spec["versions"]):
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        where = f"spec.versions[{index}].schema.openAPIV3Schema"
        if schema is None:
            yield where, "Required value: schemas are required"
        else:
            yield from _structural(schema, where)


def _structural(schema: dict[str, Any], path: str) -> Faults:
    """Every part names its type, as apiextensions.k8s.io/v1 demands."""
    free = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    if not schema.get("type") and not free:
        yield f"{path}.type", "Required value: must not be empty for specified object fields"
    for name, part in (schema.get("properties") or {}).items():
        yield from _structural(part, f"{path}.properties[{name}]")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _structural(schema[key], f"{path}.{key}")


_CHECKS: Final[dict[str, Callable[[Object, Object | None], Faults]]] = {
    "events": _events,
    "configmaps": _config,
    "secrets": _secrets,
    "leases": _leases,
    "runtimeclasses": _runtime_classes,
    "nodes": _nodes,
    "mutatingwebhookconfigurations": _webhooks,
    "validatingwebhookconfigurations": _webhooks,
    "validatingadmissionpolicies": _policies,
    "customresourcedefinitions": _crds,
}
