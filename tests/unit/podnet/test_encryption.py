"""Who needs the worker's WireGuard device, and what becomes of it; the device is a stand-in with a memory."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

from adaptor.errors import StartFailed, Unavailable
from adaptor.podnet import encryption, wireguard, wireguard_choice
from adaptor.podnet.encryption import Encryption
from adaptor.podnet.plan import WireGuard
from adaptor.podnet.wireguard import Change, Device, Peer, PrivateKey
from adaptor.podnet.wireguard_device import Endpoint
from adaptor.telemetry import metrics

PORT = 51820
FIXED = PrivateKey(bytes(32)).public  # names of tests hold it, and every process that runs them must have the same


class Machine:
    """A backend whose device outlives whoever uses it, and may be killed or refused."""

    kind = "userspace"
    device = "ppwg0"

    def __init__(self) -> None:
        self.found: Device | None = None
        self.up = False
        self.refuses = False
        self.made = 0

    def make(self) -> None:
        if self.refuses:
            raise Unavailable("no more")
        if self.found is None:
            self.found = Device()
            self.made += 1

    def read(self) -> Device | None:
        return self.found

    def change(self, change: Change) -> None:
        if self.found is None:
            raise Unavailable("nobody there")
        wireguard.encode(change)
        peers = {peer.public_key: peer for peer in self.found.peers if peer.public_key not in change.removed}
        peers |= {peer.public_key: peer for peer in change.peers}
        key = change.private_key or self.found.private_key
        self.found = Device(key, key.public if key else "", change.port or self.found.port, tuple(peers.values()))

    def dress(self, inner: str) -> None:
        self.up = True

    def is_up(self) -> bool:
        return self.up

    def unmake(self) -> None:
        self.found = None
        self.up = False

    def kill(self) -> None:
        self.unmake()

    def peers(self) -> list[str]:
        return [] if self.found is None else [peer.public_key for peer in self.found.peers]


def key() -> str:
    return PrivateKey.make().public


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def first(machine: Machine) -> Encryption:
    return after(machine)


def after(machine: Machine) -> Encryption:
    """Of an adaptor that starts."""
    return Encryption(Endpoint(machine), PORT)


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO):
        yield


def test_the_device_is_there_from_the_first_tunnel_to_the_last(machine: Machine, first: Encryption) -> None:
    told = first.join("a")
    assert told == WireGuard(machine.found.public_key, PORT)  # type: ignore[union-attr]
    assert first.join("b") == told
    one, other = key(), key()
    assert first.connect("a", one, "192.0.2.7") == wireguard.inner_address(one)
    first.connect("b", other, "192.0.2.8")
    assert machine.peers() == [one, other]
    assert metrics.WIREGUARD_PEERS._value.get() == 2
    first.leave("a", one)
    assert machine.peers() == [other]
    first.leave("b", other)
    assert machine.found is None
    assert metrics.WIREGUARD_UP._value.get() == 0


def test_a_tunnel_that_only_joined_keeps_the_device_for_its_vm_knows_the_key(
    machine: Machine, first: Encryption
) -> None:
    """Bind is under way; meanwhile the only tunnel that has a peer goes."""
    first.join("a")
    told = first.join("b")
    first.connect("a", one := key(), "192.0.2.7")
    first.leave("a", one)
    first.connect("b", key(), "192.0.2.8")
    assert first.join("b") == told
    assert machine.made == 1


def test_leaving_twice_or_without_having_joined_is_nothing(machine: Machine, first: Encryption) -> None:
    first.leave("a", key())
    first.join("a")
    first.leave("b", key())
    assert machine.found is not None
    first.leave("a")
    first.leave("a")
    assert machine.found is None


def test_a_vm_cannot_take_anothers_place_or_ours(machine: Machine, first: Encryption) -> None:
    ours = first.join("a").public_key
    first.connect("a", one := key(), "192.0.2.7")
    for stolen in (one, ours):
        with pytest.raises(StartFailed, match="the WireGuard key of another end"):
            first.connect("b", stolen, "192.0.2.66")
    assert machine.found is not None
    assert machine.found.peers[0].endpoint == ("192.0.2.7", PORT)
    first.connect("a", one, "192.0.2.9")
    assert machine.found.peers[0].endpoint == ("192.0.2.9", PORT), "its own tunnel may say so again"


@pytest.mark.parametrize(
    ("shown", "address"), [("no key", "192.0.2.7"), (FIXED, "vm.example"), ("A" * 43 + "=", "::1")]
)
def test_a_vm_that_shows_no_key_gets_no_peer(machine: Machine, first: Encryption, shown: str, address: str) -> None:
    first.join("a")
    with pytest.raises(StartFailed, match="cannot be WireGuard's peer"):
        first.connect("a", shown, address)
    assert machine.peers() == []


def test_an_adaptor_that_starts_anew_touches_nothing_of_those_it_knows(machine: Machine, first: Encryption) -> None:
    told = first.join("a")
    first.connect("a", one := key(), "192.0.2.7")
    before = machine.found
    second = after(machine)
    second.know({"a": one})
    second.look()
    assert machine.found == before
    second.recall({"a": one})
    assert machine.found == before
    assert second.join("b") == told
    second.leave("b")
    assert machine.found == before
    second.leave("a", one)
    assert machine.found is None


def test_what_no_tunnel_of_the_journal_has_goes(machine: Machine, first: Encryption) -> None:
    first.join("a")
    one, other = key(), key()
    first.connect("a", one, "192.0.2.7")
    first.connect("b", other, "192.0.2.8")
    second = after(machine)
    second.recall({"a": one})
    assert machine.peers() == [one]
    third = after(machine)
    third.recall({})
    assert machine.found is None


def test_peers_that_the_journal_does_not_know_keep_the_device_until_somebody_says_they_are_nobodys(
    machine: Machine, first: Encryption
) -> None:
    first.connect("a", one := key(), "192.0.2.7")
    first.connect("b", other := key(), "192.0.2.8")
    second = after(machine)
    second.know({"a": one})
    second.leave("a", one)
    assert machine.peers() == [other]


def test_a_device_that_was_killed_is_had_again_with_its_key_and_its_peers(
    machine: Machine, first: Encryption, caplog: pytest.LogCaptureFixture
) -> None:
    told = first.join("a")
    first.connect("a", one := key(), "192.0.2.7")
    assert machine.found is not None
    roamed = replace(machine.found.peers[0], endpoint=("198.51.100.9", 4242))
    machine.found = replace(machine.found, peers=(roamed,))
    first.look()
    assert not caplog.records
    machine.kill()
    first.look()
    assert machine.found.public_key == told.public_key
    assert machine.found.peers == (Peer(one, ("198.51.100.9", 4242), roamed.allowed, wireguard.KEEPALIVE),)
    assert "was gone or changed" in caplog.text
    assert not first.trouble


@pytest.mark.parametrize("damage", ["down", "another key", "a peer less"])
def test_a_device_that_somebody_has_changed_is_put_right(machine: Machine, first: Encryption, damage: str) -> None:
    first.connect("a", one := key(), "192.0.2.7")
    before = machine.found
    assert before is not None
    match damage:
        case "down":
            machine.up = False
        case "another key":
            machine.found = replace(before, private_key=PrivateKey.make())
        case _:
            machine.found = replace(before, peers=())
    first.look()
    assert machine.found == before
    assert machine.up
    assert machine.peers() == [one]


def test_what_cannot_be_put_right_is_said_once_and_shown_until_it_can(
    machine: Machine, first: Encryption, caplog: pytest.LogCaptureFixture
) -> None:
    first.connect("a", key(), "192.0.2.7")
    machine.kill()
    machine.refuses = True
    for _ in range(3):
        first.look()
        assert first.trouble == "encrypted pods have no network: no more"
        assert metrics.WIREGUARD_UP._value.get() == 0
    assert len(caplog.records) == 1
    machine.refuses = False
    first.look()
    assert first.trouble == ""
    assert metrics.WIREGUARD_UP._value.get() == 1


def test_a_key_that_went_with_the_device_before_an_adaptor_began_is_said_and_new_pods_get_another(
    machine: Machine, first: Encryption, caplog: pytest.LogCaptureFixture
) -> None:
    told = first.join("a")
    first.connect("a", one := key(), "192.0.2.7")
    machine.kill()
    second = after(machine)
    second.know({"a": one, "b": ""})
    second.look()
    second.look()
    assert "its key with it" in second.trouble
    assert caplog.text.count("its key with it") == 1
    assert machine.found is None
    assert second.join("c").public_key != told.public_key
    second.leave("a", one)
    assert machine.found is not None


def test_nothing_is_looked_at_where_no_pod_needs_it(machine: Machine, first: Encryption) -> None:
    machine.refuses = True
    first.look()
    assert first.trouble == ""
    assert machine.found is None


def test_who_serves_it_elsewhere_is_waited_for(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    asked = 0

    def choose(wish: str, *, spawn: bool) -> Machine:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise Unavailable("nobody serves it")
        return machine

    monkeypatch.setattr(wireguard_choice, "choose", choose)
    monkeypatch.setattr(encryption, "_SERVER_POLL", 0.001)
    with pytest.raises(Unavailable, match=r"network.encryption is required.*nobody serves it.*encryption = off"):
        Encryption.open("userspace", PORT)
    assert Encryption.open("userspace", PORT, spawn=False).kind == "userspace"
    assert asked == 3


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, "newer image"),
        (WireGuard("no key", PORT), "not a WireGuard public key"),
        (WireGuard(key(), 4), "it was told 51820"),
    ],
)
def test_an_answer_of_the_vm_that_makes_no_sense_fails_the_start(said: WireGuard | None, words: str) -> None:
    with pytest.raises(StartFailed, match=words):
        encryption.answered(said, PORT)
    assert encryption.answered(WireGuard(mine := key(), PORT), PORT) == mine
