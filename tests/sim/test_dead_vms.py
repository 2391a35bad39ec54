"""VMs that die or are deleted behind our back: noticed, and the pod ends with the cloud's reason."""

import asyncio

import pytest

from adaptor.errors import Unavailable
from adaptor.relay.states import SessionState
from adaptor.sandbox.model import Phase
from adaptor.sandbox.registry import Registry
from providers.errors import Transient
from tests.worlds.node import Node, spec

WEB = spec()


async def running(registry: Registry) -> None:
    await registry.create(WEB)
    await registry.start(WEB.id)


async def ends(registry: Registry, node: Node, patience: float = 300) -> tuple[float, str]:
    """Seconds until the pod's session is closed, and why its sandbox was taken down."""
    began = node.clock.now()
    reason = ""
    while node.relay.open_sessions and node.clock.now() - began < patience:
        await node.clock.sleep(0.1)
        if WEB.id in registry.sandboxes:
            reason = registry.sandboxes[WEB.id].stop_reason
    assert not node.relay.open_sessions
    return node.clock.now() - began, reason


async def test_a_vm_whose_link_broke_and_that_is_dead_fails_its_pod_at_once(node: Node) -> None:
    async with node.adaptor() as registry:
        await running(registry)
        node.cloud.kill("i-0001", "Server.SpotInstanceTermination: Spot interruption")
        node.relay.lose(WEB.id, "the link broke", SessionState.RESUMING)
        await registry.reap()
        seconds, reason = await ends(registry, node)
        assert seconds < 5
        assert reason == "the VM i-0001 was terminated: Server.SpotInstanceTermination: Spot interruption"
        await node.gone(registry)


async def test_a_vm_whose_link_broke_and_that_lives_keeps_its_pod(node: Node) -> None:
    async with node.adaptor() as registry:
        await running(registry)
        node.relay.lose(WEB.id, "the link broke", SessionState.RESUMING)
        await registry.reap()
        await node.clock.sleep(60)
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING
        asked = node.cloud.calls["get"]
        node.relay.lose(WEB.id, "", SessionState.JOINED)
        await registry.reap()
        await node.clock.sleep(60)
        assert node.cloud.calls["get"] - asked <= 2, "nobody asks after a VM whose link is back"
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING


async def test_a_vm_that_dies_while_its_link_is_being_resumed_fails_its_pod(node: Node) -> None:
    async with node.adaptor() as registry:
        await running(registry)
        node.relay.lose(WEB.id, "the link broke", SessionState.RESUMING)
        await registry.reap()
        await registry.reap()
        await node.clock.sleep(30)
        node.cloud.kill("i-0001", "")
        seconds, reason = await ends(registry, node)
        assert seconds < 5
        assert reason == "the VM i-0001 was terminated: the cloud gives no reason"
        await node.gone(registry)


async def test_a_vm_that_dies_behind_a_link_that_looks_fine_is_noticed_within_a_minute(node: Node) -> None:
    async with node.adaptor(patrol=True) as registry:
        await running(registry)
        node.cloud.kill("i-0001", "Client.UserInitiatedShutdown")
        seconds, reason = await ends(registry, node)
        assert seconds <= 61
        assert "Client.UserInitiatedShutdown" in reason
        await node.gone(registry)


async def test_a_vm_that_the_cloud_forgot_counts_as_dead_only_after_several_looks(node: Node) -> None:
    async with node.adaptor(patrol=True) as registry:
        await running(registry)
        node.cloud.forget("i-0001")
        seconds, reason = await ends(registry, node)
        assert 10 <= seconds <= 80
        assert reason == "the VM i-0001 is gone: the cloud no longer knows it"
        await node.gone(registry)


async def test_a_vm_that_is_missing_from_some_answers_keeps_its_pod(node: Node) -> None:
    async with node.adaptor(patrol=True) as registry:
        await running(registry)
        held = node.cloud.instances.pop("i-0001")
        await node.clock.sleep(56)  # one look of the patrol, and a few closer ones
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING
        node.cloud.instances["i-0001"] = held
        await node.clock.sleep(200)
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING


async def test_a_cloud_that_is_away_condemns_nobody(node: Node) -> None:
    async with node.adaptor(patrol=True) as registry:
        await running(registry)
        node.relay.lose(WEB.id, "the link broke", SessionState.RESUMING)
        node.cloud.refuse["get"] += [Transient("HTTP 503")] * 1000
        await registry.reap()
        await node.clock.sleep(300)
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING


async def test_all_running_vms_are_looked_at_in_one_call_a_minute(node: Node) -> None:
    pods = [spec(f"p{n:03}") for n in range(100)]
    async with node.adaptor(patrol=True) as registry:
        await asyncio.gather(*(registry.create(pod) for pod in pods))
        await asyncio.gather(*(registry.start(pod.id) for pod in pods))
        asked = node.cloud.calls["get"]
        await node.clock.sleep(600)
        assert node.cloud.calls["get"] - asked <= 11


async def test_stop_vm_that_follows_the_loss_of_the_vm_records_why(node: Node) -> None:
    async with node.adaptor() as registry:
        await running(registry)
        node.relay.lose(WEB.id, "the VM did not answer for 120 s")
        await registry.stop(WEB.id, "StopVM")
        assert (
            registry.sandboxes[WEB.id].stop_reason == "StopVM, after its VM was lost: the VM did not answer for 120 s"
        )
        await node.gone(registry)


async def test_an_ordinary_stop_vm_says_just_that(node: Node) -> None:
    async with node.adaptor() as registry:
        await running(registry)
        await registry.stop(WEB.id, "StopVM")
        assert registry.sandboxes[WEB.id].stop_reason == "StopVM"


async def test_a_relay_that_does_not_answer_holds_stop_vm_up_for_a_second_at_most(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node.adaptor() as registry:
        await running(registry)
        monkeypatch.setattr(node.relay, "sessions", lambda: node.clock.sleep(3600))
        began = node.clock.now()
        await registry.stop(WEB.id, "StopVM")
        assert node.clock.now() - began < 1.5
        await node.gone(registry)


async def test_a_pod_whose_link_is_being_resumed_outlives_a_restart(node: Node) -> None:
    async with node.adaptor() as first:
        await running(first)
    node.relay.lose(WEB.id, "the link broke", SessionState.RESUMING)
    async with node.adaptor() as second:
        assert second.sandboxes[WEB.id].phase is Phase.RUNNING
        await second.reap()
        await node.clock.sleep(10)
        assert second.sandboxes[WEB.id].phase is Phase.RUNNING


async def test_a_vm_that_died_while_no_adaptor_ran_is_taken_down_with_the_clouds_reason(node: Node) -> None:
    async with node.adaptor() as first:
        await running(first)
    node.cloud.kill("i-0001", "Server.SpotInstanceTermination")
    async with node.adaptor() as second:
        _, reason = await ends(second, node)
        assert reason == "the VM i-0001 was terminated: Server.SpotInstanceTermination"
        await node.gone(second)


async def test_a_cloud_that_does_not_answer_delays_no_start_of_the_adaptor(node: Node) -> None:
    async with node.adaptor() as first:
        await running(first)
    node.cloud.call_seconds = 3600
    began = node.clock.now()
    async with node.adaptor() as second:
        assert node.clock.now() - began <= 2.1
        assert second.sandboxes[WEB.id].phase is Phase.RUNNING
        node.cloud.call_seconds = 0.1


async def test_a_session_that_is_nobodys_is_closed_by_the_reaper_too(node: Node) -> None:
    async with node.adaptor() as registry:
        await running(registry)
        await node.relay.open("stranger", "/run/peerpod/pods/stranger/agent.ttrpc")
        await registry.reap()
        assert list(node.relay.open_sessions) == [WEB.id]


async def test_many_stops_at_once_ask_the_relay_a_few_times(node: Node) -> None:
    pods = [spec(f"p{n:03}") for n in range(200)]
    async with node.adaptor() as registry:
        await asyncio.gather(*(registry.create(pod) for pod in pods))
        await asyncio.gather(*(registry.start(pod.id) for pod in pods))
        before = node.relay.calls["list"]
        await asyncio.gather(*(registry.stop(pod.id, "StopVM") for pod in pods))
        assert node.relay.calls["list"] - before <= 3
        await node.gone(registry)


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_pod_whose_shim_never_came_is_taken_down(node: Node, *, restarts: bool) -> None:
    node.relay.shims_come = False
    async with node.adaptor(patrol=True) as first:
        await running(first)
        if not restarts:
            assert "no shim has connected" in (await ends(first, node))[1]
            await node.gone(first)
    if restarts:
        async with node.adaptor(patrol=True) as second:
            assert second.sandboxes[WEB.id].phase is Phase.RUNNING
            assert "no shim has connected" in (await ends(second, node))[1]
            await node.gone(second)


async def test_stopvm_that_follows_a_vms_death_tells_the_clouds_reason(node: Node) -> None:
    async with node.adaptor() as registry:
        await running(registry)
        node.cloud.kill("i-0001", "Server.SpotInstanceTermination")
        node.relay.lose(WEB.id, "the link: closed in order by the other end")
        stopping = asyncio.create_task(registry.stop(WEB.id, "StopVM"))
        _, reason = await ends(registry, node)
        await stopping
        assert reason == ("StopVM, after its VM was lost: the VM i-0001 was terminated: Server.SpotInstanceTermination")
        await node.gone(registry)


async def test_a_createvm_that_finds_no_relay_leaves_nothing_once_there_is_one(node: Node) -> None:
    async with node.adaptor() as registry:
        node.relay.away = True
        with pytest.raises(Unavailable):
            await registry.create(WEB)
        assert registry.sandboxes[WEB.id].phase is not Phase.RUNNING
        node.relay.away = False
        await node.gone(registry)


async def test_a_vm_that_shuts_itself_down_leaves_before_the_cloud_says_so(node: Node) -> None:
    async with node.adaptor() as registry:
        await running(registry)
        node.relay.lose(WEB.id, "the link: closed in order by the other end")
        await registry.reap()
        await node.clock.sleep(1.5)
        node.cloud.kill("i-0001", "Client.InstanceInitiatedShutdown")
        seconds, reason = await ends(registry, node)
        assert seconds < 4
        assert reason == "the VM i-0001 was terminated: Client.InstanceInitiatedShutdown"
        await node.gone(registry)
