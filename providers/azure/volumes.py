"""Managed disks as pods' volumes (pure): what Azure says of one, and where it shows in the machine."""

from collections.abc import Mapping, Sequence
from typing import Any

from providers.base import Disk, Instance, Volume
from providers.errors import InvalidSpec, NotFound


def disk(id: str, shape: Mapping[str, Any], region: str) -> Disk:
    """One of Azure's disks, called as it was asked for. Zone-redundant ones can be attached in every zone."""
    properties, zones = shape["properties"], shape.get("zones") or []
    redundant = str((shape.get("sku") or {}).get("name", "")).endswith("_ZRS")
    holders = [shape.get("managedBy"), *(shape.get("managedByExtended") or [])]
    found = dict.fromkeys(holder.rpartition("/")[2] for holder in holders if holder)
    return Disk(
        id=id,
        zone=zones[0] if zones and not redundant else "",
        size_gib=int(properties["diskSizeGB"]),
        attached_to=tuple(found),
        shareable=int(properties.get("maxShares") or 1) > 1,
    )


def check(vm: str, seen: Instance | None, volumes: Sequence[Volume], found: Mapping[str, Disk]) -> None:
    """Raises NotFound or InvalidSpec unless the machine has all of these: it was created with them."""
    doing = f"cannot attach to {vm}"
    if seen is None:
        raise NotFound(f"{doing}: there is no such VM")
    for volume in volumes:
        disk = found.get(volume.id)
        if disk is None:
            raise NotFound(f"{doing}: there is no disk {volume.id}")
        if vm in disk.attached_to:
            continue
        if disk.attached_to:
            raise InvalidSpec(f"{doing}: {', '.join(disk.attached_to)} has the disk {volume.id}")
        if disk.zone and disk.zone != seen.zone:
            place = f"zone {seen.zone}" if seen.zone else "no zone"
            raise InvalidSpec(f"{doing}: the disk {volume.id} is in zone {disk.zone}, the VM in {place}")
        raise InvalidSpec(f"{doing}: it was not created with the disk {volume.id}, and takes none later")
