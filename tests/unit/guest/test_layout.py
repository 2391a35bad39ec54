"""What is decided of a plan before the kernel is asked."""

from dataclasses import replace

import pytest

from adaptor.errors import Code, InvalidRequest, StatusError
from adaptor.podnet.plan import GuestPlan, Interface, Neighbour, Route
from podvm_images.guest import layout
from podvm_images.guest.layout import Address, Path, Up

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
    assert [(type(each.value), each.interface) for each in done] == [
        (Up, "eth0"), *[(Address, "eth0")] * 4, (Neighbour, "eth0"), (Up, "net1"), (Address, "net1"),
        (Route, "eth0"), (Route, "net1"), (Route, "eth0"), (Route, "net1"),
    ]  # fmt: skip
    routes = [each.value for each in done if isinstance(each.value, Route)]
    assert [bool(route.gateway) for route in routes] == [False, False, True, True]


def test_addresses_are_given_so_that_the_kernel_has_them_in_the_plans_order() -> None:
    """It puts a new IPv4 address last, and a new IPv6 one first."""
    given = [each.value.own for each in layout.operations([ETH0]) if isinstance(each.value, Address)]
    assert given == ["10.1.0.5", "10.2.0.5", "fd02::5", "fd02::6"]


def test_an_address_has_its_peer_and_no_other_ones() -> None:
    interface = replace(ETH0, peers=("10.1.0.5=10.1.0.1",))
    assert [(each.own, each.prefix, each.peer) for each in layout.addresses(interface)] == [
        ("10.1.0.5", 24, "10.1.0.1"), ("fd02::6", 64, ""), ("10.2.0.5", 24, ""), ("fd02::5", 64, ""),
    ]  # fmt: skip


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
    assert layout.address_text(Address("fd02:0::5", 64)) == layout.address_text(Address("fd02::5", 64, "fd02::5"))
    assert layout.address_text(Address("10.0.0.5", 32, "10.0.0.1")) != layout.address_text(Address("10.0.0.5", 32))
    assert layout.neighbour_text(Neighbour("FD02::1", "EE:0")) == layout.neighbour_text(Neighbour("fd02::1", "ee:0"))
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
