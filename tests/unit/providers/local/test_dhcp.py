"""DHCP without leases: the hardware address is the address."""

import ipaddress
import struct

from providers.local.dhcp import Network, answer
from providers.local.requests import mac_of

NETWORK = Network(ipaddress.IPv4Network("10.123.0.0/24"), ("10.0.0.53", "10.0.0.54"))
MAC = bytes.fromhex(mac_of("10.123.0.7").replace(":", ""))
DISCOVER, OFFER, REQUEST, ACK, NAK, RELEASE = 1, 2, 3, 5, 6, 7


def packet(kind: int, mac: bytes = MAC, options: bytes = b"", op: int = 1) -> bytes:
    head = struct.pack("!BBBBIHH4s4s4s4s16s64s128s", op, 1, 6, 0, 77, 0, 0x8000, b"", b"", b"", b"", mac, b"", b"")
    return head + b"\x63\x82\x53\x63" + bytes((53, 1, kind)) + options + b"\xff"


def options(said: bytes) -> dict[int, bytes]:
    found, at = {}, 240
    while said[at] != 255:
        found[said[at]] = said[at + 2 : at + 2 + said[at + 1]]
        at += 2 + said[at + 1]
    return found


def given(said: bytes) -> str:
    return str(ipaddress.IPv4Address(said[16:20]))


def test_a_vm_is_offered_the_address_that_its_hardware_address_says() -> None:
    said = answer(packet(DISCOVER), NETWORK)
    assert said is not None
    assert given(said) == "10.123.0.7"
    assert said[4:8] == struct.pack("!I", 77)
    told = options(said)
    assert told[53] == bytes([OFFER])
    assert told[1] == bytes((255, 255, 255, 0))
    assert told[3] == told[54] == bytes((10, 123, 0, 1))
    assert told[6] == bytes((10, 0, 0, 53, 10, 0, 0, 54))
    assert told[51] == b"\xff" * 4


def test_it_may_have_what_it_was_offered_and_nothing_else() -> None:
    asks = b"\x32\x04" + bytes((10, 123, 0, 7))
    said = answer(packet(REQUEST, options=asks), NETWORK)
    assert said is not None
    assert (options(said)[53], given(said)) == (bytes([ACK]), "10.123.0.7")
    refused = answer(packet(REQUEST, options=b"\x32\x04" + bytes((10, 123, 0, 8))), NETWORK)
    assert refused is not None
    assert (options(refused)[53], given(refused)) == (bytes([NAK]), "0.0.0.0")


def test_without_a_way_out_no_router_is_told() -> None:
    said = answer(packet(DISCOVER), Network(NETWORK.subnet, route=False))
    assert said is not None
    assert 3 not in options(said)


def test_strangers_and_nonsense_get_no_answer() -> None:
    other = bytes.fromhex("525400123456")  # QEMU's own prefix, of an address that is not in the network
    elsewhere = b"\x36\x04" + bytes((10, 123, 0, 9))
    for each in (
        packet(DISCOVER, other),
        packet(DISCOVER, b"\x02" + MAC[1:]),
        packet(RELEASE),
        packet(DISCOVER, op=2),
        packet(REQUEST, options=elsewhere),
        packet(DISCOVER)[:200],
        b"",
    ):
        assert answer(each, NETWORK) is None


def test_options_that_are_cut_off_hang_nobody() -> None:
    whole = packet(DISCOVER, options=b"\x0c\x40ab")
    for end in range(240, len(whole)):
        answer(whole[:end], NETWORK)
