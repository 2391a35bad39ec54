"""A provider that counts: every verb's calls, seconds and refusals, by cloud."""

from collections.abc import Awaitable, Collection, Mapping, Sequence
from time import monotonic
from typing import TypeVar

from adaptor.telemetry import metrics
from providers.base import (
    Device,
    Disk,
    Instance,
    LaunchSpec,
    Offering,
    Provider,
    Resource,
    SupportsSweep,
    SupportsVolumes,
    Volume,
)
from providers.errors import ProviderError

T = TypeVar("T")


class Metered:
    """`provider`, with its calls counted in `telemetry.metrics`."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.name = provider.name

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


class MeteredSweep(Metered):
    """A Metered whose provider can sweep."""

    def __init__(self, provider: Provider, cloud: SupportsSweep) -> None:
        super().__init__(provider)
        self._cloud = cloud

    async def resources(self) -> Sequence[Resource]:
        return await self._count("resources", self._cloud.resources())

    async def remove(self, resource: Resource) -> None:
        await self._count("remove", self._cloud.remove(resource))


class MeteredVolumes(Metered):
    """A cloud's disks, with the calls for them counted as the provider's own are."""

    def __init__(self, provider: Provider, cloud: SupportsVolumes) -> None:
        super().__init__(provider)
        self._cloud = cloud

    async def disks(self, ids: Collection[str]) -> Mapping[str, Disk]:
        return await self._count("disks", self._cloud.disks(ids))

    async def attach(self, instance_id: str, volumes: Sequence[Volume]) -> None:
        await self._count("attach", self._cloud.attach(instance_id, volumes))

    def device(self, spec: LaunchSpec, index: int) -> Device:
        return self._cloud.device(spec, index)


def disks_of(provider: Provider) -> MeteredVolumes | None:
    """The cloud's disks, where it gives any to machines."""
    return MeteredVolumes(provider, provider) if isinstance(provider, SupportsVolumes) else None


def metered(provider: Provider) -> Metered:
    """`provider` counted, with the abilities it has."""
    return MeteredSweep(provider, provider) if isinstance(provider, SupportsSweep) else Metered(provider)
