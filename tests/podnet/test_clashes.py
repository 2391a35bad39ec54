"""What others have on the worker or in the pod's namespace stays theirs, and what cannot be is said clearly."""

import asyncio
import ctypes
import os
import socket
import struct
from typing import Any, Final

import pytest

from adaptor.config_network import Network
from adaptor.errors import InvalidRequest, Unavailable
from adaptor.podnet import devices
from adaptor.podnet.exchange import NETLINK_ROUTE, Exchange
from adaptor.podnet.hosts import HostNetworks
from adaptor.podnet.operations import KeepIn, OfPod, SendOut
from adaptor.podnet.plan import Cord, Tunnel, VniTaken
from tests.podnet.world import World, changed, dump, with_ip

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root: adaptor.demo.enter"),
]

VM: Final = "10.0.0.2"
_CAP_NET_ADMIN: Final = 12


async def intended(networks: HostNetworks, pod: str) -> Tunnel:
    return await networks.reached(await networks.intend(pod), VM)


def test_a_number_that_somebody_else_has_is_left_to_him(world: World, pod: str) -> None:
    with_others(world, 901)
    before = world.everything(pod)

    async def clash() -> tuple[int, ...]:
        networks = HostNetworks(Network(first_vni=901))
        with pytest.raises(VniTaken, match="901 on UDP port 4789"):
            await networks.open(await intended(networks, pod))
        assert world.left(before, pod) == {}
        again = await intended(networks, pod)
        await networks.open(again)
        await networks.remove(again)
        await networks.aclose()
        return tuple(cord.vni for cord in again.cords)

    assert world.run(clash) == (902,)
    assert world.left(before, pod) == {}


def test_a_clash_in_the_middle_of_several_interfaces_leaves_none(world: World, number: int) -> None:
    pod = world.pod(number, interfaces=2)
    with_others(world, 912)
    before = world.everything(pod)

    async def clash() -> None:
        networks = HostNetworks(Network(first_vni=911))
        with pytest.raises(VniTaken):
            await networks.open(await intended(networks, pod))
        await networks.aclose()

    world.run(clash)
    assert world.left(before, pod) == {}


def test_the_same_number_on_another_port_is_no_clash(world: World, pod: str) -> None:
    with_others(world, 921)

    async def beside() -> int:
        networks = HostNetworks(Network(first_vni=921, vxlan_port=8472))
        tunnel = await intended(networks, pod)
        await networks.open(tunnel)
        await networks.remove(tunnel)
        await networks.aclose()
        return tunnel.cords[0].vni

    assert world.run(beside) == 921


def test_a_device_of_the_tunnels_name_is_reported_and_stays(world: World, pod: str) -> None:
    async def clash() -> None:
        networks = HostNetworks()
        tunnel = await intended(networks, pod)
        world.inside(pod, lambda: with_ip(lambda ip: ip.link("add", ifname="vxlan1", kind="bridge")))
        before = world.everything(pod)
        with pytest.raises(InvalidRequest, match="has a device vxlan1 that is not this tunnel's"):
            await networks.open(tunnel)
        await networks.remove(tunnel)
        assert world.left(before, pod) == {}
        await networks.aclose()

    world.run(clash)


def test_another_pods_tunnel_at_the_same_path_is_not_taken_away(world: World, pod: str) -> None:
    async def later() -> None:
        networks = HostNetworks()
        tunnel = await intended(networks, pod)
        await networks.open(tunnel)
        before = world.everything(pod)["pod links"]
        earlier = Tunnel(pod, 4789, (Cord("eth0", 4242, "vxlan1"),), VM, "10.0.0.1")
        await networks.remove(earlier)
        assert world.everything(pod)["pod links"] == before
        await networks.remove(tunnel)
        await networks.aclose()

    world.run(later)


def test_a_udp_port_that_is_taken_is_reported_with_the_setting(world: World, pod: str) -> None:
    async def clash() -> None:
        networks = HostNetworks(Network(vxlan_port=8471))
        tunnel = await intended(networks, pod)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("0.0.0.0", 8471))
            with pytest.raises(Unavailable, match=r"UDP port 8471 is another program's.*vxlan_port"):
                await networks.open(tunnel)
        await networks.remove(tunnel)
        await networks.aclose()

    before = world.everything(pod)
    world.run(clash)
    assert world.left(before, pod) == {}


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ip-10-0-0-9.internal", "is not an IP address"),
        ("", "is not an IP address"),
        ("0.0.0.0", "not one host's"),
        ("224.0.0.1", "not one host's"),
        ("fe80::1", "not one host's"),
        ("192.0.2.9", "no way to the pod VM's address 192.0.2.9"),
    ],
)
def test_a_peer_that_no_tunnel_can_lead_to_is_refused(world: World, pod: str, address: str, said: str) -> None:
    async def refused() -> None:
        networks = HostNetworks()
        with pytest.raises(Unavailable, match=said):
            await networks.reached(Tunnel(pod, 4789, ()), address)
        await networks.aclose()

    world.run(refused)


def test_the_dedicated_interface_is_where_packets_come_from(world: World, pod: str) -> None:
    def second(ip: Any) -> None:
        ip.link("add", ifname="eth9", kind="veth", peer={"ifname": "eth9x"})
        for name in ("eth9", "eth9x"):
            ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")
        ip.addr("add", index=ip.link_lookup(ifname="eth9")[0], address="10.0.0.77", prefixlen=24)

    async def dedicated() -> tuple[str, Any]:
        networks = HostNetworks(Network(host_interface="eth9"))
        tunnel = await intended(networks, pod)
        await networks.open(tunnel)
        (link,) = world.inside(pod, lambda: with_ip(lambda ip: ip.link("get", ifname="vxlan1")))
        await networks.remove(tunnel)
        await networks.aclose()
        nowhere = HostNetworks(Network(host_interface="nope"))
        with pytest.raises(Unavailable, match="by the interface nope"):
            await nowhere.reached(tunnel, VM)
        await nowhere.aclose()
        return tunnel.worker, link.get(("linkinfo", "data", "vxlan_link"))

    world.worker.netlink(second)
    index = world.worker.netlink(lambda ip: ip.link_lookup(ifname="eth9")[0])
    assert world.run(dedicated) == ("10.0.0.77", index)
    world.worker.netlink(lambda ip: ip.link("del", index=index))


def test_a_namespace_that_is_gone_leaves_nothing_on_the_worker(world: World) -> None:
    before = world.worker.do(dump)

    def alone(ip: Any) -> None:
        ip.link("add", ifname="eth0", kind="veth", peer={"ifname": "eth0x"})
        for name in ("eth0", "eth0x"):
            ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")
        ip.addr("add", index=ip.link_lookup(ifname="eth0")[0], address="10.9.0.1", prefixlen=24)

    async def vanish() -> None:
        networks = HostNetworks()
        descriptor = world.namespace()
        path = f"/proc/{os.getpid()}/fd/{descriptor}"
        world.inside(path, lambda: with_ip(alone))
        tunnel = await intended(networks, path)
        await networks.open(tunnel)
        os.close(descriptor)
        await networks.remove(tunnel)
        with pytest.raises(InvalidRequest, match="cannot be opened"):
            await networks.intend(path)
        with pytest.raises(InvalidRequest, match="is gone"):
            await networks.open(tunnel)
        await networks.remove(tunnel)
        await networks.aclose()

    world.run(vanish)
    assert changed(before, world.worker.do(dump)) == {}


def test_an_interface_that_went_meanwhile_is_a_namespace_that_has_changed(world: World, pod: str) -> None:
    async def changing() -> None:
        networks = HostNetworks()
        tunnel = await intended(networks, pod)
        world.inside(pod, lambda: with_ip(lambda ip: ip.link("del", index=ip.link_lookup(ifname="eth0")[0])))
        with pytest.raises(InvalidRequest, match="has changed while the pod started: it has no interface eth0"):
            await networks.open(tunnel)
        await networks.remove(tunnel)
        await networks.aclose()

    world.run(changing)
    assert world.everything(pod)["worker tables"] == []


@pytest.mark.parametrize("filters", [0, 1])
@pytest.mark.parametrize("kind", ["ingress", "clsact"])
def test_a_foreign_qdisc_is_used_and_stays_with_its_filters(world: World, pod: str, kind: str, filters: int) -> None:
    world.inside(pod, lambda: with_ip(lambda ip: ip.tc("add", kind, ip.link_lookup(ifname="eth0")[0], 0xFFFF0000)))
    if filters:
        world.inside(pod, lambda: with_ip(foreign_filter))
    before = world.everything(pod)
    carry_out(world, pod, SendOut("eth0", "lo"))
    joined = world.everything(pod)
    assert len(joined["pod actions"]) == 1
    assert joined["pod qdiscs"] == before["pod qdiscs"]
    carry_out(world, pod, SendOut("eth0", "lo"))
    assert changed(joined, world.everything(pod)) == {}
    carry_out(world, pod, KeepIn("eth0"))
    assert world.left(before, pod) == {}


def test_a_filter_that_somebody_added_to_our_qdisc_stays(world: World, pod: str) -> None:
    before = world.everything(pod)
    carry_out(world, pod, SendOut("eth0", "lo"))
    world.inside(pod, lambda: with_ip(foreign_filter))
    carry_out(world, pod, KeepIn("eth0"))
    assert {struct.unpack_from("=I", row[0], 16)[0] >> 16 for row in world.everything(pod)["pod filters"]} == {9}
    world.inside(pod, lambda: with_ip(lambda ip: foreign_filter(ip, "del-filter")))
    assert list(world.left(before, pod)) == ["pod qdiscs"]


def test_without_the_right_to_do_it_the_adaptor_says_which_it_needs(world: World, pod: str) -> None:
    async def attempt() -> str:
        networks = HostNetworks()
        with pytest.raises(Unavailable) as failure:
            await networks.open(Tunnel(pod, 4789, (Cord("eth0", 555_000, "vxlan1"),), VM, "10.0.0.1"))
        with pytest.raises(Unavailable, match="CAP_NET_ADMIN"):
            await networks.intend(pod)
        await networks.aclose()
        return str(failure.value)

    def powerless() -> str:
        give_up(_CAP_NET_ADMIN)  # this thread, and those that it starts
        return asyncio.run(attempt())

    assert "The adaptor needs CAP_NET_ADMIN" in world.inside(world.worker.path, powerless)


def test_a_kernel_without_nftables_is_named(world: World, pod: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel without it is at hand: one that takes no transactions, as if it were not there, stands for it."""
    before = world.everything(pod)
    monkeypatch.setattr("adaptor.podnet.nftables._SUBSYSTEM", 1)

    async def attempt() -> None:
        networks = HostNetworks()
        tunnel = await intended(networks, pod)
        with pytest.raises(Unavailable, match=r"kernel lacks nftables.*Load the modules nf_tables"):
            await networks.open(tunnel)
        await networks.aclose()

    world.run(attempt)
    assert world.left(before, pod) == {}


def with_others(world: World, vni: int) -> None:
    """Somebody else's VXLAN on the worker."""
    world.worker.netlink(
        lambda ip: ip.link(
            "add", ifname=f"other{vni}", kind="vxlan", vxlan_id=vni, vxlan_port=4789, vxlan_learning=False
        )
    )


def foreign_filter(ip: Any, verb: str = "add-filter") -> None:
    index = ip.link_lookup(ifname="eth0")[0]
    ip.tc(verb, "u32", index, parent=0xFFFFFFF2, prio=9, protocol=3, target=0x10001, keys=["0x1/0xff+0"])


def carry_out(world: World, pod: str, operation: OfPod) -> None:
    def deed() -> None:
        with Exchange(NETLINK_ROUTE) as route:
            devices.carry_out(operation, route, route, -1)

    world.inside(pod, deed)


def give_up(capability: int) -> None:
    """Of this thread's effective ones."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", 0x20080522, 0)
    sets = ctypes.create_string_buffer(24)
    assert libc.capget(header, sets) == 0
    words = list(struct.unpack("=6I", sets.raw))
    words[0] &= ~(1 << capability)
    assert libc.capset(header, struct.pack("=6I", *words)) == 0
