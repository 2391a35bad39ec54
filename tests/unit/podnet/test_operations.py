"""What is done for a tunnel, and that its undoing follows from the tunnel alone."""

import pytest

from adaptor.podnet.operations import (
    AddPeer,
    AddVxlan,
    Admit,
    Dismiss,
    Join,
    KeepIn,
    Leave,
    LetIn,
    Point,
    Raise,
    RemoveVxlan,
    SendOut,
    connecting,
    inverse,
    opening,
    removing,
)
from adaptor.podnet.plan import Cord, Tunnel

PLAIN = Tunnel(
    "/run/netns/a",
    4789,
    (Cord("eth0", 555000, "vxlan1"), Cord("net1", 555001, "vxlan2")),
    peer="10.0.0.9",
    worker="10.0.0.1",
)
SEALED = Tunnel(
    "/run/netns/a", 4789, (Cord("eth0", 7, "vxlan1"),), "10.0.0.9", "10.0.0.1", encrypted=True, public_key="key"
)


def test_a_plain_tunnel_is_fenced_before_it_exists_and_joined_last() -> None:
    assert opening(PLAIN, "10.0.0.1") + connecting(PLAIN, "") == [
        Admit(4789, (555000, 555001), "10.0.0.9"),
        AddVxlan("vxlan1", 555000, 4789, "10.0.0.9", "10.0.0.1"),
        AddVxlan("vxlan2", 555001, 4789, "10.0.0.9", "10.0.0.1"),
        LetIn("vxlan1", "eth0"),
        LetIn("vxlan2", "net1"),
        Raise("vxlan1"),
        Raise("vxlan2"),
        SendOut("eth0", "vxlan1"),
        SendOut("net1", "vxlan2"),
    ]


def test_a_sealed_tunnel_lets_nobody_in_before_the_vms_key_is_known() -> None:
    assert opening(SEALED, "fd00::1") == [
        Join("/run/netns/a", "key"),
        Admit(4789, (7,), "", sealed=True),
        AddVxlan("vxlan1", 7, 4789, "", "fd00::1"),
        LetIn("vxlan1", "eth0"),
        Raise("vxlan1"),
    ]
    assert connecting(SEALED, "fd00::9") == [
        AddPeer("/run/netns/a", "key", "10.0.0.9"),
        Admit(4789, (7,), "fd00::9", sealed=True),
        Point("vxlan1", "fd00::9"),
        SendOut("eth0", "vxlan1"),
    ]


def test_the_undoing_is_in_reverse() -> None:
    assert removing(PLAIN, "") == [
        KeepIn("net1"),
        KeepIn("eth0"),
        RemoveVxlan("vxlan2", 555001, 4789),
        RemoveVxlan("vxlan1", 555000, 4789),
        Dismiss(4789, (555000, 555001), "10.0.0.9"),
    ]
    assert removing(SEALED, "fd00::9") == [
        KeepIn("eth0"),
        Dismiss(4789, (7,), "fd00::9", sealed=True),
        RemoveVxlan("vxlan1", 7, 4789),
        Dismiss(4789, (7,), "", sealed=True),
        Leave("/run/netns/a", "key"),
    ]


@pytest.mark.parametrize(("tunnel", "inner"), [(PLAIN, ""), (SEALED, "fd00::9")])
def test_the_undoing_does_not_ask_for_what_only_the_doing_knew(tunnel: Tunnel, inner: str) -> None:
    done = opening(tunnel, "192.0.2.1", "eth7") + connecting(tunnel, inner)
    assert removing(tunnel, inner) == [undo for each in reversed(done) if (undo := inverse(each))]


def test_what_was_not_reached_is_undone_too() -> None:
    early = Tunnel("/run/netns/a", 4789, (Cord("eth0", 7, "vxlan1"),))
    assert removing(early, "") == [KeepIn("eth0"), RemoveVxlan("vxlan1", 7, 4789), Dismiss(4789, (7,), "")]


def test_the_dedicated_interface_is_the_devices_link() -> None:
    assert AddVxlan("vxlan1", 555000, 4789, "10.0.0.9", "10.0.0.1", "ens6") in opening(PLAIN, "10.0.0.1", "ens6")
