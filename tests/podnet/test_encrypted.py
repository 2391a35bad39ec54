"""Both halves of an encrypted pod network: the worker's HostNetworks and the VM's guest, with real wireguard-go."""

import asyncio
import ipaddress
import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from adaptor import names
from adaptor.config_network import Network as Settings
from adaptor.errors import StartFailed
from adaptor.podnet import wireguard_choice
from adaptor.podnet.encryption import Encryption
from adaptor.podnet.hosts import HostNetworks
from adaptor.podnet.plan import Tunnel, to_json
from adaptor.podnet.wireguard import PrivateKey, inner_address
from adaptor.podnet.wireguard_device import Endpoint, Userspace
from podvm_images.guest.network import Network
from tests.podnet.test_tunnels import ping
from tests.podnet.world import World, changed
from tests.unit.guest.vm import listener
from tests.unit.podnet.netns import capture
from tests.unit.podnet.test_wireguard_device import served_by

LACKS: Final = wireguard_choice.userspace_wants() if os.geteuid() == 0 else "network namespaces need root"
pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(LACKS), reason=f"no userspace WireGuard: {LACKS}"),
]
SETTINGS: Final = Settings(encryption="required", wireguard="userspace", wireguard_port=51999)
VM: Final = "10.0.0.2"


@pytest.fixture
def world() -> Iterator[World]:
    """One for each test: a VM is one pod's."""
    made = World()
    yield made
    made.vm.do(Endpoint(Userspace(names.WIREGUARD_DEVICE)).delete)
    made.close()


async def networks() -> HostNetworks:
    """Of an adaptor that starts."""
    return HostNetworks(SETTINGS, await asyncio.to_thread(Encryption.open, "userspace", SETTINGS.wireguard_port))


def reachable(world: World) -> str:
    """A pod whose gateway is the worker."""
    pod = world.pod(1)
    world.worker.up("pod1.0", "10.1.255.254/32")
    return pod


class Vm:
    """The guest of one pod, in the world's VM."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self._guest = Network(str(folder / "podns"))

    async def bind(self, plan: bytes) -> bytes:
        """Bind's answer."""

        async def lay() -> bytes:
            understood = self._guest.understand(plan)
            await self._guest.make()
            return to_json(await self._guest.lay(understood))

        return await asyncio.to_thread(self._world.vm.do, lambda: asyncio.run(lay()))


async def opened(host: HostNetworks, pod: str) -> tuple[Tunnel, bytes]:
    tunnel = await host.reached(await host.intend(pod), VM)
    await host.open(tunnel)
    return tunnel, await host.plan(tunnel, None, imds=False)


def test_a_pod_is_reached_through_wireguard_and_nothing_stays_of_it(world: World, tmp_path: Path) -> None:
    pod, vm = reachable(world), Vm(world, tmp_path)
    before = world.everything(pod)

    async def life() -> tuple[Tunnel, bytes]:
        host = await networks()
        tunnel, plan = await opened(host, pod)
        tunnel = host.answered(tunnel, await vm.bind(plan))
        await host.connect(tunnel, 10.0)
        assert tunnel.encrypted
        assert tunnel.public_key
        assert ping(world.address(1))
        await host.aclose()
        return tunnel, plan

    with capture(world.vm, "eth0") as frames:
        tunnel, plan = world.worker.do(lambda: asyncio.run(life()))
    assert json.loads(plan)["interfaces"][0]["mtu"] == 1370
    ports = {int.from_bytes(f[36:38], "big") for f in frames if f[12:14] == b"\x08\x00"}
    assert 51999 in ports
    assert SETTINGS.vxlan_port not in ports, "nothing went in the open"

    async def end() -> None:
        host = await networks()
        host.recall([tunnel])
        await host.remove(tunnel)
        await host.remove(tunnel)
        await host.aclose()

    assert served_by(world.worker)
    world.worker.do(lambda: asyncio.run(end()))
    assert world.left(before, pod) == {}
    assert not served_by(world.worker)
    assert not world.worker.do(os.listdir, "/run/wireguard")


def test_an_adaptor_that_starts_anew_leaves_tunnels_alone_and_takes_away_what_nobody_knows(
    world: World, tmp_path: Path
) -> None:
    pod, other, vm = reachable(world), world.pod(2), Vm(world, tmp_path)

    async def life() -> list[Tunnel]:
        host = await networks()
        tunnel, plan = await opened(host, pod)
        tunnel = host.answered(tunnel, await vm.bind(plan))
        await host.connect(tunnel, 10.0)
        half, _ = await opened(host, other)
        await host.aclose()
        return [tunnel, half]

    tunnel, half = world.worker.do(lambda: asyncio.run(life()))
    before, serving = world.everything(pod), served_by(world.worker)

    async def restart() -> bool:
        host = await networks()
        host.recall([tunnel, half])
        await host.keep_only([tunnel, half])
        await host.remove(half)
        alive = ping(world.address(1))
        await host.aclose()
        return alive

    assert world.worker.do(lambda: asyncio.run(restart()))
    assert changed(before, world.everything(pod)).keys() <= {"worker elements", "worker sets"}, "the other's numbers"
    assert served_by(world.worker) == serving

    async def lost() -> None:
        host = await networks()
        await host.keep_only([])
        await host.aclose()

    world.worker.do(lambda: asyncio.run(lost()))
    assert not served_by(world.worker)


def test_what_comes_by_another_way_than_wireguard_does_not_reach_the_pods_side(world: World, tmp_path: Path) -> None:
    pod, vm = reachable(world), Vm(world, tmp_path)

    async def life() -> tuple[Tunnel, bytes]:
        host = await networks()
        tunnel, plan = await opened(host, pod)
        tunnel = host.answered(tunnel, await vm.bind(plan))
        await host.connect(tunnel, 10.0)
        await host.aclose()
        return tunnel, plan

    tunnel, plan = world.worker.do(lambda: asyncio.run(life()))
    worker, ours = json.loads(plan)["worker"], inner_address(tunnel.public_key)
    heard = world.worker.do(lambda: listener("10.1.255.254", 7))
    mac = world.worker.netlink(lambda ip: ip.link("get", ifname="pod1.0")[0].get("address"))

    def send(source: str, target: str, payload: bytes) -> None:
        packet = vxlan_packet(tunnel.cords[0].vni, mac, world.address(1), "10.1.255.254", payload)
        with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.bind((source, 0))
            out.sendto(packet, (target, SETTINGS.vxlan_port))

    def by_the_cable(verb: str) -> None:
        world.vm.netlink(lambda ip: ip.route(verb, dst=f"{worker}/128", gateway="fd00::1", family=10))

    with heard:
        world.vm.do(send, VM, "10.0.0.1", b"in the open")
        world.vm.do(send, "fd00::2", "fd00::1", b"in the open")
        by_the_cable("add")
        with pytest.raises(PermissionError):
            world.vm.do(send, ours, worker, b"")  # an honest VM's own rules keep it in
        world.vm.do(_be_hostile)
        world.vm.do(send, ours, worker, b"in the open, with the VM's own inner address")
        by_the_cable("del")
        world.vm.do(send, ours, worker, b"inside")
        assert heard.recv(100) == b"inside"


def _be_hostile() -> None:
    from pyroute2.nftables.main import NFTables

    with NFTables(nfgen_family=1) as nft:
        nft.table("del", name=names.NFT_TABLE)


def vxlan_packet(vni: int, mac: str, source: str, target: str, payload: bytes) -> bytes:
    """With a datagram from port 9 to port 7."""
    udp = struct.pack(">HHHH", 9, 7, 8 + len(payload), 0) + payload
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    ip += ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    total = sum(struct.unpack(">10H", ip))
    ip = ip[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + ip[12:]
    frame = bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("020000000001") + b"\x08\x00" + ip + udp
    return struct.pack(">II", 0x08000000, vni << 8) + frame


@pytest.mark.parametrize(
    ("altered", "words"),
    [
        ({"wireguard": None}, "said nothing of its WireGuard"),
        (
            {"wireguard": {"public_key": PrivateKey.make().public, "port": 4}},
            "listens on UDP port 4; it was told 51999",
        ),
    ],
)
def test_an_answer_that_does_not_fit_begins_nothing(world: World, altered: dict[str, Any], words: str) -> None:
    pod = world.pod(1)
    before = world.everything(pod)

    async def life() -> None:
        host = await networks()
        tunnel, _ = await opened(host, pod)
        with pytest.raises(StartFailed, match=words):
            host.answered(tunnel, json.dumps({"wireguard": None, "version": 1} | altered).encode())
        await host.remove(tunnel)
        await host.aclose()

    world.worker.do(lambda: asyncio.run(life()))
    assert world.left(before, pod) == {}
