"""What Azure makes for pod VMs, as the sweep sees it: where each kind is, and how it reads (pure)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from providers import tags
from providers.azure import requests
from providers.azure.config import AzureConfig
from providers.base import InstanceState, Ownership, Resource, ResourceKind

Shape = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Door:
    """Where a kind is found."""

    type: str  # of the resource provider
    network: bool  # whose api-version it has: the network's or compute's
    read: Callable[[Shape], Resource | None]  # None: it is being deleted


def path(kind: ResourceKind, config: AzureConfig, name: str = "") -> str:
    """Where all of a kind are, or one of them."""
    return requests.resource_id(config, DOORS[kind].type, name).rstrip("/")


def is_of(resource: Resource, owner: Ownership) -> bool:
    """Whether it carries the cluster's tag."""
    return resource.tags.get(tags.CLUSTER) == owner.cluster


def _instance(shape: Shape) -> Resource | None:
    made = requests.instance(shape)
    if made.state is InstanceState.GONE:
        return None
    where = f"zone {made.zone} of {shape['location']}" if made.zone else shape["location"]
    return Resource(
        ResourceKind.INSTANCE,
        made.id,
        name=made.name,
        tags=made.tags,
        created_at=made.launched_at,
        addresses=made.addresses,
        facts=f"{made.instance_type} {made.state} in {where}",
    )


def _interface(shape: Shape) -> Resource | None:
    properties = shape["properties"]
    private = requests.addresses(shape)
    holder = properties.get("virtualMachine") or properties.get("privateEndpoint") or {}
    subnet = properties["ipConfigurations"][0]["properties"].get("subnet", {}).get("id", "no subnet")
    facts = f"{' '.join(private) or 'no address'} of {_name(subnet)}"
    return _resource(ResourceKind.INTERFACE, shape, _name(holder.get("id", "")), facts)


def _address(shape: Shape) -> Resource | None:
    properties = shape["properties"]
    # .../networkInterfaces/<interface>/ipConfigurations/<name>
    held = (properties.get("ipConfiguration") or {}).get("id", "").split("/")
    interface = held[8] if len(held) > 8 else ""
    facts = f"{'public' if interface else 'idle public'} address {properties.get('ipAddress', 'not chosen yet')}"
    return _resource(ResourceKind.ADDRESS, shape, interface.removesuffix("-nic"), facts)


def _disk(shape: Shape) -> Resource | None:
    properties = shape["properties"]
    facts = f"{properties.get('diskSizeGB', '?')} GiB {(shape.get('sku') or {}).get('name', '')} in {shape['location']}"
    made = properties.get("timeCreated")
    created = requests.seconds(made) if made else None
    return _resource(ResourceKind.DISK, shape, _name(shape.get("managedBy") or ""), facts, created)


def _resource(
    kind: ResourceKind, shape: Shape, holder: str, facts: str, created: float | None = None
) -> Resource | None:
    if shape["properties"].get("provisioningState") == "Deleting":
        return None
    found: dict[str, str] = dict(shape.get("tags") or {})
    name = found.get(requests.NAME_TAG) or shape["name"]
    return Resource(kind, shape["name"], name=name, tags=found, created_at=created, attached_to=holder, facts=facts)


def _name(id: str) -> str:
    return id.rpartition("/")[2]


DOORS: Final = {
    ResourceKind.INSTANCE: Door("Microsoft.Compute/virtualMachines", network=False, read=_instance),
    ResourceKind.INTERFACE: Door("Microsoft.Network/networkInterfaces", network=True, read=_interface),
    ResourceKind.ADDRESS: Door("Microsoft.Network/publicIPAddresses", network=True, read=_address),
    ResourceKind.DISK: Door("Microsoft.Compute/disks", network=False, read=_disk),
}
