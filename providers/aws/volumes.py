"""Pods' EBS volumes: described, attached to a running instance, told apart in the guest by NVMe serial."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from providers.aws import requests
from providers.aws.asking import Ask
from providers.base import Device, Disk, Volume
from providers.errors import InvalidSpec, NotFound, Transient

PAGE: Final = 500
# Seconds between looks at an attachment under way, and for how many looks; seen are 1-3 s.
POLL: Final = 1.0
LOOKS: Final = 30

# The names Amazon recommends for volumes, then those it allows. The guest sees NVMe devices, whatever the name.
_NAMES: Final = tuple(
    [f"/dev/sd{letter}" for letter in "fghijklmnop"]
    + [f"/dev/xvd{first}{letter}" for first in "bcd" for letter in "abcdefghijklmnopqrstuvwxyz"]
)
_IN_USE: Final = "VolumeInUse"
_TAKEN: Final = "InvalidParameterValue"  # how a device name that is in use reads, too


@dataclass(frozen=True, slots=True)
class _Seen:
    disk: Disk
    state: str
    attachments: Mapping[str, str]  # instance id -> attaching | attached | busy | detaching


@dataclass(frozen=True, slots=True)
class _Machine:
    id: str
    state: str
    zone: str
    devices: frozenset[str]


def device(volume: Volume) -> Device:
    """Nitro shows a volume's id, without its dash, as the NVMe serial."""
    return Device(serial=volume.id.replace("-", ""))


def described(answer: Mapping[str, Any]) -> Iterator[_Seen]:
    """Every volume of a DescribeVolumes page."""
    for shape in answer["Volumes"]:
        held = {
            each["InstanceId"]: each["State"]
            for each in shape.get("Attachments") or []
            if each.get("State") != "detached" and each.get("InstanceId")
        }
        yield _Seen(
            Disk(
                shape["VolumeId"],
                zone=shape["AvailabilityZone"],
                size_gib=shape["Size"],
                attached_to=tuple(held),
                shareable=bool(shape.get("MultiAttachEnabled")),
            ),
            shape["State"],
            held,
        )


async def disks(ask: Ask, ids: Collection[str]) -> dict[str, Disk]:
    """See SupportsVolumes.disks."""
    return {id: seen.disk for id, seen in (await _describe(ask, ids)).items()}


async def attach(ask: Ask, instance_id: str, volumes: Sequence[Volume]) -> None:
    """See SupportsVolumes.attach."""
    if not volumes:
        return
    doing = f"cannot attach volumes to {instance_id}"
    machine = await _machine(ask, instance_id, doing)
    seen = await _describe(ask, [volume.id for volume in volumes])
    for volume in volumes:
        _check(doing, machine, volume, seen.get(volume.id))
    # All are sound: only now is the first one attached.
    names = iter([name for name in _NAMES if name not in machine.devices])
    for volume in volumes:
        if instance_id not in seen[volume.id].attachments:
            await _attach(ask, machine, volume, names)
    await _until_attached(ask, instance_id, [volume.id for volume in volumes])


def _check(doing: str, machine: _Machine, volume: Volume, seen: _Seen | None) -> None:
    if seen is None:
        raise NotFound(f"{doing}: the volume {volume.id} does not exist")
    if machine.id in seen.attachments:
        if seen.attachments[machine.id] == "detaching":
            raise Transient(f"{doing}: {volume.id} is being detached from it")
        return
    if seen.disk.zone != machine.zone:
        raise InvalidSpec(f"{doing} in {machine.zone}: the volume {volume.id} is in {seen.disk.zone}")
    if seen.attachments and not seen.disk.shareable:
        holders = ", ".join(seen.attachments)
        if "detaching" in seen.attachments.values():
            raise Transient(f"{doing}: {volume.id} is being detached from {holders}")
        raise InvalidSpec(f"{doing}: {holders} has the volume {volume.id}")
    if seen.state == "creating":
        raise Transient(f"{doing}: the volume {volume.id} is still being created")
    if seen.state not in ("available", "in-use"):
        raise InvalidSpec(f"{doing}: the volume {volume.id} is {seen.state}")


async def _attach(ask: Ask, machine: _Machine, volume: Volume, names: Iterator[str]) -> None:
    doing = f"cannot attach the volume {volume.id} to {machine.id}"
    name = next(names, None)
    if name is None:
        raise InvalidSpec(f"{doing}: it has no device name left")
    request = {"VolumeId": volume.id, "InstanceId": machine.id, "Device": name}
    try:
        await ask(doing, "attach_volume", request, requests.empty)
    except InvalidSpec as error:
        if error.code not in (_IN_USE, _TAKEN):
            raise
        # A repeat of ours may have been faster, or another machine.
        seen = (await _describe(ask, [volume.id])).get(volume.id)
        _check(doing, machine, volume, seen)
        if seen is None or machine.id not in seen.attachments:
            raise Transient(error.message, code=error.code, request_id=error.request_id) from error


async def _until_attached(ask: Ask, instance_id: str, ids: Sequence[str]) -> None:
    for _ in range(LOOKS):
        seen = await _describe(ask, ids)
        late = [id for id in ids if id not in seen or seen[id].attachments.get(instance_id) != "attached"]
        if not late:
            return
        await asyncio.sleep(POLL)
    raise Transient(f"EC2 has not attached {', '.join(late)} to {instance_id} within {LOOKS * POLL:.0f} s")


async def _describe(ask: Ask, ids: Collection[str]) -> dict[str, _Seen]:
    found: dict[str, _Seen] = {}
    # By filter: one unknown id in a list of ids fails the whole call.
    for chunk in requests.chunks(sorted(set(ids)), requests.IDS_PER_CALL):
        request = {"Filters": [{"Name": "volume-id", "Values": chunk}], "MaxResults": PAGE}
        doing = f"cannot describe the volumes {', '.join(chunk)}"
        found |= {seen.disk.id: seen for seen in await ask(doing, "describe_volumes", request, described)}
    return found


async def _machine(ask: Ask, instance_id: str, doing: str) -> _Machine:
    (request,) = requests.by_id([instance_id])
    for machine in await ask(doing, "describe_instances", request, _machines):
        if machine.state == "pending":
            raise Transient(f"{doing}: it does not run yet")
        if machine.state in ("shutting-down", "terminated"):
            raise NotFound(f"{doing}: it is {machine.state}")
        return machine
    raise NotFound(f"{doing}: it does not exist")


def _machines(answer: Mapping[str, Any]) -> Iterator[_Machine]:
    for shape in (shape for reservation in answer["Reservations"] for shape in reservation["Instances"]):
        yield _Machine(
            shape["InstanceId"],
            shape["State"]["Name"],
            shape.get("Placement", {}).get("AvailabilityZone", ""),
            frozenset(each["DeviceName"] for each in shape.get("BlockDeviceMappings", [])),
        )
