"""What EC2 makes for pod VMs, as the sweep sees it: how each kind is listed, read and deleted (pure)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from providers import tags
from providers.aws import requests
from providers.base import InstanceState, Ownership, Resource, ResourceKind

Shape = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Door:
    """Where a kind is found."""

    describe: str  # the SDK's method
    page: int | None  # the largest page EC2 gives; None: it gives everything at once
    id: str  # the filter for one
    read: Callable[[Shape], Iterator[Resource]]
    delete: str = ""  # the SDK's method; empty: as instances are
    parameter: str = ""  # of that method, for the id


def tagged(kind: ResourceKind, owner: Ownership) -> requests.Request:
    """The describe call for all of a kind in the whole cluster."""
    return _described(kind, (f"tag:{tags.CLUSTER}", owner.cluster))


def one(resource: Resource) -> requests.Request:
    """The describe call for this one; by filter, for an unknown id in a list of ids is an error."""
    return _described(resource.kind, (DOORS[resource.kind].id, resource.id))


def _described(kind: ResourceKind, filter: tuple[str, str]) -> requests.Request:
    page = DOORS[kind].page
    filters = [{"Name": filter[0], "Values": [requests.literal(filter[1])]}]
    return {"Filters": filters} if page is None else {"Filters": filters, "MaxResults": page}


def _instances(answer: Shape) -> Iterator[Resource]:
    for shape in (shape for reservation in answer["Reservations"] for shape in reservation["Instances"]):
        made = requests.instance(shape)
        if made.state is not InstanceState.GONE:
            yield Resource(
                ResourceKind.INSTANCE,
                made.id,
                name=made.name,
                tags=made.tags,
                created_at=made.launched_at,
                addresses=made.addresses[:1],
                facts=f"{made.instance_type} {shape['State']['Name']} in {made.zone}",
            )


def _interfaces(answer: Shape) -> Iterator[Resource]:
    for shape in answer["NetworkInterfaces"]:
        found = _tags(shape.get("TagSet"))
        holder = shape.get("Attachment") or {}
        public = (shape.get("Association") or {}).get("PublicIp")
        yield Resource(
            ResourceKind.INTERFACE,
            shape["NetworkInterfaceId"],
            name=found.get("Name", ""),
            tags=found,
            # An interface of one of Amazon's services is attached, and has no instance.
            attached_to=holder.get("InstanceId") or holder.get("AttachmentId") or "",
            facts=f"{shape.get('PrivateIpAddress', 'no address')} of {shape.get('SubnetId', 'no subnet')}"
            + (f", public {public}" if public else ""),
        )


def _addresses(answer: Shape) -> Iterator[Resource]:
    for shape in answer["Addresses"]:
        found = _tags(shape.get("Tags"))
        holder = shape.get("InstanceId") or shape.get("NetworkInterfaceId") or shape.get("AssociationId") or ""
        yield Resource(
            ResourceKind.ADDRESS,
            shape["AllocationId"],
            name=found.get("Name", ""),
            tags=found,
            attached_to=holder,
            facts=f"{'public' if holder else 'idle public'} address {shape['PublicIp']}",
        )


def _disks(answer: Shape) -> Iterator[Resource]:
    for shape in answer["Volumes"]:
        found = _tags(shape.get("Tags"))
        holders = [each for each in shape.get("Attachments") or [] if each.get("State") != "detached"]
        if shape["State"] not in ("deleting", "deleted"):
            yield Resource(
                ResourceKind.DISK,
                shape["VolumeId"],
                name=found.get("Name", ""),
                tags=found,
                created_at=shape["CreateTime"].timestamp(),
                attached_to=holders[0]["InstanceId"] if holders else "",
                facts=f"{shape['Size']} GiB {shape['VolumeType']} in {shape['AvailabilityZone']}",
            )


def _tags(found: Any) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in found or []}


DOORS: Final = {
    ResourceKind.INSTANCE: Door("describe_instances", requests.PAGE, "instance-id", _instances),
    ResourceKind.INTERFACE: Door(
        "describe_network_interfaces",
        1000,
        "network-interface-id",
        _interfaces,
        "delete_network_interface",
        "NetworkInterfaceId",
    ),
    ResourceKind.ADDRESS: Door(
        "describe_addresses", None, "allocation-id", _addresses, "release_address", "AllocationId"
    ),
    ResourceKind.DISK: Door("describe_volumes", 500, "volume-id", _disks, "delete_volume", "VolumeId"),
}
