"""WireGuard at both ends of a NAT, in real namespaces: wireguard-go, and the kernel's where the kernel has it."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self

import pytest

from adaptor import names
from adaptor.errors import Unavailable
from adaptor.podnet import wireguard, wireguard_choice, wireguard_device
from adaptor.podnet.encryption import Encryption
from adaptor.podnet.plan import WireGuard
from adaptor.podnet.wireguard import Change, Device, Peer, PrivateKey
from adaptor.podnet.wireguard_device import Endpoint, Kernel, Userspace
from tests.unit.podnet.netns import Host, cable, capture, ping6

ROOT: Final = os.geteuid() == 0
LACKS: Final = {
    "userspace": wireguard_choice.userspace_wants() if ROOT else "network namespaces need root: adaptor.demo.enter",
    "kernel": wireguard_choice.kernel_wants() if ROOT else "network namespaces need root: adaptor.demo.enter",
}
KINDS: Final = {"userspace": Userspace, "kernel": Kernel}
PORT: Final = 51820
SECRET: Final = b"nobody on the way may read this "


def of_kind(kind: str) -> Any:
    return pytest.param(
        kind,
        marks=[pytest.mark.netns, pytest.mark.skipif(bool(LACKS[kind]), reason=f"no {kind} WireGuard: {LACKS[kind]}")],
    )


class Pair:
    """worker 10.1.0.2 ── 10.1.0.1 router (masquerades) 10.2.0.1 ── 10.2.0.2 VM, which has no route to 10.1.0.0/24."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.worker, self.router, self.vm = (Host(name) for name in ("worker", "router", "vm"))
        self.hosts = [self.worker, self.router, self.vm]
        cable(self.worker, "eth0", self.router, "inside")
        cable(self.vm, "eth0", self.router, "outside")
        self.worker.up("eth0", "10.1.0.2/24", "fd99::2/64")
        self.router.up("inside", "10.1.0.1/24", "fd99::1/64")
        self.router.up("outside", "10.2.0.1/24")
        self.vm.up("eth0", "10.2.0.2/24")
        self.worker.netlink(lambda ip: ip.route("add", dst="default", gateway="10.1.0.1"))
        self.worker.netlink(lambda ip: ip.route("add", dst="default", gateway="fd99::1", family=10))
        self.router.do(_masquerade)
        self.here, self.there = self.backend(), self.backend()
        self.near = Endpoint(self.here)
        self.far = Endpoint(self.there, PORT)

    def backend(self) -> Any:
        return KINDS[self.kind](names.WIREGUARD_DEVICE)

    def join(self) -> tuple[str, str]:
        """Have each know the other; their inner addresses."""
        mine = self.worker.do(self.near.ensure)
        theirs = self.vm.do(self.answer, mine)
        self.worker.do(self.near.put, wireguard.worker_peer(WireGuard(theirs, PORT), "10.2.0.2"))
        return wireguard.inner_address(mine), wireguard.inner_address(theirs)

    def answer(self, worker: str) -> str:
        """In the VM, to a plan with the worker's key: the VM's."""
        mine = self.far.ensure()
        self.far.put(wireguard.guest_peer(WireGuard(worker, PORT), wireguard.inner_address(worker)))
        return mine

    def pod(self, host: Host, name: str, address: str, local: str, remote: str, mtu: int) -> Host:
        """A namespace with one VXLAN device, whose UDP socket is `host`'s."""
        pod = Host(name)
        self.hosts.append(pod)
        with open(pod.path, "rb") as netns:

            def deed(ip: Any) -> None:
                ip.link(
                    "add", ifname="eth0", kind="vxlan", net_ns_fd=netns.fileno(), vxlan_id=555_000, vxlan_port=4789,
                    vxlan_learning=False, vxlan_group6=remote, vxlan_local6=local, mtu=mtu,
                )  # fmt: skip

            host.netlink(deed)
        pod.up("eth0", address)
        return pod

    def close(self) -> None:
        self.worker.do(self.near.delete)
        self.vm.do(self.far.delete)
        for host in self.hosts:
            host.close()


@pytest.fixture(params=[of_kind("userspace"), of_kind("kernel")])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(request.param)
    yield made
    made.close()


@pytest.fixture(params=[of_kind("userspace")])
def go_pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(request.param)
    yield made
    made.close()


@pytest.fixture
def lone_host() -> Iterator[Host]:
    if not ROOT:
        pytest.skip("network namespaces need root: run it in adaptor.demo.enter")
    made = Host("lone")
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


def served_by(host: Host) -> list[int]:
    """The wireguard-go processes in the host's namespace."""
    here = os.readlink(host.path)
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"wireguard-go\0") and os.readlink(
                folder / "ns/net"
            ) == here:
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended
    return found


def exchange(client: Host, server: Host, address: str, octets: int, mtu: int) -> tuple[int, bytes]:
    """`octets` of the secret by TCP from client to server, and a datagram that fills the MTU, which is returned."""

    def listen() -> tuple[socket.socket, socket.socket]:
        stream = socket.create_server((address, 9000))
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((address, 9000))
        for each in (stream, datagrams):
            each.settimeout(5)
        return stream, datagrams

    def send() -> socket.socket:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: not in pieces
            link.sendto((SECRET * 100)[: mtu - 28], (address, 9000))
        link = socket.create_connection((address, 9000), timeout=5)
        link.sendall(SECRET * (octets // len(SECRET)))
        link.close()
        return link

    def receive(stream: socket.socket, datagrams: socket.socket) -> tuple[int, bytes]:
        link, _ = stream.accept()
        total = 0
        with link, stream, datagrams:
            link.settimeout(5)
            while data := link.recv(1 << 20):
                total += len(data)
            return total, datagrams.recv(1 << 16)

    opened = server.do(listen)
    sending = client.start(send)
    try:
        return server.do(receive, *opened)
    finally:
        sending.result()


def test_two_ends_with_a_nat_in_between_reach_each_other_inside(pair: Pair) -> None:
    mine, theirs = pair.join()
    assert pair.worker.do(ping6, theirs)
    assert pair.vm.do(ping6, mine)
    assert pair.worker.do(ping6, theirs, 20_000), "what is larger than the path goes in pieces"
    found = pair.vm.do(pair.there.read)
    assert found.peers[0].endpoint[0] == "10.2.0.1", "the NAT's address, learnt from the handshake"
    assert found.port == PORT
    assert found.peers[0].handshake > 0
    assert pair.worker.do(pair.here.read).peers[0].keepalive == 25


def test_nothing_of_a_pods_traffic_can_be_read_on_the_way_and_none_of_it_is_cut_into_pieces(pair: Pair) -> None:
    mine, theirs = pair.join()
    mtu = (1500 - 60) // 16 * 16 - 70
    near = pair.pod(pair.worker, "pod", "172.30.0.1/24", mine, theirs, mtu)
    far = pair.pod(pair.vm, "podns", "172.30.0.2/24", theirs, mine, mtu)
    with capture(pair.router, "outside") as frames, capture(pair.worker, names.WIREGUARD_DEVICE) as inside:
        for client, server, address in ((near, far, "172.30.0.2"), (far, near, "172.30.0.1")):
            octets, datagram = exchange(client, server, address, 1 << 20, mtu)
            assert octets == 1 << 20
            assert datagram == (SECRET * 100)[: mtu - 28]
    ports = {PORT, pair.worker.do(pair.here.read).port}
    tunnelled = [frame for frame in frames if frame[12:14] == b"\x08\x00"]
    assert len(tunnelled) > 1500, "2 MiB were seen on their way"
    assert any(SECRET in frame for frame in inside), "one who looks finds it there"
    assert not any(SECRET[:16] in frame for frame in frames)
    for frame in tunnelled:
        packet = frame[14:]
        assert packet[9] == socket.IPPROTO_UDP
        assert int.from_bytes(packet[6:8], "big") & 0x3FFF == 0, "a fragment"
        assert len(packet) <= 1500
        assert {int.from_bytes(packet[at : at + 2], "big") for at in (20, 22)} <= ports | _translated(pair)
    assert {frame[12:14] for frame in frames} <= {b"\x08\x00", b"\x08\x06", b"\x86\xdd"}  # ARP and neighbour discovery
    assert all(frame[20] == socket.IPPROTO_ICMPV6 or frame[20] == 0 for frame in frames if frame[12:14] == b"\x86\xdd")


def _translated(pair: Pair) -> set[int]:
    """The port that the NAT gave the worker, where it is not the worker's own."""
    return {pair.vm.do(pair.there.read).peers[0].endpoint[1]}


def test_an_adaptor_that_starts_anew_finds_key_and_peers_and_touches_nothing(pair: Pair) -> None:
    mine, theirs = pair.join()
    assert pair.worker.do(ping6, theirs)
    before = pair.worker.do(pair.here.read), pair.worker.dump(), served_by(pair.worker)
    again = Endpoint(pair.worker.do(wireguard_choice.choose, "auto"))
    assert again.kind == pair.kind
    assert wireguard.inner_address(pair.worker.do(again.ensure)) == mine
    assert again.peers == pair.near.peers
    assert not pair.worker.do(again.look)
    assert (pair.worker.do(pair.here.read), pair.worker.dump(), served_by(pair.worker)) == before
    assert pair.worker.do(ping6, theirs)


def test_the_last_tunnel_takes_device_and_process_along_and_leaves_the_host_as_it_was(pair: Pair) -> None:
    before = pair.worker.dump()
    encryption = Encryption(Endpoint(pair.backend()), PORT)
    keys = [PrivateKey.make().public for _ in range(2)]
    for tunnel, key in zip("ab", keys, strict=True):
        told = pair.worker.do(encryption.join, tunnel)
        assert pair.worker.do(encryption.connect, tunnel, key, "10.2.0.2") == wireguard.inner_address(key)
        assert told.port == PORT
    pair.worker.do(encryption.leave, "a", keys[0])
    assert [peer.public_key for peer in pair.worker.do(pair.here.read).peers] == [keys[1]]
    assert pair.worker.dump() != before
    pair.worker.do(encryption.leave, "b", keys[1])
    assert pair.worker.dump() == before
    assert not served_by(pair.worker)
    assert not pair.worker.do(os.listdir, "/run/wireguard")
    pair.worker.do(encryption.leave, "b", keys[1])
    assert pair.worker.dump() == before


def test_a_killed_wireguard_go_is_noticed_and_its_tunnels_go_on_with_another(
    go_pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair = go_pair
    encryption = Encryption(pair.near, PORT)
    told = pair.worker.do(encryption.join, "pod")
    theirs = pair.vm.do(pair.answer, told.public_key)
    inner = pair.worker.do(encryption.connect, "pod", theirs, "10.2.0.2")
    assert pair.worker.do(ping6, inner)
    pair.worker.do(encryption.look)
    assert not caplog.records
    (victim,) = served_by(pair.worker)
    os.kill(victim, signal.SIGKILL)
    while names.WIREGUARD_DEVICE in pair.worker.names():
        time.sleep(0.002)
    with pytest.raises(OSError):
        pair.worker.do(ping6, inner, timeout=0.1)
    pair.worker.do(encryption.look)
    assert "was gone or changed" in caplog.text
    assert pair.worker.do(ping6, inner), "the VM was told nothing: the key is the same"
    assert not encryption.trouble
    pair.worker.do(encryption.leave, "pod")


def test_a_wireguard_go_that_cannot_be_had_again_is_said_and_comes_back_when_it_can(
    go_pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair = go_pair
    encryption = Encryption(pair.near, PORT)
    pair.worker.do(encryption.join, "pod")
    os.kill(served_by(pair.worker)[0], signal.SIGKILL)
    while names.WIREGUARD_DEVICE in pair.worker.names():
        time.sleep(0.002)
    pair.worker.netlink(lambda ip: ip.link("add", ifname=names.WIREGUARD_DEVICE, kind="bridge"))
    pair.worker.do(encryption.look)
    assert "encrypted pods have no network" in encryption.trouble
    assert "wireguard-go cannot serve ppwg0: " in encryption.trouble
    assert "TUN" in encryption.trouble, "in its own words, which are"
    assert "https" not in encryption.trouble, "its last"
    assert caplog.text.count("encrypted pods have no network") == 1
    pair.worker.netlink(lambda ip: ip.link("del", ifname=names.WIREGUARD_DEVICE))
    pair.worker.do(encryption.look)
    assert not encryption.trouble
    pair.worker.do(encryption.leave, "pod")


def test_one_that_somebody_else_serves_is_used_and_given_back_unused(go_pair: Pair) -> None:
    pair = go_pair
    served: Any = Userspace(names.WIREGUARD_DEVICE, spawn=False)
    with pytest.raises(Unavailable, match=r"nobody serves /var/run/wireguard/ppwg0\.sock"):
        pair.worker.do(wireguard_choice.choose, "userspace", spawn=False)
    with pytest.raises(Unavailable, match="container"):
        pair.worker.do(served.make)
    pair.worker.do(pair.here.make)
    before = pair.worker.dump()
    near = Endpoint(pair.worker.do(wireguard_choice.choose, "userspace", spawn=False))
    key = pair.worker.do(near.ensure)
    pair.worker.do(near.put, Peer(PrivateKey.make().public))
    assert pair.worker.dump() != before
    # Its container is started anew: another device, without a key.
    pair.worker.do(pair.here.unmake)
    pair.worker.do(pair.here.make)
    assert pair.worker.do(near.look)
    assert pair.worker.do(served.read).public_key == key
    assert len(pair.worker.do(served.read).peers) == 1
    pair.worker.do(near.delete)
    left = pair.worker.do(served.read)
    assert (left.private_key, left.peers) == (None, ())
    assert [line.split()[0:2] for line in pair.worker.dump()[0]] == [line.split()[0:2] for line in before[0]]
    assert pair.worker.dump()[1:] == before[1:]
    pair.worker.do(pair.here.unmake)


def test_the_command_for_containers_serves_the_device_until_it_is_told_to_end(go_pair: Pair) -> None:
    worker = go_pair.worker
    served: Any = Userspace(names.WIREGUARD_DEVICE, spawn=False)
    command = [sys.executable, "-m", "adaptor", "wireguard", "--kind", "userspace"]
    process = worker.do(subprocess.Popen, command, env=os.environ | {"SECRET_OF_A_CLOUD": "x"})
    try:
        encryption = worker.do(Encryption.open, "userspace", PORT, spawn=False)  # which waits for it
        key = worker.do(encryption.join, "pod").public_key
        assert worker.do(served.read).public_key == key
        assert b"SECRET" not in Path(f"/proc/{process.pid}/environ").read_bytes()
        worker.do(encryption.leave, "pod")
        assert worker.do(served.read).private_key is None
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(5) == 0
    assert names.WIREGUARD_DEVICE not in worker.names()


def test_a_port_that_another_program_has_is_said(pair: Pair) -> None:
    def occupy() -> list[socket.socket]:
        taken = []
        for family in (socket.AF_INET, socket.AF_INET6):
            taken.append(socket.socket(family, socket.SOCK_DGRAM))
            if family == socket.AF_INET6:
                taken[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken[-1].bind(("", PORT))
        return taken

    taken = pair.vm.do(occupy)
    with pytest.raises(Unavailable, match=r"UDP port 51820|Address already in use"):
        pair.vm.do(pair.far.ensure)
    for each in taken:
        each.close()


def test_a_device_of_somebody_elses_is_left_alone(lone_host: Host) -> None:
    lone_host.netlink(lambda ip: ip.link("add", ifname=names.WIREGUARD_DEVICE, kind="bridge"))
    before = lone_host.dump()
    with pytest.raises(Unavailable, match="is a bridge of somebody else's"):
        lone_host.do(wireguard_choice.choose, "auto")
    assert lone_host.dump() == before


def test_asking_the_kernel_leaves_the_host_as_it_was(lone_host: Host) -> None:
    before, namespace = lone_host.dump(), os.readlink(lone_host.path)
    said = lone_host.do(wireguard_choice.kernel_wants)
    assert said == "" or said.startswith("the kernel's WireGuard: ")
    assert (lone_host.dump(), os.readlink(lone_host.path)) == (before, namespace)


def test_a_node_without_any_wireguard_says_what_each_kind_needs(
    lone_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wireguard_choice, "PROGRAM", "wireguard-gone")
    monkeypatch.setattr(wireguard_choice, "kernel_wants", lambda: "the kernel's WireGuard: not there")
    with pytest.raises(Unavailable) as caught:
        lone_host.do(Encryption.open, "auto")
    for words in (
        "network.wireguard = auto",
        "the kernel's WireGuard: not there",
        "wireguard-gone: it is not installed",
    ):
        assert words in str(caught.value)
    with pytest.raises(Unavailable) as caught:
        lone_host.do(Encryption.open, "userspace")
    assert "the kernel's" not in str(caught.value)


def test_a_node_with_ipv6_off_is_told_so_at_once(lone_host: Host) -> None:
    lone_host.do(Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text, "1")
    with pytest.raises(Unavailable, match="set net/ipv6/conf/default/disable_ipv6 to 0"):
        lone_host.do(wireguard_choice.choose, "auto")


# -- the kernel's netlink, without a kernel that has it ------------------------------------------------------------


def _sent(act: Callable[[Kernel], None], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What pyroute2 would send: the bytes, decoded again by its own description of the protocol."""
    from pyroute2.netlink.generic import wireguard as generic

    sent: list[Any] = []

    class Recorder(generic.AsyncWireGuard):  # type: ignore[misc]
        prid = pid = 0

        def __init__(self) -> None:
            pass

        def sendto(self, data: bytes, _: object) -> None:
            message = generic.wgmsg(data)
            message.decode()
            sent.append(message)

        async def get(self) -> Any:
            yield {"header": {"error": None}}

    class Socket:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def set(self, *arguments: Any, **named: Any) -> None:
            import asyncio

            asyncio.run(Recorder().set(*arguments, **named))

    monkeypatch.setattr("pyroute2.WireGuard", Socket)
    act(Kernel("ppwg0"))
    return sent


def test_the_kernel_is_sent_what_the_device_is_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    key, one, other = PrivateKey.make(), PrivateKey.make().public, PrivateKey.make().public
    peers = (
        Peer(one, ("2001:db8::7", 51820), ("fd00::1/128",), 25),
        Peer(other, ("192.0.2.7", 51821), ("fd00::2/128", "10.0.0.0/8")),
    )
    sent = _sent(lambda kernel: kernel.change(Change(key, 7, peers)), monkeypatch)
    assert [message.get("ifname") for message in sent] == ["ppwg0"] * 3
    assert wireguard_device.device_of(sent) == Device(key, key.public, 7, peers)
    assert all(message.get("flags") is None for message in sent), "peers that are not named stay"
    (removal,) = _sent(lambda kernel: kernel.change(Change(removed=(one,))), monkeypatch)
    (peer,) = removal.get("peers")
    assert (peer.get("public_key"), peer.get("flags")) == (one.encode(), 1)
    assert removal.get("private_key") is None
    assert _sent(lambda kernel: kernel.change(Change()), monkeypatch) == []


def test_a_peer_that_the_kernel_continues_in_its_next_message_is_one_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    key = PrivateKey.make().public
    first = Peer(key, ("192.0.2.7", 1), ("fd00::1/128",), 25)
    second = Peer(key, None, ("fd00::2/128",))
    sent = _sent(lambda kernel: kernel.change(Change(peers=(first, second))), monkeypatch)
    (found,) = wireguard_device.device_of(sent).peers
    assert (found.endpoint, found.allowed) == (("192.0.2.7", 1), ("fd00::1/128", "fd00::2/128"))


def test_a_device_without_a_key_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = base64.b64encode(bytes(32)).decode()
    assert wireguard_device.device_of([{"private_key": zeros.encode(), "listen_port": 5}]) == Device(port=5)
    assert wireguard_device.device_of([{}]) == Device()


def test_what_is_no_key_is_not_sent_to_the_kernel_either(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not a WireGuard public key"):
        _sent(lambda kernel: kernel.change(Change(peers=(Peer("no key"),))), monkeypatch)
