"""Which action a URL is, and what a link to a resource means."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from providers.simcloud.gce.errors import Refused, invalid

ROOT: Final = "https://www.googleapis.com/compute/v1/"
NAME: Final = r"(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)"
_V1: Final = "/compute/v1/projects/{project}"
_ZONAL: Final = "/zones/{zone}"
_REGIONAL: Final = "/regions/{region}"


def _collection(name: str, where: str, one: str, verbs: str) -> dict[tuple[str, str], str]:
    """The usual routes of a kind of resource: `verbs` are some of list, get, aggregatedList, insert, delete."""
    all_of_them = f"{_V1}{where}/{name}"
    routes = {
        "list": ("GET", all_of_them),
        "insert": ("POST", all_of_them),
        "aggregatedList": ("GET", f"{_V1}/aggregated/{name}"),
        "get": ("GET", f"{all_of_them}/{{{one}}}"),
        "delete": ("DELETE", f"{all_of_them}/{{{one}}}"),
    }
    return {routes[verb]: f"{name}.{verb}" for verb in verbs.split()}


def _on(name: str, where: str, one: str, verbs: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """Routes of single resources: {"setLabels": "POST"}."""
    return {(method, f"{_V1}{where}/{name}/{{{one}}}/{verb}"): f"{name}.{verb}" for verb, method in verbs.items()}


_INSTANCE_VERBS: Final = {
    **dict.fromkeys(("stop", "start", "reset", "setLabels", "setMetadata", "setTags"), "POST"),
    **dict.fromkeys(("attachDisk", "detachDisk", "testIamPermissions", "setDeletionProtection"), "POST"),
}
_READ: Final = "list get"
ROUTES: Final[Mapping[tuple[str, str], str]] = {
    ("GET", _V1): "projects.get",
    ("GET", _V1 + _ZONAL): "zones.get",
    ("GET", _V1 + "/zones"): "zones.list",
    ("GET", _V1 + _REGIONAL): "regions.get",
    ("GET", _V1 + "/regions"): "regions.list",
    **_collection("instances", _ZONAL, "instance", "list get aggregatedList insert delete"),
    **_on("instances", _ZONAL, "instance", _INSTANCE_VERBS),
    ("GET", f"{_V1}{_ZONAL}/instances/{{instance}}/serialPort"): "instances.getSerialPortOutput",
    **_collection("machineTypes", _ZONAL, "machineType", "list get aggregatedList"),
    **_collection("acceleratorTypes", _ZONAL, "acceleratorType", "list get aggregatedList"),
    **_collection("diskTypes", _ZONAL, "diskType", "list get aggregatedList"),
    **_collection("disks", _ZONAL, "disk", "list get aggregatedList insert delete"),
    **_on("disks", _ZONAL, "resource", {"setLabels": "POST"}),
    **_on("disks", _ZONAL, "disk", {"resize": "POST"}),
    **_collection("reservations", _ZONAL, "reservation", "list get aggregatedList"),
    **_collection("addresses", _REGIONAL, "address", "list get aggregatedList insert delete"),
    **_on("addresses", _REGIONAL, "resource", {"setLabels": "POST"}),
    **_collection("subnetworks", _REGIONAL, "subnetwork", "list get aggregatedList"),
    **_collection("networks", "/global", "network", _READ),
    **_collection("firewalls", "/global", "firewall", _READ),
    **_collection("images", "/global", "image", "list get insert delete"),
    ("GET", f"{_V1}/global/operations/{{operation}}"): "globalOperations.get",
    ("POST", "/upload/storage/v1/b/{bucket}/o"): "storage.uploads.begin",
    ("PUT", "/upload/storage/v1/b/{bucket}/o"): "storage.uploads.write",
    ("GET", "/storage/v1/b/{bucket}/o/{object}"): "storage.objects.get",
    ("DELETE", "/storage/v1/b/{bucket}/o/{object}"): "storage.objects.delete",
    ("GET", _V1 + "/global/images/family/{family}"): "images.getFromFamily",
    ("GET", f"{_V1}{_ZONAL}/operations"): "zoneOperations.list",
    ("GET", f"{_V1}{_ZONAL}/operations/{{operation}}"): "zoneOperations.get",
    ("POST", f"{_V1}{_ZONAL}/operations/{{operation}}/wait"): "zoneOperations.wait",
    ("GET", f"{_V1}{_REGIONAL}/operations"): "regionOperations.list",
    ("GET", f"{_V1}{_REGIONAL}/operations/{{operation}}"): "regionOperations.get",
    ("POST", f"{_V1}{_REGIONAL}/operations/{{operation}}/wait"): "regionOperations.wait",
    ("GET", "/v3/projects/{project}"): "cloudresourcemanager.projects.get",
    ("POST", "/v3/projects/{project}:testIamPermissions"): "cloudresourcemanager.projects.testIamPermissions",
    ("POST", "/v1/projects/{project}:testIamPermissions"): "cloudresourcemanager.projects.testIamPermissions",
    ("GET", "/v3/tagKeys/namespaced"): "cloudresourcemanager.tagKeys.getNamespaced",
    ("GET", "/v3/tagValues/namespaced"): "cloudresourcemanager.tagValues.getNamespaced",
    ("GET", "/v3/tagKeys/{tag}"): "cloudresourcemanager.tagKeys.get",
    ("GET", "/v3/tagValues/{tag}"): "cloudresourcemanager.tagValues.get",
    ("GET", "/v1/services/{service}/skus"): "cloudbilling.services.skus.list",
    ("POST", "/token"): "oauth2.token",
}
_GUEST: Final = "/computeMetadata/"  # asked by a worker that lives in this cloud


@dataclass(frozen=True, slots=True)
class Route:
    """What a URL asks for. `action` is empty for one that Google does not know."""

    action: str
    names: Mapping[str, str]  # what stands in its places: project, zone, instance


def route(method: str, path: str) -> Route:
    """The action for this method and path."""
    if path in ("/", "/computeMetadata") or path.startswith(_GUEST):  # the first is how libraries look for the server
        return Route("metadata.get", {})
    for (known, pattern), action in _compiled():
        if known == method and (found := pattern.fullmatch(path)):
            return Route(action, found.groupdict())
    return Route("", {})


@cache
def _compiled() -> list[tuple[tuple[str, re.Pattern[str]], str]]:
    return [((method, _pattern(template)), action) for (method, template), action in ROUTES.items()]


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/:]+)", re.escape(template)))


def link(path: str) -> str:
    """A resource's full URL; `path` starts with "projects/"."""
    return ROOT + path


_LINK: Final = re.compile(
    r"(?:https?://[^/]+/compute/(?:v1|beta)/)?"
    r"(?:projects/(?P<project>[^/]+)/)?(?P<scope>global|zones/[^/]+|regions/[^/]+)/(?P<kind>\w+)/(?P<name>[^/]+(?:/[^/]+)?)"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A resource that a request names."""

    project: str
    scope: str  # "global", "zones/us-central1-a" or "regions/us-central1"
    kind: str  # "machineTypes"
    name: str  # of an image "family/NAME" too

    @property
    def path(self) -> str:
        return f"projects/{self.project}/{self.scope}/{self.kind}/{self.name}"

    @property
    def place(self) -> str:
        """The zone's or region's name."""
        return self.scope.partition("/")[2]


def reference(text: str, kind: str, project: str, field: str) -> Reference:
    """A full or partial URL of a resource of this kind. Raises Refused for anything else, a bare name too."""
    found = _LINK.fullmatch(text)
    if found is None:
        raise invalid(field, text, "The URL is malformed.")
    if found["kind"] != kind:
        raise invalid(field, text, f"The URL is malformed. Must be a {kind} URL.")
    if "/" in found["name"] and not (kind == "images" and found["name"].startswith("family/")):
        raise invalid(field, text, "The URL is malformed.")
    return Reference(found["project"] or project, found["scope"], kind, found["name"])


def check_name(name: str, field: str = "resource.name") -> None:
    """Raises Refused for what is no name of a resource."""
    if not re.fullmatch(NAME, name):
        raise invalid(field, name, f"Must be a match of regex '{NAME}'")


def missing_page(method: str, path: str) -> Refused:
    """For a URL that Google does not know."""
    return Refused("notFound", f"The requested URL {path} was not found on this server ({method}).")
