"""The pod's network in a sandbox's life: numbered, opened, joined, taken away; and everything that can be in the way."""

import asyncio
import dataclasses
import json

import pytest

from adaptor.config_network import Network
from adaptor.errors import AdaptorError, InvalidRequest, NetworkFailed, StartFailed
from adaptor.sandbox.model import Phase, SandboxSpec
from adaptor.sandbox.registry import Registry
from adaptor.sandbox.rooms import GuestSettings
from adaptor.telemetry import metrics
from tests.worlds.networks import FIRST_VNI, away
from tests.worlds.node import Node, spec

WEB = spec()


async def started(registry: Registry, wish: SandboxSpec = WEB) -> None:
    await registry.create(wish)
    await registry.start(wish.id)


async def fails(registry: Registry, node: Node, match: str, error: type[AdaptorError] = StartFailed) -> None:
    """The start fails with these words, and nothing is left."""
    await registry.create(WEB)
    with pytest.raises(error, match=match):
        await registry.start(WEB.id)
    await node.gone(registry)


async def test_a_running_pod_has_its_tunnel_and_a_stopped_one_nothing(node: Node) -> None:
    before = metrics.TUNNELS._value.get()
    async with node.adaptor() as registry:
        await started(registry)
        assert metrics.TUNNELS._value.get() == before + 1
        tunnel = registry.sandboxes[WEB.id].network
        assert tunnel is not None
        assert node.kernel.whole(tunnel)
        assert (tunnel.netns, tunnel.cords[0].vni, tunnel.peer) == (WEB.netns, FIRST_VNI, "10.0.0.2")
        plan = json.loads(node.relay.binds[WEB.id].network)
        assert (plan["vnis"], plan["worker"], plan["imds"]) == ([FIRST_VNI], "192.0.2.1", False)
        await registry.stop(WEB.id, "StopVM")
        await node.gone(registry)
    assert metrics.TUNNELS._value.get() == before


async def test_a_network_that_no_vm_can_have_is_refused_before_any_is_paid_for(node: Node) -> None:
    async with node.adaptor() as registry:
        await registry.create(WEB)
        node.kernel.missing.add(WEB.netns)
        with pytest.raises(NetworkFailed, match="cannot be opened"):
            await registry.start(WEB.id)
        assert not node.cloud.made_at
        await node.gone(registry)


async def test_what_the_node_does_not_allow_is_refused_before_any_vm_is_paid_for(node: Node) -> None:
    async with node.adaptor() as registry:
        wish = dataclasses.replace(WEB, wishes="imds=on")
        await registry.create(wish)
        with pytest.raises(InvalidRequest, match="metadata service"):
            await registry.start(WEB.id)
        assert not node.cloud.made_at
        await node.gone(registry)


async def test_outside_traffic_and_metadata_are_as_settings_and_wishes_say(node: Node) -> None:
    node.network = Network(external_network="vm", pod_subnets=("10.244.0.0/16",), imds="allowed")
    async with node.adaptor() as registry:
        await started(registry, dataclasses.replace(WEB, wishes="imds=on"))
        plan = json.loads(node.relay.binds[WEB.id].network)
        assert plan["imds"] is True
        assert plan["egress"]["inside"] == ["10.244.0.0/16"]


async def test_a_number_that_another_program_has_is_passed_over(node: Node) -> None:
    node.kernel.foreign |= {FIRST_VNI, FIRST_VNI + 1, FIRST_VNI + 2}
    async with node.adaptor() as registry:
        await started(registry)
        tunnel = registry.sandboxes[WEB.id].network
        assert tunnel is not None
        assert tunnel.cords[0].vni == FIRST_VNI + 3
        assert json.loads(node.relay.binds[WEB.id].network)["vnis"] == [FIRST_VNI + 3]
        await started(registry, spec("db"))
        assert node.networks.calls["open"] == 5, "nobody tries those again"


async def test_numbers_that_are_all_taken_are_told_with_the_setting_to_change(node: Node) -> None:
    node.kernel.foreign |= set(range(FIRST_VNI, FIRST_VNI + 100))
    async with node.adaptor() as registry:
        await fails(registry, node, rf"{FIRST_VNI}, {FIRST_VNI + 1}, .*network\.first_vni")


async def test_a_tunnel_through_which_nothing_comes_back_fails_the_start(node: Node) -> None:
    node.kernel.deaf.add("10.0.0.2")
    async with node.adaptor() as registry:
        began = node.clock.now()
        await fails(registry, node, "nothing came back from 10.0.0.2")
        assert node.clock.now() - began < 30, "not the whole of start_timeout"


async def test_a_short_time_left_is_all_that_the_trial_gets(node: Node) -> None:
    node.guest = dataclasses.replace(node.guest, start_timeout=12.0)
    node.kernel.deaf.add("10.0.0.2")
    async with node.adaptor() as registry:
        began = node.clock.now()
        await registry.create(WEB)
        with pytest.raises(StartFailed, match="nothing came back"):
            await registry.start(WEB.id)
        assert node.clock.now() - began == pytest.approx(12.0, abs=0.5)
        await node.gone(registry)


async def test_an_image_without_the_pods_network_is_told_before_anything_is_made(node: Node) -> None:
    node.relay.without_network = True
    async with node.adaptor() as registry:
        await fails(registry, node, "too old to have the pod's network")
        assert not node.networks.calls["open"]


async def test_a_vm_that_cannot_encrypt_gets_no_pod_where_that_is_required(node: Node) -> None:
    node.encrypted, node.relay.without_wireguard = True, True
    async with node.adaptor() as registry:
        await fails(registry, node, "network.encryption is required, and the pod VM cannot encrypt")
        assert not node.networks.calls["open"]


async def test_an_encrypted_tunnel_has_the_vms_key_and_a_restart_knows_it(node: Node) -> None:
    node.encrypted = True
    async with node.adaptor() as registry:
        await started(registry)
        assert node.kernel.peers == {"key of i-0001"}
    async with node.adaptor() as registry:
        tunnel = registry.sandboxes[WEB.id].network
        assert tunnel is not None
        assert tunnel.public_key == "key of i-0001"
        await registry.stop(WEB.id, "StopVM")
        await node.gone(registry)


@pytest.mark.parametrize("verb", ["intend", "reached", "open", "connect"])
async def test_a_kernel_that_refuses_fails_the_start_and_leaves_nothing(node: Node, verb: str) -> None:
    async with node.adaptor() as registry:
        node.networks.refuse[verb] = [away(verb)]
        await fails(registry, node, f"{verb}: the kernel refuses", AdaptorError)


async def test_a_tunnel_that_cannot_be_removed_holds_up_no_deletion_and_is_removed_later(node: Node) -> None:
    async with node.adaptor() as registry:
        await started(registry)
        node.networks.refuse["remove"] = [away("remove")] * 5
        stop = asyncio.create_task(registry.stop(WEB.id, "StopVM"))
        await node.clock.sleep(1)
        assert not node.cloud.living
        assert node.kernel.leftovers
        await stop
        await node.gone(registry)


async def test_a_restart_touches_no_live_tunnel_and_its_number_is_nobody_elses(node: Node) -> None:
    async with node.adaptor() as registry:
        await started(registry)
    touched: list[str] = []
    node.kernel.touched = lambda netns, what: touched.append(what)
    async with node.adaptor() as registry:
        assert registry.sandboxes[WEB.id].phase is Phase.RUNNING
        assert not touched
        await started(registry, spec("db"))
        tunnel = registry.sandboxes[spec("db").id].network
        assert tunnel is not None
        assert tunnel.cords[0].vni == FIRST_VNI + 1
        assert node.networks.calls["open"] == 1


async def test_what_a_lost_journal_left_in_the_table_is_taken_away_at_the_next_start(node: Node) -> None:
    node.kernel.elements.add((FIRST_VNI + 7, "10.9.9.9"))
    node.kernel.peers.add("a stranger")
    async with node.adaptor() as registry:
        await started(registry)
        assert node.kernel.elements == {(FIRST_VNI, "10.0.0.2")}
        assert not node.kernel.peers


async def test_nothing_is_taken_away_as_long_as_a_running_pods_tunnel_is_unknown(node: Node) -> None:
    async with node.adaptor() as registry:
        await started(registry)
        await started(registry, spec("db"))
    whole = set(node.kernel.leftovers)
    async with node.journal() as journal:
        rows = await journal.load()
        await journal.forget(WEB.id)
        for event in rows[WEB.id]:
            if event.kind != "network-intended":
                await journal.append(WEB.id, event)
    async with node.adaptor() as registry:
        assert registry.sandboxes[WEB.id].network is None
        assert set(node.kernel.leftovers) == whole
        await started(registry, spec("third"))
        tunnel = registry.sandboxes[spec("third").id].network
        assert tunnel is not None
        assert tunnel.cords[0].vni == FIRST_VNI + 2, "the first was found to be taken"


async def test_the_giver_of_a_vm_keeps_no_number_and_the_taker_has_its_own(node: Node) -> None:
    again = dataclasses.replace(spec("again"), pod_name="web")
    async with node.adaptor() as registry:
        await registry.create(WEB)
        start = asyncio.create_task(registry.start(WEB.id))
        await node.clock.sleep(5)
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        await started(registry, again)
        assert len(node.cloud.made_at) == 1
        await node.clock.sleep(5)
        assert list(registry.sandboxes) == [again.id]
        tunnel = registry.sandboxes[again.id].network
        assert tunnel is not None
        assert tunnel.netns == again.netns
        assert node.kernel.leftovers == node.kernel.of(tunnel)


async def test_a_stock_guest_is_told_its_number_at_launch_and_joined_once_it_answers(node: Node) -> None:
    node.guest = GuestSettings(flavor="upstream", port=15150, start_timeout=300.0)
    async with node.adaptor() as registry:
        await started(registry)
        assert f'"vxlan-id": {FIRST_VNI}' in node.cloud.specs["i-0001"].user_data.decode()
        tunnel = registry.sandboxes[WEB.id].network
        assert tunnel is not None
        assert node.kernel.whole(tunnel)
        await registry.stop(WEB.id, "StopVM")
        await node.gone(registry)


async def test_a_stock_guests_number_that_is_taken_fails_the_start_for_it_knows_no_other(node: Node) -> None:
    node.guest = GuestSettings(flavor="upstream", port=15150, start_timeout=300.0)
    node.kernel.foreign.add(FIRST_VNI)
    async with node.adaptor() as registry:
        await fails(registry, node, "was told this number when it was launched: try again")
        await started(registry, spec("second"))


async def test_a_start_stopped_while_the_tunnel_is_made_leaves_nothing(node: Node) -> None:
    node.kernel.deaf.add("10.0.0.2")
    async with node.adaptor() as registry:
        await registry.create(WEB)
        start = asyncio.create_task(registry.start(WEB.id))
        await node.clock.sleep(10)  # it waits for a frame
        assert node.kernel.joined
        await registry.stop(WEB.id, "StopVM")
        with pytest.raises(StartFailed):
            await start
        await node.gone(registry)
