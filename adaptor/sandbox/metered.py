"""A provider that counts: every verb's calls, seconds and refusals, by cloud."""

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from time import monotonic
from typing import Any, Final, TypeVar

from adaptor.errors import Unavailable
from adaptor.telemetry import metrics
from providers import registry
from providers.base import (
    Device,
    Disk,
    Finding,
    Headroom,
    Instance,
    LaunchSpec,
    Offering,
    Ownership,
    Provider,
    Resource,
    SupportsBatchCreate,
    SupportsPreflight,
    SupportsQuota,
    SupportsSweep,
    SupportsVolumes,
    Volume,
)
from providers.errors import ProviderError
from providers.throttle import Observer, Throttle

T = TypeVar("T")


class Metered:
    """`provider`, with its calls counted in `telemetry.metrics`. Made by `metered`, with the abilities it has."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self.name: str = provider.name
        self.user_data_limit: int = provider.user_data_limit
        if isinstance(throttle := getattr(provider, "throttle", None), Throttle):
            throttle.observer = _Waits(self.name)

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        return await self._count("create", self._provider.create(spec, token))

    async def get(self, ids: Collection[str]) -> Mapping[str, Instance]:
        return await self._count("get", self._provider.get(ids))

    async def list(self) -> Sequence[Instance]:
        return await self._count("list", self._provider.list())

    async def delete(self, instance_id: str) -> None:
        await self._count("delete", self._provider.delete(instance_id))

    async def offerings(self) -> Sequence[Offering]:
        return await self._count("offerings", self._provider.offerings())

    async def aclose(self) -> None:
        await self._provider.aclose()

    async def _count(self, verb: str, call: Awaitable[T]) -> T:
        began = monotonic()
        outcome = "error"
        try:
            result = await call
            outcome = "ok"
            return result
        except ProviderError as error:
            metrics.CLOUD_ERRORS.labels(cloud=self.name, verb=verb, kind=type(error).__name__).inc()
            raise
        finally:
            metrics.CLOUD_CALLS.labels(cloud=self.name, verb=verb, outcome=outcome).inc()
            metrics.CLOUD_CALL_SECONDS.labels(cloud=self.name, verb=verb).observe(monotonic() - began)


class _Waits(Observer):
    """What the provider's throttle holds back."""

    def __init__(self, cloud: str) -> None:
        self._cloud = cloud

    def waiting(self, change: int) -> None:
        metrics.CLOUD_WAITING.labels(cloud=self._cloud).inc(change)

    def backed_off(self, bucket: str) -> None:
        metrics.CLOUD_BACKOFFS.labels(cloud=self._cloud).inc()


class _Sweep(Metered):
    async def resources(self) -> Sequence[Resource]:
        return await self._count("resources", self._provider.resources())

    async def remove(self, resource: Resource) -> None:
        await self._count("remove", self._provider.remove(resource))


class _Volumes(Metered):
    async def disks(self, ids: Collection[str]) -> Mapping[str, Disk]:
        return await self._count("disks", self._provider.disks(ids))

    async def attach(self, instance_id: str, volumes: Sequence[Volume]) -> None:
        await self._count("attach", self._provider.attach(instance_id, volumes))

    def device(self, spec: LaunchSpec, index: int) -> Device:
        found: Device = self._provider.device(spec, index)
        return found


class _Batch(Metered):
    async def seat(self, spec: LaunchSpec, token: str) -> str:  # no call of the cloud's: nothing to count
        seat: str = await self._provider.seat(spec, token)
        return seat

    def leave(self, token: str) -> None:
        self._provider.leave(token)


class _Preflight(Metered):
    async def preflight(self, port: int, tunnel_port: int) -> Sequence[Finding]:
        return await self._count("preflight", self._provider.preflight(port, tunnel_port))


class _Quota(Metered):
    async def quota(self) -> Sequence[Headroom]:
        return await self._count("quota", self._provider.quota())


_ABILITIES: Final[tuple[tuple[type, type[Metered]], ...]] = (
    (SupportsSweep, _Sweep),
    (SupportsVolumes, _Volumes),
    (SupportsBatchCreate, _Batch),
    (SupportsPreflight, _Preflight),
    (SupportsQuota, _Quota),
)


def metered(provider: Provider) -> Provider:
    """`provider` counted, with the abilities it has and no others: callers ask by isinstance."""
    able = tuple(ours for ability, ours in _ABILITIES if isinstance(provider, ability))
    made: Provider = type("Metered", able or (Metered,), {})(provider)
    return made


async def open_metered(name: str, settings: Any, owner: Ownership) -> Provider:
    """The cloud's provider, counted; its SDK is imported in a thread: half a second of a start. Raises: Unavailable."""
    try:
        return metered(await asyncio.to_thread(registry.open_provider, name, settings, owner))
    except ModuleNotFoundError as error:
        raise Unavailable(str(error)) from error
    except ProviderError as error:
        raise Unavailable(f"the {name} provider cannot be used: {error}") from error
