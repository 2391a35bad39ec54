"""The VM's half as a value, and the form in which it travels: each end believes nothing of what the other sends."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptor.errors import InvalidRequest
from adaptor.podnet.plan import (
    Cord,
    Egress,
    GuestAnswer,
    GuestPlan,
    Interface,
    Neighbour,
    PlanFault,
    PodNetwork,
    Route,
    Tunnel,
    WireGuard,
    fitted,
    guest_answer_from_json,
    guest_plan,
    guest_plan_from_json,
    to_json,
)

KEY = base64.b64encode(bytes(range(32))).decode()
ETH0 = Interface(
    name="eth0",
    hardware_address="16:db:94:38:a1:6f",
    mtu=1500,
    addresses=("192.168.7.9/32", "fd00:7::9/128"),
    routes=(
        Route("", 4, gateway="169.254.1.1"),
        Route("10.9.0.0/16", 4, gateway="169.254.1.1", mtu=1480),
        Route("169.254.1.1/32", 4, scope=253),
        Route("", 6, gateway="fe80::1", metric=1024),
    ),
    neighbours=(Neighbour("169.254.1.1", "ee:ee:ee:ee:ee:ee"),),
    peers=("192.168.7.9=192.168.7.1",),
)
PLAN = GuestPlan(
    (ETH0,), (555000,), 4789, "10.66.0.1", WireGuard(KEY, 51820), Egress(("10.0.0.0/8", "fd00::/8"), True), True
)
TUNNEL = Tunnel("/run/netns/x", 8472, (Cord("eth0", 555007, "vxlan1"),), peer="10.66.0.2", worker="10.66.0.1")


# -- values that make sense -----------------------------------------------------------------------------

V4 = st.ip_addresses(v=4, network="10.0.0.0/8").map(str)
V6 = st.ip_addresses(v=6, network="fd00::/16").map(str)
MACS = st.binary(min_size=5, max_size=5).map(lambda rest: "02:" + rest.hex(":"))
NAMES = st.text(st.sampled_from("abcz09.@_-é"), min_size=1, max_size=7).filter(lambda name: name not in (".", ".."))
ADDRESSES = st.builds("{}/{}".format, V4, st.integers(1, 32)) | st.builds("{}/{}".format, V6, st.integers(1, 128))
NETWORKS = {
    4: st.ip_addresses(v=4).map(lambda a: f"{a}/32") | st.just("10.128.0.0/9") | st.just("224.0.0.0/4"),
    6: st.ip_addresses(v=6).map(lambda a: f"{a}/128") | st.just("fd00::/8"),
}


@st.composite
def routes(draw: st.DrawFn) -> Route:
    family = draw(st.sampled_from((4, 6)))
    own = {4: V4, 6: V6}[family]
    return Route(
        destination=draw(st.just("") | NETWORKS[family]),
        family=family,
        gateway=draw(st.just("") | own | V6),
        source=draw(st.just("") | own),
        scope=draw(st.integers(0, 255)),
        protocol=draw(st.integers(0, 255)),
        metric=draw(st.integers(0, (1 << 32) - 1)),
        on_link=draw(st.booleans()),
        mtu=draw(st.integers(0, 9000)),
    )


@st.composite
def interfaces(draw: st.DrawFn, name: str) -> Interface:
    addresses = draw(st.lists(ADDRESSES, max_size=4))
    peered = [a.partition("/")[0] for a in addresses if "." in a][:1]
    return Interface(
        name=name,
        hardware_address=draw(MACS),
        mtu=draw(st.integers(1280, 65535)),
        addresses=tuple(addresses),
        routes=tuple(draw(st.lists(routes(), max_size=4))),
        neighbours=tuple(draw(st.lists(st.builds(Neighbour, V4 | V6, MACS), max_size=2))),
        peers=tuple(f"{address}={draw(V4)}" for address in peered),
    )


@st.composite
def networks(draw: st.DrawFn) -> PodNetwork:
    return PodNetwork(
        tuple(draw(interfaces(name)) for name in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)))
    )


WIREGUARDS = st.none() | st.builds(
    WireGuard,
    st.binary(min_size=32, max_size=32).map(lambda key: base64.b64encode(key).decode()),
    st.integers(0, 65535),
)
EGRESSES = st.none() | st.builds(Egress, st.lists(NETWORKS[4] | NETWORKS[6], max_size=3).map(tuple), st.booleans())


@given(networks(), WIREGUARDS, EGRESSES, st.booleans(), st.integers(1280, 9000), st.integers(1, 65535))
def test_what_a_worker_plans_is_what_the_vm_reads(
    network: PodNetwork, wireguard: WireGuard | None, egress: Egress | None, imds: bool, left: int, port: int
) -> None:
    cords = tuple(Cord(each.name, 7 + n, f"vxlan{n + 1}") for n, each in enumerate(network.interfaces))
    plan = guest_plan(
        network, replace(TUNNEL, cords=cords, port=port), left=left, worker="10.66.0.1", wireguard=wireguard,
        egress=egress, imds=imds,
    )  # fmt: skip
    assert guest_plan_from_json(to_json(plan)) == plan
    assert (plan.wireguard, plan.egress, plan.imds, plan.port) == (wireguard, egress, imds, port)
    for wanted, interface in zip(network.interfaces, plan.interfaces, strict=True):
        assert interface.mtu == min(wanted.mtu, left)
        assert interface.addresses == wanted.addresses
        assert all(route.mtu <= interface.mtu for route in interface.routes)
        with_gateway = [bool(route.gateway) for route in interface.routes]
        assert with_gateway == sorted(with_gateway)
        assert len(interface.routes) == len(wanted.routes)


@given(WIREGUARDS)
def test_what_a_vm_answers_is_what_the_worker_reads(wireguard: WireGuard | None) -> None:
    assert guest_answer_from_json(to_json(GuestAnswer(wireguard))) == GuestAnswer(wireguard)


def test_routes_without_a_gateway_come_first_and_the_others_stay_in_their_order() -> None:
    plan = guest_plan(PodNetwork((ETH0,)), TUNNEL, left=1450, worker="10.66.0.1")
    assert [route.destination for route in plan.interfaces[0].routes] == ["169.254.1.1/32", "", "10.9.0.0/16", ""]
    assert [route.mtu for route in plan.interfaces[0].routes] == [0, 0, 1450, 0]


@pytest.mark.parametrize(("left", "address", "least"), [(1279, "fd00:7::9/128", 1280), (67, "192.168.7.9/32", 68)])
def test_a_path_too_narrow_for_an_address_is_refused(left: int, address: str, least: int) -> None:
    with pytest.raises(InvalidRequest, match=f"leaves eth0 an MTU of {left}, and its address {address} needs {least}"):
        guest_plan(PodNetwork((ETH0,)), TUNNEL, left=left, worker="10.66.0.1")


def test_an_interface_of_less_than_the_path_keeps_its_mtu() -> None:
    assert fitted(replace(ETH0, mtu=1400), 1450).mtu == 1400


def test_interfaces_that_came_or_went_since_the_tunnel_was_intended_are_named() -> None:
    with pytest.raises(InvalidRequest, match="had the interfaces eth0, and now has eth0, net1"):
        guest_plan(PodNetwork((ETH0, replace(ETH0, name="net1"))), TUNNEL, left=1450, worker="10.66.0.1")


def test_a_network_that_no_vm_would_read_is_refused_on_the_worker() -> None:
    many = tuple(Neighbour(f"10.0.{n // 256}.{n % 256}", "02:00:00:00:00:01") for n in range(600))
    with pytest.raises(InvalidRequest, match=r"interfaces\[0\]\.neighbours: expected a list of at most 512"):
        guest_plan(PodNetwork((replace(ETH0, neighbours=many),)), TUNNEL, left=1450, worker="10.66.0.1")


# -- what makes no sense --------------------------------------------------------------------------------


def changed(path: str, value: Any) -> bytes:
    """PLAN's form with `value` at `path`, as in 'interfaces.0.name'."""
    form = at = json.loads(to_json(PLAN))
    *way, last = path.split(".")
    for step in way:
        at = at[int(step)] if isinstance(at, list) else at[step]
    at[int(last) if isinstance(at, list) else last] = value
    return json.dumps(form).encode()


def test_the_plan_that_is_changed_below_is_read_as_it_is() -> None:
    assert guest_plan_from_json(changed("port", 4789)) == PLAN


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("interfaces", [], "interfaces: expected at least one"),
        ("interfaces", "eth0", "interfaces: expected a list"),
        ("interfaces", [json.loads(to_json(PLAN))["interfaces"][0]] * 2, "interfaces: expected different names"),
        ("interfaces", [{}] * 17, "interfaces: expected a list of at most 16"),
        ("interfaces.0", {"name": "eth0"}, r"interfaces\[0\]: expected an object with the keys name, hardware"),
        ("interfaces.0.name", "sixteen-bytes-xx", r"interfaces\[0\].name: expected an interface's name"),
        ("interfaces.0.name", "ééééééééééé", "at most 15 bytes"),
        ("interfaces.0.name", "a/b", "interface's name"),
        ("interfaces.0.name", "..", "interface's name"),
        ("interfaces.0.name", "lo", "interface's name"),
        ("interfaces.0.name", "", "interface's name"),
        ("interfaces.0.name", "e\ud800", "expected text"),
        ("interfaces.0.hardware_address", "16:db:94:38:a1", "expected a MAC address such as"),
        ("interfaces.0.hardware_address", "01:00:5e:00:00:01", "a MAC address of one interface"),
        ("interfaces.0.hardware_address", "00:00:00:00:00:00", "a MAC address of one interface"),
        ("interfaces.0.mtu", 67, "a number from 68 to 65535, found 67"),
        ("interfaces.0.mtu", True, "a number from 68"),
        ("interfaces.0.mtu", 1500.0, "a number from 68"),
        ("interfaces.0.addresses.0", "192.168.7.9", "an address with its prefix length"),
        ("interfaces.0.addresses.0", "192.168.7.9/33", "an address with its prefix length"),
        ("interfaces.0.addresses.0", "fe80::1%eth0/64", "expected an IP address"),
        ("interfaces.0.addresses.0", "224.0.0.1/24", "can be sent to"),
        ("interfaces.0.addresses.0", f"10.0.0.1/{'9' * 5000}", "an address with its prefix length"),
        ("interfaces.0.peers.0", "10.1.1.1=10.1.1.2", "one of the addresses, = and its peer"),
        ("interfaces.0.peers.0", "192.168.7.9=fd00::1", "expected an IPv4 address"),
        ("interfaces.0.routes.1.destination", "10.9.0.1/16", r"routes\[1\].destination: expected a network"),
        ("interfaces.0.routes.1.destination", "fd00::/16", "expected an IPv4 network"),
        ("interfaces.0.routes.1.family", 5, "expected 4 or 6"),
        ("interfaces.0.routes.3.gateway", "10.0.0.1", "expected an IPv6 address"),
        ("interfaces.0.routes.1.source", "fd00::1", "expected an IPv4 address"),
        ("interfaces.0.routes.1.metric", 1 << 32, "a number from 0"),
        ("interfaces.0.routes.1.on_link", 1, "true or false"),
        ("interfaces.0.routes", [None] * 513, "a list of at most 512"),
        ("interfaces.0.neighbours.0.address", "169.254.1", "an IP address"),
        ("vnis", [], "a different number for each of the 1 interfaces"),
        ("vnis.0", 1 << 24, r"vnis\[0\]: expected a number from 1 to 16777215, found 16777216"),
        ("port", 0, "port: expected a number from 1"),
        ("worker", "10.66.0.1/24", "worker: expected an IP address"),
        ("worker", "0.0.0.0", "can be sent to"),
        ("wireguard.public_key", "AAAA", r"wireguard.public_key: expected 32 bytes in base64"),
        ("wireguard.public_key", KEY + "!", "32 bytes in base64"),
        ("wireguard.port", -1, "wireguard.port: expected"),
        ("egress.inside.0", "10.0.0.1/8", r"egress.inside\[0\]: expected a network"),
        ("egress.nic", None, "egress.nic: expected true or false"),
        ("imds", "no", "imds: expected true or false"),
        ("version", 2, "version 2, expected 1: worker and pod VM image are of different releases"),
        ("version", "1", "version: expected a number"),
        ("more", 1, "the whole: expected an object with the keys interfaces, vnis"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_with_the_place(path: str, value: Any, where: str) -> None:
    with pytest.raises(PlanFault, match=where):
        guest_plan_from_json(changed(path, value))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "the whole: expected an object"),
        (b'{"version":1,"version":1}', "a key is there twice, among version, version"),
        (b" " * ((1 << 20) + 1), "1048577 bytes, expected at most 1048576"),
        (b'{"version":' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"wireguard":NaN,"version":1}', "wireguard: expected an object"),
    ],
)
def test_what_is_no_answer_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(PlanFault, match=said):
        guest_answer_from_json(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_nothing_but_a_fault_comes_of_a_plan_with_something_else_anywhere(data: st.DataObject) -> None:
    form: Any = json.loads(to_json(PLAN))
    ways: list[tuple[Any, Any]] = []

    def walk(at: Any) -> None:
        for key in at if isinstance(at, dict) else range(len(at)):
            ways.append((at, key))
            if isinstance(at[key], (dict, list)):
                walk(at[key])

    walk(form)
    at, key = data.draw(st.sampled_from(ways))
    at[key] = data.draw(JSON)
    try:
        plan = guest_plan_from_json(json.dumps(form).encode())
    except PlanFault:
        return
    assert json.loads(to_json(plan)) == form  # it made sense after all, and every word of it was read


def test_a_long_value_is_cut_in_the_fault() -> None:
    with pytest.raises(PlanFault) as caught:
        guest_plan_from_json(changed("worker", "x" * 10_000))
    assert len(str(caught.value)) < 200
