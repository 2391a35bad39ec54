"""A pod's network as stock upstream images want it written."""

from dataclasses import replace

import pytest

from adaptor.errors import InvalidRequest
from adaptor.podnet.apf import leaving, pod_network
from adaptor.podnet.plan import Egress, Interface, Neighbour, PodNetwork, Route

ETH0 = Interface(
    name="eth0",
    hardware_address="16:db:94:38:a1:6f",
    mtu=1450,
    addresses=("10.244.1.4/24", "fe80::14db:94ff:fe38:a16f/64"),
    routes=(
        Route("", 4, gateway="10.244.1.1"),
        Route("10.244.1.0/24", 4, scope=253, protocol=2),
        Route("fe80::/64", 6, protocol=2, metric=256),
    ),
    neighbours=(Neighbour("10.244.1.1", "ee:ee:ee:ee:ee:ee"),),
)


def written(*interfaces: Interface) -> dict[str, object]:
    return pod_network(PodNetwork(interfaces), worker_address="10.66.0.1/24", vxlan_port=4789, vxlan_id=555000)


def test_upstreams_form_has_every_key_that_their_parser_reads() -> None:
    assert written(ETH0) == {
        "podip": "10.244.1.4/24",
        "pod-hw-addr": "16:db:94:38:a1:6f",
        "interface": "eth0",
        "worker-node-ip": "10.66.0.1/24",
        "tunnel-type": "vxlan",
        # words that it knows, and the connected route
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "10.244.1.1", "dev": "eth0", "protocol": "boot"},
            {"dst": "10.244.1.0/24", "gw": "", "dev": "eth0", "protocol": "kernel", "scope": "link"},
        ],
        "neighbors": [{"ip": "10.244.1.1", "hw-addr": "ee:ee:ee:ee:ee:ee", "dev": "eth0", "state": "permanent"}],
        "mtu": 1450,
        "index": 0,
        "vxlan-port": 4789,
        "vxlan-id": 555000,
        "dedicated": False,
    }


def test_a_protocol_that_upstream_does_not_know_is_left_out() -> None:
    bird = written(replace(ETH0, routes=(Route("", 4, gateway="10.244.1.1", protocol=12),)))
    assert bird["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.244.1.1", "dev": "eth0"}]


@pytest.mark.parametrize(
    ("interfaces", "said"),
    [
        ([replace(ETH0, addresses=())], "exactly one IPv4 address.*has: none"),
        ([replace(ETH0, addresses=("10.0.0.1/24", "10.9.9.9/32"))], "has: 10.0.0.1/24 on eth0, 10.9.9.9/32 on eth0"),
        ([replace(ETH0, addresses=("fd00::5/64",))], "has: fd00::5/64 on eth0"),
        ([ETH0, replace(ETH0, name="net1")], "10.244.1.4/24 on net1"),
        ([ETH0, replace(ETH0, name="net1", addresses=())], "exactly one interface.*has: eth0, net1"),
        ([replace(ETH0, peers=("10.244.1.4=10.244.1.1",))], r"an address has a peer \(10.244.1.4=10.244.1.1 on eth0\)"),
        ([replace(ETH0, routes=(Route("", 4, gateway="169.254.1.1", on_link=True),))], "by way of 169.254.1.1"),
        ([replace(ETH0, routes=(Route("", 4, gateway="fe80::1"),))], "by way of fe80::1"),
        ([replace(ETH0, routes=(Route("", 6, gateway="fe80::1"),))], r"knows no IPv6.*default \(IPv6\)"),
    ],
)
def test_a_shape_that_stock_images_cannot_carry_says_what_was_found(interfaces: list[Interface], said: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{said}.*guest.flavor = own"):
        written(*interfaces)


def test_what_leaves_by_the_second_card_leaves_the_clusters_networks_to_the_first_gateway() -> None:
    before = written(ETH0)
    assert leaving(before, None) == before
    egress = Egress(("10.244.0.0/16", "10.244.1.0/24", "fd00:10::/64", "10.96.0.0/12"), nic=True)
    after = leaving(before, egress)
    assert after["external-net-via-pod-vm"] is True
    inside = [
        {"dst": "10.244.0.0/16", "gw": "10.244.1.1", "dev": "eth0"},
        {"dst": "10.96.0.0/12", "gw": "10.244.1.1", "dev": "eth0"},
    ]
    assert after["routes"] == [*before["routes"], *inside]  # type: ignore[misc]
    assert {key: value for key, value in after.items() if key not in ("routes", "external-net-via-pod-vm")} == {
        key: value for key, value in before.items() if key != "routes"
    }


def test_a_pod_without_a_gateway_cannot_leave_by_a_stock_image() -> None:
    with pytest.raises(InvalidRequest, match="no default route with one"):
        leaving(written(replace(ETH0, routes=())), Egress(("10.244.0.0/16",), nic=True))
