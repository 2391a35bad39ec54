"""What Compute Engine makes for pod VMs, as the sweep sees it: how each kind is listed, read and deleted (pure).

Network interfaces are parts of their instances here: they are not listed, and cannot leak.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from providers import tags
from providers.base import Ownership, Resource, ResourceKind
from providers.gcp import marks, requests, volumes
from providers.gcp.config import GcpConfig

Shape = Mapping[str, Any]
Place = tuple[str, requests.Request]  # the SDK's service, and what its `get` and `delete` take; no service: no such id


@dataclass(frozen=True, slots=True)
class Door:
    """Where a kind is found."""

    service: str  # whose aggregatedList has all of them
    read: Callable[[Shape, GcpConfig], Resource]
    locate: Callable[[str, GcpConfig], Place]


def is_clusters(resource: Resource, owner: Ownership) -> bool:
    """Whether its exact tags are the cluster's; Google's filter saw its labels only."""
    return resource.tags.get(tags.CLUSTER) == owner.cluster


def _instance(shape: Shape, config: GcpConfig) -> Resource:
    made = requests.instance(shape)
    return Resource(
        ResourceKind.INSTANCE,
        made.id,
        name=made.name,
        tags=made.tags,
        created_at=made.launched_at,
        addresses=made.addresses,
        facts=f"{made.instance_type} {shape.get('status', '').lower()} in {made.zone}",
    )


def _disk(shape: Shape, config: GcpConfig) -> Resource:
    found = marks.described(shape.get("description", ""))
    zone, region = requests.last(shape.get("zone", "")), requests.last(shape.get("region", ""))
    users = shape.get("users", [])
    return Resource(
        ResourceKind.DISK,
        volumes.Place(config.project, zone, region, shape["name"]).path,
        name=found.get(marks.NAME) or shape["name"],
        tags=found,
        created_at=requests.moment(shape.get("creation_timestamp", "")),
        attached_to=volumes.user(users[0]) if users else "",
        facts=f"{shape.get('size_gb', '?')} GiB {requests.last(shape.get('type_', ''))} in {zone or region}",
    )


def _address(shape: Shape, config: GcpConfig) -> Resource:
    found = marks.described(shape.get("description", ""))
    region = requests.last(shape.get("region", ""))
    users = shape.get("users", [])
    kind = shape.get("address_type", "EXTERNAL").lower()
    return Resource(
        ResourceKind.ADDRESS,
        f"projects/{config.project}/regions/{region}/addresses/{shape['name']}",
        name=found.get(marks.NAME) or shape["name"],
        tags=found,
        created_at=requests.moment(shape.get("creation_timestamp", "")),
        attached_to=volumes.user(users[0]) if users else "",
        facts=f"{'' if users else 'idle '}{kind} address {shape.get('address', '')} in {region}",
    )


def _locate_instance(id: str, config: GcpConfig) -> Place:
    place = requests.place(id)
    return ("instances", requests.one(config, *place)) if place else ("", {})


def _locate_disk(id: str, config: GcpConfig) -> Place:
    place = volumes.place(id, config)
    return volumes.request(place) if place else ("", {})


def _locate_address(id: str, config: GcpConfig) -> Place:
    found = re.fullmatch(r"projects/([^/]+)/regions/([^/]+)/addresses/([^/]+)", id)
    return (
        ("addresses", dict(zip(("project", "region", "address"), found.groups(), strict=True))) if found else ("", {})
    )


DOORS: Final = {
    ResourceKind.INSTANCE: Door("instances", _instance, _locate_instance),
    ResourceKind.DISK: Door("disks", _disk, _locate_disk),
    ResourceKind.ADDRESS: Door("addresses", _address, _locate_address),
}
