"""A pod's network as a value, and as stock upstream images want it written."""

from typing import Any

import pytest

from adaptor.errors import InvalidRequest
from adaptor.podnet.inspect import apf, describe

LINKS = [
    {"index": 1, "name": "lo", "address": "00:00:00:00:00:00", "mtu": 65536, "up": True, "loopback": True},
    {"index": 3, "name": "eth0", "address": "16:db:94:38:a1:6f", "mtu": 1450, "up": True, "loopback": False},
]
ADDRESSES = [
    {"index": 1, "address": "127.0.0.1", "prefix": 8, "family": 2},
    {"index": 3, "address": "10.244.1.4", "prefix": 24, "family": 2},
    {"index": 3, "address": "fe80::1", "prefix": 64, "family": 10},
]
ROUTES: list[dict[str, Any]] = [
    {"index": 3, "destination": "", "gateway": "10.244.1.1", "protocol": 3, "scope": 0, "table": 254, "family": 2},
    {
        "index": 3,
        "destination": "10.244.1.0/24",
        "gateway": "",
        "protocol": 2,
        "scope": 253,
        "table": 254,
        "family": 2,
    },
    {
        "index": 3,
        "destination": "10.244.1.4/32",
        "gateway": "",
        "protocol": 2,
        "scope": 254,
        "table": 255,
        "family": 2,
    },
]
NEIGHBOURS = [
    {"index": 3, "address": "10.244.1.1", "hardware_address": "ee:ee:ee:ee:ee:ee", "permanent": True},
    {"index": 3, "address": "10.244.1.9", "hardware_address": "aa:aa:aa:aa:aa:aa", "permanent": False},
]


def test_an_ordinary_cni_namespace_is_described_without_local_table_and_learnt_neighbours() -> None:
    network = describe("/run/netns/x", LINKS, ADDRESSES, ROUTES, NEIGHBOURS)
    assert (network.interface, network.address, network.mtu) == ("eth0", "10.244.1.4/24", 1450)
    assert [(r.destination, r.gateway) for r in network.routes] == [("", "10.244.1.1"), ("10.244.1.0/24", "")]
    assert [n.address for n in network.neighbours] == ["10.244.1.1"]


def test_upstreams_form_has_words_it_knows_and_the_connected_route() -> None:
    network = describe("/run/netns/x", LINKS, ADDRESSES, ROUTES, NEIGHBOURS)
    written = apf(network, worker_address="10.66.0.1/24", vxlan_port=4789, vxlan_id=555000)
    assert written["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "10.244.1.1", "dev": "eth0", "protocol": "boot"},
        {"dst": "10.244.1.0/24", "gw": "", "dev": "eth0", "protocol": "kernel", "scope": "link"},
    ]
    assert written["neighbors"] == [
        {"ip": "10.244.1.1", "hw-addr": "ee:ee:ee:ee:ee:ee", "dev": "eth0", "state": "permanent"}
    ]


def test_a_protocol_that_upstream_does_not_know_is_left_out() -> None:
    bird = [{**ROUTES[0], "protocol": 12}]
    written = apf(describe("/n", LINKS, ADDRESSES, bird, []), worker_address="", vxlan_port=1, vxlan_id=1)
    assert "protocol" not in written["routes"][0]


@pytest.mark.parametrize(
    ("addresses", "listed"),
    [
        ([], "none"),
        ([*ADDRESSES, {"index": 3, "address": "10.9.9.9", "prefix": 32, "family": 2}], "10.9.9.9/32 on eth0"),
    ],
)
def test_a_shape_that_is_not_supported_says_what_was_found(addresses: list[dict[str, Any]], listed: str) -> None:
    with pytest.raises(InvalidRequest, match=f"(?s)exactly one IPv4 address.*{listed}"):
        describe("/run/netns/x", LINKS, addresses, ROUTES, [])
