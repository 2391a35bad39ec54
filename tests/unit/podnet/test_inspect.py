"""What a pod's namespace holds as one value, and what of it a VM cannot be given."""

from dataclasses import replace

import pytest

from adaptor.errors import InvalidRequest
from adaptor.podnet.inspect import (
    MAIN_TABLE,
    AddressRow,
    LinkRow,
    NeighbourRow,
    QdiscRow,
    RouteRow,
    Rows,
    RuleRow,
    describe,
)
from adaptor.podnet.plan import Neighbour, PodNetwork, Route

MAC = "16:db:94:38:a1:6f"
LO: LinkRow = {
    "index": 1, "name": "lo", "kind": "", "address": "00:00:00:00:00:00", "mtu": 65536, "flags": 0x10049, "type": 772,
}  # fmt: skip
ETH0: LinkRow = {
    "index": 3, "name": "eth0", "kind": "veth", "address": MAC, "mtu": 1450, "flags": 0x11043, "type": 1,
}  # fmt: skip


def address(text: str, index: int = 3, *, peer: str = "", flags: int = 0x80) -> AddressRow:
    own, _, prefix = text.partition("/")
    return {
        "index": index, "family": 6 if ":" in own else 4, "address": own, "prefix": int(prefix), "peer": peer,
        "scope": 0, "flags": flags,
    }  # fmt: skip


def route(destination: str = "", gateway: str = "", index: int = 3, family: int = 4) -> RouteRow:
    return {
        "family": family, "table": MAIN_TABLE, "type": 1, "index": index, "destination": destination, "origin": "",
        "gateway": gateway, "source": "", "scope": 0, "protocol": 3, "metric": 0, "flags": 0, "tos": 0, "mtu": 0,
        "hops": 0, "encapsulated": False,
    }  # fmt: skip


def neighbour(text: str, state: int = 0x80, flags: int = 0) -> NeighbourRow:
    return {"index": 3, "family": 4, "address": text, "hardware_address": "ee:ee:ee:ee:ee:ee", "state": state,
            "flags": flags}  # fmt: skip


RULES: list[RuleRow] = [
    {"family": family, "priority": priority, "table": table, "text": "from all"}
    for family, priority, table in ((4, 0, 255), (4, 32766, 254), (4, 32767, 253), (6, 0, 255), (6, 32766, 254))
]
ORDINARY = Rows(
    links=[LO, ETH0],
    addresses=[address("127.0.0.1/8", 1), address("::1/128", 1), address("10.244.1.4/24"), address("fe80::1/64")],
    routes=[
        route("", "10.244.1.1"),
        {**route("10.244.1.0/24"), "protocol": 2, "scope": 253, "source": "10.244.1.4"},
        {**route("10.244.1.4/32"), "protocol": 2, "scope": 254, "table": 255, "type": 2},
        {**route("::1/128", index=1, family=6), "protocol": 2},
    ],
    neighbours=[neighbour("10.244.1.1"), neighbour("10.244.1.9", state=0x2), neighbour("10.244.1.8", flags=0x8)],
    rules=RULES,
    qdiscs=[{"index": 3, "kind": "noqueue", "handle": 0, "parent": 0xFFFFFFFF}],
)


def described(rows: Rows) -> PodNetwork:
    return describe("/run/netns/x", rows)


def test_an_ordinary_cni_namespace_is_described_without_local_table_and_learnt_neighbours() -> None:
    (interface,) = described(ORDINARY).interfaces
    assert (interface.name, interface.hardware_address, interface.mtu) == ("eth0", MAC, 1450)
    assert interface.addresses == ("10.244.1.4/24", "fe80::1/64")
    assert interface.routes == (
        Route("", 4, gateway="10.244.1.1"),
        Route("10.244.1.0/24", 4, source="10.244.1.4", scope=253, protocol=2),
    )
    assert interface.neighbours == (Neighbour("10.244.1.1", "ee:ee:ee:ee:ee:ee"),)


def test_a_point_to_point_address_is_told_with_its_peer() -> None:
    rows = replace(ORDINARY, addresses=[address("10.0.0.5/32", peer="10.0.0.1")])
    (interface,) = described(rows).interfaces
    assert (interface.addresses, interface.peers) == (("10.0.0.5/32",), ("10.0.0.5=10.0.0.1",))


def test_each_interface_has_its_own_routes_in_the_kernels_order() -> None:
    net1: LinkRow = {**ETH0, "index": 5, "name": "net1", "address": "02:00:00:00:00:05", "kind": "macvlan"}
    routes = [route("", "10.244.1.1"), route("10.8.0.0/16", index=5), route("10.7.0.0/16"), route("10.6.0.0/16")]
    network = described(replace(ORDINARY, links=[LO, net1, ETH0], routes=routes))
    assert [(i.name, [r.destination for r in i.routes]) for i in network.interfaces] == [
        ("net1", ["10.8.0.0/16"]),
        ("eth0", ["", "10.7.0.0/16", "10.6.0.0/16"]),
    ]


def test_what_a_router_advertised_is_carried_and_what_the_kernel_keeps_for_itself_is_not() -> None:
    rows = replace(
        ORDINARY,
        addresses=[address("fd00::5/64"), address("fd00::6/64", flags=0x08), address("fd00::7/64", flags=0x01)],
        routes=[
            {**route("", "fe80::1", family=6), "protocol": 9},
            {**route("fd00::9/128", "fe80::2", family=6), "protocol": 1},
            {**route("fd00::8/128", "fe80::1", family=6), "flags": 0x200},
        ],
    )
    (interface,) = described(rows).interfaces
    assert interface.addresses == ("fd00::5/64",)
    assert [(r.destination, r.gateway) for r in interface.routes] == [("", "fe80::1")]


def test_a_second_ipv4_address_of_a_network_is_carried() -> None:
    rows = replace(ORDINARY, addresses=[address("10.244.1.4/24"), address("10.244.1.5/24", flags=0x81)])
    (interface,) = described(rows).interfaces
    assert interface.addresses == ("10.244.1.4/24", "10.244.1.5/24")


def test_interfaces_that_are_down_are_left_out() -> None:
    tunl0: LinkRow = {**ETH0, "index": 2, "name": "tunl0", "kind": "ipip", "type": 768, "flags": 0x80, "address": ""}
    spare: LinkRow = {**ETH0, "index": 4, "name": "net1", "flags": 0x1002}
    assert [i.name for i in described(replace(ORDINARY, links=[LO, tunl0, ETH0, spare])).interfaces] == ["eth0"]


def test_an_interface_without_an_address_is_carried_where_another_has_one() -> None:
    net1: LinkRow = {**ETH0, "index": 5, "name": "net1"}
    network = described(replace(ORDINARY, links=[LO, ETH0, net1]))
    assert [(i.name, i.addresses) for i in network.interfaces][1] == ("net1", ())


def test_no_default_route_is_a_network_that_leads_nowhere_else() -> None:
    (interface,) = described(replace(ORDINARY, routes=ORDINARY.routes[1:])).interfaces
    assert [r.destination for r in interface.routes] == ["10.244.1.0/24"]


def test_our_own_devices_and_filters_are_no_part_of_the_pods_network() -> None:
    ours: LinkRow = {**ETH0, "index": 9, "name": "vxlan1", "kind": "vxlan"}
    ingress: QdiscRow = {"index": 3, "kind": "ingress", "handle": 0xFFFF0000, "parent": 0xFFFFFFF1}
    rows = replace(ORDINARY, links=[LO, ETH0, ours], qdiscs=[ingress])
    assert describe("/run/netns/x", rows, {"vxlan1"}) == described(ORDINARY)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"links": [LO]}, r"no outward interface that is up, it has: lo \(loopback\)"),
        ({"links": [LO, {**ETH0, "flags": 0x1002}]}, r"no outward interface that is up.*eth0 \(down\)"),
        ({"addresses": [address("fe80::1/64")]}, "no address on eth0 that others could reach"),
        ({"routes": [route("fe80::/64", family=6)]}, "addresses on eth0, but no route: not one packet could leave"),
        ({"routes": [{**route("10.9.0.0/16"), "type": 6}]}, "route 10.9.0.0/16, of the kind blackhole"),
        ({"routes": [{**route(index=0), "hops": 2}]}, "route default, with 2 next hops"),
        ({"routes": [{**route(), "encapsulated": True}]}, "route default, with an encapsulation"),
        ({"routes": [{**route(), "tos": 16}]}, "route default, for the type of service 16"),
        ({"routes": [{**route(family=6), "origin": "fd00::/64"}]}, "route default, for packets from fd00::/64"),
        ({"routes": [route("10.9.0.0/16", index=1)]}, "route 10.9.0.0/16, by lo, which leads nowhere"),
        ({"addresses": [*ORDINARY.addresses, address("10.8.8.8/32", 1)]}, "address 10.8.8.8/32 on its loopback"),
        (
            {"links": [LO, {**ETH0, "kind": "netkit", "flags": 0x11043 | 0x80}]},
            r"10.244.1.4/24, fe80::1/64 on eth0, which is not an Ethernet.*\(netkit",
        ),
        ({"links": [LO, {**ETH0, "address": "00:00:00:00:00:00"}]}, "which is not an Ethernet interface"),
        ({"links": [LO, {**ETH0, "type": 65534}]}, "which is not an Ethernet interface"),
        (
            {"links": [LO, ETH0, {**ETH0, "index": 4, "name": "vxlan1", "kind": "vxlan", "flags": 0x1002}]},
            "a device vxlan1 already.*another cloud adaptor",
        ),
        (
            {"qdiscs": [{"index": 3, "kind": "clsact", "handle": 0xFFFF0000, "parent": 0xFFFFFFF1}]},
            "filters for what comes in at eth0 already",
        ),
        (
            {"rules": [*RULES, {"family": 4, "priority": 500, "table": 100, "text": "from 10.244.1.4/32"}]},
            "rules of policy routing.*500: from 10.244.1.4/32 lookup 100",
        ),
        ({"filters": ["iptables nat"]}, "rules of the packet filter.*iptables nat"),
        (
            {"links": [LO, *({**ETH0, "index": n, "name": f"net{n}"} for n in range(3, 20))]},
            "17 interfaces, 16 can be carried",
        ),
    ],
)
def test_what_a_vm_cannot_be_given_is_refused_with_what_was_found(changed: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^the pod.s network namespace /run/netns/x has .*?{said}"):
        described(replace(ORDINARY, **changed))  # type: ignore[arg-type]
