"""What leaves a pod from its VM, decided over values."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptor.errors import InvalidRequest
from adaptor.podnet.plan import Egress, GuestPlan, Interface
from podvm_images.guest.egress_layout import KEPT, MAIN, METADATA, Default, Link, mtu, wanted, ways

LO = Link(1, "lo", 65536, loopback=True)
ETH0, ETH1, ETH2 = Link(2, "eth0", 9001), Link(3, "eth1", 1500), Link(4, "eth2", 1400)
OURS = (Link(7, "ppegress", 1500, "veth"), Link(8, "ppwg0", 1420, "wireguard"), Link(9, "vxlan1", 1450, "vxlan"))
OUT4, OUT6 = Default(4, 2, "10.0.0.1", 100), Default(6, 2, "fe80::1", 100)
SECOND4 = Default(4, 3, "10.0.9.1", 200)
INSIDE = ("10.244.0.0/16", "fd00:10::/64")


def plan(
    *addresses: str, nic: bool = False, imds: bool = False, egress: bool = True, inside: tuple[str, ...] = INSIDE
) -> GuestPlan:
    eth0 = Interface("eth0", "02:00:00:00:00:07", 1400, (*addresses, "fe80::7/64"))
    return GuestPlan((eth0,), (7,), 4789, "10.0.0.4", egress=Egress(inside, nic=nic) if egress else None, imds=imds)


def test_a_plan_that_wants_nothing_is_known_by_it() -> None:
    assert wanted(plan("10.244.1.5/24"))
    assert wanted(plan("10.244.1.5/24", egress=False, imds=True))
    assert not wanted(plan("10.244.1.5/24", egress=False))


def test_the_first_card_is_that_of_the_vms_own_default_route() -> None:
    preferred = Default(4, 3, "10.0.9.1", 50)
    (way,) = ways(plan("10.244.1.5/24"), (LO, ETH0, ETH1), (OUT4, preferred))
    assert (way.first.name, way.out, way.addresses) == ("eth1", way.first, ("10.244.1.5",))
    elsewhere = Default(4, 3, "10.0.9.1", 50, table=500)
    (way,) = ways(plan("10.244.1.5/24"), (LO, ETH0, ETH1), (OUT4, elsewhere))
    assert way.first.name == "eth0"


def test_the_second_card_is_another_with_a_default_route_in_whichever_table() -> None:
    for table in (MAIN, 500):
        second = Default(4, 3, "10.0.9.1", 200, table)
        (way,) = ways(plan("10.244.1.5/24", nic=True), (LO, ETH0, ETH1, ETH2, *OURS), (second, OUT4))
        assert way.out is not None
        assert (way.first.name, way.out.name, way.out.gateway) == ("eth0", "eth1", "10.0.9.1")
        assert mtu((way,)) == 1500


def test_what_we_made_ourselves_is_no_card() -> None:
    routes = (OUT4, *(Default(4, link.index, "10.9.9.9", 10) for link in OURS))
    with pytest.raises(InvalidRequest, match=r"has none \(eth0; default of IPv4 by eth0\)"):
        ways(plan("10.244.1.5/24", nic=True), (LO, ETH0, *OURS), routes)


@pytest.mark.parametrize(
    ("addresses", "routes", "families"),
    [
        (("10.244.1.5/24", "fd00:10::5/64"), (OUT4, OUT6), (4, 6)),
        (("10.244.1.5/24", "fd00:10::5/64"), (OUT4,), (4,)),
        (("10.244.1.5/24",), (OUT4, OUT6), (4,)),
        (("fd00:10::5/64",), (OUT4, OUT6), (6,)),
    ],
)
def test_a_family_leaves_where_both_pod_and_vm_have_it(
    addresses: tuple[str, ...], routes: tuple[Default, ...], families: tuple[int, ...]
) -> None:
    found = ways(plan(*addresses), (LO, ETH0), routes)
    assert tuple(way.family for way in found if way.out) == families


def test_where_no_family_can_leave_it_is_said_why() -> None:
    with pytest.raises(
        InvalidRequest, match=r"pod has fd00:10::5, pod_subnets are .*, and the VM has eth0; default of"
    ):
        ways(plan("fd00:10::5/64"), (LO, ETH0), (OUT4,))
    with pytest.raises(InvalidRequest, match="no way to it"):
        ways(plan("fd00:10::5/64", egress=False, imds=True), (LO, ETH0), (OUT4,))
    with pytest.raises(InvalidRequest, match="no network card"):
        ways(plan("10.244.1.5/24"), (LO,), ())


def test_metadata_alone_open_nothing_else() -> None:
    (way,) = ways(plan("10.244.1.5/24", egress=False, imds=True), (LO, ETH0), (OUT4,))
    assert way.out is None
    assert way.metadata == ("169.254.169.254/32", "100.100.100.200/32")


def test_every_metadata_service_is_kept_from_pods_that_may_not_ask_it() -> None:
    for service in METADATA:
        address = ip_network(service)
        kept = [ip_network(each) for each in KEPT]
        assert any(each.version == address.version and address.subnet_of(each) for each in kept)  # type: ignore[arg-type]


_networks = st.one_of(
    st.builds(lambda n, bits: str(ip_network((n, bits), strict=False)), st.integers(1, 2**32 - 1), st.integers(1, 32)),
    st.builds(
        lambda n, bits: str(ip_network((n, bits), strict=False)), st.integers(2**120, 2**128 - 1), st.integers(1, 128)
    ),
)


def test_a_second_card_that_alone_has_ipv6_is_the_second_card_all_the_same() -> None:
    routes = (OUT4, SECOND4, Default(6, 3, "fe80::9", 200))
    (way,) = ways(plan("10.244.1.5/24", "fd00:10::5/64", nic=True), (LO, ETH0, ETH1), routes)
    assert (way.family, way.first.name, way.out and way.out.name) == (4, "eth0", "eth1")


@given(st.lists(_networks, max_size=6), st.booleans(), st.booleans(), st.booleans())
def test_what_is_inside_and_what_is_a_clouds_never_leaves(inside: list[str], nic: bool, imds: bool, six: bool) -> None:
    routes = (OUT4, SECOND4, Default(6, 3, "fe80::9", 200), *((OUT6,) if six else ()))
    wish = plan("10.244.1.5/24", "fd00:10::5/64", nic=nic, imds=imds, inside=tuple(inside))
    try:
        found = ways(wish, (LO, ETH0, ETH1), routes)
    except InvalidRequest:
        assert not any(ip_network(each).version == 4 or six for each in inside)
        return
    for way in found:
        if way.out is not None:
            assert {each for each in (*inside, *KEPT) if ip_network(each).version == way.family} == set(way.kept)
            assert any(ip_network(each).version == way.family for each in inside)
            assert way.out.name == ("eth1" if nic else "eth0")
        assert bool(way.metadata) == imds
        assert all(ip_address(each).version == way.family for each in way.addresses)
