"""EC2 behind the Provider protocol: boto3's blocking calls in threads of this provider's own."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, TypeVar

import boto3
from botocore.config import Config

from providers.aws import catalog, requests, resources, worker
from providers.aws.config import AwsConfig
from providers.aws.errors import INSTANCE_TERMINATED, translate
from providers.base import Instance, LaunchSpec, Offering, Ownership, Resource, ResourceKind, Tee
from providers.errors import InvalidSpec, NotFound, ProviderError, Transient

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
    """`providers.base.Provider` and `SupportsSweep` for EC2, in one region and one subnet."""

    name = "aws"

    def __init__(self, config: AwsConfig, owner: Ownership) -> None:
        self._config = config
        self._owner = owner
        self._threads = ThreadPoolExecutor(config.api_concurrency, thread_name_prefix="aws")
        self._closed = False
        self._making = threading.Lock()
        self._made: Any = None
        self._launched: dict[str, float] = {}  # id: the loop's time; the newest only
        self._images: _Answers[requests.Image] = _Answers()  # an AMI never changes under its id
        self._place: _Answers[requests.Place] = _Answers()
        self._catalog: _Answers[tuple[Offering, ...]] = _Answers()  # nor does a type

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        """See Provider.create. The token is EC2's ClientToken: EC2 itself launches at most one instance for it."""
        requests.check(spec, token, self._config)
        await self._check_offer(spec)
        place = await self._place.get("", self._find_place)
        image_id = spec.image or self._config.image
        image = await self._images.get(image_id, lambda: self._find_image(image_id))
        request = requests.run_instances(spec, token, config=self._config, owner=self._owner, image=image, place=place)
        doing = f"cannot launch {spec.name} ({spec.instance_type})"
        try:
            (made,) = await self._call(doing, "run_instances", request, requests.launched)
        except InvalidSpec as error:
            if error.code != INSTANCE_TERMINATED:
                raise
            return await self._departed(token, error)
        now = asyncio.get_running_loop().time()
        self._launched = {id: at for id, at in self._launched.items() if now - at < SETTLING} | {made.id: now}
        return made

    async def get(self, ids: Collection[str]) -> Mapping[str, Instance]:
        """See Provider.get: one call per 200 ids, all at once."""
        doing = f"cannot describe {len(ids)} instances"
        found = await asyncio.gather(*(self._describe(doing, request) for request in requests.by_id(ids)))
        return {instance.id: instance for page in found for instance in page}

    async def list(self) -> Sequence[Instance]:
        """See Provider.list."""
        doing = f"cannot list the instances of node {self._owner.node}"
        return await self._describe(doing, requests.owned_by(self._owner))

    async def delete(self, instance_id: str) -> None:
        """See Provider.delete. Volumes and interfaces go with the instance: it was launched so."""
        doing = f"cannot delete {instance_id}"
        try:
            await self._call(doing, "terminate_instances", {"InstanceIds": [instance_id]}, requests.nothing)
        except NotFound as error:
            if asyncio.get_running_loop().time() - self._launched.get(instance_id, -SETTLING) < SETTLING:
                raise Transient(
                    f"{doing}: it is so new that EC2 does not know it everywhere", code=error.code
                ) from error
        except InvalidSpec as error:
            if error.code != "InvalidInstanceID.Malformed":  # what is no id never was an instance
                raise
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
        await asyncio.to_thread(self._threads.shutdown)
        if self._made is not None:
            self._made.close()

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

    async def _departed(self, token: str, error: InvalidSpec) -> Instance:
        """The dead instance of a token, while EC2 still shows it (about an hour)."""
        for instance in await self._describe("cannot find what the token launched", requests.by_token(token)):
            return instance
        raise error

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
