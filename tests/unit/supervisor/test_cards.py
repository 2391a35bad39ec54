"""A card asks a DHCP server, on a wire between two namespaces, and has the address, the routes and the names then."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from podvm_images.supervisor import cards, dhcp

REPO = Path(__file__).parents[3]

# In a network namespace of its own: `card0`, whose other end is a DHCP server's; then what became of it is printed.
_SCENARIO = """
import contextlib, json, os, socket, struct, sys, threading
from pyroute2 import IPRoute
from podvm_images.guest.rtnetlink import Rtnetlink
from podvm_images.supervisor import cards
from podvm_images.supervisor.loop import Loop
from tests.unit.supervisor.test_dhcp import answered
with IPRoute() as ip:
    ip.link("add", ifname="card0", kind="veth", peer={"ifname": "server0"})
    ip.link("set", index=ip.link_lookup(ifname="server0")[0], state="up")
with contextlib.closing(Rtnetlink()) as network:
    link = next(each for each in network.links() if each.name == "card0")
mac = bytes.fromhex(link.hardware_address.replace(":", ""))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
wire.bind(("server0", 0x0800))
asked = []
def serve(options, deaf):
    while True:
        packet = wire.recv(4096)
        if packet[20:24] != b"\\0\\x44\\0\\x43":
            continue
        kind = packet[packet.index(b"\\x63\\x82\\x53\\x63") + 6]
        asked.append(kind)
        if len(asked) <= deaf:
            continue
        number = int.from_bytes(packet[32:36], "big")
        reply = answered(options, 2 if kind == 1 else 5, number=number, mac=mac)
        wire.sendto(reply, ("server0", 0x0800, 0, 0, mac))
loop = Loop()
def report():
    with contextlib.closing(Rtnetlink()) as network:
        addresses = [f"{a.own}/{a.prefix}" for index, a in network.addresses() if index == link.index and ":" not in a.own]
        routes = sorted((r.destination, r.gateway, r.metric) for index, r in network.routes() if index == link.index and r.family == 4)
        mtu = next(each.mtu for each in network.links() if each.name == "card0")
    print(json.dumps({"asked": asked, "addresses": addresses, "routes": routes, "mtu": mtu, "open": card._socket is not None, "had": had}))
    sys.stdout.flush()
    os._exit(0)
had = []
def have(name, servers):
    had.append([name, *servers])
    report()
card = cards._Card(loop, link, 1024, have)
loop.after(12, report)
"""


def play(script: str) -> dict[str, object]:
    import json

    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", _SCENARIO + textwrap.dedent(script)],
        cwd=REPO, capture_output=True, text=True, timeout=40, check=False, env=os.environ | {"PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.netns
def test_a_card_gets_what_the_server_grants_and_hangs_up() -> None:
    found = play(
        """
        options = {1: b"\\xff\\xff\\xff\\0", 3: bytes((10, 0, 2, 2)), 6: bytes((10, 0, 2, 3)), 26: struct.pack(">H", 1400), 54: bytes((10, 0, 2, 2))}
        threading.Thread(target=serve, args=(options, 0), daemon=True).start()
        card.begin()
        loop.run()
        """
    )
    assert found["asked"] == [dhcp.DISCOVER, dhcp.REQUEST]
    assert (found["addresses"], found["mtu"], found["open"]) == (["10.0.2.15/24"], 1400, False)
    assert found["routes"] == [["", "10.0.2.2", 1024], ["10.0.2.0/24", "", 1024]]
    assert found["had"] == [["card0", "10.0.2.3"]]


@pytest.mark.netns
def test_a_lost_question_is_asked_again_and_a_gateway_beyond_the_mask_is_reached() -> None:
    found = play(
        """
        cards._TRIES = (0.1, 0.1, 0.2)
        options = {1: b"\\xff\\xff\\xff\\xff", 3: bytes((10, 0, 0, 1)), 54: bytes((10, 0, 0, 1))}
        threading.Thread(target=serve, args=(options, 1), daemon=True).start()
        card.begin()
        loop.run()
        """
    )
    assert found["asked"] == [dhcp.DISCOVER, dhcp.DISCOVER, dhcp.REQUEST]
    assert found["addresses"] == ["10.0.2.15/32"]
    assert found["routes"] == [["", "10.0.0.1", 1024]]


def test_only_ethernet_hardware_is_touched_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name, kind, hardware in (
        ("eth10", 1, True),
        ("eth1", 1, True),
        ("ppegress", 1, False),
        ("lo", 772, False),
        ("ib0", 32, True),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "type").write_text(f"{kind}\n")
        if hardware:
            (tmp_path / name / "device").mkdir()
    (tmp_path / "eth2").mkdir()
    (tmp_path / "eth2/type").write_text("1\n")
    (tmp_path / "eth2/device").mkdir()
    (tmp_path / "eth2/master").symlink_to("../eth1")
    assert cards.hardware(["eth10", "eth2", "eth1", "ppegress", "lo", "ib0", "gone"], tmp_path) == ["eth1", "eth10"]


def test_a_second_cards_routes_come_second() -> None:
    lease = dhcp.Offer(dhcp.ACK, "10.0.3.9", 24, "", (("0.0.0.0/0", "10.0.3.1"), ("10.0.3.0/24", None)))
    made = cards.routes(lease, 2 * cards.METRIC)
    assert [(route.destination, route.gateway, route.on_link) for route in made] == [
        ("10.0.3.0/24", "", False),
        ("", "10.0.3.1", True),
    ]
    assert {route.metric for route in made} == {2048}
