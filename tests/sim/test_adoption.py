"""A VM whose StartVM was given up waits for the pod's next sandbox: who gets it, who does not, and for how long."""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from adaptor.errors import StartFailed, UnknownSandbox
from adaptor.sandbox.model import Phase, SandboxSpec
from adaptor.sandbox.registry import Registry
from providers.errors import Capacity, Transient
from tests.worlds.node import Node, spec

GRACE = 180.0
WEB = spec()


def again(number: int = 2, like: SandboxSpec = WEB, **changed: object) -> SandboxSpec:
    """The sandbox that kubelet makes when it tries the pod another time."""
    fresh = dataclasses.replace(like, id=f"try{number}".ljust(64, "f"), netns=f"/run/netns/try{number}")
    return dataclasses.replace(fresh, **changed)  # type: ignore[arg-type]


async def given_up(registry: Registry, node: Node, pod: SandboxSpec = WEB, after: float = 5.0) -> None:
    """CreateVM and StartVM whose caller goes away after so many seconds."""
    await registry.create(pod)
    start = asyncio.create_task(registry.start(pod.id))
    await node.clock.sleep(after)
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)


async def kept(registry: Registry, node: Node, pod: SandboxSpec = WEB, after: float = 5.0) -> None:
    await given_up(registry, node, pod, after)
    while registry.sandboxes[pod.id].phase is Phase.STARTING:
        await node.clock.sleep(0.1)
    assert registry.sandboxes[pod.id].phase is Phase.KEPT


async def started(registry: Registry, pod: SandboxSpec) -> None:
    await registry.create(pod)
    await registry.start(pod.id)
    assert registry.sandboxes[pod.id].phase is Phase.RUNNING


async def only(registry: Registry, node: Node, pod: SandboxSpec) -> None:
    """Until that sandbox is the only one left, with the only VM."""
    for _ in range(900):
        if list(registry.sandboxes) == [pod.id]:
            break
        await node.clock.sleep(1)
    assert list(registry.sandboxes) == [pod.id]
    assert list(node.relay.open_sessions) == [pod.id]
    assert node.cloud.living == [registry.sandboxes[pod.id].instance_id]
    assert list(await node.journal_rows()) == [pod.id]


async def test_the_pods_next_sandbox_gets_the_vm_and_no_second_one_is_paid_for(node: Node) -> None:
    async with node.adaptor() as registry:
        await kept(registry, node)
        began = node.clock.now()
        await started(registry, again())
        assert node.clock.now() - began < 8, "it boots on while the pod is between its tries"
        assert node.relay.bound == {"i-0001": again().id}
        await only(registry, node, again())
        await registry.stop(again().id, "StopVM")
        await node.gone(registry)
    assert node.cloud.calls["create"] == 1


async def test_what_was_said_of_the_vm_when_it_was_made_stays_true_for_the_next_try(node: Node) -> None:
    async with node.adaptor() as registry:
        await kept(registry, node)
        await kept(registry, node, again(2), after=1)
        await started(registry, again(3))
        launch = registry.sandboxes[again(3).id].launch
        assert launch is not None
        assert launch.sandbox == WEB.id == node.cloud.specs["i-0001"].tags["peerpods-sandbox"]
        await only(registry, node, again(3))
    assert node.cloud.calls["create"] == 1


async def test_a_create_call_under_way_ends_and_its_vm_is_kept(node: Node) -> None:
    node.cloud.call_seconds = 3
    async with node.adaptor() as registry:
        await given_up(registry, node, after=4)  # offerings took 3 s: now in create
        await started(registry, again())
        await only(registry, node, again())
    assert node.cloud.calls["create"] == 1


async def test_a_create_that_was_never_answered_is_asked_again_with_its_token_by_the_next_try(node: Node) -> None:
    node.cloud.call_seconds = 3
    node.cloud.lose_replies += [Transient("connection reset")]
    async with node.adaptor() as registry:
        await given_up(registry, node, after=4)
        await started(registry, again())
        await only(registry, node, again())
    assert node.cloud.calls["create"] == 2
    assert len(node.cloud.made_at) == 1


async def test_a_create_that_never_reached_the_cloud_is_made_by_the_next_try(node: Node) -> None:
    node.cloud.call_seconds = 3
    node.cloud.refuse["create"] += [Transient("connection refused")]
    async with node.adaptor() as registry:
        await given_up(registry, node, after=4)
        await started(registry, again())
        await only(registry, node, again())
    assert len(node.cloud.made_at) == 1


async def test_what_was_written_while_the_caller_went_away_is_known_to_have_happened(node: Node) -> None:
    node.journal_seconds = 1.0
    async with node.adaptor() as registry:
        await given_up(registry, node, after=2.6)  # launch-intended is on disk, and nobody has heard of it
        await node.clock.sleep(5)
        assert registry.sandboxes[WEB.id].phase is Phase.KEPT
        assert (await node.journal_rows())[WEB.id][-2:] == ["launch-intended", "kept"]
        await registry.stop(WEB.id, "StopVM")
        await node.gone(registry)


async def test_nobody_pays_for_it_longer_than_the_grace(node: Node) -> None:
    async with node.adaptor() as registry:
        await kept(registry, node)
        assert await node.gone(registry) == pytest.approx(GRACE, abs=5)


async def test_the_grace_goes_on_while_the_adaptor_restarts(node: Node) -> None:
    async with node.adaptor() as first:
        await kept(first, node)
        await node.clock.sleep(100)
    async with node.adaptor() as second:
        assert second.sandboxes[WEB.id].phase is Phase.KEPT
        assert await node.gone(second) == pytest.approx(GRACE - 100, abs=5)


async def test_a_grace_that_ended_while_no_adaptor_ran_is_over(node: Node) -> None:
    async with node.adaptor() as first:
        await kept(first, node)
    await node.clock.sleep(GRACE + 1)
    async with node.adaptor() as second:
        assert await node.gone(second) < 10


async def test_a_start_that_the_adaptor_did_not_live_to_finish_is_kept_too(node: Node) -> None:
    async with node.adaptor() as first:
        await first.create(WEB)
        start = asyncio.create_task(first.start(WEB.id))
        await node.clock.sleep(5)
    start.cancel()
    async with node.adaptor() as second:
        await started(second, again())
        await only(second, node, again())
    assert node.cloud.calls["create"] == 1


@pytest.mark.parametrize("moment", [0.15, 0.25])  # in the create call, before and after the cloud has done it
async def test_an_adaptor_that_dies_in_the_create_call_loses_no_vm_and_makes_no_second(
    node: Node, moment: float
) -> None:
    async with node.adaptor(last_write=3) as first:  # created, start-requested, launch-intended
        await first.create(WEB)
        start = asyncio.create_task(first.start(WEB.id))
        await node.clock.sleep(moment)
    start.cancel()
    async with node.adaptor() as second:
        await started(second, again())
        await only(second, node, again())
    assert len(node.cloud.made_at) == 1


@pytest.mark.parametrize(
    "other",
    [
        again(vcpus=4),
        again(initdata="version = '0.1.0'"),
        again(image="ami-2"),
        again(pod_name="web-2"),
        again(pod_namespace="bank"),
    ],
    ids=["size", "initdata", "image", "name", "namespace"],
)
async def test_a_pod_that_wants_something_else_gets_its_own_vm(node: Node, other: SandboxSpec) -> None:
    async with node.adaptor() as registry:
        await kept(registry, node)
        await started(registry, other)
        assert node.relay.bound == {"i-0002": other.id}
        await only(registry, node, other)


async def test_another_pod_of_the_same_name_gets_its_own_vm(node: Node) -> None:
    first, second = dataclasses.replace(WEB, pod_uid="u-1"), again(pod_uid="u-2")
    async with node.adaptor() as registry:
        await kept(registry, node, first)
        await started(registry, second)
        await only(registry, node, second)
    assert node.cloud.calls["create"] == 2


async def test_a_uid_that_only_one_side_knows_says_nothing(node: Node) -> None:
    async with node.adaptor() as registry:
        await kept(registry, node, dataclasses.replace(WEB, pod_uid="u-1"))
        await started(registry, again())
    assert node.cloud.calls["create"] == 1


async def test_a_sandbox_without_a_pod_keeps_nothing(node: Node) -> None:
    nobody = SandboxSpec("ctr", "", "", "/run/netns/ctr")
    async with node.adaptor() as registry:
        await given_up(registry, node, nobody)
        assert await node.gone(registry) < 10


async def test_a_vm_that_would_not_be_launched_like_that_any_more_is_not_adopted(node: Node) -> None:
    async with node.adaptor() as registry:
        await kept(registry, node)
    node.guest = dataclasses.replace(node.guest, port=15151)
    async with node.adaptor() as registry:
        await started(registry, again())
        await only(registry, node, again())
    assert node.cloud.calls["create"] == 2


async def test_stop_vm_of_a_kept_sandbox_ends_it_at_once(node: Node) -> None:
    async with node.adaptor() as registry:
        await kept(registry, node)
        await registry.stop(WEB.id, "StopVM")
        assert not node.cloud.living
        await node.gone(registry)


async def test_the_same_sandbox_started_again_goes_on_with_its_vm(node: Node) -> None:
    async with node.adaptor() as registry:
        await kept(registry, node)
        await registry.start(WEB.id)
        await node.clock.sleep(2 * GRACE)
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING, "the grace is over and means nothing"
        await only(registry, node, WEB)
    assert node.cloud.calls["create"] == 1


async def test_of_two_newcomers_one_gets_it(node: Node) -> None:
    async with node.adaptor() as registry:
        await kept(registry, node)
        await asyncio.gather(started(registry, again(2)), started(registry, again(3)))
        assert sorted(node.relay.bound.values()) == sorted([again(2).id, again(3).id])
    assert node.cloud.calls["create"] == 2


async def test_a_start_somebody_still_waits_for_is_left_alone(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        start = asyncio.create_task(registry.start(WEB.id))
        await node.clock.sleep(2)
        await started(registry, again())
        await start
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING
    assert node.cloud.calls["create"] == 2


async def test_a_caller_whose_end_is_seen_late_still_saves_the_second_vm(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        old = asyncio.create_task(registry.start(WEB.id))
        await node.clock.sleep(2)
        node.cloud.call_seconds = 5
        await registry.create(again())
        new = asyncio.create_task(registry.start(again().id))
        await node.clock.sleep(2)  # the newcomer asks for offerings, and has found nothing to adopt
        old.cancel()
        await new
        await only(registry, node, again())
    assert node.cloud.calls["create"] == 1


async def test_a_stop_beside_a_caller_that_goes_away_takes_everything_down(node: Node) -> None:
    async with node.adaptor() as registry:
        await given_up(registry, node)
        await registry.stop(WEB.id, "StopVM")
        assert await node.gone(registry) < 10


@pytest.mark.parametrize("hundredths", range(0, 24, 3))
async def test_an_adopter_stopped_at_any_moment_leaves_nothing(node: Node, hundredths: int) -> None:
    node.cloud.call_seconds = 0.05
    node.cloud.lose_replies += [Transient("connection reset")]
    async with node.adaptor() as registry:
        await given_up(registry, node, after=0.08)  # in create
        await registry.create(again())
        start = asyncio.create_task(registry.start(again().id))
        await node.clock.sleep(hundredths / 100)
        await registry.stop(again().id, "StopVM")
        await registry.stop(WEB.id, "StopVM")
        with pytest.raises((StartFailed, UnknownSandbox)):
            await start
        await node.gone(registry)


async def test_a_start_that_failed_is_not_kept(node: Node) -> None:
    node.cloud.refuse["create"] += [Capacity("no room")] * 3
    node.cloud.call_seconds = 3
    async with node.adaptor() as registry:
        await given_up(registry, node, after=4)  # the refusal comes when the caller has gone
        assert await node.gone(registry) < 10


async def test_a_vm_that_is_being_bound_is_not_kept(node: Node) -> None:
    node.relay.bind_seconds = 10
    async with node.adaptor() as registry:
        await given_up(registry, node, after=12)
        assert await node.gone(registry) < 10


async def test_a_vm_that_dies_while_it_waits_is_not_kept_on(node: Node) -> None:
    async with node.adaptor(patrol=True) as registry:
        await kept(registry, node)
        node.cloud.kill(node.cloud.living[0], "Server.SpotInstanceTermination")
        assert await node.gone(registry) < 90


async def test_without_a_grace_nothing_is_kept(node: Node) -> None:
    node.guest = dataclasses.replace(node.guest, adopt_grace=0.0)
    async with node.adaptor() as registry:
        await given_up(registry, node)
        assert await node.gone(registry) < 10


async def test_an_upstream_guest_is_never_kept(node: Node) -> None:
    node.guest = dataclasses.replace(node.guest, flavor="upstream")
    async with node.adaptor() as registry:
        await given_up(registry, node)
        assert await node.gone(registry) < 10


@pytest.mark.parametrize("write", [n / 2 for n in range(30)])
async def test_an_adaptor_killed_at_any_write_of_an_adoption_leaves_one_vm_for_the_pod(
    tmp_path: Path, write: float
) -> None:
    node = Node(tmp_path)
    async with node.adaptor(last_write=write) as first:
        calls = asyncio.create_task(_two_tries(first, node))
        await node.clock.sleep(60)
    calls.cancel()
    await asyncio.gather(calls, return_exceptions=True)
    async with node.adaptor(patrol=True) as second:
        running = [state.spec for state in second.sandboxes.values() if state.phase is Phase.RUNNING]
        if not running:
            await started(second, again(3))
            running = [again(3)]
        await only(second, node, running[0])
        # A VM that was reached may have been bound, and is so only once.
        assert len(node.cloud.made_at) == (2 if 10.5 <= write <= 12.0 else 1)
        await second.stop(running[0].id, "StopVM")
        await node.gone(second)


async def _two_tries(registry: Registry, node: Node) -> None:
    await kept(registry, node)
    await started(registry, again(2))
