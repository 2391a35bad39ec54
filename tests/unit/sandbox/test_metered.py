"""A counted provider can what the provider can, and nothing else."""

from collections.abc import Sequence
from typing import Any

import pytest

from adaptor.sandbox.metered import metered
from adaptor.telemetry import metrics
from providers import base
from providers.base import Headroom, Volume
from providers.errors import Denied
from tests.worlds.clock import VirtualClock
from tests.worlds.cloud import Cloud

ABILITIES = (
    base.SupportsSweep,
    base.SupportsVolumes,
    base.SupportsBatchCreate,
    base.SupportsPreflight,
    base.SupportsQuota,
)


class Plain:
    """Six verbs, no more."""

    name = "plain"
    user_data_limit = 1024

    def __init__(self) -> None:
        cloud = Cloud(VirtualClock())
        self.create, self.get, self.list = cloud.create, cloud.get, cloud.list
        self.delete, self.offerings, self.aclose = cloud.delete, cloud.offerings, cloud.aclose


class Able(Plain):
    name = "able"

    async def quota(self) -> Sequence[Headroom]:
        raise Denied("no")

    async def disks(self, ids: object) -> dict[str, base.Disk]:
        return {}

    async def attach(self, instance_id: str, volumes: Sequence[Volume]) -> None:
        return

    def device(self, spec: base.LaunchSpec, index: int) -> base.Device:
        return base.Device(lun=index)


def abilities(provider: Any) -> set[str]:
    return {ability.__name__ for ability in ABILITIES if isinstance(provider, ability)}


def test_abilities_are_neither_lost_nor_gained() -> None:
    assert abilities(metered(Plain())) == set()
    able = metered(Able())
    assert abilities(able) == {"SupportsQuota", "SupportsVolumes"}
    assert isinstance(able, base.SupportsVolumes)
    assert able.device(base.LaunchSpec("a", "b", b""), 3).lun == 3


async def test_a_refusal_is_counted_by_what_it_means() -> None:
    able = metered(Able())
    assert isinstance(able, base.SupportsQuota)
    counter = metrics.CLOUD_ERRORS.labels(cloud="able", verb="quota", kind="Denied")
    before = counter._value.get()
    with pytest.raises(Denied):
        await able.quota()
    assert counter._value.get() == before + 1
