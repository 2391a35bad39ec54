"""Real wireguard-go in real namespaces, with a NAT in between; the kernel's WireGuard as far as its messages go."""

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from adaptor.errors import Unavailable
from adaptor.podnet import wireguard, wireguard_choice, wireguard_device
from adaptor.podnet.plan import WireGuard
from adaptor.podnet.wireguard_device import Endpoint, Userspace
from tests.unit.podnet.netns import Host, cable, capture, ping6

real = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root: run it in adaptor.demo.enter"),
    pytest.mark.skipif(
        bool(wireguard_choice.userspace_wants()), reason=f"no userspace WireGuard: {wireguard_choice.userspace_wants()}"
    ),
]
PORT: Final = 51820


class Pair:
    """worker 10.1.0.2 ── 10.1.0.1 router (masquerades) 10.2.0.1 ── 10.2.0.2 VM, which has no route to 10.1.0.0/24."""

    def __init__(self, unique: str) -> None:
        self.worker, self.router, self.vm = hosts = [Host(name) for name in ("worker", "router", "vm")]
        self._hosts = hosts
        cable(self.worker, "eth0", self.router, "inside")
        cable(self.vm, "eth0", self.router, "outside")
        self.worker.up("eth0", "10.1.0.2/24")
        self.router.up("inside", "10.1.0.1/24")
        self.router.up("outside", "10.2.0.1/24")
        self.vm.up("eth0", "10.2.0.2/24")
        self.worker.netlink(lambda ip: ip.route("add", dst="default", gateway="10.1.0.1"))
        self.router.do(_masquerade)
        # Sockets of all namespaces are in one directory, so the devices' names must differ.
        self.here = Userspace(f"w{unique}")
        self.there = Userspace(f"v{unique}")
        self.near = Endpoint(self.here)
        self.far = Endpoint(self.there, PORT)

    def join(self) -> tuple[str, str]:
        """Have each know the other; their inner addresses."""
        mine = self.worker.do(self.near.ensure)
        inner = wireguard.inner_address(mine)
        theirs = self.vm.do(self.far.ensure)
        self.vm.do(self.far.put, wireguard.guest_peer(WireGuard(mine, PORT), inner))
        self.worker.do(self.near.put, wireguard.worker_peer(WireGuard(theirs, PORT), "10.2.0.2"))
        return inner, wireguard.inner_address(theirs)

    def close(self) -> None:
        self.worker.do(self.near.delete)
        self.vm.do(self.far.delete)
        for host in self._hosts:
            host.close()


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(f"{os.getpid() % 100_000}x{abs(hash(request.node.name)) % 10_000}")
    yield made
    made.close()


def _masquerade() -> None:
    from pyroute2.nftables.expressions import genex
    from pyroute2.nftables.main import NFTables

    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    with NFTables(nfgen_family=2) as nft:
        nft.table("add", name="nat")
        nft.chain("add", table="nat", name="out", hook="postrouting", type="nat", priority=100, policy=1)
        nft.rule("add", table="nat", chain="out", expressions=((genex("masq", {}),),))


def _processes(device: str) -> list[int]:
    """Those that serve it, zombies aside."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[:2] == [b"wireguard-go", device.encode()]:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


class TestReal:
    pytestmark = real

    def test_two_ends_with_a_nat_in_between_reach_each_other_inside(self, pair: Pair) -> None:
        mine, theirs = pair.join()
        assert pair.worker.do(ping6, theirs)
        assert pair.vm.do(ping6, mine)
        assert pair.worker.do(ping6, theirs, 20_000), "what is larger than the path goes in pieces"
        found = pair.vm.do(pair.there.read)
        assert found is not None
        assert found.peers[0].endpoint is not None
        assert found.peers[0].endpoint[0] == "10.2.0.1", "the NAT's address, learnt from the handshake"
