"""A pod's disks: which they are, how they are attached at create, how the guest finds them (pure)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from providers.base import Device, Disk, Volume
from providers.gcp.config import GcpConfig

# What Google calls these disks, in a disk's access mode, when several machines may have it.
_SHAREABLE: Final = ("READ_WRITE_MANY", "READ_ONLY_MANY")
_FORM: Final = re.compile(
    r"(?:https?://\S+?/)?(?:projects/(?P<project>[^/]+)/)?(?:zones/(?P<zone>[^/]+)|regions/(?P<region>[^/]+))/disks/"
    r"(?P<name>[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?)"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a disk is."""

    project: str
    zone: str  # empty for a regional disk
    region: str  # empty for a zonal one
    name: str

    @property
    def path(self) -> str:
        where = f"zones/{self.zone}" if self.zone else f"regions/{self.region}"
        return f"projects/{self.project}/{where}/disks/{self.name}"


def place(disk: str, config: GcpConfig) -> Place | None:
    """The disk that this id means; None for what is none."""
    found = _FORM.fullmatch(disk)
    if not found:
        return None
    return Place(found["project"] or config.project, found["zone"] or "", found["region"] or "", found["name"])


def problem(disk: str, zone: str, config: GcpConfig) -> str:
    """Why a machine in this zone cannot have this disk; empty when it may."""
    found = place(disk, config)
    if found is None:
        return f"the volume {disk!r} is no disk: give projects/P/zones/Z/disks/NAME or projects/P/regions/R/disks/NAME"
    if found.zone and found.zone != zone:
        return f"the volume {found.name} is in {found.zone}, the machine would be in {zone}"
    if found.region and not zone.startswith(f"{found.region}-"):
        return f"the volume {found.name} is in {found.region}, the machine would be in {zone}"
    return ""


def device_name(index: int) -> str:
    """By what the guest finds a volume: /dev/disk/by-id/google-NAME. Its own name may be another pod's too."""
    return f"volume-{index}"


def device(index: int) -> Device:
    """See SupportsVolumes.device."""
    return Device(serial=device_name(index))


def attached(volume: Volume, index: int, config: GcpConfig) -> dict[str, Any]:
    """An entry of an instance's disks: never deleted with it."""
    found = place(volume.id, config)
    return {
        "type_": "PERSISTENT",
        "source": found.path if found else volume.id,
        "device_name": device_name(index),
        "mode": "READ_ONLY" if volume.read_only else "READ_WRITE",
        "auto_delete": False,
    }


def request(found: Place) -> tuple[str, dict[str, Any]]:
    """Which of the SDK's services describes it, and with what request."""
    asked = {"project": found.project, "disk": found.name}
    return ("disks", asked | {"zone": found.zone}) if found.zone else ("region_disks", asked | {"region": found.region})


def disk(id: str, shape: Mapping[str, Any]) -> Disk:
    """One of Compute Engine's disks, under the id it was asked for by."""
    return Disk(
        id=id,
        zone=shape.get("zone", "").rpartition("/")[2],
        size_gib=int(shape["size_gb"]),
        attached_to=tuple(user(link) for link in shape.get("users", [])),
        shareable=shape.get("access_mode", "") in _SHAREABLE,
    )


def user(link: str) -> str:
    """The instance's id, or the path, of what holds a disk or an address."""
    found = re.search(r"zones/([^/]+)/instances/([^/]+)$", link)
    return f"{found[1]}/{found[2]}" if found else link
