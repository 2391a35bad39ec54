"""What exists in a subscription: resources by id, whose case does not matter."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from providers.simcloud.arm.errors import Refused, no_resource

SUBSCRIPTION: Final = "00000000-0000-4000-8000-051c10ad0001"
TENANT: Final = "00000000-0000-4000-8000-051c10ad0002"
GROUP: Final = "peerpods"

VM: Final = "Microsoft.Compute/virtualMachines"
DISK: Final = "Microsoft.Compute/disks"
IMAGE: Final = "Microsoft.Compute/images"
GALLERY: Final = "Microsoft.Compute/galleries"
GALLERY_IMAGE: Final = "Microsoft.Compute/galleries/images"
GALLERY_VERSION: Final = "Microsoft.Compute/galleries/images/versions"
PROXIMITY: Final = "Microsoft.Compute/proximityPlacementGroups"
RESERVATION_GROUP: Final = "Microsoft.Compute/capacityReservationGroups"
HOST_GROUP: Final = "Microsoft.Compute/hostGroups"
HOST: Final = "Microsoft.Compute/hostGroups/hosts"
ENCRYPTION_SET: Final = "Microsoft.Compute/diskEncryptionSets"
NIC: Final = "Microsoft.Network/networkInterfaces"
VNET: Final = "Microsoft.Network/virtualNetworks"
SUBNET: Final = "Microsoft.Network/virtualNetworks/subnets"
NSG: Final = "Microsoft.Network/networkSecurityGroups"
NSG_RULE: Final = "Microsoft.Network/networkSecurityGroups/securityRules"
ADDRESS: Final = "Microsoft.Network/publicIPAddresses"
IDENTITY: Final = "Microsoft.ManagedIdentity/userAssignedIdentities"

_TIMELESS: Final = (PROXIMITY, RESERVATION_GROUP, HOST_GROUP)  # they are there at once


@dataclass(frozen=True, slots=True)
class ResourceId:
    """`/subscriptions/S/resourceGroups/G/providers/NS/type/name/type/name`, taken apart."""

    subscription: str
    group: str
    type: str  # Microsoft.Network/virtualNetworks/subnets, as it was written
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "ResourceId | None":
        """None for what is not the id of a resource in a group."""
        parts = text.split("/")
        marks = [part.lower() for part in (parts[1:6:2] if len(parts) > 6 else [])]
        if parts[0] or marks != ["subscriptions", "resourcegroups", "providers"] or len(parts) % 2 == 0:
            return None
        if not all(parts[1:]):
            return None
        namespace, rest = parts[6], parts[7:]
        if not rest or len(rest) % 2:
            return None
        return cls(parts[2], parts[4], "/".join([namespace, *rest[::2]]), tuple(rest[1::2]))


@dataclass(eq=False, slots=True)
class Resource:
    """One resource; `body` is what GET answers, but for what is worked out then."""

    id: str
    type: str
    body: dict[str, Any]
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    revision: int = 1

    @property
    def name(self) -> str:
        return self.id.rpartition("/")[2]

    @property
    def group(self) -> str:
        return self.id.split("/")[4]

    @property
    def properties(self) -> dict[str, Any]:
        properties: dict[str, Any] = self.body["properties"]
        return properties

    @property
    def tags(self) -> Mapping[str, str]:
        return self.body.get("tags") or {}

    @property
    def etag(self) -> str:
        """Compute counts; network makes a new one each time."""
        if self.type.startswith("Microsoft.Compute"):
            return f'"{self.revision}"'
        return f'W/"{uuid.uuid5(uuid.NAMESPACE_URL, f"{self.id.lower()}#{self.revision}")}"'


class World:
    """One subscription in one region."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.groups: dict[str, dict[str, Any]] = {}
        self._resources: dict[str, Resource] = {}
        self.add_group(GROUP)

    def add_group(self, name: str) -> None:
        """A resource group in this region."""
        self.groups[name.lower()] = {
            "id": f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{name}",
            "name": name,
            "type": "Microsoft.Resources/resourceGroups",
            "location": self.region,
            "properties": {"provisioningState": "Succeeded"},
        }

    def group(self, name: str) -> dict[str, Any]:
        """Raises Refused."""
        if name.lower() not in self.groups:
            raise Refused("ResourceGroupNotFound", f"Resource group '{name}' could not be found.")
        return self.groups[name.lower()]

    def add(self, resource_type: str, group: str, *names: str, **body: Any) -> Resource:
        """A new resource, or another in its place; `properties` says that it has succeeded unless told otherwise."""
        resource_id = id_of(resource_type, group, *names)
        made = {"name": names[-1], "id": resource_id, "type": resource_type, **body}
        made.setdefault("properties", {})
        if resource_type not in _TIMELESS:
            made["properties"].setdefault("provisioningState", "Succeeded")
        resource = self._resources[resource_id.lower()] = Resource(resource_id, resource_type, made)
        return resource

    def find(self, resource_id: str, resource_type: str = "") -> Resource | None:
        """By id, of this type if one is given."""
        found = self._resources.get(resource_id.lower())
        return found if found and resource_type.lower() in ("", found.type.lower()) else None

    def named(self, resource_type: str, group: str, *names: str) -> Resource:
        """What a path names. Raises Refused."""
        found = self.find(id_of(resource_type, group, *names))
        if found is None:
            raise no_resource(resource_type, "/".join(names), group)
        return found

    def remove(self, resource: Resource) -> None:
        """It is gone."""
        self._resources.pop(resource.id.lower(), None)

    def all(self, resource_type: str = "", group: str = "") -> Iterator[Resource]:
        """In order of creation; both are optional."""
        for resource in list(self._resources.values()):
            if resource_type.lower() in ("", resource.type.lower()) and group.lower() in ("", resource.group.lower()):
                yield resource


def id_of(resource_type: str, group: str, *names: str) -> str:
    """A resource's id."""
    namespace, *types = resource_type.split("/")
    path = "/".join(f"{kind}/{name}" for kind, name in zip(types, names, strict=True))
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/{namespace}/{path}"


def shown(resource: Resource) -> dict[str, Any]:
    """As GET shows it; of what compute keeps, only VMs have an etag."""
    tagged = resource.type == VM or not resource.type.startswith("Microsoft.Compute/")
    return {**resource.body, "etag": resource.etag} if tagged else resource.body
