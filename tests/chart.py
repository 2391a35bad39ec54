"""values.schema.json of the chart: the part about `config` out of the settings themselves, the rest as it is here.

python -m tests.chart --write      also by `make docs`
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from adaptor.cli.migration import OWNED
from adaptor.cli.reference import value_text
from adaptor.config import ROOMS
from providers import registry
from providers.settings import MISSING, settings_of

SCHEMA: Final = Path(__file__).parents[1] / "manifests" / "peerpods" / "values.schema.json"

Schema = dict[str, Any]
_TEXT: Final[Schema] = {"type": "string"}
_FLAG: Final[Schema] = {"type": "boolean"}
_TEXTS: Final[Schema] = {"type": "array", "items": _TEXT}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_LABELS: Final[Schema] = {"type": "object", "additionalProperties": _TEXT}
_FREE: Final[Schema] = {"type": "object"}  # Kubernetes' own, which the API server checks
_FREE_LIST: Final[Schema] = {"type": "array", "items": {"type": "object"}}
# As TOML has a setting: any of its forms, never a list of tables.
_VALUE: Final[Schema] = {
    "type": ["string", "number", "boolean", "array", "object", "null"],
    "items": {"type": ["string", "number", "boolean"]},
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}


def of(properties: Mapping[str, Any], *, required: tuple[str, ...] = ()) -> Schema:
    """A table with these keys and no others."""
    made: Schema = {"type": "object", "additionalProperties": False, "properties": dict(properties)}
    return made | ({"required": list(required)} if required else {})


def choice(*words: str) -> Schema:
    return {"enum": list(words)}


def config() -> Schema:
    """Every setting that may stand in a ConfigMap."""
    clouds = {name: type(registry.parse_config(name, {}, {}, [])) for name in registry.BUILT_IN}
    tables = {}
    for table, room in {**ROOMS, **clouds}.items():
        keys = {}
        for field, rule in settings_of(room):
            if rule.secret or field.name in OWNED.get(table, {}):
                continue
            default = "must be given" if field.default is MISSING else f"default: {value_text(field.default)}"
            keys[field.name] = {
                "$ref": "#/definitions/value",
                "description": f"{rule.help} ({default}; {rule.form.allowed})",
            }
        tables[table] = of(keys)
    tables["cloud"]["properties"]["provider"] = _TEXT
    tables["kubernetes"]["properties"]["capacity"] = choice("status", "device-plugin", "off")
    tables["kubernetes"]["properties"]["pull_secrets"] = choice("node", "own", "off")
    tables["webhook"]["properties"]["mode"] = choice("zero", "strip")
    for lists in (("kubernetes", "runtime_classes"), ("webhook", "gpu_resources")):
        tables[lists[0]]["properties"][lists[1]] = _TEXTS | {"minItems": 1}
    return of(tables, required=("cloud", "node", "kubernetes", "webhook"))


_IMAGE: Final = {
    "repository": _TEXT,
    "tag": _TEXT,
    "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
}
_ACCOUNT: Final = of({"annotations": _LABELS})
_RESOURCES: Final = of({"requests": _FREE, "limits": _FREE, "claims": _FREE_LIST})
_POD: Final = {"podLabels": _LABELS, "podAnnotations": _LABELS, "resources": _RESOURCES}
_PLACED: Final = {
    "nodeSelector": _LABELS,
    "affinity": _FREE,
    "tolerations": _FREE_LIST,
    "priorityClassName": _TEXT,
}
_EXTRA: Final = {"extraEnv": _FREE_LIST, "extraVolumes": _FREE_LIST, "extraVolumeMounts": _FREE_LIST}


def _adaptor() -> Schema:
    return of(
        {
            "serviceAccount": _ACCOUNT,
            **_POD,
            **_PLACED,
            **_EXTRA,
            "maxUnavailable": {"type": ["integer", "string"], "pattern": "^[1-9][0-9]?%$|^100%$"},
            "seLinuxOptions": of(dict.fromkeys(("type", "level", "role", "user"), _TEXT)),
        }
    )


def _webhook() -> Schema:
    return of(
        {
            "replicas": _COUNT | {"minimum": 1},
            "failurePolicy": choice("Fail", "Ignore"),
            "timeoutSeconds": {"type": "integer", "minimum": 1, "maximum": 5},
            "excludedNamespaces": _TEXTS,
            "serviceAccount": _ACCOUNT,
            **_POD,
            **_PLACED,
            "extraEnv": _FREE_LIST,
            "certManager": of({"enabled": _FLAG, "issuerRef": of({"kind": _TEXT, "name": _TEXT, "group": _TEXT})}),
        }
    )


def _controller() -> Schema:
    replicas = _COUNT | {"minimum": 1}
    return of(
        {
            "replicas": replicas,
            "serviceAccount": _ACCOUNT,
            **_POD,
            **_PLACED,
            **_EXTRA,
            "uninstallHook": _FLAG,
        }
    )


def _cluster() -> dict[str, Schema]:
    """What belongs to no part."""
    classes = {"create": _FLAG, "handler": _TEXT, "overhead": _LABELS, "vmInOverhead": _FLAG, "nodeSelector": _LABELS}
    monitoring = {
        "podMonitor": of({"enabled": _FLAG, "interval": _TEXT, "labels": _LABELS}),
        "rules": of({"enabled": _FLAG, "labels": _LABELS}),
        "dashboard": of({"enabled": _FLAG, "labels": _LABELS, "annotations": _LABELS}),
    }
    return {
        "runtimeClass": of(classes),
        "nodePolicy": of({"enabled": _FLAG}),
        "criticalPodsQuota": _FLAG,
        "networkPolicy": of({"enabled": _FLAG}),
        "monitoring": of(monitoring),
        "commonLabels": _LABELS,
    }


def schema() -> Schema:
    """The whole, as the file has it."""
    properties = {
        "global": _FREE,  # helm's own, for charts inside charts
        "image": of({**_IMAGE, "pullPolicy": choice("Always", "IfNotPresent", "Never")}),
        "imagePullSecrets": {"type": "array", "items": of({"name": _TEXT}, required=("name",))},
        "config": config(),
        "credentials": of({"existingSecret": _TEXT, "values": _LABELS}),
        "admission": choice("webhook", "policy", "none"),
        "adaptor": _adaptor(),
        "relay": of({"updateStrategy": choice("RollingUpdate", "OnDelete"), "image": of(_IMAGE), **_POD}),
        "wireguard": of({"image": of(_IMAGE), **_POD}),
        "webhook": _webhook(),
        "controller": _controller(),
        **_cluster(),
    }
    head = {"$schema": "https://json-schema.org/draft-07/schema#", "definitions": {"value": _VALUE}}
    return {**head, **of(properties)}


def text() -> str:
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(text(), encoding="utf-8") if "--write" in sys.argv else print(text(), end="")
