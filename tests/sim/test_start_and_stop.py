"""A sandbox's life on a whole node in virtual time: the ordinary one, and each way a start can go wrong."""

import asyncio
import dataclasses

import pytest

from adaptor.errors import (
    Conflict,
    GuestUnreachable,
    InvalidRequest,
    NoCapacity,
    StartFailed,
    Unavailable,
    UnknownSandbox,
)
from adaptor.sandbox.model import Phase
from adaptor.sandbox.registry import Registry
from providers.errors import Capacity, Denied, ProviderError, Quota, Throttled, Transient
from tests.worlds.node import Node, spec

WEB = spec()


async def gone(registry: Registry, node: Node) -> None:
    """Until the teardown that goes on behind an answer has ended."""
    for _ in range(1000):
        if not registry.sandboxes:
            break
        await node.clock.sleep(1)
    assert await node.nothing_is_left()


async def test_a_pod_starts_runs_and_leaves_nothing(node: Node) -> None:
    async with node.adaptor() as registry:
        assert await registry.create(WEB) == f"/run/peerpod/pods/{WEB.id}/agent.ttrpc"
        assert not node.cloud.calls["create"], "CreateVM costs nothing"
        await registry.start(WEB.id)
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING
        assert node.relay.binds[WEB.id].pod_name == "web"
        await registry.stop(WEB.id, "StopVM")
        await gone(registry, node)


async def test_an_ordinary_pod_costs_one_create_and_one_delete(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        await registry.stop(WEB.id, "StopVM")
    assert (node.cloud.calls["create"], node.cloud.calls["delete"], node.cloud.calls["list"]) == (1, 1, 0)


async def test_every_call_may_be_repeated(node: Node) -> None:
    async with node.adaptor() as registry:
        assert await registry.create(WEB) == await registry.create(WEB)
        await asyncio.gather(registry.start(WEB.id), registry.start(WEB.id))
        await registry.start(WEB.id)
        await registry.create(WEB)
        await asyncio.gather(registry.stop(WEB.id, "a"), registry.stop(WEB.id, "b"))
        await registry.stop(WEB.id, "c")
        await gone(registry, node)
    assert node.cloud.calls["create"] == 1


async def test_stop_of_an_unknown_sandbox_is_success_and_start_is_not(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.stop("nobody", "StopVM")
        with pytest.raises(UnknownSandbox, match="CreateVM comes first"):
            await registry.start("nobody")


async def test_an_id_cannot_be_two_different_sandboxes(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        with pytest.raises(Conflict, match="created differently"):
            await registry.create(dataclasses.replace(WEB, vcpus=2))


async def test_a_stop_pre_empts_a_start_and_its_caller_hears_of_it(node: Node) -> None:
    node.relay.boot_seconds = 60
    async with node.adaptor() as registry:
        await registry.create(WEB)
        start = asyncio.create_task(registry.start(WEB.id))
        await node.clock.sleep(5)
        await registry.stop(WEB.id, "StopVM")
        with pytest.raises(StartFailed, match="was ended: StopVM"):
            await start
        await gone(registry, node)


async def test_a_caller_that_goes_away_during_the_start_takes_its_vm_with_it(node: Node) -> None:
    node.relay.boot_seconds = 60
    async with node.adaptor() as registry:
        await registry.create(WEB)
        start = asyncio.create_task(registry.start(WEB.id))
        await node.clock.sleep(5)
        assert node.cloud.living
        start.cancel()
        await gone(registry, node)


async def test_one_caller_going_away_leaves_the_start_to_the_other(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        first, second = (asyncio.create_task(registry.start(WEB.id)) for _ in range(2))
        await node.clock.sleep(2)
        first.cancel()
        await second
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING


async def test_a_caller_that_goes_away_during_the_create_call_leaves_no_vm(node: Node) -> None:
    node.cloud.call_seconds = 3
    async with node.adaptor() as registry:
        await registry.create(WEB)
        start = asyncio.create_task(registry.start(WEB.id))
        await node.clock.sleep(4)  # offerings took 3 s: now in create
        start.cancel()
        await gone(registry, node)
    assert node.cloud.calls["create"] == 1


async def test_a_guest_that_never_answers_fails_the_start_in_time_and_is_deleted(node: Node) -> None:
    node.relay.mute = True
    async with node.adaptor() as registry:
        await registry.create(WEB)
        began = node.clock.now()
        with pytest.raises(GuestUnreachable, match="no guest answered"):
            await registry.start(WEB.id)
        assert node.clock.now() - began == pytest.approx(300, abs=5)
        await gone(registry, node)


async def test_a_vm_that_dies_while_booting_fails_the_start_with_the_clouds_reason(node: Node) -> None:
    node.relay.boot_seconds = 120
    async with node.adaptor() as registry:
        await registry.create(WEB)
        start = asyncio.create_task(registry.start(WEB.id))
        await node.clock.sleep(10)
        node.cloud.kill(node.cloud.living[0], "Server.InternalError: internal error on launch")
        began = node.clock.now()
        with pytest.raises(StartFailed, match=r"ended while it was starting: Server.InternalError"):
            await start
        assert node.clock.now() - began < 5, "noticed by the watch, not by a time-out"
        await gone(registry, node)


async def test_many_waiting_vms_are_described_in_one_call_at_a_time(node: Node) -> None:
    node.relay.boot_seconds = 20
    async with node.adaptor() as registry:
        pods = [spec(f"p{n:03}") for n in range(50)]
        await asyncio.gather(*(registry.create(pod) for pod in pods))
        await asyncio.gather(*(registry.start(pod.id) for pod in pods))
    assert node.cloud.calls["get"] <= 20


async def test_a_machine_that_is_not_the_one_launched_is_given_nothing(node: Node) -> None:
    node.relay.impostor = True
    async with node.adaptor() as registry:
        await registry.create(WEB)
        with pytest.raises(StartFailed, match="does not hold this launch's token"):
            await registry.start(WEB.id)
        assert not node.relay.binds
        await gone(registry, node)


async def test_a_refused_bind_fails_the_start_with_the_guests_words(node: Node) -> None:
    node.relay.refuse_bind = "initdata: unknown algorithm md5"
    async with node.adaptor() as registry:
        await registry.create(WEB)
        with pytest.raises(StartFailed, match="unknown algorithm md5"):
            await registry.start(WEB.id)
        await gone(registry, node)


async def test_a_full_offering_gives_way_to_the_next_one(node: Node) -> None:
    node.cloud.refuse["create"] += [Capacity("no m6a.large here", code="InsufficientInstanceCapacity")]
    async with node.adaptor() as registry:
        await registry.create(sized := spec("sized", vcpus=2))
        await registry.start(sized.id)
        assert node.cloud.specs[node.cloud.living[0]].instance_type == "m6a.xlarge"


async def test_where_nothing_has_room_the_error_names_each_try(node: Node) -> None:
    node.cloud.refuse["create"] += [Capacity("no room"), Quota("limit of 8 vCPU")]
    async with node.adaptor() as registry:
        await registry.create(sized := spec("sized", vcpus=2))
        with pytest.raises(NoCapacity, match=r"m6a\.large: no room.*m6a\.xlarge: limit of 8 vCPU"):
            await registry.start(sized.id)
        await gone(registry, node)
    assert node.cloud.calls["delete"] == 0, "nothing was created, so nothing is deleted"


async def test_a_size_that_nothing_fits_is_refused_before_any_money_is_spent(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(big := spec("big", vcpus=999))
        with pytest.raises(InvalidRequest, match="no instance type found for the given vcpus"):
            await registry.start(big.id)
        await gone(registry, node)
    assert node.cloud.calls["create"] == 0


@pytest.mark.parametrize("passing", [Throttled("slow down", retry_after=7), Transient("HTTP 503")])
async def test_throttling_and_passing_faults_are_waited_out_with_the_same_token(
    node: Node, passing: ProviderError
) -> None:
    node.cloud.refuse["create"] += [passing, passing]
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
    assert node.cloud.calls["create"] == 3
    assert len(node.cloud.instances) == 1


async def test_a_denied_create_is_not_retried(node: Node) -> None:
    node.cloud.refuse["create"] += [Denied("not allowed", code="UnauthorizedOperation", request_id="r-1")]
    async with node.adaptor() as registry:
        await registry.create(WEB)
        with pytest.raises(StartFailed, match=r"refused the VM.*UnauthorizedOperation, request r-1"):
            await registry.start(WEB.id)
        await gone(registry, node)
    assert node.cloud.calls["create"] == 1


async def test_a_lost_reply_neither_makes_a_second_vm_nor_loses_the_first(node: Node) -> None:
    node.cloud.lose_replies += [Transient("connection reset")]
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        assert len(node.cloud.instances) == 1
        await registry.stop(WEB.id, "StopVM")
        await gone(registry, node)


@pytest.mark.parametrize("refusal", [Denied("expired"), Capacity("no room"), ProviderError("what?")])
async def test_a_refusal_after_a_lost_reply_does_not_make_the_first_vm_forgotten(
    node: Node, refusal: ProviderError
) -> None:
    node.cloud.lose_replies += [Transient("connection reset")]
    node.cloud.refuse_after_loss = refusal
    async with node.adaptor() as registry:
        await registry.create(WEB)
        with pytest.raises(StartFailed, match="never answered"):
            await registry.start(WEB.id)
        assert node.cloud.instances
        await gone(registry, node)


async def test_a_create_that_is_never_answered_is_found_by_its_token_and_deleted(node: Node) -> None:
    node.cloud.lose_replies += [ProviderError("gibberish", code="NoSuchCodeKnown")]
    node.cloud.hidden = True  # and the list does not show it at first
    async with node.adaptor() as registry:
        await registry.create(WEB)
        with pytest.raises(StartFailed, match="no usable answer"):
            await registry.start(WEB.id)
        await node.clock.sleep(20)
        assert node.cloud.living
        node.cloud.hidden = False
        await gone(registry, node)


async def test_a_delete_is_tried_until_the_cloud_accepts_and_the_answer_does_not_wait_for_it(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        node.cloud.refuse["delete"] += [Transient("HTTP 503")] * 20 + [Denied("expired credentials")]
        began = node.clock.now()
        await registry.stop(WEB.id, "StopVM")
        assert node.clock.now() - began < 15
        assert registry.sandboxes[WEB.id].phase is Phase.STOPPING
        await gone(registry, node)


async def test_a_sandbox_being_taken_down_refuses_to_live_again(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        node.cloud.refuse["delete"] += [Transient("HTTP 503")] * 20
        await registry.stop(WEB.id, "StopVM")
        with pytest.raises(Conflict, match="being taken down"):
            await registry.create(WEB)


async def test_without_a_relay_create_vm_fails_clearly_and_leaves_nothing(node: Node) -> None:
    async with node.adaptor() as registry:
        node.relay.away = True
        with pytest.raises(Unavailable, match="relay does not answer"):
            await registry.create(WEB)
        node.relay.away = False
        await node.gone(registry)
        await registry.create(WEB)
        await registry.start(WEB.id)


async def test_a_relay_that_is_away_holds_up_no_deletion(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        node.relay.away = True
        await registry.stop(WEB.id, "StopVM")
        assert not node.cloud.living
        node.relay.away = False
        await gone(registry, node)


@pytest.mark.parametrize("bad", ["", "a/b", "..", "x" * 200, "-x", "é"])
async def test_an_id_that_could_leave_its_directory_is_refused(node: Node, bad: str) -> None:
    async with node.adaptor() as registry:
        with pytest.raises(InvalidRequest):
            await registry.create(dataclasses.replace(WEB, id=bad))


async def test_a_sandbox_whose_start_never_comes_is_taken_down(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.create(late := spec("late"))
        await node.clock.sleep(500)
        await registry.start(late.id)
        await node.clock.sleep(150)
        assert list(registry.sandboxes) == [late.id], "its shim died between CreateVM and StartVM"
        assert registry.sandboxes[late.id].phase is Phase.RUNNING
        await registry.stop(late.id, "StopVM")
        await gone(registry, node)
