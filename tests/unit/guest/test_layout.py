"""What is decided of a plan before the kernel is asked."""

from dataclasses import replace

import pytest

from adaptor.errors import Code, InvalidRequest, StatusError
from adaptor.podnet.plan import GuestPlan, Interface, Neighbour, Route
from podvm_images.guest import layout
from podvm_images.guest.layout import Path

PATH = Path("ens5", "10.0.0.2", 1500)
ETH0 = Interface(
    "eth0", "02:00:00:00:00:0A", 1400, ("10.1.0.5/24", "fd02::6/64", "10.2.0.5/24", "fd02::5/64"),
    (Route("", 4, "10.1.0.1"), Route("10.1.0.0/24", 4, scope=253)),
    (Neighbour("10.1.0.1", "EE:00:00:00:00:01"),),
)  # fmt: skip
NET1 = Interface(
    "net1", "02:00:00:00:00:0b", 1400, ("10.3.0.5/24",), (Route("10.3.0.0/24", 4), Route("", 6, "fd02::1"))
)
PLAN = GuestPlan((ETH0, NET1), (7, 8), 4789, "10.0.0.1")


def test_interfaces_are_up_before_they_are_addressed_and_gateways_come_last() -> None:
    done = list(layout.operations(PLAN.interfaces))
    kinds = [(each.kind, each.interface) for each in done]
    assert kinds == [
        ("link", "eth0"), *[("addr", "eth0")] * 4, ("neigh", "eth0"), ("link", "net1"), ("addr", "net1"),
        ("route", "eth0"), ("route", "net1"), ("route", "eth0"), ("route", "net1"),
    ]  # fmt: skip
    routes = [each.arguments for each in done if each.kind == "route"]
    assert [("gateway" in route) for route in routes] == [False, False, True, True]


def test_addresses_are_given_so_that_the_kernel_has_them_in_the_plans_order() -> None:
    """It puts a new IPv4 address last, and a new IPv6 one first."""
    given = [each.arguments["local"] for each in layout.operations([ETH0]) if each.kind == "addr"]
    assert given == ["10.1.0.5", "10.2.0.5", "fd02::5", "fd02::6"]


def test_the_kernel_adds_no_route_for_an_address_and_waits_for_no_duplicate() -> None:
    flags = {each.arguments["flags"] for each in layout.operations(PLAN.interfaces) if each.kind == "addr"}
    assert flags == {0x200 | 0x02}


@pytest.mark.parametrize(
    ("route", "arguments"),
    [
        (Route("", 4, "10.1.0.1", metric=5), {"dst": "default", "family": 2, "gateway": "10.1.0.1", "priority": 5}),
        (Route("", 4, "fe80::1"), {"via": {"family": 10, "addr": "fe80::1"}}),
        (Route("", 6, "fe80::1", on_link=True), {"family": 10, "gateway": "fe80::1", "flags": 4}),
        (Route("10.9.0.0/16", 4, source="10.1.0.5", scope=253, protocol=2, mtu=1300),
         {"dst": "10.9.0.0/16", "prefsrc": "10.1.0.5", "scope": 253, "proto": 2, "metrics": {"mtu": 1300}, "flags": 0}),
    ],
)  # fmt: skip
def test_a_route_is_asked_for_as_the_plan_has_it(route: Route, arguments: dict[str, object]) -> None:
    (asked,) = (each.arguments for each in layout.operations([replace(NET1, routes=(route,))]) if each.kind == "route")
    assert {key: asked[key] for key in arguments} == arguments
    assert asked["table"] == 254


def test_what_is_as_wanted_has_no_difference_and_what_is_not_is_named() -> None:
    wanted = layout.wanted(PLAN, PLAN.interfaces, PATH)
    assert layout.differences(wanted, dict(wanted)) == []
    found = wanted | {"eth0's MTU": 1500, "net1's addresses": set(), "interfaces": {"eth0", "net1", "odd"}}
    del found["eth0's tunnel"]
    assert layout.differences(wanted, found) == [
        "interfaces: eth0, net1, odd instead of eth0, net1",
        "eth0's tunnel: none instead of VXLAN 7 from 10.0.0.2 to 10.0.0.1, UDP 4789",
        "eth0's MTU: 1500 instead of 1400",
        "net1's addresses: none instead of 10.3.0.5/24",
    ]


def test_one_thing_written_in_two_ways_is_no_difference() -> None:
    assert layout.address_text("fd02:0::5", 64, "") == layout.address_text("fd02::5", 64, "fd02::5")
    assert layout.neighbour_text("FD02::1", "EE:0") == layout.neighbour_text("fd02::1", "ee:0")
    told = Route("fd02::/64", 6, scope=0, metric=1024)  # how the kernel tells the other
    assert layout.route_text(Route("fd02:0::/64", 6, scope=253)) == layout.route_text(told)
    assert layout.route_text(replace(told, family=4, destination="10.0.0.0/8")) != layout.route_text(
        Route("10.0.0.0/8", 4)
    )


def test_a_narrow_path_lowers_interfaces_and_their_routes_and_a_wide_one_raises_none() -> None:
    routes = (Route("", 4, "10.1.0.1", mtu=1390), Route("10.1.0.0/24", 4))
    plan = replace(PLAN, interfaces=(replace(ETH0, routes=routes), replace(NET1, mtu=1300)))
    eth0, net1 = layout.fit(plan, replace(PATH, mtu=1400))
    assert (eth0.mtu, [route.mtu for route in eth0.routes], net1.mtu) == (1350, [1350, 0], 1300)
    assert layout.fit(plan, replace(PATH, mtu=9000)) == plan.interfaces
    assert layout.fit(replace(plan, worker="fd00::1"), replace(PATH, mtu=1400))[0].mtu == 1330


def test_a_path_that_leaves_too_little_is_told_with_what_is_needed() -> None:
    with pytest.raises(StatusError, match=r"ens5 \(MTU 1320\).*eth0 an MTU of 1270.*fd02::6/64 needs 1280") as caught:
        layout.fit(PLAN, replace(PATH, mtu=1320))
    assert caught.value.code == Code.FAILED_PRECONDITION


def test_a_worker_that_only_one_link_knows_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="fe80::1 is link-local"):
        layout.check(replace(PLAN, worker="fe80::1"))
    layout.check(PLAN)
