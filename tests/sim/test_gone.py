"""After the cloud has accepted a deletion: the answer does not wait, and nothing is forgotten before the VM is gone."""

import asyncio
from typing import Any

import pytest

from adaptor.errors import Conflict
from adaptor.sandbox.model import Phase
from providers.errors import Denied, Transient
from tests.worlds.node import Node, spec

WEB = spec()


async def test_stop_vm_is_answered_when_the_cloud_accepts_and_the_journal_waits_for_the_end(node: Node) -> None:
    node.cloud.deleting_seconds = 100
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        began = node.clock.now()
        await registry.stop(WEB.id, "StopVM")
        assert node.clock.now() - began < 1
        assert not node.relay.open_sessions
        rows = await node.journal_rows()
        assert rows[WEB.id][-2:] == ["stop-decided", "instance-deleted"]
        assert await node.gone(registry) == pytest.approx(100, abs=15)
    assert node.cloud.calls["delete"] == 2, "asked again after a minute: the first may have met nothing"


async def test_calls_are_answered_while_the_cloud_takes_its_time(node: Node) -> None:
    node.cloud.deleting_seconds = 100
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        await registry.stop(WEB.id, "StopVM")
        began = node.clock.now()
        await registry.stop(WEB.id, "StopVM")
        with pytest.raises(Conflict, match="what is being deleted cannot start"):
            await registry.start(WEB.id)
        with pytest.raises(Conflict, match="being taken down"):
            await registry.create(WEB)
        assert node.clock.now() == began
        await node.gone(registry)


async def test_a_stop_that_meets_the_end_of_its_sandbox_is_answered_and_writes_nothing_more(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found as a driver that tried for ever to record a decision about a sandbox that was forgotten by then."""
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        driver = registry._drivers[WEB.id]
        await registry.stop(WEB.id, "StopVM")

        async def end_start() -> None:
            while driver.state.phase is not Phase.GONE:
                await node.clock.sleep(1)

        monkeypatch.setattr(driver, "_end_start", end_start)
        async with asyncio.timeout(5):
            await registry.stop(WEB.id, "StopVM")
        await node.gone(registry)


async def test_a_start_is_refused_at_once_also_while_the_cloud_refuses_to_delete(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        node.cloud.refuse["delete"] += [Transient("HTTP 503")] * 20
        await registry.stop(WEB.id, "StopVM")
        began = node.clock.now()
        with pytest.raises(Conflict, match="what is being deleted cannot start"):
            await registry.start(WEB.id)
        assert node.clock.now() == began
        await node.gone(registry)


async def test_the_next_adaptor_goes_on_waiting_and_deletes_nothing_twice(node: Node) -> None:
    node.cloud.deleting_seconds = 60
    async with node.adaptor() as first:
        await first.create(WEB)
        await first.start(WEB.id)
        await first.stop(WEB.id, "StopVM")
    async with node.adaptor() as second:
        assert second.sandboxes[WEB.id].phase is Phase.STOPPING
        assert second.sandboxes[WEB.id].deletion_accepted
        assert await node.gone(second) == pytest.approx(60, abs=15)
    assert node.cloud.calls["delete"] == 1


async def test_a_vm_that_does_not_go_is_deleted_again_and_said_to_be_in_the_way(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.cloud.deleting_seconds = 400
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        await registry.stop(WEB.id, "StopVM")
        assert await node.gone(registry) == pytest.approx(400, abs=15)
    assert node.cloud.calls["delete"] == 7
    said = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 2, "after five minutes, and after six"
    assert all("still has it" in each and "i-0001" in each for each in said)


async def test_a_hundred_vms_on_their_way_out_are_asked_after_in_few_calls(node: Node) -> None:
    node.cloud.deleting_seconds = 100
    pods = [spec(f"p{n:03}") for n in range(100)]
    async with node.adaptor() as registry:
        await asyncio.gather(*(registry.create(pod) for pod in pods))
        await asyncio.gather(*(registry.start(pod.id) for pod in pods))
        before = node.cloud.calls["get"]
        await asyncio.gather(*(registry.stop(pod.id, "StopVM") for pod in pods))
        await node.gone(registry)
        assert node.cloud.calls["get"] - before <= 15


async def test_a_vm_that_the_cloud_does_not_know_is_gone_after_a_second_look(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        await node.clock.sleep(60)
        node.cloud.forget("i-0001")
        await registry.stop(WEB.id, "StopVM")
        assert await node.gone(registry) < 20


async def test_a_young_vm_that_the_cloud_does_not_know_may_show_up_yet(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        node.cloud.forget("i-0001")
        await registry.stop(WEB.id, "StopVM")
        assert 50 < await node.gone(registry) < 80


async def test_a_vm_that_shows_up_only_after_its_deletion_is_deleted_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An eventually consistent cloud: the delete met nothing, was taken for done, and a moment later there it is."""
    unaware = True

    async def get(ids: Any) -> Any:
        return {} if unaware else await real_get(ids)

    async def delete(instance_id: str) -> None:
        if not unaware:
            await real_delete(instance_id)

    real_get, real_delete = node.cloud.get, node.cloud.delete
    monkeypatch.setattr(node.cloud, "get", get)
    monkeypatch.setattr(node.cloud, "delete", delete)
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        await registry.stop(WEB.id, "StopVM")
        assert node.cloud.living
        await node.clock.sleep(4)
        unaware = False
        assert await node.gone(registry) < 30


async def test_a_delete_that_is_refused_for_hours_is_tried_for_hours_every_minute_at_most(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        node.cloud.refuse["delete"] += [Denied("expired credentials")] * 400
        await registry.stop(WEB.id, "StopVM")
        await node.clock.sleep(3600)
        tries = node.cloud.calls["delete"]
        assert 60 <= tries <= 240, "full jitter under 60 s: some 120"
        node.cloud.refuse["delete"].clear()
        assert await node.gone(registry) < 90


async def test_a_passing_fault_is_tried_again_within_seconds(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        node.cloud.refuse["delete"] += [Transient("HTTP 503")] * 4
        await registry.stop(WEB.id, "StopVM")
        assert await node.gone(registry) < 20
    assert node.cloud.calls["delete"] == 5
