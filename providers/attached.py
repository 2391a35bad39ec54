"""For clouds that give a machine its disks with the create, and take none later: whether it has them (pure)."""

from collections.abc import Mapping, Sequence

from providers.base import Disk, Instance, Volume
from providers.errors import InvalidSpec, NotFound


def check(machine: str, seen: Instance | None, volumes: Sequence[Volume], found: Mapping[str, Disk]) -> None:
    """Raises NotFound or InvalidSpec unless the machine has all of these: it was created with them."""
    doing = f"cannot attach to {machine}"
    if seen is None:
        raise NotFound(f"{doing}: there is no such machine")
    for volume in volumes:
        disk = found.get(volume.id)
        if disk is None:
            raise NotFound(f"{doing}: there is no disk {volume.id}")
        if machine in disk.attached_to:
            continue
        if disk.attached_to:
            raise InvalidSpec(f"{doing}: {', '.join(disk.attached_to)} has the disk {volume.id}")
        if disk.zone and disk.zone != seen.zone:
            place = f"zone {seen.zone}" if seen.zone else "no zone"
            raise InvalidSpec(f"{doing}: the disk {volume.id} is in zone {disk.zone}, the machine in {place}")
        raise InvalidSpec(f"{doing}: it was not created with the disk {volume.id}, and takes none later")
