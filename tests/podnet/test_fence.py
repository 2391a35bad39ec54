"""Who may send into a tunnel, and what connection tracking sees of it: packets in real namespaces."""

import asyncio
import os
import socket
import struct
from contextlib import suppress
from dataclasses import replace
from typing import Final

import pytest

from adaptor import names
from adaptor.config_network import Network
from adaptor.errors import StartFailed
from adaptor.podnet import wireguard, wireguard_choice
from adaptor.podnet.encryption import Encryption
from adaptor.podnet.exchange import NETLINK_NETFILTER, Exchange, attributes, message
from adaptor.podnet.hosts import HostNetworks
from adaptor.podnet.nftables import Table
from adaptor.podnet.operations import Admit, Dismiss
from adaptor.podnet.plan import GuestAnswer, WireGuard, guest_plan_from_json, to_json
from adaptor.podnet.wireguard_device import Endpoint, Userspace
from tests.podnet.world import World, changed, dump, with_ip

ROOT: Final = os.geteuid() == 0
pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not ROOT, reason="network namespaces need root: adaptor.demo.enter"),
]
NO_WIREGUARD: Final = wireguard_choice.userspace_wants() if ROOT else "no root"

WORKER, VM, STRANGER = "10.0.0.1", "10.0.0.2", "10.0.0.66"
VM6, STRANGER6 = "fd00::2", "fd00::66"


@pytest.mark.parametrize(("vm", "stranger"), [(VM, STRANGER), (VM6, STRANGER6)])
def test_only_the_vm_may_send_into_a_tunnel_and_tracking_sees_nothing_of_it(
    world: World, pod: str, number: int, vm: str, stranger: str
) -> None:
    port = 20_000 + number
    worker = "fd00::1" if ":" in vm else WORKER
    world.vm.up("eth0", f"{stranger}/64" if ":" in stranger else f"{stranger}/24")
    world.worker.do(track)

    async def attack() -> tuple[list[int], int]:
        networks = HostNetworks(Network(vxlan_port=port))
        tunnel = await networks.reached(await networks.intend(pod), vm)
        await networks.open(tunnel)
        vni, counts = tunnel.cords[0].vni, []
        for source in (stranger, vm):
            before = world.inside(pod, received)
            world.vm.do(send, source, worker, vni, port)
            counts.append(world.inside(pod, received) - before)
        with suppress(StartFailed):
            await networks.connect(tunnel, 0.1)  # packets of ours
        seen = tracked(port)
        await networks.remove(tunnel)
        await networks.aclose()
        return counts, seen

    assert world.run(attack) == ([0, 1], 0)
    world.worker.do(untrack)


def test_tracking_would_see_a_packet_that_is_no_tunnels(world: World) -> None:
    """Else the test above could not fail."""
    world.worker.do(track)
    world.vm.do(send, VM, WORKER, 4242, 19_999)
    assert world.worker.do(tracked, 19_999) == 1
    world.worker.do(untrack)


def test_other_traffic_on_that_port_is_let_alone(world: World, pod: str) -> None:
    async def beside() -> bytes:
        networks = HostNetworks(Network(vxlan_port=8472))
        tunnel = await networks.reached(await networks.intend(pod), VM)
        await networks.open(tunnel)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.bind((WORKER, 4789))
            link.settimeout(2.0)
            world.vm.do(send, VM, WORKER, tunnel.cords[0].vni)
            said = link.recv(100)
        await networks.remove(tunnel)
        await networks.aclose()
        return said

    assert world.run(beside)[:1] == b"\x08"


def test_foreign_tables_are_not_touched_and_ours_goes_with_the_last_tunnel(world: World) -> None:
    def shared() -> None:
        track()
        before = dump()
        table = Table()
        table.admit(Admit(4789, (1, 2), VM))
        table.admit(Admit(4789, (3,), VM6))
        table.dismiss(Dismiss(4789, (1, 2), VM))
        assert len(dump()["tables"]) == len(before["tables"]) + 1
        table.dismiss(Dismiss(4789, (3,), VM6))
        assert changed(before, dump()) == {}
        table.dismiss(Dismiss(4789, (3,), VM6))
        table.close()
        untrack()

    world.inside(world.worker.path, shared)


def test_an_element_that_comes_while_the_table_is_removed_keeps_it(world: World) -> None:
    def race() -> None:
        ours, others = Table(), Table()
        ours.admit(Admit(4789, (1,), VM))
        change = ours._change

        def beaten(messages: object, generation: bytes = b"") -> object:
            if generation:  # the removal: another adaptor is quicker
                ours._change = change  # type: ignore[method-assign]
                others.admit(Admit(4789, (9,), VM))
            return change(messages, generation)  # type: ignore[arg-type]

        ours._change = beaten  # type: ignore[method-assign, assignment]
        ours.dismiss(Dismiss(4789, (1,), VM))
        assert [len(rows) for rows in dump()["elements"]] == [1, 1, 0, 0]
        others.dismiss(Dismiss(4789, (9,), VM))
        assert dump()["tables"] == []
        ours.close()
        others.close()

    world.inside(world.worker.path, race)


# sealed


@pytest.mark.skipif(bool(NO_WIREGUARD), reason=f"no userspace WireGuard: {NO_WIREGUARD}")
def test_an_encrypted_tunnel_is_joined_through_wireguard_and_leaves_nothing_behind(world: World, pod: str) -> None:
    before = world.everything(pod)
    backend = Userspace(names.WIREGUARD_DEVICE)
    vm = Endpoint(Userspace(names.WIREGUARD_DEVICE), names.WIREGUARD_PORT)

    def guest(told: bytes) -> bytes:
        """In the VM, to a plan with the worker's key: what it answers."""
        asked = guest_plan_from_json(told)
        assert asked.wireguard is not None
        key = vm.ensure()
        vm.put(wireguard.guest_peer(asked.wireguard, asked.worker))
        return to_json(GuestAnswer(WireGuard(key, names.WIREGUARD_PORT)))

    async def life() -> list[int]:
        networks = HostNetworks(Network(encryption="required"), Encryption(Endpoint(backend)))
        tunnel = await networks.reached(await networks.intend(pod), VM)
        await networks.open(tunnel)
        told = await networks.plan(tunnel, None, imds=False)
        assert guest_plan_from_json(told).interfaces[0].mtu == 1500 - 60 - 70
        tunnel = networks.answered(tunnel, world.vm.do(guest, told))
        ours, theirs = guest_plan_from_json(told).worker, wireguard.inner_address(tunnel.public_key)
        world.answer(replace(tunnel, worker=ours))
        await networks.connect(tunnel, 5.0)
        # The VM's inner address and the right number, in the open: whoever is on the wire can write that.
        world.vm.up("eth0", f"{theirs}/128")
        seen = world.inside(pod, received)
        world.vm.do(send, theirs, "fd00::1", tunnel.cords[0].vni)
        counts = [world.inside(pod, received) - seen]
        world.vm.do(send, theirs, ours, tunnel.cords[0].vni)
        async with asyncio.timeout(5.0):  # wireguard-go takes its time
            while world.inside(pod, received) == seen:
                await asyncio.sleep(0.005)
        counts.append(world.inside(pod, received) - seen)
        world.vm.netlink(lambda ip: ip.flush_addr(index=ip.link_lookup(ifname="eth0")[0], address=theirs))
        world.forget(tunnel)
        await networks.remove(tunnel)
        await networks.aclose()
        world.vm.do(vm.delete)
        return counts

    # On the worker's own thread, which has a folder for wireguard-go's socket too.
    assert world.worker.do(lambda: asyncio.run(life())) == [0, 1]
    assert world.left(before, pod) == {}


# by hand, where this thread is


def track() -> None:
    """Have connection tracking on, by somebody else's rule."""
    from pyroute2.nftables.expressions import genex
    from pyroute2.nftables.main import NFTables

    with NFTables(nfgen_family=2) as nft:
        nft.table("add", name="others")
        nft.chain("add", table="others", name="out", hook="postrouting", type="nat", priority=100, policy=1)
        nft.rule("add", table="others", chain="out", expressions=((genex("masq", {}),),))
    with NFTables(nfgen_family=10) as nft:
        nft.table("add", name="others")
        nft.chain("add", table="others", name="out", hook="postrouting", type="nat", priority=100, policy=1)
        nft.rule("add", table="others", chain="out", expressions=((genex("masq", {}),),))


def untrack() -> None:
    from pyroute2.nftables.main import NFTables

    for family in (2, 10):
        with NFTables(nfgen_family=family) as nft:
            nft.table("del", name="others")


def tracked(port: int) -> int:
    """Connections to this port that are tracked."""
    found = 0
    with Exchange(NETLINK_NETFILTER) as netfilter:
        for family in (socket.AF_INET, socket.AF_INET6):
            for body in netfilter.dump(message(1 << 8 | 1, 0, struct.pack("=BBH", family, 0, 0))):
                protocol = attributes(attributes(attributes(body[4:])[1])[2])
                found += protocol.get(3) == struct.pack(">H", port)
    return found


def received() -> int:
    """Packets that came by the pod's tunnel."""
    (link,) = with_ip(lambda ip: ip.link("get", ifname="vxlan1"))
    return int(link.get("stats64")["rx_packets"])


def send(source: str, target: str, vni: int, port: int = 4789) -> None:
    """A frame in a VXLAN packet. Between namespaces it has arrived when this returns."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    frame = bytes.fromhex("ffffffffffff" + "020000000099" + "88b5") + bytes(46)
    with socket.socket(family, socket.SOCK_DGRAM) as link:
        link.bind((source, 0))
        link.sendto(struct.pack(">II", 0x08000000, vni << 8) + frame, (target, port))
