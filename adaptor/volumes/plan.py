"""May a pod's disks be attached, where, and what must be waited for. Pure."""

from collections.abc import Collection, Mapping, Sequence

from adaptor.errors import InvalidRequest
from adaptor.volumes.records import DirectVolume
from providers.base import Disk, Instance, InstanceState, Volume


def attached(volumes: Sequence[DirectVolume]) -> tuple[Volume, ...]:
    """What to attach, in the order that numbers them."""
    return tuple(Volume(volume.disk, volume.read_only) for volume in volumes)


def zone(volumes: Sequence[DirectVolume], disks: Mapping[str, Disk], cloud: str) -> str:
    """The zone that the VM must be in; empty where any will do.

    Raises: InvalidRequest for a disk that does not exist, or disks that no VM can have together.
    """
    if missing := [volume for volume in volumes if volume.disk not in disks]:
        told = "; ".join(f"{volume.disk}, the volume at {volume.path}" for volume in missing)
        raise InvalidRequest(f"{cloud} has no such disk in this account and region: {told}")
    zones = {disk.zone: disk.id for disk in disks.values() if disk.zone}
    if len(zones) > 1:
        told = ", ".join(f"{disk} is in {place}" for place, disk in sorted(zones.items()))
        raise InvalidRequest(f"the pod's disks are in different zones, and no VM can have them all: {told}")
    return next(iter(zones), "")


def holders(disks: Mapping[str, Disk]) -> dict[str, str]:
    """Who must let go of what before the pod's VM can have it: machine id -> disk ids, in words."""
    held: dict[str, list[str]] = {}
    for disk in disks.values():
        for machine in () if disk.shareable else disk.attached_to:
            held.setdefault(machine, []).append(disk.id)
    return {machine: ", ".join(sorted(ids)) for machine, ids in held.items()}


def kept_by(held: Mapping[str, str], machines: Mapping[str, Instance]) -> Collection[str]:
    """Those holders that live on. One that is being deleted, or is not known any more, lets go by itself."""
    return [each for each in held if each in machines and machines[each].state is not InstanceState.GONE]
