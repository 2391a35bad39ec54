"""EC2 behind the Provider protocol: boto3's blocking calls in threads of this provider's own."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from providers import tags
from providers.aws import consoles, limits, prices, quota, requests, resources, volumes, worker
from providers.aws.asking import Ask
from providers.aws.config import AwsConfig
from providers.aws.elastic import Elastic
from providers.aws.errors import INSTANCE_TERMINATED, translate
from providers.aws.knowledge import Knowledge
from providers.aws.preflight import Preflight
from providers.aws.reachability import Worker
from providers.aws.shape import Image, Place
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
from providers.batch import Seats, Together, sifted
from providers.errors import InvalidSpec, NotFound, ProviderError, Throttled, Transient
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
    """`providers.base.Provider` for EC2 in one region, with all that base.py has of `Supports...`."""

    name = "aws"
    user_data_limit = requests.USER_DATA_LIMIT

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
        self._session: Any = None
        self._clients: dict[str, Any] = {}  # by service
        self._launched: dict[str, float] = {}  # id: the loop's time; the newest only
        self._known = Knowledge(self._call, self._in_thread, self._region, config)
        self._elastic = Elastic(self._call, owner)

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        """See Provider.create. The call's token is EC2's ClientToken: EC2 itself launches for it at most once."""
        await self._prepare(spec, token)
        return await self._finished(await self._seats.create(spec, token))

    async def seat(self, spec: LaunchSpec, token: str) -> str:
        """See SupportsBatchCreate.seat."""
        await self._prepare(spec, token)
        return await self._seats.seat(spec, token)

    def leave(self, token: str) -> None:
        """See SupportsBatchCreate.leave."""
        self._seats.leave(token)

    async def get(self, ids: Collection[str]) -> Mapping[str, Instance]:
        """See Provider.get: one call per 200 ids of all who ask at the same moment."""
        found = await self._looks.ask(ids)
        return {id: requests.reachable(instance, self._config) for id, instance in found.items()}

    async def list(self) -> Sequence[Instance]:
        """See Provider.list."""
        doing = f"cannot list the instances of node {self._owner.node}"
        found = await self._describe(doing, requests.owned_by(self._owner))
        return [requests.reachable(each, self._config) for each in found]

    async def delete(self, instance_id: str) -> None:
        """See Provider.delete. Volumes and interfaces go with the instance, it was launched so; addresses before it."""
        if self._config.public_ip == "elastic":
            await self._elastic.take_back(instance_id)
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
        """See Provider.offerings: asked once in this provider's life, but for prices; a failure is asked again."""
        return await self._known.offerings()

    async def disks(self, ids: Collection[str]) -> Mapping[str, Disk]:
        """See SupportsVolumes.disks."""
        return await volumes.disks(self._call, ids)

    async def attach(self, instance_id: str, wanted: Sequence[Volume]) -> None:
        """See SupportsVolumes.attach. EC2 knows no volumes attached for reading only: the guest mounts them so."""
        await volumes.attach(self._call, instance_id, wanted)

    def device(self, spec: LaunchSpec, index: int) -> Device:
        """See SupportsVolumes.device."""
        return volumes.device(spec.volumes[index])

    async def console(self, instance_id: str) -> str:
        """See SupportsConsole.console."""
        return await consoles.read(self._call, instance_id)

    async def preflight(self, port: int, tunnel_port: int) -> Sequence[Finding]:
        """See SupportsPreflight.preflight."""
        return await Preflight(_Subject(self, self._config, self._call)).run(port, tunnel_port)

    async def quota(self) -> Sequence[Headroom]:
        """See SupportsQuota.quota."""
        return await quota.read(self._call, await self._known.offerings())

    async def resources(self) -> Sequence[Resource]:
        """See SupportsSweep.resources: every kind at once."""
        found = await asyncio.gather(*(self._find(kind) for kind in resources.DOORS))
        return [resource for kind in found for resource in kind]

    async def remove(self, resource: Resource) -> None:
        """See SupportsSweep.remove. Asked first, for EC2 itself would release an address that is in use."""
        door, doing = resources.DOORS[resource.kind], f"cannot delete the {resource.kind} {resource.id}"
        for seen in await self._call(doing, door.describe, resources.one(resource), door.read):
            tags.check_removal(seen, self._owner)
            if seen.kind is ResourceKind.INSTANCE:
                await self.delete(seen.id)
                continue
            with contextlib.suppress(NotFound):
                await self._call(doing, door.delete, {door.parameter: seen.id}, requests.empty)

    async def aclose(self) -> None:
        """See Provider.aclose; returns when the calls under way have ended (cancelling stops only the waiting)."""
        self._closed = True
        self._known.close()
        await self._seats.aclose()
        await asyncio.to_thread(self._threads.shutdown)
        for client in self._clients.values():
            client.close()

    async def _finished(self, made: Instance) -> Instance:
        """`made` with what takes calls of its own; without that it is not worth keeping."""
        if self._config.public_ip != "elastic" or made.state is InstanceState.GONE:
            return requests.reachable(made, self._config)
        try:
            await self._elastic.give(made.id, made.name)
        except NotFound:
            return (await self.get([made.id])).get(made.id, made)
        except Transient:
            raise
        except Throttled as error:  # of a create this would say that nothing was made
            raise Transient(f"{made.id} has no address yet: {error.message}", code=error.code) from error
        except ProviderError:
            # Refused for good. The caller may take it that a refused create has made nothing.
            try:
                await self.delete(made.id)
            except ProviderError as error:
                raise Transient(f"{made.id} has no address and cannot be deleted now: {error}") from error
            raise
        return made

    async def _prepare(self, spec: LaunchSpec, token: str) -> None:
        """Refuse what would be refused, and learn what the call needs: it holds a turn, and may ask nothing else."""
        requests.check(spec, token, self._config)
        await self._known.check(spec)
        await self._surroundings(spec, token)

    async def _surroundings(self, spec: LaunchSpec, token: str) -> tuple[Image, Place]:
        image = await self._known.image(spec.image or self._config.image)
        return image, await self._known.place(spec.zone, token)

    async def _launch(self, spec: LaunchSpec, token: str, count: int) -> Mapping[int, Instance]:
        """RunInstances. What it made, by index."""
        image, place = await self._surroundings(spec, token)
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

    async def _call(
        self,
        doing: str,
        method: str,
        request: requests.Request,
        read: Callable[[Mapping[str, Any]], Iterable[T]],
        *,
        service: str = "ec2",
    ) -> Sequence[T]:
        """`_ask` in its turn."""
        action = limits.action(method)
        async with self.throttle.turn(action, limits.rank(action)):
            return await self._ask(doing, method, request, read, service=service)

    async def _ask(
        self,
        doing: str,
        method: str,
        request: requests.Request,
        read: Callable[[Mapping[str, Any]], Iterable[T]],
        *,
        service: str = "ec2",
    ) -> Sequence[T]:
        """What `read` finds in the answer, all pages of it; whatever goes wrong is an error of ours that says `doing`."""

        def ask() -> Sequence[T]:
            try:
                client = self._client(service)
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

    def _region(self) -> str:
        """Blocks. Raises InvalidSpec."""
        with self._making:
            if self._session is None:
                self._session = boto3.Session(profile_name=self._config.profile, region_name=self._config.region)
            return str(self._session.region_name or worker.region())

    def _client(self, service: str) -> Any:
        """A service's client, made in a thread by its first call: EC2's reads 10 MB of service model (0.3 s)."""
        region = self._region()
        with self._making:
            if service not in self._clients:
                url = dict(self._config.endpoint_urls).get(service)
                if service == "ec2":
                    url = self._config.endpoint_url
                if service == "pricing" and not url:
                    region = prices.endpoint_region(region)
                made = self._session.client(
                    service, region_name=region, endpoint_url=url, config=_sdk_config(self._config)
                )
                if region not in self._session.get_available_regions(service) and not url:
                    _check_host(made, region)
                self._clients[service] = made
            return self._clients[service]


@dataclass(frozen=True, slots=True)
class _Subject:
    """The provider as the preflight looks at it."""

    provider: AwsProvider
    config: AwsConfig
    ask: Ask

    async def region(self) -> str:
        return await self.provider._known.region()  # noqa: SLF001

    async def places(self) -> Mapping[str, Sequence[Place]]:
        return await self.provider._known.places()  # noqa: SLF001

    async def offerings(self) -> Sequence[Offering]:
        return await self.provider.offerings()

    async def quota(self) -> Sequence[Headroom]:
        return await self.provider.quota()

    async def launch(self, spec: LaunchSpec) -> requests.Request:
        provider, token = self.provider, "preflight"
        image, place = await provider._surroundings(spec, token)  # noqa: SLF001
        owner = provider._owner  # noqa: SLF001
        return requests.run_instances(spec, token, 1, config=self.config, owner=owner, image=image, place=place)

    async def ours(self) -> Sequence[str]:
        return [each.id for each in await self.provider.list()]

    async def worker(self) -> Worker:
        return await self.provider._known.worker()  # noqa: SLF001


def _check_host(client: Any, region: str) -> None:
    """A region that this SDK has not heard of may be newer than the SDK, or a slip of the pen."""
    host = urlsplit(client.meta.endpoint_url).hostname
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        client.close()
        raise InvalidSpec(f"there is no region {region}: {host} cannot be resolved; correct aws.region") from error


@dataclass(frozen=True, slots=True)
class _Launches:
    """The provider as `batch.Seats` calls it."""

    aws: AwsProvider

    async def launch(self, spec: LaunchSpec, token: str, count: int) -> Mapping[int, Instance]:
        return await self.aws._launch(spec, token, count)  # noqa: SLF001

    async def label(self, instance: Instance) -> None:
        request = requests.label(instance, self.aws._config)  # noqa: SLF001
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
