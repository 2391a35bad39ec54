"""What clients ask before they ask for objects: health, version, groups, resources, and as much OpenAPI as Helm wants."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

from tests.worlds.kubernetes import schema
from tests.worlds.kubernetes.kinds import Kind, Kinds

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def discovered(kinds: Kinds, path: str) -> bytes | None:
    """The answer, if the path is one of these."""
    if path in ("/healthz", "/readyz", "/livez"):
        return b"ok"
    found = _document(kinds, path.rstrip("/"))
    return None if found is None else msgspec.json.encode(found)


def _document(kinds: Kinds, path: str) -> dict[str, Any] | None:
    if path == "/version":
        major, minor, _ = schema.VERSION.split(".")
        return {"major": major, "minor": minor, "gitVersion": f"v{schema.VERSION}", "platform": "linux/amd64"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    groups: defaultdict[str, list[Kind]] = defaultdict(list)
    for kind in kinds:
        groups[f"apis/{kind.api_version}" if kind.group else "api/v1"].append(kind)
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": _groups(kinds)}
    if path == "/openapi/v3":
        return {"paths": {where: {"serverRelativeURL": f"/openapi/v3/{where}"} for where in groups}}
    if members := groups.get(path.removeprefix("/openapi/v3").lstrip("/")):
        if path.startswith("/openapi/v3/"):
            return {"openapi": "3.0.0", "info": {"title": "world", "version": "1"}, "paths": dict(_patches(members))}
        head = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": members[0].api_version}
        return head | {"resources": [*_resources(members)]}
    return None


def _groups(kinds: Kinds) -> list[dict[str, Any]]:
    versions: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for kind in kinds:
        entry = {"groupVersion": kind.api_version, "version": kind.version}
        if kind.group and entry not in versions[kind.group]:
            versions[kind.group].append(entry)
    return [{"name": name, "versions": held, "preferredVersion": held[0]} for name, held in versions.items()]


def _resources(members: Iterable[Kind]) -> Iterable[dict[str, Any]]:
    for kind in members:
        common = {"singularName": kind.kind.lower(), "namespaced": kind.namespaced, "kind": kind.kind}
        yield {"name": kind.plural, **common, "verbs": _VERBS}
        for subresource in sorted(kind.subresources):
            yield {"name": f"{kind.plural}/{subresource}", **common, "verbs": ["get", "patch", "update"]}


def _patches(members: Iterable[Kind]) -> Iterable[tuple[str, dict[str, Any]]]:
    """That every kind takes `fieldValidation`: who sees this leaves validation to the server."""
    for kind in members:
        gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
        parameters = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
        patch = {"x-kubernetes-group-version-kind": gvk, "parameters": parameters, "responses": {}}
        yield f"/{kind.plural}/{{name}}", {"patch": patch}
