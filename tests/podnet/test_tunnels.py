"""The worker's half of a tunnel in real namespaces: what it does, and that nothing of it stays."""

import asyncio
import json
import os
import socket
import struct
from typing import Any

import pytest

from adaptor.config_network import Network
from adaptor.errors import StartFailed
from adaptor.podnet import operations, probe
from adaptor.podnet.hosts import HostNetworks
from adaptor.podnet.plan import Tunnel
from adaptor.podnet.worker import Worker
from tests.podnet.world import Dump, World, changed, dump, with_ip
from tests.unit.podnet.netns import capture

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root: adaptor.demo.enter"),
]

VM, VM6 = "10.0.0.2", "fd00::2"


async def made(networks: HostNetworks, pod: str, vm: str = VM) -> Tunnel:
    """As far as before Bind."""
    tunnel = await networks.reached(await networks.intend(pod), vm)
    await networks.open(tunnel)
    return tunnel


@pytest.mark.parametrize("vm", [VM, VM6])
def test_a_tunnel_that_was_in_use_leaves_nothing_behind(world: World, number: int, vm: str) -> None:
    pod = world.pod(number, interfaces=2)
    before = world.everything(pod, sysctls=True)

    async def life() -> Dump:
        networks = HostNetworks()
        tunnel = await made(networks, pod, vm)
        world.answer(tunnel)
        await networks.connect(tunnel, 2.0)
        during = world.everything(pod)
        assert ping(world.address(number))
        world.forget(tunnel)
        await networks.remove(tunnel)
        await networks.aclose()
        return during

    during = changed(before, world.run(life))
    fence = {"tables", "chains", "nft rules", "sets", "elements"}
    assert {kind.removeprefix("worker ") for kind in during if kind.startswith("worker")} == fence
    assert during.keys() >= {"pod links", "pod qdiscs", "pod filters", "pod actions"}
    assert "pod addresses" not in during
    assert world.left(before, pod, sysctls=True) == {}


@pytest.mark.parametrize("interfaces", [1, 2])
def test_every_deed_may_be_repeated_and_undone_from_wherever_it_stopped(
    world: World, number: int, interfaces: int
) -> None:
    pod = world.pod(number, interfaces=interfaces)
    before = world.everything(pod)

    async def intended() -> Tunnel:
        networks = HostNetworks()
        tunnel = await networks.reached(await networks.intend(pod), VM)
        await networks.aclose()
        return tunnel

    tunnel = world.run(intended)
    wanted = operations.opening(tunnel, tunnel.worker) + operations.connecting(tunnel, "")
    for count in range(len(wanted) + 1):

        def go(count: int = count) -> None:
            worker = Worker(None)
            worker.carry_out(tunnel, wanted[:count])
            once = world.everything(pod)
            worker.carry_out(tunnel, wanted[:count])
            assert changed(once, world.everything(pod)) == {}
            worker.undo(tunnel, operations.removing(tunnel, ""))
            worker.undo(tunnel, operations.removing(tunnel, ""))
            worker.close()

        world.inside(world.worker.path, go)
        assert world.left(before, pod) == {}, wanted[:count]


def test_what_the_vm_is_told_follows_from_the_path(world: World, pod: str) -> None:
    async def told(vm: str, first: int) -> dict[str, Any]:
        networks = HostNetworks(Network(vxlan_port=8472, first_vni=first))
        tunnel = await networks.reached(await networks.intend(pod), vm)
        plan: dict[str, Any] = json.loads(await networks.plan(tunnel, None, imds=True))
        await networks.aclose()
        return plan

    over4, over6 = world.run(lambda: told(VM, 77)), world.run(lambda: told(VM6, 78))
    assert (over4["worker"], over4["port"], over4["vnis"], over4["imds"]) == ("10.0.0.1", 8472, [77], True)
    assert over4["interfaces"][0]["mtu"] == 1500 - 50
    assert (over6["worker"], over6["vnis"], over6["interfaces"][0]["mtu"]) == ("fd00::1", [78], 1500 - 70)


def test_a_narrower_route_to_the_vm_narrows_the_pods_interface(world: World, pod: str) -> None:
    async def told() -> int:
        networks = HostNetworks()
        tunnel = await networks.reached(await networks.intend(pod), "10.0.0.3")
        plan = json.loads(await networks.plan(tunnel, None, imds=False))
        await networks.aclose()
        return int(plan["interfaces"][0]["mtu"])

    def route(ip: Any, verb: str) -> None:
        ip.route(verb, dst="10.0.0.3/32", oif=ip.link_lookup(ifname="eth0")[0], metrics={"mtu": 1400})

    world.worker.netlink(lambda ip: route(ip, "add"))
    assert world.run(told) == 1350
    world.worker.netlink(lambda ip: route(ip, "del"))


def test_a_stock_image_is_told_the_address_on_the_way_to_it(world: World, number: int) -> None:
    pod = world.pod(number)
    world.inside(pod, lambda: with_ip(lambda ip: ip.flush_addr(family=socket.AF_INET6)))

    async def told() -> list[dict[str, Any]]:
        networks = HostNetworks()
        tunnel = await networks.intend(pod)
        early = await networks.apf(tunnel)
        late = await networks.apf(await networks.reached(tunnel, VM))
        await networks.aclose()
        return [early, late]

    early, late = world.run(told)
    assert late["worker-node-ip"] == "10.0.0.1/24"
    assert (late["vxlan-id"], late["vxlan-port"], late["podip"]) == (555_000, 4789, f"{world.address(number)}/16")
    assert early["worker-node-ip"].count(".") == 3


@pytest.mark.parametrize("answer", [b"", b"{}", b'{"version":2}', b"\xff"])
def test_an_answer_that_makes_no_sense_fails_the_start(answer: bytes) -> None:
    with pytest.raises(StartFailed, match="makes no sense"):
        HostNetworks().answered(Tunnel("/run/netns/a", 4789, ()), answer)


# the probe


def test_a_vm_that_does_not_answer_fails_the_start_with_what_may_be_in_between(world: World, pod: str) -> None:
    before = world.everything(pod)

    async def silence() -> str:
        networks = HostNetworks()
        tunnel = await made(networks, pod)
        with pytest.raises(StartFailed) as failure:
            await networks.connect(tunnel, 0.2)
        await networks.remove(tunnel)
        await networks.aclose()
        return str(failure.value)

    said = world.run(silence)
    for part in ("eth0", "0.2 s", "UDP port 4789", "both ways", "10.0.0.1", "10.0.0.2", "encryption = required"):
        assert part in said
    assert world.left(before, pod) == {}


def test_a_vm_that_comes_late_is_waited_for(world: World, pod: str) -> None:
    async def late() -> None:
        networks = HostNetworks()
        tunnel = await made(networks, pod)
        connecting = asyncio.create_task(networks.connect(tunnel, 5.0))
        await asyncio.sleep(0.12)  # two questions are lost
        assert not connecting.done()
        await asyncio.to_thread(world.answer, tunnel)
        await connecting
        world.forget(tunnel)
        await networks.remove(tunnel)
        await networks.aclose()

    world.run(late)


@pytest.mark.parametrize("family", [4, 6])
def test_nobody_but_the_vm_sees_the_probe(world: World, number: int, family: int) -> None:
    pod = world.pod(number)
    if family == 6:
        world.inside(pod, lambda: with_ip(lambda ip: ip.flush_addr(family=socket.AF_INET)))
        world.inside(pod, lambda: with_ip(lambda ip: ip.route("add", dst="default", family=10, gateway="fd10::1")))

    async def asked() -> None:
        networks = HostNetworks()
        tunnel = await made(networks, pod)
        world.answer(tunnel, family=family)
        before = learnt(world, world.worker.path), learnt(world, pod)
        with capture(world.worker, f"pod{number}.0") as frames:
            await networks.connect(tunnel, 2.0)
            await networks.connect(tunnel, 2.0)  # with the redirects in place
        assert [frame for frame in frames if probe.MAC in frame] == []
        assert (learnt(world, world.worker.path), learnt(world, pod)) == before
        if family == 4:
            assert probe.MAC.hex(":") not in learnt(world, world.vm.path)
        world.forget(tunnel)
        await networks.remove(tunnel)
        await networks.aclose()

    before = world.everything(pod)
    world.run(asked)
    assert world.left(before, pod) == {}


def test_a_raised_device_says_nothing_by_itself(world: World, pod: str) -> None:
    async def raised() -> list[bytes]:
        networks = HostNetworks()
        with capture(world.vm, "eth0") as frames:
            tunnel = await made(networks, pod)
            await asyncio.sleep(0.3)
        await networks.remove(tunnel)
        await networks.aclose()
        return [frame for frame in frames if frame[12:14] == b"\x08\x00" and frame[36:38] == struct.pack(">H", 4789)]

    assert world.run(raised) == []


def test_a_start_that_is_given_up_while_it_waits_can_be_undone(world: World, pod: str) -> None:
    before = world.everything(pod)

    async def given_up() -> None:
        networks = HostNetworks()
        tunnel = await made(networks, pod)
        for moment in (0, 1, 2, 5):
            connecting = asyncio.create_task(networks.connect(tunnel, 5.0))
            for _ in range(moment):
                await asyncio.sleep(0.005)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
        await networks.remove(tunnel)
        await networks.aclose()

    world.run(given_up)
    assert world.left(before, pod) == {}


# the adaptor starts anew


def test_a_restarted_worker_gives_no_number_twice_and_touches_no_tunnel(world: World, number: int) -> None:
    pods = [world.pod(number), world.pod(number + 1000)]

    async def restart() -> None:
        first = HostNetworks()
        running = await made(first, pods[0])
        world.answer(running)
        await first.connect(running, 2.0)
        await first.aclose()
        before = world.everything(pods[0])
        second = HostNetworks()
        second.recall([running])
        other = await made(second, pods[1])
        assert other.cords[0].vni == running.cords[0].vni + 1
        await second.remove(other)
        assert world.left(before, pods[0]) == {}
        world.forget(running)
        await second.remove(running)
        await second.aclose()

    world.run(restart)


def test_what_a_lost_journal_left_is_taken_away_and_running_tunnels_stay(world: World, number: int) -> None:
    pods = [world.pod(number), world.pod(number + 1000)]

    async def lost() -> None:
        earlier = HostNetworks()
        kept, forgotten = [await made(earlier, pod) for pod in pods]
        await earlier.aclose()
        networks = HostNetworks()
        networks.recall([kept])
        before = dump()
        await networks.keep_only([kept, forgotten])
        assert changed(before, dump()) == {}
        await networks.keep_only([kept])
        left = str(dump()["elements"])
        assert str(kept.cords[0].vni.to_bytes(3, "big"))[2:-1] in left
        assert str(forgotten.cords[0].vni.to_bytes(3, "big"))[2:-1] not in left
        await networks.keep_only([])
        assert dump()["tables"] == []
        for tunnel in (kept, forgotten):
            await networks.remove(tunnel)
        await networks.aclose()

    before = world.everything(pods[0])
    world.run(lost)
    assert world.left(before, pods[0]) == {}


def learnt(world: World, path: str) -> str:
    """Its neighbours, by address and MAC."""
    rows = world.inside(path, lambda: with_ip(lambda ip: list(ip.get_neighbours())))
    return str(sorted((row.get("dst"), row.get("lladdr")) for row in rows if row.get("lladdr")))


def ping(address: str) -> bool:
    """Whether somebody has it, as seen from where this thread is."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        link.settimeout(2.0)
        request = struct.pack(">BBHHH", 8, 0, ~(0x0800 + 7 + 1) & 0xFFFF, 7, 1)
        link.sendto(request, (address, 0))
        return link.recv(100)[20] == 0
