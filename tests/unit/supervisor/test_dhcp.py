"""DHCP packets: what is asked, and what is believed of the answers."""

import random
import struct

import pytest

from podvm_images.supervisor import dhcp

MAC = bytes.fromhex("525400123456")
NUMBER = 0x01020304
BASE = {
    1: b"\xff\xff\xff\x00",
    3: bytes((10, 0, 2, 2)),
    6: bytes((10, 0, 2, 3)),
    51: struct.pack(">I", 600),
    54: bytes((10, 0, 2, 2)),
}


def answered(
    options: dict[int, bytes],
    kind: int = dhcp.ACK,
    *,
    number: int = NUMBER,
    mac: bytes = MAC,
    port: int = 68,
    yours: str = "10.0.2.15",
) -> bytes:
    """As a server would send it."""
    address = bytes(map(int, yours.split(".")))
    head = struct.pack(
        ">BBBBIHH4s4s4s4s16s192x4s",
        2,
        1,
        6,
        0,
        number,
        0,
        0,
        bytes(4),
        address,
        bytes(4),
        bytes(4),
        mac,
        b"\x63\x82\x53\x63",
    )
    told = b"".join(bytes((code, len(value))) + value for code, value in ({53: bytes((kind,))} | options).items())
    udp = struct.pack(">HHHH", 67, port, 8 + len(head + told) + 1, 0) + head + told + b"\xff"
    return struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), b"\xff" * 4) + udp


def lease(options: dict[int, bytes], **given: str) -> dhcp.Offer:
    offer = dhcp.answer(answered(BASE | options, yours=given.get("yours", "10.0.2.15")), NUMBER, MAC)
    assert offer is not None
    return offer


def test_an_offer_is_read_whole() -> None:
    offer = lease({26: struct.pack(">H", 1400)})
    assert (offer.address, offer.prefix, offer.server, offer.mtu, offer.seconds) == (
        "10.0.2.15",
        24,
        "10.0.2.2",
        1400,
        600,
    )
    assert offer.names == ("10.0.2.3",)
    assert offer.routes == (("10.0.2.0/24", None), ("0.0.0.0/0", "10.0.2.2"))


def test_a_network_of_one_address_is_reached_by_its_gateway() -> None:
    """Google's: a mask of 32 bits, and a gateway that no mask covers."""
    assert lease({1: b"\xff" * 4}).routes == (("0.0.0.0/0", "10.0.2.2"),)


def test_named_routes_take_the_routers_place() -> None:
    """Azure's: the platform's own addresses beside the default."""
    routes = bytes((0, 10, 0, 0, 1, 32, 168, 63, 129, 16, 10, 0, 0, 1, 16, 10, 9, 0, 0, 0, 0))
    assert lease({121: routes}).routes == (
        ("10.0.2.0/24", None), ("0.0.0.0/0", "10.0.0.1"), ("168.63.129.16/32", "10.0.0.1"), ("10.9.0.0/16", None),
    )  # fmt: skip


def test_what_is_for_others_or_no_answer_is_nothing() -> None:
    for packet in (
        answered(BASE, number=1), answered(BASE, mac=bytes(6)), answered(BASE, port=67), answered(BASE, kind=dhcp.DISCOVER),
        dhcp.discover(NUMBER, MAC), b"",
    ):  # fmt: skip
        assert dhcp.answer(packet, NUMBER, MAC) is None


def test_no_damage_to_an_answer_is_more_than_a_lost_answer() -> None:
    whole, chance = answered(BASE | {121: bytes((8, 10, 1, 2, 3, 4))}), random.Random(7)
    for length in range(len(whole)):
        dhcp.answer(whole[:length], NUMBER, MAC)
    for _ in range(3000):
        broken = bytearray(whole)
        for _ in range(4):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        offer = dhcp.answer(bytes(broken), NUMBER, MAC)
        assert offer is None or 0 <= offer.prefix <= 32


def test_absurd_leases_and_mtus_are_bounded() -> None:
    offer = lease({26: struct.pack(">H", 68), 51: struct.pack(">I", 1)})
    assert (offer.mtu, offer.seconds) == (0, 60)


@pytest.mark.parametrize(
    "packet",
    [
        dhcp.discover(NUMBER, MAC),
        dhcp.request(NUMBER, MAC, "10.0.2.15", "10.0.2.2"),
        dhcp.request(NUMBER, MAC, "10.0.2.15", ""),
    ],
)
def test_questions_are_valid_packets_that_servers_may_answer_to_everybody(packet: bytes) -> None:
    total = sum(struct.unpack(">10H", packet[:20]))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF  # the header's checksum
    assert struct.unpack(">H", packet[2:4])[0] == len(packet) >= 300
    assert struct.unpack(">HH", packet[20:24]) == (68, 67)
    assert packet[28 + 28 : 28 + 34] == MAC
    renews = packet[28 + 12 : 28 + 16] == bytes((10, 0, 2, 15))
    assert bool(packet[28 + 10] & 0x80) is not renews
    assert (bytes((50, 4, 10, 0, 2, 15)) in packet) is (bytes((54, 4)) in packet)
