"""The pod's network laid in real namespaces, and read back with the worker's own reader."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from pyroute2 import IPRoute

from adaptor.errors import Code, StatusError
from adaptor.podnet.plan import GuestPlan, Interface, Neighbour, PodNetwork, Route
from podvm_images.guest import layout, podns, rtnetlink
from podvm_images.guest.network import Network
from tests.unit.guest.vm import (
    MAC,
    OURS,
    OURS_V6,
    STRANGER,
    STRANGER_V6,
    WORKER,
    WORKER_V6,
    Vm,
    bridge,
    far_end,
    forged,
    in_a_vm,
    in_thread,
    inside,
    listener,
    make_namespace,
    plan,
    until_received,
)

LINK = 253  # rtnetlink's scope and protocol of what the kernel itself adds
KERNEL = 2
GATEWAY_MAC = "ee:ee:ee:ee:ee:ee"

CALICO = Interface(
    "eth0", MAC, 1400, ("192.168.7.9/32", "fe80::7/64"),
    (Route("169.254.1.1/32", 4, scope=LINK), Route("", 4, "169.254.1.1"),
     Route("fe80::/64", 6, protocol=KERNEL, metric=256)),
    (Neighbour("169.254.1.1", GATEWAY_MAC),),
)  # fmt: skip
# What the kernel would add for its address is not there, and would collide with what is.
PTP = Interface(
    "eth0", MAC, 1400, ("10.20.0.5/24",),
    (Route("10.20.0.1/32", 4, source="10.20.0.5", scope=LINK), Route("10.20.0.0/24", 4, "10.20.0.1", source="10.20.0.5"),
     Route("", 4, "10.20.0.1")),
)  # fmt: skip
V6_ONLY = Interface(
    "eth0", MAC, 1400, ("fd02::5/64", "fe80::7/64"),
    (Route("fd02::/64", 6, protocol=KERNEL, metric=256), Route("fe80::/64", 6, protocol=KERNEL, metric=256),
     Route("", 6, "fd02::1", metric=1024)),
    (Neighbour("fd02::1", GATEWAY_MAC),),
)  # fmt: skip
DUAL = replace(
    V6_ONLY,
    addresses=("10.244.1.5/24", *V6_ONLY.addresses),
    routes=(Route("10.244.1.0/24", 4, source="10.244.1.5", scope=LINK, protocol=KERNEL), *V6_ONLY.routes[:2],
            Route("", 4, "10.244.1.1"), *V6_ONLY.routes[2:]),
)  # fmt: skip
SEVERAL = Interface(
    "eth0", MAC, 1400,
    ("10.1.0.5/24", "10.2.0.5/16", "10.1.0.6/24", "fd03::6/64", "fd03::5/64", "fd02::5/64"),
    (Route("10.1.0.0/24", 4, source="10.1.0.6", scope=LINK), Route("", 4, "10.1.0.1", metric=7),
     Route("", 4, "10.1.0.2", metric=9), Route("10.9.0.0/16", 4, "10.1.0.3", mtu=1300), Route("fd03::/64", 6, metric=50)),
)  # fmt: skip
ON_LINK = Interface(
    "eth0", MAC, 1400, ("10.0.8.5/32", "fd02::5/128"),
    (Route("", 4, "172.16.0.1", on_link=True), Route("", 6, "fd99::1", metric=1024, on_link=True)),
)  # fmt: skip
V4_BY_V6 = Interface(
    "eth0", MAC, 1400, ("10.0.8.5/32", "fe80::7/64"),
    (Route("", 4, "fe80::1"), Route("fe80::/64", 6, protocol=KERNEL, metric=256)),
    (Neighbour("fe80::1", GATEWAY_MAC),),
)  # fmt: skip
PEER = Interface("eth0", MAC, 1400, ("10.0.8.5/32",), (Route("", 4, scope=LINK),), peers=("10.0.8.5=10.0.8.1",))
ODD_NAME = replace(bridge(), name="net1.100@x")
BARE = Interface("net1", "02:00:00:00:00:08", 1400, ())
SECOND = Interface(
    "net1", "02:00:00:00:00:08", 1350, ("10.244.1.7/24",),
    (Route("10.244.1.0/24", 4, source="10.244.1.7", scope=LINK, protocol=KERNEL), Route("", 4, "10.244.1.1", metric=5)),
)  # fmt: skip

LAYOUTS = {
    "bridge": (bridge(),), "calico": (CALICO,), "ptp": (PTP,), "v6-only": (V6_ONLY,), "dual": (DUAL,),
    "several": (SEVERAL,), "on-link": (ON_LINK,), "v4-by-v6": (V4_BY_V6,), "peer": (PEER,), "odd-name": (ODD_NAME,),
    "two": (bridge(), SECOND), "two-and-one-bare": (DUAL, BARE),
}  # fmt: skip


def in_order(interface: Interface) -> Interface:
    """Among routes of one destination the order counts, and the kernel keeps it."""
    return replace(interface, routes=tuple(sorted(interface.routes, key=lambda r: (r.family, r.destination, r.metric))))


# -- what is laid -----------------------------------------------------------------------------------


@pytest.mark.parametrize("worker", [WORKER, WORKER_V6])
@pytest.mark.parametrize("interfaces", LAYOUTS.values(), ids=LAYOUTS)
@in_a_vm
async def test_the_vm_has_what_the_pods_namespace_has(vm: Vm, interfaces: Any, worker: str) -> None:
    vm.uplink()
    await vm.lay(plan(*interfaces, worker=worker))
    assert PodNetwork(tuple(map(in_order, vm.found().interfaces))) == PodNetwork(tuple(map(in_order, interfaces)))


@in_a_vm
async def test_a_namespace_that_a_unit_of_the_image_made_is_used(vm: Vm) -> None:
    """Where the modules of old tunnels are loaded, the kernel puts devices of theirs into every namespace."""

    def idle() -> None:
        with IPRoute() as ip:
            ip.link("add", ifname="sit0", kind="veth", peer={"ifname": "tunl0"})

    vm.uplink()
    make_namespace(vm.podns)
    vm.in_pod(idle)
    before = os.stat(vm.podns).st_ino
    await vm.lay(plan(bridge()))
    assert os.stat(vm.podns).st_ino == before
    assert tuple(map(in_order, vm.found().interfaces)) == (in_order(bridge()),)


@in_a_vm
async def test_the_vms_own_network_gains_nothing_but_the_rules_for_its_tunnel(vm: Vm) -> None:
    vm.uplink()
    before = in_thread(told)
    await vm.lay(plan(bridge(), SECOND))
    assert in_thread(told) == before
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("podns")]


def told() -> list[str]:
    """All of this thread's network that netlink tells, nftables aside; counters and times left out."""
    with IPRoute() as ip:
        dumps = (ip.get_links(), ip.get_addr(), ip.get_routes(), ip.get_rules())
        return [str({k: v for k, v in row["attrs"] if k not in ("IFLA_STATS", "IFLA_STATS64", "IFLA_AF_SPEC")})
                for dump in dumps for row in dump]  # fmt: skip


@in_a_vm
async def test_the_loop_goes_on_while_the_kernel_is_asked(vm: Vm) -> None:
    asked, go_on = threading.Event(), threading.Event()
    real = podns._path

    def slow(*given: Any) -> Any:
        asked.set()
        assert go_on.wait(20)
        return real(*given)

    vm.uplink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(podns, "_path", slow)
        laying = asyncio.ensure_future(vm.lay(plan(bridge())))
        while not asked.is_set():
            await asyncio.sleep(0)
        go_on.set()
        await laying


# -- the MTU ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("worker", "left"), [(WORKER, 1390), (WORKER_V6, 1370)])
@in_a_vm
async def test_a_narrower_path_of_our_own_lowers_the_mtu(vm: Vm, worker: str, left: int) -> None:
    vm.uplink(mtu=1440)
    wide = Interface("eth0", MAC, 9000, ("10.1.0.5/24",), (Route("", 4, scope=LINK, mtu=8000),))
    await vm.lay(plan(wide, replace(BARE, mtu=1300), worker=worker))
    eth0, net1 = vm.found().interfaces
    assert (eth0.mtu, eth0.routes[0].mtu, net1.mtu) == (left, left, 1300)


@in_a_vm
async def test_what_the_kernel_has_learnt_of_the_path_counts(vm: Vm) -> None:
    def learn() -> None:
        with IPRoute() as ip:
            (ens5,) = ip.link_lookup(ifname="ens5")
            ip.route("add", dst=f"{WORKER}/32", oif=ens5, metrics={"mtu": 1200})

    vm.uplink()
    in_thread(learn)
    await vm.lay(plan(bridge()))
    assert vm.found().interfaces[0].mtu == 1150


@in_a_vm
async def test_a_path_too_narrow_for_the_pods_addresses_is_told_and_nothing_is_laid(vm: Vm) -> None:
    vm.uplink(mtu=1300)
    error = await refusal(vm.lay(plan(DUAL)))
    assert error.code == Code.FAILED_PRECONDITION
    assert "ens5 (MTU 1300)" in error.message
    assert "an MTU of 1250, and its address fd02::5/64 needs 1280" in error.message
    assert vm.in_pod(lambda: [name for _, name in socket.if_nameindex()]) == ["lo"]


# -- what passes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("worker", "peer", "mtu"), [(WORKER, OURS, 1450), (WORKER_V6, OURS_V6, 1430)])
@in_a_vm
async def test_datagrams_as_long_as_the_mtu_go_both_ways_in_both_families(
    vm: Vm, worker: str, peer: str, mtu: int
) -> None:
    vm.uplink()
    interface = replace(DUAL, mtu=9000, neighbours=())
    await vm.lay(plan(interface, worker=worker))
    vm.at_worker(lambda: far_end(worker, peer, mtu, "10.244.1.1", "fd02::1"))
    for pod, gateway, headers in (("10.244.1.5", "10.244.1.1", 28), ("fd02::5", "fd02::1", 48)):
        whole = os.urandom(mtu - headers)
        there = vm.at_worker(partial(listener, gateway, 7))
        here = vm.in_pod(partial(listener, pod, 7))
        with here, there:
            here.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO: no fragments
            assert until_received(there, partial(here.sendto, whole, (gateway, 7))) == (whole, pod)
            assert until_received(here, partial(there.sendto, whole, (pod, 7))) == (whole, gateway)


@pytest.mark.parametrize(("worker", "stranger", "peer"), [(WORKER, STRANGER, OURS), (WORKER_V6, STRANGER_V6, OURS_V6)])
@in_a_vm
async def test_packets_of_anybody_but_the_worker_do_not_reach_the_pod(
    vm: Vm, worker: str, stranger: str, peer: str
) -> None:
    vm.uplink()
    await vm.lay(plan(bridge(), worker=worker))
    assert heard(vm, lambda: forged(stranger, peer, b"no"), lambda: forged(worker, peer, b"yes")) == {b"yes"}


def heard(vm: Vm, wrong: Callable[[], None], right: Callable[[], None]) -> set[bytes]:
    """What reaches the pod of both, once the right one does: it is sent after the wrong one, by the same cable."""

    def both() -> None:
        vm.at_worker(wrong)
        vm.at_worker(right)

    with vm.in_pod(lambda: listener("10.244.1.5", 7)) as pod:
        return {until_received(pod, both)[0] for _ in range(3)}


@in_a_vm
async def test_the_other_family_leads_to_no_tunnel(vm: Vm) -> None:
    """A VXLAN device of IPv4 does not listen to IPv6, but the rule does not count on that."""
    vm.uplink()
    await vm.lay(plan(bridge()))
    assert heard(vm, lambda: forged(WORKER_V6, OURS_V6, b"no"), lambda: forged(WORKER, OURS, b"yes")) == {b"yes"}


@in_a_vm
async def test_no_advertisement_gives_the_pod_an_address_or_a_route(vm: Vm) -> None:
    vm.uplink()
    await vm.lay(plan(DUAL))

    def sysctls() -> Iterator[str]:
        for name in ("accept_ra", "addr_gen_mode", "disable_ipv6"):
            with open(f"/proc/sys/net/ipv6/conf/eth0/{name}") as file:
                yield file.read().strip()

    assert vm.in_pod(lambda: list(sysctls())) == ["0", "1", "0"]


# -- what cannot be laid ----------------------------------------------------------------------------


async def refusal(deed: Any) -> StatusError:
    with pytest.raises(StatusError) as caught:
        await deed
    return caught.value


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (plan(bridge(), worker="192.0.2.1"), "find a route to the worker 192.0.2.1: Network is unreachable"),
        (plan(bridge(), worker=OURS), "the worker's address 10.0.0.2 is one of this VM's own"),
        (plan(replace(bridge(), routes=(Route("", 4, "10.99.0.1"),))),
         "add the route default IPv4 via 10.99.0.1 proto 3 at eth0: Network is unreachable"),
        (plan(replace(bridge(), addresses=("10.1.0.5/24",) * 2)), "give eth0 the address 10.1.0.5/24: File exists"),
        (plan(replace(bridge(), routes=(Route("10.7.0.0/16", 4, source="10.7.7.7", scope=LINK),))),
         "add the route 10.7.0.0/16 from 10.7.7.7 scope 253 proto 3 at eth0: Invalid argument"),
    ],
)  # fmt: skip
@in_a_vm
async def test_what_the_kernel_refuses_is_told_with_the_deed(vm: Vm, given: GuestPlan, complaint: str) -> None:
    vm.uplink()
    error = await refusal(vm.lay(given))
    assert (error.code, complaint in error.message) == (Code.INTERNAL, True), error.message


@in_a_vm
async def test_a_namespace_with_something_in_it_is_not_used(vm: Vm) -> None:
    def put() -> None:
        with IPRoute() as ip:
            ip.link("add", ifname="veth1", kind="veth", peer={"ifname": "veth2"})

    vm.uplink()
    make_namespace(vm.podns)
    vm.in_pod(put)
    error = await refusal(vm.lay(plan(bridge())))
    assert f"{vm.podns} has veth2, veth1 already: it must be empty" in error.message


@in_a_vm
async def test_the_vms_own_namespace_is_never_the_pods(vm: Vm) -> None:
    vm.uplink()
    os.symlink("/proc/thread-self/ns/net", vm.podns)
    assert "is the VM's own network namespace" in (await refusal(vm.lay(plan(bridge())))).message


@in_a_vm
async def test_what_the_kernel_made_something_else_of_is_told_with_the_part(vm: Vm) -> None:
    vm.uplink()
    real = layout.operations
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "operations", lambda given: [o for o in real(given) if type(o.value) is not Neighbour])
        error = await refusal(vm.lay(plan(bridge())))
    assert error.message.endswith("eth0's neighbours: none instead of 10.244.1.1 at 02:00:00:00:00:01")


@in_a_vm
async def test_a_route_that_the_kernel_added_by_itself_does_not_pass(vm: Vm) -> None:
    vm.uplink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rtnetlink, "_NO_PREFIX_ROUTE", 0)
        error = await refusal(vm.lay(plan(PTP)))
    assert "eth0's routes: " in error.message


@in_a_vm
async def test_a_vm_without_a_way_to_the_namespaces_place_says_so(vm: Vm) -> None:
    vm.uplink()
    blocked = Network(f"{vm.worker}/podns")
    assert "make the pod's network namespace" in (await refusal(blocked.make())).message
    assert inside(vm.worker, lambda: True)
