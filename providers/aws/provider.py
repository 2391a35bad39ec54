"""EC2 behind the Provider protocol: boto3's blocking calls in threads of this provider's own."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import boto3
from botocore.config import Config

from providers.aws import catalog, limits, requests, resources, worker
from providers.aws.config import AwsConfig
from providers.aws.errors import INSTANCE_TERMINATED, translate
from providers.base import Instance, LaunchSpec, Offering, Ownership, Resource, ResourceKind, Tee
from providers.batch import Seats, Together, sifted
from providers.errors import InvalidSpec, NotFound, ProviderError, Transient
from providers.throttle import Rank, Throttle

T = TypeVar("T")

# Seconds. A regional endpoint accepts in milliseconds; five leave room for two lost SYNs (1 s, 2 s).
CONNECT_TIMEOUT: Final = 5.0
# Seconds. RunInstances answers in 1-2 s, at worst in some ten; the pod's whole start must fit in kubelet's four
# minutes, so a hung call is given up while there is time for two more with the same token.
READ_TIMEOUT: Final = 30.0
# Seconds for which EC2 may not know everywhere what it has just launched; seen are a few, ever more rarely.
SETTLING: Final = 60.0


def open(config: AwsConfig, owner: Ownership) -> "AwsProvider":
    """A provider for one node; no call is made yet, so faulty credentials show with the first verb."""
    return AwsProvider(config, owner)


class AwsProvider:
    """`providers.base.Provider`, `SupportsBatchCreate` and `SupportsSweep` for EC2, in one region and one subnet."""

    name = "aws"

    def __init__(self, config: AwsConfig, owner: Ownership) -> None:
        self._config = config
        self._owner = owner
        self.throttle = Throttle(limits.rate)
        self._seats = Seats(self.throttle, _Launches(self), limits.RUN, limits.RUN_MACHINES)
        self._looks = Together(self.throttle, Rank.READ, self._look, requests.IDS_PER_CALL, limits.DESCRIBE)
        self._ends = Together(
            self.throttle, Rank.DELETE, self._end, requests.ENDS_PER_CALL, limits.TERMINATE, limits.TERMINATE_MACHINES
        )
        self._threads = ThreadPoolExecutor(config.api_concurrency, thread_name_prefix="aws")
        self._closed = False
        self._making = threading.Lock()
        self._made: Any = None
        self._launched: dict[str, float] = {}  # id: the loop's time; the newest only
        self._images: _Answers[requests.Image] = _Answers()  # an AMI never changes under its id
        self._place: _Answers[requests.Place] = _Answers()
        self._catalog: _Answers[tuple[Offering, ...]] = _Answers()  # nor does a type

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        """See Provider.create. The call's token is EC2's ClientToken: EC2 itself launches for it at most once."""
        await self._prepare(spec, token)
        return await self._seats.create(spec, token)

    async def seat(self, spec: LaunchSpec, token: str) -> str:
        """See SupportsBatchCreate.seat."""
        await self._prepare(spec, token)
        return await self._seats.seat(spec, token)

    def leave(self, token: str) -> None:
        """See SupportsBatchCreate.leave."""
        self._seats.leave(token)

    async def get(self, ids: Collection[str]) -> Mapping[str, Instance]:
        """See Provider.get: one call per 200 ids of all who ask at the same moment."""
        return await self._looks.ask(ids)

    async def list(self) -> Sequence[Instance]:
        """See Provider.list."""
        doing = f"cannot list the instances of node {self._owner.node}"
        return await self._describe(doing, requests.owned_by(self._owner))

    async def delete(self, instance_id: str) -> None:
        """See Provider.delete. Volumes and interfaces go with the instance: it was launched so."""
        error = (await self._ends.ask([instance_id])).get(instance_id)
        if isinstance(error, NotFound):
            if asyncio.get_running_loop().time() - self._launched.get(instance_id, -SETTLING) < SETTLING:
                raise Transient(
                    f"cannot delete {instance_id}: it is so new that EC2 does not know it everywhere", code=error.code
                ) from error
        elif error is not None and error.code != "InvalidInstanceID.Malformed":  # what is no id never was an instance
            raise error
        self._launched.pop(instance_id, None)

    async def offerings(self) -> Sequence[Offering]:
        """See Provider.offerings: asked once in this provider's life; a failure is asked again."""
        return catalog.allowed(await self._catalog.get("", self._find_catalog), self._config)

    async def resources(self) -> Sequence[Resource]:
        """See SupportsSweep.resources: every kind at once."""
        found = await asyncio.gather(*(self._find(kind) for kind in resources.DOORS))
        return [resource for kind in found for resource in kind]

    async def remove(self, resource: Resource) -> None:
        """See SupportsSweep.remove. Asked first, for EC2 itself would release an address that is in use."""
        door, doing = resources.DOORS[resource.kind], f"cannot delete the {resource.kind} {resource.id}"
        for seen in await self._call(doing, door.describe, resources.one(resource), door.read):
            resources.check(seen, self._owner)
            if seen.kind is ResourceKind.INSTANCE:
                await self.delete(seen.id)
                continue
            with contextlib.suppress(NotFound):
                await self._call(doing, door.delete, {door.parameter: seen.id}, requests.empty)

    async def aclose(self) -> None:
        """See Provider.aclose; returns when the calls under way have ended (cancelling stops only the waiting)."""
        self._closed = True
        await self._seats.aclose()
        await asyncio.to_thread(self._threads.shutdown)
        if self._made is not None:
            self._made.close()

    async def _prepare(self, spec: LaunchSpec, token: str) -> None:
        """Refuse what would be refused, and learn what the call needs: it holds a turn, and may ask nothing else."""
        requests.check(spec, token, self._config)
        await self._check_offer(spec)
        await self._surroundings(spec)

    async def _surroundings(self, spec: LaunchSpec) -> tuple[requests.Image, requests.Place]:
        place = await self._place.get("", self._find_place)
        image_id = spec.image or self._config.image
        return await self._images.get(image_id, lambda: self._find_image(image_id)), place

    async def _launch(self, spec: LaunchSpec, token: str, count: int) -> Mapping[int, Instance]:
        """RunInstances. What it made, by index."""
        image, place = await self._surroundings(spec)
        request = requests.run_instances(
            spec, token, count, config=self._config, owner=self._owner, image=image, place=place
        )
        doing = f"cannot launch {spec.name or f'{count} instances'} ({spec.instance_type})"
        try:
            made = dict(await self._ask(doing, "run_instances", request, requests.launched))
        except InvalidSpec as error:
            if error.code != INSTANCE_TERMINATED:
                raise
            return await self._departed(token, error)
        now = asyncio.get_running_loop().time()
        self._launched = {id: at for id, at in self._launched.items() if now - at < SETTLING}
        self._launched |= {each.id: now for each in made.values()}
        return made

    async def _look(self, ids: Sequence[str]) -> Mapping[str, Instance]:
        doing = f"cannot describe {len(ids)} instances"
        found = [await self._ask(doing, "describe_instances", each, requests.instances) for each in requests.by_id(ids)]
        return {instance.id: instance for page in found for instance in page}

    async def _end(self, ids: Sequence[str]) -> Mapping[str, ProviderError | None]:
        async def terminate(part: Sequence[str]) -> None:
            doing = f"cannot delete {part[0] if len(part) == 1 else f'{len(part)} instances'}"
            await self._ask(doing, "terminate_instances", {"InstanceIds": list(part)}, requests.nothing)

        return await sifted(ids, terminate)

    async def _check_offer(self, spec: LaunchSpec) -> None:
        tee = requests.tee_of(spec, self._config)
        if tee is Tee.NONE and not spec.zone:
            return
        found = await self._catalog.get("", self._find_catalog)
        for offer in found:
            if spec.zone and spec.zone != offer.zone:
                raise InvalidSpec(f"cannot launch {spec.name} in {spec.zone}: the subnet is in {offer.zone}")
        given = {offer.tee for offer in found if offer.instance_type == spec.instance_type}
        if given and tee not in given:
            raise InvalidSpec(f"cannot launch {spec.name}: {spec.instance_type} does not give its guest {tee}")

    async def _departed(self, token: str, error: InvalidSpec) -> Mapping[int, Instance]:
        """The dead instances of a token, while EC2 still shows them (about an hour)."""
        doing = "cannot find what the token launched"
        found = await self._ask(doing, "describe_instances", requests.by_token(token), requests.indexed)
        if not found:
            raise error
        return dict(found)

    async def _describe(self, doing: str, request: requests.Request) -> Sequence[Instance]:
        return await self._call(doing, "describe_instances", request, requests.instances)

    async def _find(self, kind: ResourceKind) -> Sequence[Resource]:
        door, doing = resources.DOORS[kind], f"cannot list the resources of cluster {self._owner.cluster} ({kind})"
        return await self._call(doing, door.describe, resources.tagged(kind, self._owner), door.read)

    async def _find_place(self) -> requests.Place:
        # Without groups EC2 would take the network's default one, which does not let the worker in.
        groups = self._config.security_group_ids or await self._in_thread(worker.security_group_ids)
        if self._config.subnet_id:
            return requests.Place(self._config.subnet_id, groups)
        return requests.Place(await self._in_thread(worker.subnet_id), groups)

    async def _find_image(self, image_id: str) -> requests.Image:
        doing = f"cannot read about the image {image_id}"
        for image in await self._call(doing, "describe_images", {"ImageIds": [image_id]}, requests.images):
            return image
        raise NotFound(f"{doing}: it does not exist, or is not shared with this account")

    async def _find_catalog(self) -> tuple[Offering, ...]:
        place = await self._place.get("", self._find_place)
        names, doing = self._config.allowed_types, "cannot read about the allowed instance types"
        (zone,) = await self._call(doing, "describe_subnets", {"SubnetIds": [place.subnet_id]}, requests.zone)
        found: list[Offering] = []
        for chunk in requests.chunks(names, requests.TYPES_PER_CALL):
            sold = await self._call(
                doing, "describe_instance_type_offerings", requests.types_in(zone, chunk), requests.type_names
            )
            read = functools.partial(catalog.described, zone=zone, sold=sold)
            found += await self._call(doing, "describe_instance_types", {"InstanceTypes": chunk}, read)
        return tuple(found)

    async def _call(
        self, doing: str, method: str, request: requests.Request, read: Callable[[Mapping[str, Any]], Iterable[T]]
    ) -> Sequence[T]:
        """`_ask` in its turn."""
        action = limits.action(method)
        async with self.throttle.turn(action, limits.rank(action)):
            return await self._ask(doing, method, request, read)

    async def _ask(
        self, doing: str, method: str, request: requests.Request, read: Callable[[Mapping[str, Any]], Iterable[T]]
    ) -> Sequence[T]:
        """What `read` finds in the answer, all pages of it; whatever goes wrong is an error of ours that says `doing`."""

        def ask() -> Sequence[T]:
            try:
                client = self._client()
                if client.can_paginate(method):
                    pages = client.get_paginator(method).paginate(**request)
                else:
                    pages = [getattr(client, method)(**request)]
                return [item for page in pages for item in read(page)]
            except ProviderError:
                raise
            except Exception as error:
                raise translate(error, doing) from error

        return await self._in_thread(ask)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Cancelling the caller drops work that waits for a thread, and lets work that has one finish."""
        if self._closed:
            raise ProviderError("the aws provider has been closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _client(self) -> Any:
        """The one EC2 client, made in a thread by the first call: it reads 10 MB of service model (0.3 s)."""
        with self._making:
            if self._made is None:
                session = boto3.Session(profile_name=self._config.profile, region_name=self._config.region)
                region = session.region_name or worker.region()
                self._made = session.client(
                    "ec2", region_name=region, endpoint_url=self._config.endpoint_url, config=_sdk_config(self._config)
                )
            return self._made


@dataclass(frozen=True, slots=True)
class _Launches:
    """The provider as `batch.Seats` calls it."""

    aws: AwsProvider

    async def launch(self, spec: LaunchSpec, token: str, count: int) -> Mapping[int, Instance]:
        return await self.aws._launch(spec, token, count)  # noqa: SLF001

    async def label(self, instance: Instance) -> None:
        request = requests.label(instance)
        await self.aws._call(f"cannot tag {instance.id}", "create_tags", request, requests.empty)  # noqa: SLF001

    async def delete(self, instance_id: str) -> None:
        await self.aws.delete(instance_id)


def _sdk_config(config: AwsConfig) -> Config:
    return Config(
        user_agent_extra="peerpods",
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        max_pool_connections=config.api_concurrency,
        tcp_keepalive=True,
        # The SDK's retries would sleep in our few threads and hide throttling from whoever paces the calls.
        retries={"total_max_attempts": 1, "mode": "standard"},
    )


class _Answers(Generic[T]):
    """Answers worth keeping, by key. Who asks while the question is under way waits for the same answer, and
    may give up waiting without harm to the others; a failure goes to all who wait and is not kept.
    """

    def __init__(self) -> None:
        self._asked: dict[str, asyncio.Task[T]] = {}

    async def get(self, key: str, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task = self._asked.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._asked[key] = asyncio.create_task(ask())
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # else asyncio complains of it
        return await asyncio.shield(task)
