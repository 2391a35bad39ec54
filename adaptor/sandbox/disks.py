"""A pod's disks on their way to its VM: checked before anything is paid for, attached, told to relay and guest."""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from adaptor import names
from adaptor.catalog.select import Pin
from adaptor.errors import InvalidRequest, StartFailed
from adaptor.protos import guest_pb2, relay_pb2
from adaptor.sandbox import launch, recovery
from adaptor.sandbox.model import SandboxSpec
from adaptor.sandbox.rooms import Rooms
from adaptor.sandbox.work import Work
from adaptor.telemetry.spans import span
from adaptor.volumes import plan
from adaptor.volumes.records import DirectVolume
from providers.base import Device, LaunchSpec, SupportsVolumes
from providers.errors import ProviderError, Throttled, Transient
from providers.retry import retrying, until

T = TypeVar("T")

# Seconds between looks at a disk whose last machine is being deleted. Clouds take 5 to 60 s over it.
_LOOK: Final = 2.0
# Seconds between tries to attach to a machine that does not run yet. It runs within 5 to 20 s, and longer pauses would
# only delay the pod.
_READY: Final = 2.0
_LUKS: Final = "luks2"


def for_relay(rooms: Rooms, spec: SandboxSpec) -> list[relay_pb2.DirectVolume]:
    """What CreateContainer shall say of the pod's volumes. Raises InvalidRequest where the cloud gives no disks."""
    cloud = _cloud(rooms, spec) if spec.volumes else None
    if rooms.guest.flavor == "upstream" and (
        strange := [v.disk for _, v, d in _devices(cloud, spec) if not _stock(v, d)]
    ):
        raise InvalidRequest(
            f"stock pod VM images cannot tell the disks of {rooms.provider.name} apart ({', '.join(strange)}): pods with "
            "volumes need the peerpods image there (guest.flavor)"
        )
    return [
        relay_pb2.DirectVolume(
            name=_name(index),
            path=volume.path,
            device=volume.device,
            guest_path=f"{names.GUEST_VOLUMES_DIR}/{_name(index)}" if rooms.guest.flavor == "own" else "",
            read_only=volume.read_only,
            fs_type=volume.fs_type,
            lun=str(index if device.lun is None else device.lun),
            disk_id=volume.disk,
            fs_group="" if volume.fs_group is None else str(volume.fs_group),
            encrypt_type=_LUKS if volume.key_id else "",
            key_id=volume.key_id,
        )
        for index, volume, device in _devices(cloud, spec)
    ]


def for_guest(rooms: Rooms, spec: SandboxSpec) -> list[guest_pb2.Volume]:
    """What our own guest must mount before the pod begins."""
    cloud = _cloud(rooms, spec) if spec.volumes else None
    return [
        guest_pb2.Volume(
            name=_name(index),
            disk=volume.disk,
            serial=device.serial,
            lun=device.lun,
            fs_type=volume.fs_type,
            read_only=volume.read_only,
            fs_group=volume.fs_group,
            fs_group_on_mismatch=volume.fs_group_on_mismatch,
            key_id=volume.key_id,
        )
        for index, volume, device in _devices(cloud, spec)
    ]


async def pins(work: Work) -> tuple[Pin, ...]:
    """Where the pod's VM must be to have its disks. Waits for a machine that is being deleted to let go of them.

    Raises: InvalidRequest, StartFailed, each before anything is paid for.
    """
    spec, cloud = work.state.spec, work.rooms.provider.name
    if not spec.volumes:
        return ()
    asked = _cloud(work.rooms, spec)
    ids = tuple(volume.disk for volume in spec.volumes)
    told = False
    while True:
        disks = await _answered(work, "the pod's disks cannot be looked up", lambda: asked.disks(ids))
        place = plan.zone(spec.volumes, disks, cloud)
        held = plan.holders(disks)
        if not held:
            return (Pin(place, "the pod's disk"),) if place else ()
        await _check_holders(work, held)
        if not told:
            work.log.info("waiting for a machine that is being deleted to let go of the pod's disks", held=held)
            told = True
        if work.rooms.clock.now() + _LOOK >= work.deadline:
            raise StartFailed(
                f"machines that are being deleted did not let go of the pod's disks in time: {_told(held)}"
            )
        await work.rooms.clock.sleep(_LOOK)


async def _check_holders(work: Work, held: Mapping[str, str]) -> None:
    """Raises StartFailed where one of them lives on."""
    machines = await _answered(
        work, "who has the pod's disks cannot be looked up", lambda: work.rooms.provider.get(held)
    )
    if kept := plan.kept_by(held, machines):
        raise StartFailed(
            f"the pod's disks are in use: {_told({each: held[each] for each in kept})}, which lives. Another pod has "
            "them, or somebody attached them by hand; they must be let go of first"
        )


def _told(held: Mapping[str, str]) -> str:
    return "; ".join(f"{disk}, attached to the machine {machine}" for machine, disk in held.items())


async def attach(work: Work) -> None:
    """Have the cloud give the VM its disks; nothing where its create has done so. Raises StartFailed."""
    spec, instance_id = work.state.spec, work.state.instance_id
    asked, wanted = _cloud(work.rooms, spec), plan.attached(spec.volumes)
    with span(work.log, "volumes.attach", instance=instance_id, disks=[volume.id for volume in wanted]):
        try:
            what = f"the pod's disks cannot be attached to {instance_id}"
            await _answered(work, what, lambda: asked.attach(instance_id, wanted), _READY)
        except StartFailed as error:
            if reason := await _death(work):
                raise StartFailed(reason) from error
            raise


async def _death(work: Work) -> str:
    """Why the VM is not there any more; empty where it is, or nobody says."""
    instance_id = work.state.instance_id
    try:
        instance = (await work.rooms.provider.get([instance_id])).get(instance_id)
    except ProviderError:
        return ""
    return (recovery.death(instance) if instance is not None else "") or ""


async def _answered(work: Work, what: str, call: Callable[[], Awaitable[T]], longest: float = math.inf) -> T:
    """The call's answer; what passes is tried again while there is time, at least every `longest` seconds."""
    clock = work.rooms.clock
    try:
        async for attempt in retrying(lambda pause: clock.sleep(min(pause, longest)), until(clock.now, work.deadline)):
            with attempt:
                return await call()
    except (Throttled, Transient) as error:
        raise StartFailed(f"{what} in time: {error}") from error
    except ProviderError as error:
        raise StartFailed(f"{what}: {error}") from error
    raise AssertionError("the last attempt returns or raises")


def _cloud(rooms: Rooms, spec: SandboxSpec) -> SupportsVolumes:
    if not isinstance(rooms.provider, SupportsVolumes):
        disks = ", ".join(volume.disk for volume in spec.volumes)
        raise InvalidRequest(f"{rooms.provider.name} cannot give disks to pod VMs, and pod {spec.pod} has {disks}")
    return rooms.provider


def _devices(cloud: SupportsVolumes | None, spec: SandboxSpec) -> list[tuple[int, DirectVolume, Device]]:
    """Each volume with its number and how the guest finds it, which no cloud lets depend on the machine's type."""
    if cloud is None:
        return []
    machine = LaunchSpec(launch.vm_name(spec), spec.instance_type or "", b"", volumes=plan.attached(spec.volumes))
    return [(index, volume, cloud.device(machine, index)) for index, volume in enumerate(spec.volumes)]


def _stock(volume: DirectVolume, device: Device) -> bool:
    """Whether a stock guest can find it, which goes by LUN (Azure), or by the disk's id as serial (AWS)."""
    return device.lun is not None or device.serial == volume.disk.replace("-", "")


def _name(index: int) -> str:
    return f"vol-{index}"
