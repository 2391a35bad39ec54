"""What does not change while an adaptor runs, or slowly: places, images, types and prices; asked once, when needed."""

import asyncio
import functools
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from providers.answers import Answers
from providers.aws import catalog, prices, requests, shape, worker
from providers.aws.asking import Ask
from providers.aws.config import AwsConfig
from providers.aws.reachability import Worker
from providers.aws.shape import Image, Place, Template
from providers.base import LaunchSpec, Offering, Tee
from providers.errors import InvalidSpec, NotFound

# Seconds that the first pod's choice waits for prices; an order without them is better than a start that waits.
PRICES_WITHIN: Final = 3.0

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class Knowledge:
    """Of one account, in one region. `in_thread` runs what blocks; `region` may too."""

    def __init__(self, ask: Ask, in_thread: InThread, region: Callable[[], str], config: AwsConfig) -> None:
        self._ask = ask
        self._in_thread = in_thread
        self._region = region
        self._config = config
        self._images: Answers[Image] = Answers()  # an AMI never changes under its id
        self._places: Answers[Mapping[str, Sequence[Place]]] = Answers()
        self._catalog: Answers[tuple[Offering, ...]] = Answers()  # nor does a type
        self._all: tuple[Offering, ...] = ()  # what the catalog was made of
        self._table: prices.Table | None = None
        self._reading: asyncio.Task[prices.Table] | None = None
        self._read_at = -prices.LIFE
        self._priced: tuple[prices.Table | None, tuple[Offering, ...]] | None = None
        self._said: set[str] = set()

    async def region(self) -> str:
        """The region launched in."""
        return str(await self._in_thread(self._region))

    async def image(self, image_id: str) -> Image:
        """Raises NotFound for one that this account does not see."""
        return await self._images.get(image_id, lambda: self._find_image(image_id))

    async def places(self) -> Mapping[str, Sequence[Place]]:
        """By zone, in the settings' order."""
        return await self._places.get("", self._find_places)

    async def place(self, zone: str, token: str) -> Place:
        """Where a launch goes. Raises InvalidSpec.

        Which of a zone's subnets: the token says, for a repeated call must be the same call, also after a restart.
        """
        places = await self.places()
        if zone and zone not in places:
            raise InvalidSpec(f"cannot launch in {zone}: the subnets of aws.subnet_ids are in {', '.join(places)}")
        there = places[zone or next(iter(places))]
        return there[zlib.crc32(token.partition(".")[0].encode()) % len(there)]

    async def offerings(self) -> tuple[Offering, ...]:
        """See Provider.offerings."""
        found = await self._catalog.get("", self._find_catalog)
        if not self._config.prices:
            return found
        table = await self._prices(found)
        if self._priced is None or self._priced[0] is not table:
            self._priced = table, catalog.priced(found, table.on_demand, table.spot) if table else found
        return self._priced[1]

    async def check(self, spec: LaunchSpec) -> None:
        """Refuse a launch that the catalog rules out. Raises InvalidSpec."""
        tee = requests.tee_of(spec, self._config)
        if spec.zone and spec.zone not in await self.places():
            await self.place(spec.zone, "")
        if tee is Tee.NONE:
            return
        given = {each.tee for each in await self._described() if each.instance_type == spec.instance_type}
        if given and tee not in given:
            raise InvalidSpec(f"cannot launch {spec.name}: {spec.instance_type} does not give its guest {tee}")

    async def worker(self) -> Worker:
        """This node, as far as its instance metadata tells."""

        def ask() -> Worker:
            try:
                return Worker(worker.address(), worker.security_group_ids())
            except InvalidSpec:
                return Worker()

        found = await self._in_thread(ask)
        assert isinstance(found, Worker)
        return found

    def close(self) -> None:
        """Give up what is being read."""
        if self._reading is not None:
            self._reading.cancel()

    async def _find_places(self) -> Mapping[str, Sequence[Place]]:
        config, doing = self._config, "cannot read about the subnets"
        template = await self._find_template() if config.use_launch_template else None
        # Without groups EC2 would take the network's default one, which does not let the worker in.
        groups = config.security_group_ids or (template.groups if template else ())
        groups = groups or await self._in_thread(worker.security_group_ids)
        ids = config.subnet_ids or (str(await self._in_thread(worker.subnet_id)),)
        wanted = [*dict.fromkeys((*ids, *config.secondary_subnet_ids))]
        zones = dict(await self._ask(doing, "describe_subnets", {"SubnetIds": wanted}, requests.subnets))
        second = {zones[id]: id for id in reversed(config.secondary_subnet_ids)}
        if lacking := sorted({zones[id] for id in ids} - second.keys()) if second else []:
            raise InvalidSpec(f"none of aws.secondary_subnet_ids is in {', '.join(lacking)}: name one for each zone")
        made: dict[str, list[Place]] = {}
        for id in ids:
            made.setdefault(zones[id], []).append(Place(id, tuple(groups), second.get(zones[id], ""), template))
        return made

    async def _find_template(self) -> Template:
        doing = f"cannot read the launch template {self._config.launch_template}"
        read = functools.partial(shape.template, config=self._config)
        for found in await self._ask(
            doing, "describe_launch_template_versions", shape.template_request(self._config), read
        ):
            return found
        raise NotFound(f"{doing}: it has no version {self._config.launch_template_version}")

    async def _find_image(self, image_id: str) -> Image:
        doing = f"cannot read about the image {image_id}"
        for image in await self._ask(doing, "describe_images", {"ImageIds": [image_id]}, requests.images):
            return image
        raise NotFound(f"{doing}: it does not exist, or is not shared with this account")

    async def _described(self) -> tuple[Offering, ...]:
        """Every offering of the configured types, also those that the settings do not allow."""
        await self._catalog.get("", self._find_catalog)
        return self._all

    async def _find_catalog(self) -> tuple[Offering, ...]:
        zones, doing = list(await self.places()), "cannot read about the allowed instance types"
        names = self._config.allowed_types
        kinds: list[tuple[Offering, bool]] = []
        sold: set[tuple[str, str]] = set()
        plain = [name for name in names if not catalog.is_pattern(name)]
        for chunk in requests.chunks(plain, requests.TYPES_PER_CALL):
            kinds += await self._ask(doing, "describe_instance_types", {"InstanceTypes": chunk}, catalog.described)
        for chunk in requests.chunks([n for n in names if n not in plain], requests.TYPES_PER_CALL):
            kinds += await self._ask(doing, "describe_instance_types", requests.types_like(chunk), catalog.described)
        for chunk in requests.chunks(names, requests.TYPES_PER_CALL):
            request = requests.types_in(zones, chunk)
            sold |= set(await self._ask(doing, "describe_instance_type_offerings", request, requests.sold))
        self._all = catalog.placed(kinds, sold, zones, self._config)
        return catalog.allowed(self._all, self._config)

    async def _prices(self, offers: Sequence[Offering]) -> prices.Table | None:
        """The newest that have been read: only the first time anybody waits for them, and not for long."""
        now = asyncio.get_running_loop().time()
        known = self._table is not None and bool(self._table.on_demand)
        if (self._reading is None or self._reading.done()) and now - self._read_at >= (
            prices.LIFE if known else prices.RETRY
        ):
            self._read_at = now
            self._reading = asyncio.create_task(self._read_prices(offers), name="aws-prices")
        if self._reading is not None:
            if self._table is None:
                await asyncio.wait({self._reading}, timeout=PRICES_WITHIN)
            if self._reading.done() and not self._reading.cancelled() and self._reading.exception() is None:
                self._table = self._reading.result()
        return self._table

    async def _read_prices(self, offers: Sequence[Offering]) -> prices.Table:
        types = list(dict.fromkeys(each.instance_type for each in offers))
        zones = list(dict.fromkeys(each.zone for each in offers))
        return await prices.read(self._ask, self._config, await self.region(), types, zones, self._said)
