"""WireGuard as values: keys, inner addresses, and userspace's text as wireguard-go says it."""

import base64
import ipaddress
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptor.podnet import wireguard
from adaptor.podnet.plan import PlanFault, WireGuard
from adaptor.podnet.wireguard import Change, Device, Peer, PrivateKey, UapiFault
from adaptor.telemetry import redact

# A pair that wireguard-tools made.
PRIVATE = base64.b64decode("aIbCn1cCfKoLhKhPuiGqnL5qp5eYCwkxZSUVDITwm0U=")
PUBLIC = "ZOeFPSSpFfw9zF5WTjvJ+TN3BxbhTkGvYrx8ZzF37Ws="
FIRST = PrivateKey(bytes(range(32))).public
SECOND = PrivateKey(bytes(range(1, 33))).public
# What wireguard-go 0.0.20220316 answers when it has two peers, one of which it has heard of.
ANSWER = b"""private_key=00030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2061
listen_port=48719
public_key=8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f
preshared_key=0000000000000000000000000000000000000000000000000000000000000000
protocol_version=1
endpoint=192.0.2.7:51820
last_handshake_time_sec=1795297101
last_handshake_time_nsec=5
tx_bytes=148
rx_bytes=92
persistent_keepalive_interval=25
allowed_ip=fd80:46f3:22d6:cd13:a9d4:8b28:750b:f51c/128
public_key=07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c
preshared_key=0000000000000000000000000000000000000000000000000000000000000000
protocol_version=1
endpoint=[2001:db8::7]:51820
last_handshake_time_sec=0
last_handshake_time_nsec=0
tx_bytes=0
rx_bytes=0
persistent_keepalive_interval=0
allowed_ip=fd00::1/128
allowed_ip=10.0.0.0/8
errno=0

"""

raw_keys = st.binary(min_size=32, max_size=32)
public_keys = st.binary(min_size=32, max_size=32).filter(any).map(lambda raw: base64.b64encode(raw).decode())
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
networks = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
).map(lambda pair: str(ipaddress.ip_network(pair, strict=False)))
peers = st.builds(
    Peer,
    public_keys,
    st.none() | st.tuples(addresses, st.integers(0, 65535)),
    st.lists(networks, max_size=3).map(tuple),
    st.integers(0, 65535),
)


def test_a_public_key_is_the_one_that_wireguards_own_tools_derive() -> None:
    assert PrivateKey(PRIVATE).public == PUBLIC


@given(raw_keys)
def test_a_key_is_the_same_key_after_the_device_has_clamped_it(raw: bytes) -> None:
    key = PrivateKey(raw)
    assert PrivateKey(bytes.fromhex(key.hex())) == key
    assert base64.b64decode(key.base64()).hex() == key.hex()


@pytest.mark.parametrize("show", [str, repr, "{}".format, redact.render, lambda key: redact.render({"a": [key]})])
def test_a_private_key_is_shown_nowhere(show: Any) -> None:
    key = PrivateKey.make()
    for value in (key, Device(key, key.public), Change(key)):
        shown = str(show(value))
        assert key.hex() not in shown
        assert key.base64() not in shown


def test_a_private_key_cannot_be_written_down() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(PrivateKey.make())
    with pytest.raises(TypeError):
        json.dumps(PrivateKey.make())
    assert PrivateKey.make() != PrivateKey.make()


@given(st.sets(public_keys, min_size=2, max_size=2))
def test_every_key_has_its_own_address_and_all_are_in_our_network(keys: set[str]) -> None:
    found = {wireguard.inner_address(key) for key in keys}
    assert len(found) == 2
    assert all(ipaddress.IPv6Address(each) in wireguard.NETWORK for each in found)


def test_addresses_stay_what_they_were_when_other_versions_run_at_the_other_end() -> None:
    assert str(wireguard.NETWORK) == "fd80:46f3:22d6::/48"
    assert wireguard.inner_address(FIRST) == "fd80:46f3:22d6:cd13:a9d4:8b28:750b:f51c"
    assert wireguard.NETWORK.is_private


@pytest.mark.parametrize(
    "key",
    ["", "A" * 43, "A" * 44, FIRST[:-1], FIRST + "\n", " " + FIRST, FIRST[:-2] + "l=", "é" * 44, base64.b64encode(bytes(32)).decode()],
)  # fmt: skip
def test_what_is_no_public_key_is_refused_wherever_it_comes_from(key: str) -> None:
    for use in (
        wireguard.inner_address,
        lambda key: wireguard.encode(Change(removed=(key,))),
        lambda key: wireguard.encode(Change(peers=(Peer(key),))),
        lambda key: wireguard.worker_peer(WireGuard(key, 51820), "192.0.2.7"),
        lambda key: wireguard.guest_peer(WireGuard(key, 0), "fd00::1"),
    ):
        with pytest.raises(PlanFault):
            use(key)


def test_a_vm_gets_its_own_address_and_nothing_else_and_is_called_often_enough_for_a_nat() -> None:
    peer = wireguard.worker_peer(WireGuard(FIRST, 51820), "2001:DB8::7")
    assert peer == Peer(FIRST, ("2001:db8::7", 51820), (f"{wireguard.inner_address(FIRST)}/128",), 25)


def test_a_worker_is_where_its_handshake_comes_from_and_has_its_own_address_and_nothing_else() -> None:
    inner = wireguard.inner_address(FIRST)
    assert wireguard.guest_peer(WireGuard(FIRST, 51820), inner) == Peer(FIRST, None, (f"{inner}/128",))
    with pytest.raises(PlanFault, match="the worker's key gives it"):
        wireguard.guest_peer(WireGuard(FIRST, 51820), wireguard.inner_address(SECOND))


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_vm_that_listens_nowhere_is_refused(port: int) -> None:
    with pytest.raises(PlanFault, match="port"):
        wireguard.worker_peer(WireGuard(FIRST, port), "192.0.2.7")


def test_wireguard_gos_answer_is_read() -> None:
    assert wireguard.decode_get(ANSWER) == Device(
        PrivateKey(bytes(range(2, 34))),
        PrivateKey(bytes(range(2, 34))).public,
        48719,
        (
            Peer(
                FIRST,
                ("192.0.2.7", 51820),
                ("fd80:46f3:22d6:cd13:a9d4:8b28:750b:f51c/128",),
                25,
                1795297101,
            ),
            Peer(SECOND, ("2001:db8::7", 51820), ("fd00::1/128", "10.0.0.0/8")),
        ),
    )
    assert wireguard.decode_get(b"listen_port=58654\nerrno=0\n\n") == Device(port=58654)
    cleared = b"private_key=" + b"0" * 64 + b"\nlisten_port=1\nsomething_new=7\nerrno=0\n\n"
    assert wireguard.decode_get(cleared) == Device(port=1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"errno=0\n\n", b"errno=0\n"),
        (b"errno=0\n\n", b"\n\n"),
        (b"errno=0\n\n", b"errno=zero\n\n"),
        (b"errno=0\n\n", b"errno=-22\n\n"),
        (b"errno=0\n\n", b"errno=0\nerrno=0\n\n"),
        (b"listen_port=48719", b"listen_port"),
        (b"listen_port=48719", b"=48719"),
        (b"listen_port=48719", b"listen_port=65536"),
        (b"listen_port=48719", b"listen_port=-1"),
        (b"private_key=00", b"private_key="),
        (b"private_key=00", b"private_key=  "),
        (b"private_key=00", b"private_key=zz"),
        (b"public_key=8f", b"public_key="),
        (b"192.0.2.7:51820", b"192.0.2.7"),
        (b"192.0.2.7:51820", b"[192.0.2.7]:51820"),
        (b"[2001:db8::7]:51820", b"2001:db8::7:51820"),
        (b"fd00::1/128", b"fd00::1/64"),
        (b"rx_bytes=92", b"tx_bytes=92"),
        (b"persistent_keepalive_interval=25", b"persistent_keepalive_interval=many"),
        (b"07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c",
         b"8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f"),
        (b"protocol_version=1", b"protocol_version=\xff"),
    ],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_is_refused_and_no_key_of_it_shown(old: bytes, new: bytes) -> None:
    assert old in ANSWER
    with pytest.raises(UapiFault) as caught:
        wireguard.decode_get(ANSWER.replace(old, new, 1))
    assert "030405060708" not in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.binary(max_size=200))
def test_no_bytes_at_all_surprise_the_reader(answer: bytes) -> None:
    for read in (wireguard.decode_get, wireguard.decode_set):
        try:
            read(answer + b"\nerrno=0\n\n")
        except UapiFault:
            pass


def _as_answered(question: bytes) -> bytes:
    """What a device would say that was told just this."""
    lines = question.decode().splitlines()
    assert lines[0] == "set=1"
    kept = [line for line in lines[1:-1] if line != "replace_allowed_ips=true"]
    return ("\n".join([*kept, "errno=0"]) + "\n\n").encode()


@given(raw_keys, st.integers(0, 65535), st.lists(peers, max_size=4, unique_by=lambda peer: peer.public_key))
def test_what_a_device_is_told_is_what_it_then_is(raw: bytes, port: int, told: list[Peer]) -> None:
    key = PrivateKey(raw)
    question = wireguard.encode(Change(key, port, tuple(told)))
    assert wireguard.decode_get(_as_answered(question)) == Device(key, key.public, port, tuple(told))


def test_a_change_names_only_what_changes() -> None:
    assert wireguard.encode(Change()) == b"set=1\n\n"
    key = base64.b64decode(FIRST).hex()
    assert wireguard.encode(Change(removed=(FIRST,))) == f"set=1\npublic_key={key}\nremove=true\n\n".encode()
    peer = Peer(FIRST, ("2001:db8::7", 51820), ("fd00::1/128",), 25)
    assert wireguard.encode(Change(peers=(peer,))).decode().splitlines() == [
        "set=1",
        f"public_key={key}",
        "endpoint=[2001:db8::7]:51820",
        "persistent_keepalive_interval=25",
        "replace_allowed_ips=true",
        "allowed_ip=fd00::1/128",
        "",
    ]


@pytest.mark.parametrize(
    "peer",
    [
        Peer(FIRST, ("vm.example", 51820)),
        Peer(FIRST, ("192.0.2.7\nremove=true", 51820)),
        Peer(FIRST, ("192.0.2.7", 65536)),
        Peer(FIRST, None, ("fd00::1/64",)),
        Peer(FIRST, None, (), -1),
    ],
)
def test_what_would_be_another_command_or_none_is_not_sent(peer: Peer) -> None:
    with pytest.raises(PlanFault):
        wireguard.encode(Change(peers=(peer,)))


def test_a_change_is_done_or_its_refusal_said() -> None:
    wireguard.decode_set(b"errno=0\n\n")
    with pytest.raises(UapiFault, match="Invalid argument"):
        wireguard.decode_set(b"errno=-22\n\n")
    with pytest.raises(UapiFault, match="no end"):
        wireguard.decode_set(b"")
