"""What real kernels tell of odd namespaces, as the worker reads it."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from adaptor.errors import InvalidRequest
from adaptor.podnet import netlink
from adaptor.podnet.inspect import describe
from adaptor.podnet.plan import Interface, Route
from tests.worlds.pods import iptables, layouts, nft
from tests.worlds.pods.build import add_address, add_route, join
from tests.worlds.pods.layouts import Via
from tests.worlds.pods.namespaces import Namespace

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root: run the tests by `make test`"),
]

_INET6 = 10
_ON_LINK = 0x4
_NOARP = 0x80
_GATEWAY = "10.1.2.1"


@pytest.fixture
def pod() -> Iterator[Namespace]:
    """With an ordinary eth0."""
    with ExitStack() as stack:
        host, made = Namespace.made(), Namespace.made()
        stack.callback(host.close)
        stack.callback(made.close)
        join(host, "pod", ("10.1.2.1/24",), made, "eth0", ("10.1.2.3/24", "fd00::3/64"), 1500)
        add_route(made, made.index("eth0"), Via("", _GATEWAY))
        yield made


def described(pod: Namespace) -> Interface:
    with pod.entered():
        (interface,) = describe("/run/netns/x", netlink.read_here()).interfaces
    return interface


def test_routes_of_every_kind_that_is_carried_are_read_in_full(pod: Namespace) -> None:
    eth0 = pod.index("eth0")
    pod.ip.route("add", dst="10.5.0.0/16", gateway="169.254.1.1", oif=eth0, flags=_ON_LINK, priority=7)
    pod.ip.route("add", dst="10.6.0.0/16", oif=eth0, via={"family": _INET6, "addr": "fd00::9"}, metrics={"mtu": 1280})
    add_route(pod, eth0, Via("10.7.0.0/16", source="10.1.2.3", scope=layouts.LINK))
    add_route(pod, eth0, Via("", "fd00::1"))
    found = {(route.family, route.destination): route for route in described(pod).routes}
    assert found[4, "10.5.0.0/16"] == Route("10.5.0.0/16", 4, "169.254.1.1", protocol=4, metric=7, on_link=True)
    assert found[4, "10.6.0.0/16"] == Route("10.6.0.0/16", 4, "fd00::9", protocol=4, mtu=1280)
    assert found[4, "10.7.0.0/16"] == Route("10.7.0.0/16", 4, source="10.1.2.3", scope=layouts.LINK, protocol=4)
    assert found[6, ""] == Route("", 6, "fd00::1", protocol=4, metric=1024)
    assert found[4, "10.1.2.0/24"].protocol == 2


def test_a_peers_address_is_told_apart_from_ones_own_in_both_families(pod: Namespace) -> None:
    eth0 = pod.index("eth0")
    pod.ip.addr("add", index=eth0, local="10.9.9.9", address="10.9.9.8", prefixlen=32)
    pod.ip.addr("add", index=eth0, local="fd09::9", address="fd09::8", prefixlen=128, family=_INET6)
    interface = described(pod)
    assert {"10.9.9.9/32", "fd09::9/128"} <= set(interface.addresses)
    assert set(interface.peers) == {"10.9.9.9=10.9.9.8", "fd09::9=fd09::8"}


def test_addresses_come_in_the_order_in_which_the_kernel_prefers_them(pod: Namespace) -> None:
    add_address(pod, pod.index("eth0"), "10.1.2.9/24")
    add_address(pod, pod.index("eth0"), "10.0.0.9/24")
    assert [each for each in described(pod).addresses if "." in each] == ["10.1.2.3/24", "10.0.0.9/24", "10.1.2.9/24"]


def _route(**what: Any) -> Callable[[Namespace], None]:
    return lambda pod: pod.ip.route("add", dst="10.8.0.0/16", **what)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_route(multipath=[{"gateway": _GATEWAY}, {"gateway": "10.1.2.2"}]), "10.8.0.0/16, with 2 next hops"),
        (_route(type="blackhole"), "10.8.0.0/16, of the kind blackhole"),
        (_route(type="prohibit"), "10.8.0.0/16, of the kind prohibit"),
        (_route(gateway=_GATEWAY, tos=16), "10.8.0.0/16, for the type of service 16"),
        (_route(oif=1), "10.8.0.0/16, by lo, which leads nowhere"),
        (lambda pod: add_address(pod, 1, "10.8.8.8/32"), "address 10.8.8.8/32 on its loopback"),
        (lambda pod: pod.ip.tc("add", "clsact", pod.index("eth0")), "filters for what comes in at eth0"),
        (lambda pod: pod.ip.tc("add", "ingress", pod.index("eth0"), "ffff:"), "filters for what comes in at eth0"),
        (
            lambda pod: pod.ip.rule("add", table=100, src="10.1.2.3", src_len=32, priority=500, iifname="eth0"),
            "500: from 10.1.2.3/32 iif eth0 lookup 100",
        ),
        (
            lambda pod: pod.ip.rule("add", table=100, fwmark=0x111, priority=500, family=_INET6),
            "500: from all fwmark 0x111 lookup 100",
        ),
        (
            lambda pod: pod.ip.link("set", index=pod.index("eth0"), flags=_NOARP, change=_NOARP),
            r"on eth0, which is not an Ethernet interface with addresses that are resolved \(veth",
        ),
        (
            lambda pod: pod.ip.link("add", ifname="vxlan1", kind="veth", peer={"ifname": "x"}),
            r"a device vxlan1 already \(veth\)",
        ),
        (lambda pod: pod.ip.link("set", index=pod.index("eth0"), state="down"), r"no outward interface.*eth0 \(down\)"),
    ],
)
def test_what_cannot_be_carried_is_noticed(pod: Namespace, change: Callable[[Namespace], None], said: str) -> None:
    described(pod)
    change(pod)
    with pytest.raises(InvalidRequest, match=said):
        described(pod)


def test_rules_of_nftables_are_noticed_as_long_as_they_are_there(pod: Namespace) -> None:
    with (
        nft.drop(pod, "eth0", 80),
        nft.service(pod, "10.96.0.1", 80, "10.96.0.2", 81),
        pytest.raises(
            InvalidRequest, match="packet filter, which a VM is not given: nftables ip services, nftables netdev"
        ),
    ):
        described(pod)
    described(pod)


def test_rules_of_the_older_iptables_are_noticed_and_its_empty_tables_are_not(pod: Namespace) -> None:
    if not os.path.exists("/proc/net/ip_tables_names"):
        pytest.skip("this kernel has no iptables but nftables")
    iptables.look(pod)
    described(pod)
    iptables.drop_input(pod)
    with pytest.raises(InvalidRequest, match="packet filter, which a VM is not given: iptables filter"):
        described(pod)
