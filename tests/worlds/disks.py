"""The cloud in memory, with disks: they are in zones, one machine has each at a time, and let go of in their own time."""

from collections.abc import Collection, Mapping, Sequence

from adaptor.clock import Clock
from providers.base import Device, Disk, InstanceState, LaunchSpec, Volume
from providers.errors import InvalidSpec, NotFound, Transient
from tests.worlds.cloud import Cloud


class DiskCloud(Cloud):
    """`running_seconds`: from a create until its machine takes disks. `release_seconds`: from a machine's end until its
    disks are free. `at_create`: disks are attached by the create itself."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.zones: dict[str, str] = {}  # every disk, and its zone
        self.holders: dict[str, str] = {}  # disk -> the machine that has it
        self.shareable: set[str] = set()
        self.running_seconds = 5.0
        self.release_seconds = 10.0
        self.at_create = False
        self._ended: dict[str, float] = {}

    async def disks(self, ids: Collection[str]) -> Mapping[str, Disk]:
        await self._call("disks")
        return {
            each: Disk(each, self.zones[each], 8, self._attached(each), each in self.shareable)
            for each in ids
            if each in self.zones
        }

    async def attach(self, instance_id: str, volumes: Sequence[Volume]) -> None:
        await self._call("attach")
        if instance_id not in self.living:
            raise NotFound(f"no machine {instance_id}")
        if self.at_create:
            assert all(self.holders[volume.id] == instance_id for volume in volumes)
            return
        if self._clock.now() < self.made_at[instance_id] + self.running_seconds:
            raise Transient(f"{instance_id} is pending", code="IncorrectState")
        self._give(instance_id, volumes)

    def device(self, spec: LaunchSpec, index: int) -> Device:
        return Device(serial=spec.volumes[index].id.replace("-", ""))

    def _give(self, instance_id: str, volumes: Sequence[Volume]) -> None:
        for volume in volumes:
            holder = self.holders.get(volume.id)
            if volume.id not in self.shareable and holder not in (None, instance_id):
                raise InvalidSpec(f"{volume.id} is attached to {holder}", code="VolumeInUse")
        self.holders.update({volume.id: instance_id for volume in volumes})

    def _attached(self, disk: str) -> tuple[str, ...]:
        return (self.holders[disk],) if disk in self.holders else ()

    def _settle(self) -> None:
        super()._settle()
        now = self._clock.now()
        if self.at_create:
            for instance_id in self.living:
                self._give(instance_id, self.specs[instance_id].volumes)
        for instance_id in set(self.holders.values()):
            gone = instance_id not in self.instances or self.instances[instance_id].state is InstanceState.GONE
            if gone and now >= self._ended.setdefault(instance_id, now) + self.release_seconds:
                self.holders = {disk: each for disk, each in self.holders.items() if each != instance_id}
