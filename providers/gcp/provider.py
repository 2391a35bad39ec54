"""Compute Engine behind the Provider protocol.

A create is answered when the machine has its hardware. Google accepts an insert within a second and finds only then,
in the operation, that the zone has no room: an answer at once would leave the pod with a machine that never comes, and
nobody would try the next offering. So the look for the address is the look for room too: an instance that has left
PROVISIONING has got its hardware, one that has vanished says in its operation why. That takes some seconds and delays
nobody: a guest cannot be reached before.

Calls for a pod: insert, one look or two, delete. Looks of creates that wait together are one list.
"""

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from providers import attached, tags
from providers.answers import Answers
from providers.base import (
    CONSOLE_LIMIT,
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
    Volume,
    console_tail,
)
from providers.batch import Together
from providers.errors import Denied, InvalidSpec, NotFound, ProviderError, Throttled, Transient, Unsupported
from providers.gcp import addresses, catalog, marks, preflight, prices, quotas, requests, resources, tees, volumes
from providers.gcp.api import LIST, MUTATE, Api
from providers.gcp.config import GcpConfig
from providers.gcp.errors import ALREADY_EXISTS, of_operation
from providers.gcp.requests import Shape
from providers.gcp.resources import Door
from providers.throttle import Rank

# Seconds before each look at a new instance. An address takes about one, hardware two to five; a machine that is
# still PROVISIONING after all of them is returned as it is: it has an address, and whoever dials it has more patience.
LOOKS: Final = (1.0, 2.0, 3.0, 4.0, 5.0, 5.0)
# Seconds for which an instance just inserted may not be known yet.
SETTLING: Final = 60.0
# Seconds for which an instance whose deletion was accepted is GONE to us, whatever its status still says.
LEAVING: Final = 300.0
# Seconds that an image's description is good for: a family's newest image changes.
IMAGE_LIFE: Final = 600.0


def open(config: GcpConfig, owner: Ownership) -> "GcpProvider":
    """A provider for one node; no call is made yet, so faulty credentials show with the first verb."""
    return GcpProvider(config, owner)


class GcpProvider:
    """`providers.base.Provider`, SupportsSweep, SupportsVolumes, SupportsPreflight and SupportsQuota for GCE."""

    name = "gcp"
    user_data_limit = requests.USER_DATA_LIMIT

    def __init__(self, config: GcpConfig, owner: Ownership) -> None:
        self._config = config
        self._owner = owner
        self._api = Api(config)
        self._addresses = addresses.Reservations(self._api, config)
        self._launched: dict[str, float] = {}  # instances not seen yet: the loop's time of their insert
        self._deleted: dict[str, float] = {}  # the loop's time at which Google accepted it
        self._attempts: dict[str, int] = {}  # tokens whose insert failed in the operation: the next attempt's number
        self._images: Answers[requests.Image] = Answers(IMAGE_LIFE)
        self._catalog: Answers[tuple[Offering, ...]] = Answers()  # a type never changes
        self.throttle = throttle = self._api.throttle
        most = requests.IDS_PER_CALL
        self._described: Together[Shape] = Together(throttle, Rank.READ, self._describe, most, LIST)
        self._looked: Together[Shape] = Together(throttle, Rank.CREATE, self._look_at, most, LIST)

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        """See Provider.create.

        Once only in three ways: Google remembers the request id made of the token, for an hour at least, and answers
        a repeat with the first operation; the name is made of the token too, so that a repeat later than that meets
        the instance; and the instance says which wish it was made for. Only a repeat later than an hour after an
        instance that has died meanwhile would make another: Google knows nothing of it any more, and nor do we.
        """
        config, doing = self._config, f"cannot launch {spec.name} ({spec.instance_type})"
        requests.check(spec, token, config)
        zone = requests.zone_of(spec, config)
        architecture = await self._check_offer(spec, zone)
        image = await self._image(spec.image or config.image)
        requests.check_image(spec, config, image, architecture)
        name, all_tags = marks.resource_name(spec.name, token), requests.tags_of(spec, token, self._owner)
        address = await self._addresses.reserve(name, token, all_tags, doing) if config.reserve_address else ""
        attempt = self._attempts.get(token, 0)
        asked = requests.insert(
            spec, token, config=config, owner=self._owner, image=image, attempt=attempt, address=address
        )
        try:
            found = await self._insert(doing, asked, token)
        except (Throttled, Transient):
            raise  # it is asked again
        except ProviderError:
            if address:
                self._addresses.free_later(name, (0.0, *addresses.TRIES))
            raise
        if found is None:
            id = requests.instance_id(zone, name)
            return Instance(id, InstanceState.GONE, name=spec.name, instance_type=spec.instance_type, zone=zone)
        self._check_is_it(found, spec, token, doing)
        return self._instance(found)

    async def get(self, ids: Collection[str]) -> Mapping[str, Instance]:
        """See Provider.get: one list for 150 of them, shared with whoever asks at the same moment."""
        known = [id for id in ids if requests.place(id)]
        found = await self._described.ask(known) if known else {}
        # Google took the deletion of these, so their absence is no delay in its knowledge: they are gone for good.
        gone = [id for id in known if id in self._deleted and id not in found]
        return {
            **{id: self._instance(shape) for id, shape in found.items()},
            **{id: Instance(id, InstanceState.GONE, zone=id.partition("/")[0]) for id in gone},
        }

    async def list(self) -> Sequence[Instance]:
        """See Provider.list: by label at Google, exactly here."""
        doing = f"cannot list the instances of node {self._owner.node}"
        asked = requests.labelled(self._config, marks.of_owner(self._owner))
        scopes = await self._api.all_of(doing, "instances", asked)
        found = [self._instance(shape) for shapes in scopes.values() for shape in shapes]
        return [
            each for each in found if requests.is_ours(each.tags, self._owner) and each.state is not InstanceState.GONE
        ]

    async def delete(self, instance_id: str) -> None:
        """See Provider.delete. The root disk goes with the instance: it was made so."""
        place, doing = requests.place(instance_id), f"cannot delete {instance_id}"
        if place is None:
            return  # what is no id never was an instance
        asked = requests.one(self._config, *place)
        try:
            await self._api.ask(doing, "instances", "delete_unary", asked, takes=MUTATE, rank=Rank.DELETE)
            self._deleted = {**_young(self._deleted, LEAVING), instance_id: _now()}
        except NotFound as error:
            if instance_id in _young(self._launched, SETTLING):
                raise Transient(f"{doing}: it is so new that Google does not know it yet", code=error.code) from error
        self._launched.pop(instance_id, None)
        if self._config.reserve_address:
            self._addresses.free_later(place[1])

    async def offerings(self) -> Sequence[Offering]:
        """See Provider.offerings: asked once in this provider's life; a failure is asked again."""
        return catalog.allowed(await self._catalog.get("", self._find_catalog), self._config)

    async def resources(self) -> Sequence[Resource]:
        """See SupportsSweep.resources: every kind at once."""
        found = await asyncio.gather(*(self._find(door) for door in resources.DOORS.values()))
        return [resource for kind in found for resource in kind]

    async def remove(self, resource: Resource) -> None:
        """See SupportsSweep.remove."""
        door, doing = resources.DOORS[resource.kind], f"cannot delete the {resource.kind} {resource.id}"
        service, asked = door.locate(resource.id, self._config)
        if not service:
            return  # what is no id never was anything
        try:
            seen = door.read(await self._api.ask(doing, service, "get", asked, rank=Rank.LAST), self._config)
            tags.check_removal(seen, self._owner)
            await self._api.ask(doing, service, "delete_unary", asked, takes=MUTATE, rank=Rank.LAST)
        except NotFound:
            return
        self._deleted = {**_young(self._deleted, LEAVING), resource.id: _now()}

    async def disks(self, ids: Collection[str]) -> Mapping[str, Disk]:
        """See SupportsVolumes.disks. An id that is no disk's is left out: there is no such disk."""

        async def ask(id: str, place: volumes.Place) -> Disk | None:
            service, asked = volumes.request(place)
            try:
                return volumes.disk(id, await self._api.ask(f"cannot read about the disk {id}", service, "get", asked))
            except NotFound:
                return None

        places = {id: place for id in ids if (place := volumes.place(id, self._config))}
        found = await asyncio.gather(*(ask(id, place) for id, place in places.items()))
        return {disk.id: disk for disk in found if disk}

    async def attach(self, instance_id: str, volumes: Sequence[Volume]) -> None:
        """See SupportsVolumes.attach: the create has done it, so this only looks."""
        if volumes:
            found, seen = await asyncio.gather(self.disks([each.id for each in volumes]), self.get([instance_id]))
            attached.check(instance_id, seen.get(instance_id), volumes, found)

    def device(self, spec: LaunchSpec, index: int) -> Device:
        """See SupportsVolumes.device."""
        return volumes.device(index)

    async def preflight(self, port: int, tunnel_port: int) -> Sequence[Finding]:
        """See SupportsPreflight.preflight."""
        return await preflight.run(
            self._api, self._config, port, tunnel_port, offerings=self.offerings, image=self._image
        )

    async def console(self, instance_id: str) -> str:
        """See SupportsConsole.console."""
        place, doing = requests.place(instance_id), f"cannot read the console of {instance_id}"
        if place is None:  # what is no id never was an instance
            raise NotFound(f"{doing}: it is no instance's id: zone/name")
        asked = {**requests.one(self._config, *place), "port": 1, "start": -CONSOLE_LIMIT}
        found = await self._api.ask(doing, "instances", "get_serial_port_output", asked)
        return console_tail(str(found.get("contents", "")))

    async def quota(self) -> Sequence[Headroom]:
        """See SupportsQuota.quota: the region's."""
        config = self._config
        doing = f"cannot read the quotas of {config.region}"
        asked = {"project": config.project, "region": config.region}
        return quotas.headroom(await self._api.ask(doing, "regions", "get", asked), config)

    async def aclose(self) -> None:
        """See Provider.aclose."""
        await self._addresses.aclose()
        await self._api.aclose()

    async def _check_offer(self, spec: LaunchSpec, zone: str) -> str:
        """The architecture of what is asked for. Raises Unsupported for what is not sold there."""
        tee = requests.tee_of(spec, self._config)
        found = await self._catalog.get("", self._find_catalog)
        given = {o.tee: o for o in found if (o.instance_type, o.zone) == (spec.instance_type, zone)}
        if not given:
            raise Unsupported(f"cannot launch {spec.name}: {spec.instance_type} is not sold in {zone}")
        if tee not in given:
            raise Unsupported(
                f"cannot launch {spec.name}: {spec.instance_type} does not give its guest {tee} in {zone}"
            )
        return given[tee].architecture

    async def _insert(self, doing: str, asked: requests.Request, token: str) -> Shape | None:
        """The insert, until its hardware is settled; see _settled."""
        id = requests.instance_id(asked["zone"], asked["instance_resource"]["name"])
        self._launched = {**_young(self._launched, SETTLING), id: _now()}
        operation: Mapping[str, Any] | None = None
        try:
            operation = await self._api.ask(doing, "instances", "insert_unary", asked, takes=MUTATE, rank=Rank.CREATE)
        except InvalidSpec as error:
            if error.code != ALREADY_EXISTS:
                self._launched.pop(id, None)
                raise
        except (Denied, NotFound):
            self._launched.pop(id, None)
            raise
        try:
            return await self._settled(doing, id, operation, token)
        except _Unseen:  # it has been accepted all the same, and is there to be deleted
            return {**asked["instance_resource"], "zone": asked["zone"]}

    async def _settled(self, doing: str, id: str, operation: Shape | None, token: str) -> Shape | None:
        """The instance once its hardware is settled; None when it has been and is gone. Raises what the insert failed of.

        `operation`: the insert's, a repeated one's is DONE already; None where the instance was there before.
        """
        done = operation is None or operation.get("status") == "DONE"
        found: Shape | None = None
        lost: ProviderError | None = None  # what became of the last look: asking it again costs less than the insert
        early = done or self._config.reserve_address  # there is something to see at once
        for pause in (0.0, *LOOKS) if early else LOOKS:
            await asyncio.sleep(pause)
            try:
                found, lost = await self._look(id), None
                if found is None and operation is not None and operation.get("status") != "DONE":
                    operation = await self._operation(doing, id, operation)
            except (Throttled, Transient) as error:
                lost = error
                continue
            if found is not None:
                self._launched.pop(id, None)
                if self._config.reserve_address or requests.has_hardware(found, self._config):
                    return found
                continue
            if operation is None:
                raise Transient(f"{doing}: an instance of its name was there, and has gone meanwhile")
            fault = of_operation(operation, doing)
            if id in self._deleted:
                return None
            if (
                fault is not None
                and requests.last(id) in fault.message
                and (isinstance(fault, NotFound) or fault.code == "CONFLICT")
            ):  # it was there, and was deleted before it had come up
                self._deleted[id] = _now()
                self._launched.pop(id, None)
                return None
            if fault is not None:
                self._launched.pop(id, None)
                self._attempts[token] = self._attempts.get(token, 0) + 1
                raise fault
        if found is None and (lost or not done):
            raise lost or Transient(f"{doing}: Google has accepted it, and does not show it yet")
        return found  # what was done long ago and has not been seen in all this time is gone

    async def _look(self, id: str) -> Shape | None:
        try:
            return (await self._looked.ask([id])).get(id)
        except (Denied, InvalidSpec, NotFound) as error:  # of the look: nobody may take it for the insert's answer
            raise _Unseen from error

    async def _operation(self, doing: str, id: str, operation: Shape) -> Shape:
        zone = id.partition("/")[0]
        asked = {"project": self._config.project, "zone": zone, "operation": operation["name"]}
        try:
            return await self._api.ask(doing, "zone_operations", "get", asked, rank=Rank.CREATE)
        except (Denied, InvalidSpec, NotFound) as error:
            raise _Unseen from error

    def _check_is_it(self, found: Shape, spec: LaunchSpec, token: str, doing: str) -> None:
        note = requests.noted(found)
        if not requests.is_ours(note.get("tags", {}), self._owner) or not marks.is_of(note, token):
            raise InvalidSpec(f"{doing}: {found['name']} exists already, and is not what this token launched")
        if note.get("spec") != marks.digest(spec):
            raise InvalidSpec(f"{doing}: this token was used for a launch with other parameters")

    def _instance(self, shape: Shape) -> Instance:
        return requests.instance(shape, gone=self._is_leaving(shape))

    def _is_leaving(self, shape: Shape) -> bool:
        return requests.instance_id(requests.last(shape["zone"]), shape["name"]) in _young(self._deleted, LEAVING)

    async def _describe(self, ids: Sequence[str]) -> Mapping[str, Shape]:
        (asked,) = requests.by_id(self._config, ids)
        scopes = await self._api.all_of_now(f"cannot describe {len(ids)} instances", "instances", asked)
        found = {
            requests.instance_id(scope.partition("/")[2], shape["name"]): shape
            for scope, shapes in scopes.items()
            for shape in shapes
        }
        return {id: found[id] for id in ids if id in found}

    async def _look_at(self, ids: Sequence[str]) -> Mapping[str, Shape]:
        """One by itself is a get, which is cheaper than a list and knows the newest."""
        if len(ids) > 1:
            return await self._describe(ids)
        zone, _, name = ids[0].partition("/")
        asked = requests.one(self._config, zone, name)
        try:
            return {ids[0]: await self._api.ask_now(f"cannot look at {ids[0]}", "instances", "get", asked)}
        except NotFound:
            return {}

    async def _find(self, door: Door) -> Sequence[Resource]:
        doing = f"cannot list the resources of cluster {self._owner.cluster} ({door.service})"
        asked = requests.labelled(self._config, marks.of_cluster(self._owner))
        scopes = await self._api.all_of(doing, door.service, asked, Rank.LAST)
        found = [door.read(shape, self._config) for shapes in scopes.values() for shape in shapes]
        leaving = _young(self._deleted, LEAVING)
        return [each for each in found if resources.is_clusters(each, self._owner) and each.id not in leaving]

    async def _image(self, wish: str) -> requests.Image:
        async def ask() -> requests.Image:
            method, asked = requests.image_request(self._config, wish)
            return requests.image(await self._api.ask(f"cannot read about the image {wish}", "images", method, asked))

        return await self._images.get(wish, ask)

    async def _find_catalog(self) -> tuple[Offering, ...]:
        config, doing = self._config, "cannot read about the allowed machine types"

        async def named(service: str, filter: str) -> dict[str, list[Shape]]:
            scopes = await self._api.all_of(doing, service, requests.listing(config, filter))
            return {scope.partition("/")[2]: shapes for scope, shapes in scopes.items()}

        types = await named("machine_types", catalog.filter_of(config))
        gpus = await named("accelerator_types", f'name eq "{config.gpu_type}"') if config.gpu_type else {}
        platforms = {}
        if any(map(tees.of, config.allowed_types)):
            platforms = {zone: await self._platforms(doing, zone) for zone in config.zones}
        found = catalog.described(config, types, platforms, {zone: requests.names(gpus[zone]) for zone in gpus})
        return prices.priced(found, await self._prices()) if config.prices else found

    async def _prices(self) -> prices.Prices:
        """Those that Cloud Billing tells; a launch does not fail for the lack of them."""
        config, found, token = self._config, prices.Prices(), ""
        host = config.endpoint_url if (config.endpoint_url or "").startswith("http:") else prices.HOST
        with contextlib.suppress(ProviderError):
            while True:
                answer = await self._api.rest("cannot read the prices", "GET", prices.url(str(host), token))
                page = prices.page(answer, config.region)
                found, token = found | page.prices, page.next
                if not token:
                    break
        return found

    async def _platforms(self, doing: str, zone: str) -> Sequence[str]:
        shape = await self._api.ask(doing, "zones", "get", {"project": self._config.project, "zone": zone})
        return list(shape.get("available_cpu_platforms", []))


class _Unseen(Exception):
    """What was accepted may not be looked at."""


def _now() -> float:
    return asyncio.get_running_loop().time()


def _young(times: Mapping[str, float], life: float) -> dict[str, float]:
    now = _now()
    return {key: at for key, at in times.items() if now - at < life}
