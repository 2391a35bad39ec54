"""What a pod has on its host it has in its VM, whichever CNI plugin made its network."""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from adaptor.config_network import Network
from adaptor.errors import InvalidRequest
from adaptor.podnet import apf, netlink, wireguard_choice
from adaptor.podnet.inspect import Rows, describe
from adaptor.podnet.plan import PodNetwork
from tests.podnet.world import elsewhere
from tests.unit.podnet import oracle
from tests.worlds.pods import bpf, suite, traffic
from tests.worlds.pods.build import NEIGHBOUR, POD, Pods, built
from tests.worlds.pods.layouts import LAYOUTS, Layout
from tests.worlds.pods.tunnelled import tunnelled

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root: run the tests by `make test`"),
]

SOME = [each for each in LAYOUTS if each.name in ("calico-dual", "multus")]
LACKS = wireguard_choice.userspace_wants() if os.geteuid() == 0 else "network namespaces need root"
_KERNEL = 2  # a route's protocol
_PERMANENT = 0x80  # a neighbour's state
_CLONED = 0x200  # a route's flag: an exception from another one, for a path MTU


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_pods_traffic_is_in_its_vm_what_it_is_on_its_host(layout: Layout) -> None:
    if layout.wires[0].host.redirect_peer and not bpf.allowed():
        pytest.skip("this layout's host has eBPF programs, which only root of the machine may load")
    with built(layout) as pods:
        network = describe(pods.pod.path, both(pods))
        assert_as_laid_out(layout, network)
        assert_stock_images_take_it_or_say_why(network)
        suite.run(pods, pods.pod)
        before = standing(pods)
        with tunnelled(pods, Network(vxlan_port=8472)) as there:
            assert [each.mtu for each in there.plan.interfaces] == [
                min(wire.mtu, layout.underlay_mtu - 50) for wire in layout.wires
            ]
            suite.run(pods, there.inside)
            suite.on_the_wire(pods, there.inside, 8472, there.plan.interfaces[0].mtu)
        assert difference(before, standing(pods)) == []
        suite.same_host(pods, pods.pod, pods.addresses(POD)[0], pods.addresses(NEIGHBOUR)[0])


@pytest.mark.parametrize("layout", SOME, ids=lambda layout: layout.name)
def test_a_worker_and_a_vm_that_have_only_ipv6_between_them_carry_it_too(layout: Layout) -> None:
    with built(layout) as pods, tunnelled(pods, Network(), six=True) as there:
        assert there.plan.interfaces[0].mtu == layout.underlay_mtu - 70
        # The kernel sends no fragments of VXLAN packets over IPv6: what the VM's interface could not send is lost.
        suite.run(pods, there.inside, most=there.plan.interfaces[0].mtu)


@pytest.mark.skipif(bool(LACKS), reason=f"no userspace WireGuard: {LACKS}")
@pytest.mark.parametrize("layout", SOME, ids=lambda layout: layout.name)
def test_an_encrypted_tunnel_carries_all_of_it_too(layout: Layout) -> None:
    with built(layout) as pods:
        suite.run(pods, pods.pod)  # links are up, and addresses final
        before = standing(pods)
        with tunnelled(pods, Network(encryption="required")) as there:
            assert there.plan.interfaces[0].mtu == layout.underlay_mtu - 60 - 70
            with traffic.captured(pods.vm, "eth0", there.tunnel.port) as in_the_open:
                suite.run(pods, there.inside)
            assert in_the_open == []
        assert difference(before, standing(pods)) == []


def assert_as_laid_out(layout: Layout, network: PodNetwork) -> None:
    """The worker reads of the pod's namespace what the CNI plugin has put there."""
    assert [each.name for each in network.interfaces] == [wire.name for wire in layout.wires]
    for interface, wire in zip(network.interfaces, layout.wires, strict=True):
        assert interface.mtu == wire.mtu
        told = [each for each in interface.addresses if not each.startswith("fe80:")]
        assert told == [each.format(n=POD) for each in wire.addresses]
        assert {(r.destination, r.gateway, r.source, r.mtu) for r in interface.routes if r.protocol != _KERNEL} == {
            (via.destination, via.gateway, via.source.format(n=POD), via.mtu) for via in wire.routes
        }
        assert [each.address for each in interface.neighbours] == [address for address, _ in wire.neighbours]


def assert_stock_images_take_it_or_say_why(network: PodNetwork) -> None:
    told = [ipaddress.ip_interface(a) for i in network.interfaces for a in i.addresses if not a.startswith("fe80:")]

    def written() -> dict[str, Any]:
        return apf.pod_network(network, worker_address="172.31.66.1/24", vxlan_port=8472, vxlan_id=555000)

    if len(told) == 1 and told[0].version == 4:
        assert written()["podip"] == str(told[0])
    else:
        with pytest.raises(InvalidRequest, match=r"guest\.flavor = own"):
            written()


def standing(pods: Pods) -> list[str]:
    """All that is set up on the worker; neighbours and path MTUs that were learnt from traffic are left out."""
    return [
        f"{where}: {kind} {row}"
        for where, namespace in (("host", pods.host), ("pod", pods.pod))
        for kind, rows in _set_up(oracle.read(namespace.ip)).items()
        for row in rows
    ]


def _set_up(rows: Rows) -> dict[str, Sequence[object]]:
    return {
        "link": rows.links,
        "address": rows.addresses,
        "route": [row for row in rows.routes if not row["flags"] & _CLONED],
        "neighbour": [row for row in rows.neighbours if row["state"] & _PERMANENT],
        "rule": rows.rules,
        "qdisc": rows.qdiscs,
    }


def difference(before: list[str], after: list[str]) -> list[str]:
    return [f"gone: {row}" for row in before if row not in after] + [
        f"new: {row}" for row in after if row not in before
    ]


def both(pods: Pods) -> Rows:
    """The pod's namespace as the product reads it, which is as pyroute2 does."""
    rows = elsewhere(pods.pod.path, netlink.read_here)
    assert replace(rows, filters=()) == oracle.read(pods.pod.ip)
    return rows
