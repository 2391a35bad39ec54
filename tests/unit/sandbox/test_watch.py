"""One describe for all who wait, each in its own rhythm."""

import asyncio

import pytest

from adaptor.sandbox.model import LaunchIntended, Phase, SandboxSpec, SandboxState
from adaptor.sandbox.watch import InstanceWatch, survey
from providers.base import InstanceState, LaunchSpec
from providers.errors import Denied, Throttled, Transient
from tests.worlds.clock import VirtualClock
from tests.worlds.cloud import Cloud


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def cloud(clock: VirtualClock) -> Cloud:
    return Cloud(clock)


@pytest.fixture
def watch(cloud: Cloud, clock: VirtualClock) -> InstanceWatch:
    return InstanceWatch(cloud, clock)


async def made(cloud: Cloud, count: int) -> list[str]:
    return [(await cloud.create(LaunchSpec("vm", "m6a.large", b""), f"t{n}")).id for n in range(count)]


async def test_all_who_wait_share_one_describe(cloud: Cloud, watch: InstanceWatch) -> None:
    ids = await made(cloud, 20)
    seen = await asyncio.gather(*(watch.look(each, 2) for each in ids))
    assert [each.id for each in seen if each] == ids
    assert cloud.calls["get"] == 1


async def test_two_may_wait_for_the_same_vm_for_different_things(cloud: Cloud, watch: InstanceWatch) -> None:
    (vm,) = await made(cloud, 1)
    death, gone = asyncio.create_task(watch.death(vm)), asyncio.create_task(watch.gone(vm, 300))
    await asyncio.sleep(0)
    cloud.kill(vm, "spot")
    assert (await death).reason == "spot"
    assert await gone


async def test_a_stopped_vm_is_dead_and_not_gone(cloud: Cloud, watch: InstanceWatch) -> None:
    (vm,) = await made(cloud, 1)
    cloud.instances[vm] = type(cloud.instances[vm])(vm, InstanceState.STOPPED, reason="shut down")
    assert (await watch.death(vm)).reason == "shut down"
    assert not await watch.gone(vm, 60)


async def test_who_waits_for_an_end_asks_seldom(cloud: Cloud, watch: InstanceWatch, clock: VirtualClock) -> None:
    (vm,) = await made(cloud, 1)
    assert not await watch.gone(vm, 100)
    assert 9 <= cloud.calls["get"] <= 12


async def test_nobody_waits_and_nothing_is_asked(cloud: Cloud, watch: InstanceWatch, clock: VirtualClock) -> None:
    (vm,) = await made(cloud, 1)
    waiting = asyncio.create_task(watch.death(vm))
    await clock.sleep(5)
    waiting.cancel()
    await clock.sleep(3)
    asked = cloud.calls["get"]
    await clock.sleep(60)
    assert cloud.calls["get"] == asked


async def test_a_cloud_that_refuses_to_describe_is_asked_ever_more_seldom(
    cloud: Cloud, watch: InstanceWatch, clock: VirtualClock
) -> None:
    (vm,) = await made(cloud, 1)
    cloud.refuse["get"] += [Transient("HTTP 503")] * 1000
    waiting = asyncio.create_task(watch.death(vm))
    await clock.sleep(600)
    assert 20 <= cloud.calls["get"] <= 80
    cloud.refuse["get"].clear()
    cloud.kill(vm, "x")
    await waiting


async def test_a_throttling_cloud_gets_the_pause_it_asked_for(
    cloud: Cloud, watch: InstanceWatch, clock: VirtualClock
) -> None:
    (vm,) = await made(cloud, 1)
    cloud.refuse["get"] += [Throttled("slow down", retry_after=100)]
    began = clock.now()
    await watch.look(vm, 0)
    assert clock.now() - began >= 100


async def test_a_vm_unknown_once_and_then_there_was_not_met_by_its_deletion(
    cloud: Cloud, watch: InstanceWatch, clock: VirtualClock
) -> None:
    (vm,) = await made(cloud, 1)
    held = cloud.instances.pop(vm)
    waiting = asyncio.create_task(watch.gone(vm, 300))
    await clock.sleep(5)
    cloud.instances[vm] = held
    assert not await waiting


# -- what the cloud has, for a recovery plan ---------------------------------------------------------------------------


def state(instance_id: str, phase: Phase = Phase.RUNNING) -> SandboxState:
    spec = SandboxSpec(instance_id, "web", "shop", "/n")
    return SandboxState(spec, phase, 1, LaunchIntended("t", "n", "m6a.large", "", "", ""), instance_id)


async def test_the_survey_knows_the_living_and_the_dead_of_the_journal(cloud: Cloud, clock: VirtualClock) -> None:
    one, two, other = await made(cloud, 3)
    cloud.kill(two, "spot")
    found = await survey(cloud, clock, {"a": state(one), "b": state(two), "c": state("i-9999")}, 2.0)
    assert found is not None
    assert {each: found[each].state.value for each in found} == {one: "pending", two: "gone", other: "pending"}


async def test_an_empty_journal_asks_the_cloud_nothing(cloud: Cloud, clock: VirtualClock) -> None:
    assert await survey(cloud, clock, {}, 2.0) == {}
    assert not cloud.calls


async def test_a_cloud_that_refuses_or_is_slow_is_gone_on_without(cloud: Cloud, clock: VirtualClock) -> None:
    cloud.refuse["list"] += [Denied("expired credentials")]
    assert await survey(cloud, clock, {"a": state("i-1")}, 2.0) is None
    cloud.call_seconds = 60
    began = clock.now()
    assert await survey(cloud, clock, {"a": state("i-1")}, 2.0) is None
    assert clock.now() - began <= 2
