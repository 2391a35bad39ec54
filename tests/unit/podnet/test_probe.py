"""The probe's frames, byte by byte: what others have to understand."""

import ipaddress
import struct

import pytest

from adaptor.podnet.plan import Interface, PodNetwork
from adaptor.podnet.probe import LINK_LOCAL, MAC, addresses, is_answer, question

V4 = ipaddress.ip_address("10.244.1.5")
V6 = ipaddress.ip_address("fd00:10::5")
POD = bytes.fromhex("02aabbccdd01")


def reply(address: bytes, *, operation: int = 2, to: bytes = MAC) -> bytes:
    arp = struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, operation, POD, address, to, bytes(4))
    return to + POD + b"\x08\x06" + arp


def advertisement(target: bytes, *, kind: int = 136, header: int = 58) -> bytes:
    icmp = struct.pack(">BBHI", kind, 0, 0, 0x60000000) + target + b"\x02\x01" + POD
    return (
        MAC
        + POD
        + b"\x86\xdd"
        + struct.pack(">IHBB", 6 << 28, len(icmp), header, 255)
        + target
        + LINK_LOCAL.packed
        + icmp
    )


def test_the_ipv4_question_is_an_arp_probe_that_nobody_learns_from() -> None:
    assert question(V4).hex() == (
        "ffffffffffff02707000000108060001080006040001027070000001000000000000000000000af40105"
    )


def test_the_ipv6_question_goes_to_the_addresses_own_group_with_a_right_checksum() -> None:
    frame = question(V6)
    assert frame[:14].hex() == "3333ff000005" + "027070000001" + "86dd"
    header, icmp = frame[14:54], frame[54:]
    assert header[:8].hex() == "6000000000203aff"
    assert header[24:].hex() == "ff0200000000000000000001ff000005"
    assert icmp[8:24] == V6.packed
    assert icmp[24:].hex() == "0101027070000001"
    words = struct.unpack(">36H", header[8:] + struct.pack(">II", len(icmp), 58) + icmp)
    total = sum(words)
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def test_the_source_of_the_ipv6_question_is_the_link_local_address_of_its_mac() -> None:
    assert LINK_LOCAL.packed[8:] == bytes([MAC[0] ^ 2]) + MAC[1:3] + b"\xff\xfe" + MAC[3:]


def test_only_a_reply_for_that_address_is_an_answer() -> None:
    assert is_answer(reply(V4.packed), V4)
    assert not is_answer(reply(ipaddress.ip_address("10.244.1.6").packed), V4)
    assert not is_answer(reply(V4.packed, operation=1), V4)
    assert not is_answer(reply(V4.packed, to=b"\xff" * 6), V4)
    assert not is_answer(reply(V4.packed)[:30], V4)
    assert not is_answer(b"", V4)


def test_only_an_advertisement_of_that_address_is_an_answer() -> None:
    assert is_answer(advertisement(V6.packed), V6)
    assert not is_answer(advertisement(V6.packed), V4)
    assert not is_answer(reply(V4.packed), V6)
    assert not is_answer(advertisement(ipaddress.ip_address("fd00::6").packed), V6)
    assert not is_answer(advertisement(V6.packed, kind=135), V6)
    assert not is_answer(advertisement(V6.packed, header=17), V6)
    assert not is_answer(advertisement(V6.packed)[:70], V6)


@pytest.mark.parametrize(
    ("own", "asked"),
    [
        (("fe80::1/64", "fd00::5/64", "10.0.0.5/24", "10.0.0.6/24"), "10.0.0.5"),
        (("fe80::1/64", "fd00::5/128"), "fd00::5"),
        (("fe80::1/64",), "fe80::1"),
    ],
)
def test_ipv4_is_asked_for_before_ipv6_and_link_local_last(own: tuple[str, ...], asked: str) -> None:
    network = PodNetwork((Interface("eth0", "02:00:00:00:00:01", 1500, own),))
    assert addresses(network) == {"eth0": ipaddress.ip_address(asked)}


def test_an_interface_without_an_address_is_not_asked_for() -> None:
    assert addresses(PodNetwork((Interface("net1", "02:00:00:00:00:01", 1500, ()),))) == {"net1": None}
