"""What leaves a pod from its VM, in real namespaces: which way packets take, and which they never do."""

import socket
import struct
import threading
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import pytest
from pyroute2 import IPRoute

from adaptor.errors import InvalidRequest, StatusError, Unavailable
from adaptor.podnet.plan import Egress, GuestPlan
from podvm_images.guest import egress
from tests.unit.guest.egress_world import (
    GUEST_PORT,
    INSIDE,
    INTERNET,
    INTERNET6,
    METADATA,
    METADATA6,
    NODE,
    NODE6,
    NODE_LOCAL_DNS,
    OTHER_PORT,
    OTHER_VM,
    POD,
    POD6,
    SERVICE,
    SERVICE6,
    VM,
    VM6,
    WIRESERVER,
    World,
)
from tests.unit.guest.vm import Vm, bridge, in_a_vm, in_thread
from tests.unit.guest.vm import plan as vxlan_plan

pytestmark = pytest.mark.netns
SOON = 0.3  # seconds within which a packet that is let through has come
CARD2 = "10.0.9.5"


def apply(world: World, plan: GuestPlan, card_timeout: float = 0.0) -> None:
    world.vm.run(lambda: egress.apply(plan, GUEST_PORT, world.pod.path, card_timeout))


def everybody_listens(world: World) -> None:
    for namespace in (world.cloud, world.second, world.worker):
        namespace.listen("0.0.0.0", 80)
    if world.ipv6:
        for namespace in (world.cloud, world.worker):
            namespace.listen("::", 81)


def _route_by_the_pair(networks: list[IPv4Network | IPv6Network], source: str, ip: Any) -> None:
    pair = ip.link_lookup(ifname="ppegress")[0]
    gateway, family = ("fe80::7070", 10) if ":" in source else ("169.254.70.1", 2)
    for network in networks:
        ip.route("add", family=family, dst=str(network), oif=pair, gateway=gateway, flags=4, prefsrc=source)


def _address_of_its_own(ip: Any) -> None:
    ip.addr("add", index=ip.link_lookup(ifname="ppegress")[0], address="10.0.0.77", prefixlen=32)


def assert_nothing_comes(receiver: socket.socket) -> None:
    with pytest.raises(TimeoutError):
        receiver.recv(99)


def _route(address: str, gateway: str, ip: Any) -> None:
    ip.route("replace", family=10 if ":" in address else 2, dst=str(ip_network(address)), gateway=gateway)


def test_what_leaves_the_cluster_leaves_from_the_vm_and_the_rest_stays_in_the_tunnel() -> None:
    with World(ipv6=True) as world:
        apply(world, world.plan())
        everybody_listens(world)
        by_the_vm = {each: world.pod.ask(each) for each in (INTERNET, OTHER_VM)}
        assert set(by_the_vm.values()) == {VM}
        by_the_tunnel = {each: world.pod.ask(each) for each in ("10.244.1.1", SERVICE, NODE_LOCAL_DNS, "198.51.100.7")}
        assert set(by_the_tunnel.values()) == {POD}
        assert world.pod.ask(INTERNET6, 81) == VM6
        assert world.pod.ask(SERVICE6, 81) == POD6
        # Nothing more of a cloud's own is asked from the VM; the tunnel's end is free to answer.
        assert {world.pod.ask(each) for each in (METADATA, WIRESERVER)} == {POD}
        assert world.pod.ask(METADATA6, 81) == POD6


def test_who_came_by_the_tunnel_is_answered_by_the_tunnel_wherever_from() -> None:
    with World(ipv6=True) as world:
        world.pod.sysctl("ipv4/conf/eth0/rp_filter", 1)
        apply(world, world.plan())
        world.pod.listen("0.0.0.0", 80)
        world.pod.listen(POD6, 80)
        for source in (NODE, "198.51.100.7", INTERNET, "10.244.1.1"):
            assert world.worker.ask(POD, source=source) == source
        assert world.worker.ask(POD6, source=NODE6) == NODE6


def test_a_datagram_that_came_by_the_tunnel_is_answered_by_the_tunnel() -> None:
    with World() as world:
        apply(world, world.plan())
        here = world.pod.sees(53)
        there = world.worker.sees(4000)
        world.worker.run(lambda: there.sendto(b"ask", (POD, 53)))
        asked, peer = here.recvfrom(9)
        here.sendto(asked, peer)
        assert there.recvfrom(9) == (b"ask", (POD, 53))


def test_containers_in_networks_behind_the_pods_answer_by_the_tunnel_too() -> None:
    with World() as world:
        apply(world, world.plan())
        world.behind("10.99.0.2", "10.99.0.1")
        world.worker.ip(lambda ip: ip.route("add", dst="10.99.0.2/32", gateway=POD))
        world.inner.listen("0.0.0.0", 80)
        assert world.worker.ask("10.99.0.2", source=NODE) == NODE


def test_the_vm_itself_and_what_is_around_it_are_out_of_the_pods_reach() -> None:
    with World() as world:
        apply(world, world.plan())
        world.vm.listen("0.0.0.0", OTHER_PORT)
        world.cloud.listen("0.0.0.0", GUEST_PORT)
        world.cloud.listen("0.0.0.0", OTHER_PORT)
        tunnel, wireguard, other = (world.cloud.sees(port) for port in (4789, 51820, 4790))
        assert world.pod.ask(OTHER_VM, OTHER_PORT) == VM
        for address, port in ((VM, OTHER_PORT), (VM, GUEST_PORT), (OTHER_VM, GUEST_PORT)):
            assert world.pod.ask(address, port, SOON) == ""
        for port in (4789, 51820, 4790):
            world.pod.send(OTHER_VM, port)
        assert other.recv(9) == b"x"
        for closed in (tunnel, wireguard):
            assert_nothing_comes(closed)


KEPT = {
    POD: (METADATA, WIRESERVER, "169.254.170.2", "100.100.100.200", "192.0.0.192", "240.0.0.1", SERVICE, "10.244.9.9"),
    POD6: (METADATA6, "fd00:ec2::253", "fd20:ce::254", SERVICE6, "fd00:10::99"),
}


@pytest.mark.parametrize(("pod", "kept"), KEPT.items())
def test_a_pod_that_may_change_its_own_routes_reaches_no_more_for_it(pod: str, kept: tuple[str, ...]) -> None:
    """A container with CAP_NET_ADMIN is master of podns; what counts is the VM's filter."""
    outside = INTERNET6 if ":" in pod else OTHER_VM
    with World(ipv6=True) as world:
        apply(world, world.plan())
        seen = world.cloud.sees(53, "::")
        world.pod.ip(partial(_route_by_the_pair, [ip_network(each) for each in (*kept, outside)], pod))
        for address in (*kept, outside):
            world.cloud.add(address)
            world.pod.send(address, 53, address.encode())
        assert seen.recv(99) == outside.encode()
        assert_nothing_comes(seen)


def test_addresses_that_are_not_the_pods_and_cards_that_are_not_for_it_are_no_way_out() -> None:
    with World(second=True) as world:
        apply(world, world.plan())
        world.vm.listen("0.0.0.0", OTHER_PORT)
        outside, second = world.cloud.sees(53), world.second.sees(53)
        world.pod.send("10.0.9.1", 53)  # which the VM reaches by its second card
        assert_nothing_comes(second)
        world.pod.ip(_address_of_its_own)
        world.pod.ip(partial(_route_by_the_pair, [ip_network(INTERNET)], "10.0.0.77"))
        world.pod.send(INTERNET, 53)
        assert_nothing_comes(outside)
        assert world.pod.ask("169.254.70.1", OTHER_PORT, SOON) == ""


def test_what_belongs_to_no_connection_does_not_leave_with_the_pods_own_address() -> None:
    with World() as world:
        apply(world, world.plan())
        seen = world.cloud.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
        raw = world.pod.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
        with seen, raw:
            seen.settimeout(SOON)
            raw.sendto(struct.pack(">HHIIBBHHH", 4000, 80, 1, 0, 5 << 4, 0x04, 0, 0, 0), (INTERNET, 0))  # a reset
            assert_nothing_comes(seen)


@pytest.mark.parametrize("nic", [False, True])
def test_nobody_outside_gets_to_the_pod_or_through_the_vm(nic: bool) -> None:
    with World(second=True, ipv6=True) as world:
        apply(world, world.plan(nic=nic))
        at_the_pod, at_the_second = world.pod.sees(53, "::"), world.second.sees(53, "::")
        for card in ("eth0", "eth1"):
            world.vm.sysctl(f"ipv4/conf/{card}/forwarding", 1)
        for address, gateway in ((POD, VM), ("10.0.9.1", VM), (POD6, VM6), ("2001:db8:9::1", VM6)):
            world.cloud.ip(partial(_route, address, gateway))
            world.cloud.send(address, 53)
        world.second.ip(partial(_route, POD, CARD2))
        world.second.send(POD, 53)
        for receiver in (at_the_pod, at_the_second):
            assert_nothing_comes(receiver)
        for address in ("10.0.9.1", "2001:db8:9::1"):
            world.vm.send(address, 53)
            assert at_the_second.recv(9) == b"x"


def test_the_metadata_service_answers_a_pod_that_may_ask_it_and_one_hop_further() -> None:
    with World(ipv6=True) as world:
        apply(world, world.plan(egress=False, imds=True))
        world.cloud.listen(METADATA, 80, ttl=1)
        world.cloud.listen(METADATA6, 81, ttl=1)
        world.worker.listen("0.0.0.0", 80)
        assert world.pod.ask(METADATA) == VM
        assert world.pod.ask(METADATA6, 81) == VM6
        assert world.pod.ask(INTERNET) == POD, "the rest goes by the tunnel"
        assert world.pod.ask(WIRESERVER) == POD


def test_metadata_and_everything_else_together() -> None:
    with World() as world:
        apply(world, world.plan(imds=True))
        everybody_listens(world)
        assert [world.pod.ask(each) for each in (METADATA, INTERNET, WIRESERVER)] == [VM, VM, POD]


def test_without_either_there_is_no_way_from_the_pod_to_its_vms_metadata() -> None:
    """What a VM's program made, and a pod that is master of its own namespace: only the tunnel leads out of it."""
    with World() as world:
        before = world.pod.state(), world.vm.state()
        apply(world, world.plan(egress=False))
        assert (world.pod.state(), world.vm.state()) == before
        world.cloud.listen("0.0.0.0", 80)
        assert world.vm.ask(METADATA) == VM, "it is there"
        assert world.pod.ask(METADATA, timeout=SOON) == ""
        links = world.pod.ip(lambda ip: sorted(link.get_attr("IFLA_IFNAME") for link in ip.get_links()))
        assert links == ["eth0", "lo"]
        world.worker.listen("0.0.0.0", 80)
        assert world.pod.ask(METADATA) == POD, "the tunnel's end, that is"


def test_by_the_second_card() -> None:
    with World(second=True) as world:
        world.vm.sysctl("ipv4/conf/eth1/rp_filter", 1)
        world.vm.sysctl("ipv4/conf/all/rp_filter", 1)
        apply(world, world.plan(nic=True, imds=True))
        everybody_listens(world)
        assert world.pod.ask(INTERNET) == CARD2
        assert world.pod.ask(METADATA) == VM, "by the first"
        assert world.pod.ask(SERVICE) == POD
        assert world.vm.ask(INTERNET) == VM, "the VM's own traffic is as it was"


def test_a_vm_without_a_second_card_is_told_as_what_it_is() -> None:
    with World() as world:
        before = world.pod.state(), world.vm.state()
        with pytest.raises(
            InvalidRequest, match=r"this VM has none \(eth0; default of IPv4 by eth0\).*secondary_inter"
        ):
            apply(world, world.plan(nic=True))
        assert (world.pod.state(), world.vm.state()) == before


def test_the_second_cards_dhcp_is_waited_for() -> None:
    with World(second=True) as world:
        world.vm.ip(lambda ip: ip.route("del", dst="default", gateway="10.0.9.1", priority=200))
        with pytest.raises(InvalidRequest, match=r"second network card \(eth1\) has no gateway: DHCP"):
            apply(world, world.plan(nic=True))
        dhcp = threading.Timer(
            0.3, world.vm.aside, [lambda ip: ip.route("add", dst="default", gateway="10.0.9.1", priority=200)]
        )
        dhcp.start()
        apply(world, world.plan(nic=True), card_timeout=5.0)
        dhcp.join()
        everybody_listens(world)
        assert world.pod.ask(INTERNET) == CARD2


def test_what_was_made_is_replaced_and_nothing_of_it_left() -> None:
    with World(ipv6=True, second=True) as world, World(ipv6=True, second=True) as fresh:
        apply(world, world.plan(nic=True, imds=True, inside=("172.16.0.0/12", "fd99::/16")))
        for each in (world, fresh):
            apply(each, each.plan())
        assert (world.pod.state(), world.vm.state()) == (fresh.pod.state(), fresh.vm.state())
        everybody_listens(world)
        assert world.pod.ask(INTERNET) == VM


def test_a_vm_without_ipv6_keeps_the_pods_ipv6_in_the_tunnel() -> None:
    with World(ipv6=True) as world:
        world.vm.ip(lambda ip: ip.route("del", family=10, dst="default", gateway="2001:db8:1::1"))
        apply(world, world.plan())
        everybody_listens(world)
        assert world.pod.ask(INTERNET) == VM
        assert world.pod.ask(INTERNET6, 81) == POD6


def test_a_family_of_which_nobody_said_what_is_inside_stays_in_the_tunnel() -> None:
    with World(ipv6=True) as world:
        apply(world, world.plan(inside=("10.244.0.0/16", "10.96.0.0/12")))
        everybody_listens(world)
        assert world.pod.ask(INTERNET) == VM
        assert world.pod.ask(INTERNET6, 81) == POD6


def test_the_vm_goes_on_learning_its_ipv6_routes() -> None:
    """A Linux that forwards stops listening to routers, unless it is told otherwise."""
    with World(ipv6=True) as world:
        assert world.vm.sysctl("ipv6/conf/eth0/accept_ra") == 1
        apply(world, world.plan())
        assert world.vm.sysctl("ipv6/conf/all/forwarding") == 1
        assert world.vm.sysctl("ipv6/conf/eth0/accept_ra") == 2
        assert world.vm.sysctl("ipv4/ip_forward") == 0


def test_the_pair_has_no_life_of_its_own() -> None:
    with World(ipv6=True) as world:
        apply(world, world.plan())
        for end in (world.vm, world.pod):
            assert end.sysctl("ipv6/conf/ppegress/accept_ra") == 0
            assert end.ip(lambda ip: list(ip.get_addr(index=ip.link_lookup(ifname="ppegress")[0]))) == []


def test_a_namespace_that_is_gone_is_told() -> None:
    with World() as world, pytest.raises(Unavailable, match="way out of the VM cannot be made: No such file"):
        world.vm.run(lambda: egress.apply(world.plan(), GUEST_PORT, "/run/netns/nobody", 0.0))


def test_large_segments_get_through() -> None:
    with World() as world:
        apply(world, world.plan())
        listener = world.cloud.run(lambda: socket.create_server(("0.0.0.0", 80)))
        sender = world.pod.run(lambda: socket.create_connection((INTERNET, 80), 2))
        with listener, sender, listener.accept()[0] as receiver:
            sent = bytes(range(256)) * 800  # fits both sockets' buffers
            sender.settimeout(5)
            receiver.settimeout(5)
            sender.sendall(sent)
            sender.shutdown(socket.SHUT_WR)
            got = b""
            while part := receiver.recv(65536):
                got += part
            assert got == sent


@in_a_vm
async def test_bind_lays_it_with_the_rest_of_the_pods_network(vm: Vm) -> None:
    vm.uplink()
    in_thread(_default_route)
    await vm.lay(vxlan_plan(bridge(), egress=Egress(INSIDE), imds=True))
    names = vm.in_pod(lambda: sorted(name for _, name in socket.if_nameindex()))
    assert names == ["eth0", "lo", "ppegress"]


@in_a_vm
async def test_a_vm_without_a_way_out_is_spent_and_says_why(vm: Vm) -> None:
    vm.uplink()
    with pytest.raises(StatusError, match=r"cannot lay the pod's network: .*the families do not meet.* VM has ens5\b"):
        await vm.lay(vxlan_plan(bridge(), egress=Egress(INSIDE)))


def _default_route() -> None:
    with IPRoute() as ip:
        ip.route("add", dst="default", gateway="10.0.0.1")
