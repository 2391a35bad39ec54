"""Managed disks as pods' volumes (pure): what Azure says of one, and where it shows in the machine."""

from collections.abc import Mapping
from typing import Any

from providers.base import Disk


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
