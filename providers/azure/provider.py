"""Azure behind the Provider protocol."""

import asyncio
import functools
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from providers import attached, tags
from providers.answers import Answers, failed
from providers.azure import arm, catalog, consoles, credentials, images, preflight, prices, quotas, requests, resources
from providers.azure import volumes as managed
from providers.azure.arm import Arm
from providers.azure.config import AzureConfig
from providers.azure.launch import Launches, Shape
from providers.base import (
    Device,
    Disk,
    Finding,
    Headroom,
    Instance,
    InstanceState,
    LaunchSpec,
    Offering,
    Ownership,
    Resource,
    ResourceKind,
    Volume,
)
from providers.batch import Together
from providers.errors import InvalidSpec, NotFound, ProviderError
from providers.tags import ownership
from providers.throttle import Rank, Throttle

# Up to so many machines are asked for one by one, which also tells of each whether it is switched on; more by one List,
# which does not. ARM admits 25 reads a second from all nodes together, Compute five Lists.
FEW: Final = 2
# Seconds for which an answer about one machine is given again: Azure allows twelve a minute for each.
FRESH: Final = 5.0
# Seconds for which a deletion is remembered: somebody waits for the end of it that long.
LEAVING: Final = 3600.0
MOST: Final = 100_000  # a List answers for as many as there are
ABSENT: Final = (
    "ResourceNotFound"  # of the resource itself; a group or subscription that does not exist has other codes
)


def open(config: AzureConfig, owner: Ownership) -> "AzureProvider":
    """A provider for one node; no call is made yet, so faulty credentials show with the first verb."""
    return AzureProvider(config, owner)


class AzureProvider:
    """`providers.base.Provider`, with the sweep, volumes, quotas and preflight, for one resource group."""

    name = "azure"
    user_data_limit = requests.USER_DATA_LIMIT

    def __init__(self, config: AzureConfig, owner: Ownership) -> None:
        self._config = config
        self._owner = owner
        self._arm = Arm(config)
        self.throttle = self._arm.throttle
        self._launches = Launches(self._arm, config, owner, self._shape_of)
        self._closed = False
        self._skus: Answers[Sequence[Any]] = Answers()  # what is sold changes over months
        self._offers: Answers[tuple[Offering, ...]] = Answers()
        self._images: Answers[images.Image] = Answers()  # an image version never changes
        self._key: Answers[str] = Answers()
        self._looked = Together(Throttle(), Rank.READ, self._look_at, MOST, "")  # the calls themselves are paced by Arm
        self._deleted: dict[str, float] = {}  # the loop's time at which ARM took the deletion; no name is used twice
        self._looks: dict[str, tuple[float, asyncio.Task[Instance | None]]] = {}

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        """See Provider.create and `launch`."""
        self._check_open()
        return await self._launches.create(spec, token)

    async def get(self, ids: Collection[str]) -> Mapping[str, Instance]:
        """See Provider.get: looks that come together share a call for each of a few machines, or one for all of many."""
        self._check_open()
        wanted = {id for id in ids if requests.is_name(id)}
        found = await self._looked.ask(wanted)
        # ARM took the deletion of these, so their absence is no delay in its knowledge: they are gone for good.
        gone = (wanted & self._deleted.keys()) - found.keys()
        return {**found, **{id: Instance(id, InstanceState.GONE) for id in gone}}

    async def list(self) -> Sequence[Instance]:
        """See Provider.list."""
        self._check_open()
        mine = ownership(self._owner).items()
        return [
            each for each in await self._listed() if each.state is not InstanceState.GONE and mine <= each.tags.items()
        ]

    async def delete(self, instance_id: str) -> None:
        """See Provider.delete. Disk, interface and public address go with the VM: it was launched so."""
        self._check_open()
        if not requests.is_name(instance_id):
            return  # what cannot be a VM's name never was one
        doing = f"cannot delete {instance_id}"
        try:
            answer = await self._arm.delete_machine(instance_id, doing)
            was_there = answer.status != 204
        except NotFound as error:
            if error.code != ABSENT:
                raise
            was_there = False
        self._looks.pop(instance_id, None)
        self._launches.forget(instance_id)
        if was_there:
            now = asyncio.get_running_loop().time()
            self._deleted = {id: at for id, at in self._deleted.items() if now - at < LEAVING} | {instance_id: now}
        if not was_there and await self._left_an_interface(instance_id):
            await self._launches.discard(instance_id, doing)

    async def offerings(self) -> Sequence[Offering]:
        """See Provider.offerings: asked once in this provider's life; a failure is asked again."""
        self._check_open()
        return catalog.allowed(await self._offers.get("", self._find_offers), self._config)

    async def resources(self) -> Sequence[Resource]:
        """See SupportsSweep.resources: every kind at once."""
        self._check_open()
        found = await asyncio.gather(*(self._find(kind) for kind in resources.DOORS))
        return [each for kind in found for each in kind if resources.is_of(each, self._owner)]

    async def remove(self, resource: Resource) -> None:
        """See SupportsSweep.remove. Asked first: Azure would delete what is another's."""
        self._check_open()
        doing, door = f"cannot delete the {resource.kind} {resource.id}", resources.DOORS[resource.kind]
        path, api = resources.path(resource.kind, self._config, resource.id), _api(resource.kind)
        try:
            answer = await self._arm.get(path, api, doing)
            with arm.reading(doing):
                seen = door.read(answer.body)
            if seen is None:
                return
            tags.check_removal(seen, self._owner)
            if seen.kind is ResourceKind.INSTANCE:
                await self.delete(seen.id)
            else:
                await self._arm.delete(path, api, doing)
        except NotFound as error:
            if error.code != ABSENT:
                raise

    async def disks(self, ids: Collection[str]) -> Mapping[str, Disk]:
        """See SupportsVolumes.disks."""
        self._check_open()
        found = await asyncio.gather(*(self._disk(id) for id in sorted(set(ids))))
        return {disk.id: disk for disk in found if disk is not None}

    async def attach(self, instance_id: str, volumes: Sequence[Volume]) -> None:
        """See SupportsVolumes.attach: the create has done it, so this only looks."""
        if not volumes:
            return
        self._check_open()
        found = await self.disks([volume.id for volume in volumes])
        seen = await self._look(instance_id) if requests.is_name(instance_id) else None
        attached.check(instance_id, seen, volumes, found)

    def device(self, spec: LaunchSpec, index: int) -> Device:
        """See SupportsVolumes.device: the LUN is the place in the spec."""
        return Device(lun=index)

    async def console(self, instance_id: str) -> str:
        """See SupportsConsole.console."""
        self._check_open()
        return await consoles.read(self._arm, self._config, instance_id)

    async def quota(self) -> Sequence[Headroom]:
        """See SupportsQuota.quota."""
        self._check_open()
        at = f"/subscriptions/{self._config.subscription_id}/providers/{{}}/locations/{self._config.region}/usages"
        doing = f"cannot read the quotas of {self._config.region}"
        compute, network, skus = await asyncio.gather(
            self._arm.items(at.format("Microsoft.Compute"), arm.COMPUTE_API, doing),
            self._arm.items(at.format("Microsoft.Network"), arm.NETWORK_API, doing),
            self._skus.get("", self._find_skus),
        )
        with arm.reading(doing):
            return quotas.headroom(compute, network, catalog.families(skus, self._config), self._config)

    async def preflight(self, port: int, tunnel_port: int) -> Sequence[Finding]:
        """See SupportsPreflight.preflight."""
        look = preflight.Preflight(self._config, self._arm, self.offerings, self.quota, self._image)
        return await look.findings(port, tunnel_port)

    async def aclose(self) -> None:
        """See Provider.aclose; returns when the launches under way have ended."""
        self._closed = True
        await self._launches.aclose()
        await self._arm.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise ProviderError("the azure provider has been closed")

    # -- machines -----------------------------------------------------------------------------------

    async def _shape_of(self, spec: LaunchSpec) -> Shape:
        found = await self._offers.get("", self._find_offers)
        sold = [offer for offer in found if offer.instance_type == spec.instance_type]
        if sold and spec.zone and spec.zone not in {offer.zone for offer in sold}:
            raise InvalidSpec(f"cannot launch {spec.name}: {spec.instance_type} is not sold in zone {spec.zone}")
        tee = requests.check_offer(spec, frozenset(offer.tee for offer in sold), self._config)
        key = await self._key.get("", lambda: asyncio.to_thread(credentials.public_key, self._config))
        zone = spec.zone or next((zone for zone in self._config.zones if zone in {each.zone for each in sold}), "")
        return Shape(tee, zone, await self._root_gib(spec), key)

    async def _root_gib(self, spec: LaunchSpec) -> int | None:
        """None: as large as the image. Its size is asked for only where something depends on it."""
        asked = spec.root_volume_gib or self._config.root_volume_gib or 0
        if not asked and not spec.scratch_gib:
            return None
        own = (await self._image(spec.image or self._config.image)).size_gib
        if own is None and not asked:
            raise InvalidSpec(
                f"cannot launch {spec.name}: Azure does not tell how large its image is, so the disk cannot be made"
                f" {spec.scratch_gib} GiB larger: set azure.root_volume_gib, or name the image with its version"
            )
        return max(asked, own or 0) + spec.scratch_gib

    async def _look_at(self, ids: Sequence[str]) -> Mapping[str, Instance]:
        if len(ids) > FEW:
            return {each.id: each for each in await self._listed() if each.id in ids}
        found = await asyncio.gather(*map(self._look, ids))
        return {each.id: each for each in found if each is not None}

    async def _look(self, id: str) -> Instance | None:
        """One machine with its power state; None for an unknown one. Asked at most every FRESH seconds."""
        now = asyncio.get_running_loop().time()
        self._looks = {known: seen for known, seen in self._looks.items() if now - seen[0] < FRESH}
        if id not in self._looks or failed(self._looks[id][1]):
            task = asyncio.create_task(self._describe(id))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._looks[id] = (now, task)
        return await asyncio.shield(self._looks[id][1])

    async def _describe(self, id: str) -> Instance | None:
        doing = f"cannot describe {id}"
        try:
            answer = await self._arm.get_machine(id, doing)
        except NotFound as error:
            if error.code != ABSENT:
                raise
            return None
        with arm.reading(doing):
            return requests.instance(answer.body)

    async def _listed(self) -> Sequence[Instance]:
        """All of the resource group, gone ones too. A failed one is looked at: it may run."""
        doing = f"cannot list the VMs of {self._config.resource_group}"
        path = resources.path(ResourceKind.INSTANCE, self._config)
        shapes = await self._arm.items(path, arm.COMPUTE_API, doing, bucket=arm.LIST_VMS)
        mine = ownership(self._owner).items()
        with arm.reading(doing):
            found = {each.id: each for each in map(requests.instance, shapes)}
            failed = [each["name"] for each in shapes if requests.has_failed(each)]
            doubtful = [id for id in failed if mine <= found[id].tags.items()]
        for seen in await asyncio.gather(*(self._look(id) for id in doubtful)):
            if seen is not None:
                found[seen.id] = seen
        return list(found.values())

    async def _left_an_interface(self, vm: str) -> bool:
        """Whether a launch of ours ended between its interface and its VM."""
        path = requests.resource_id(self._config, resources.DOORS[ResourceKind.INTERFACE].type, requests.nic_name(vm))
        with suppress(NotFound):
            answer = await self._arm.get(path, arm.NETWORK_API, f"cannot delete {vm}: its network interface")
            return ownership(self._owner).items() <= (answer.body.get("tags") or {}).items()
        return False

    # -- what rarely changes --------------------------------------------------------------------------

    async def _find_skus(self) -> Sequence[Any]:
        path = f"/subscriptions/{self._config.subscription_id}/providers/Microsoft.Compute/skus"
        return await self._arm.items(
            path,
            arm.SKUS_API,
            "cannot read about the allowed sizes",
            decode=functools.partial(catalog.decode, names=self._config.allowed_types),
            **{"$filter": f"location eq '{self._config.region}'"},
        )

    async def _find_offers(self) -> tuple[Offering, ...]:
        skus = await self._skus.get("", self._find_skus)
        with arm.reading("cannot read about the allowed sizes"):
            offers = catalog.described(skus, self._config)
        return catalog.priced(offers, await prices.ask(self._config)) if self._config.prices else offers

    async def _image(self, id: str) -> images.Image:
        return await self._images.get(id, lambda: self._find_image(id))

    async def _find_image(self, id: str) -> images.Image:
        definition, version = images.paths(id, self._config)
        api = arm.COMPUTE_API if definition == version else arm.GALLERIES_API
        doing = f"cannot read about the image {id}"
        told = (await self._arm.get(definition, api, doing)).body
        stored = told if definition == version else (await self._arm.get(version, api, doing)).body if version else {}
        with arm.reading(doing):
            return images.read(told, stored)

    # -- the sweep, and disks ---------------------------------------------------------------------------

    async def _find(self, kind: ResourceKind) -> Sequence[Resource]:
        doing = f"cannot list the resources of cluster {self._owner.cluster} ({kind})"
        shapes = await self._arm.items(resources.path(kind, self._config), _api(kind), doing)
        with arm.reading(doing):
            found = [resources.DOORS[kind].read(shape) for shape in shapes]
        return [each for each in found if each is not None]

    async def _disk(self, id: str) -> Disk | None:
        doing = f"cannot describe the disk {id}"
        if not requests.is_disk(id):
            return None
        try:
            answer = await self._arm.get(id, arm.DISKS_API, doing)
        except NotFound:
            return None
        with arm.reading(doing):
            return managed.disk(id, answer.body, self._config.region)


def _api(kind: ResourceKind) -> str:
    if resources.DOORS[kind].network:
        return arm.NETWORK_API
    return arm.DISKS_API if kind is ResourceKind.DISK else arm.COMPUTE_API
