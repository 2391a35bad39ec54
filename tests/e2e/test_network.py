"""A pod's network end to end: real adaptor, relay and guest; the container answers at the pod's address, from its VM."""

import asyncio
import hashlib
import random
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adaptor.demo import cni, netdump, service
from adaptor.demo.cni import Pod as Network
from adaptor.demo.shim import Process, Shim
from adaptor.demo.world import World
from adaptor.relay.client import RelayClient
from tests.e2e.conftest import clean
from tests.worlds import dnat
from tests.worlds.wiretap import Wiretap

pytestmark = pytest.mark.netns

METADATA = "169.254.169.254"
UDP_PORT = 7
# Every datagram goes back where it came from.
ECHO = """
use IO::Socket::IP;
my $socket = IO::Socket::IP->new(LocalHost => '%s', LocalPort => 7, Proto => 'udp', V6Only => 0) or die $@;
$| = 1; print "echo\\n";
while (1) { my $from = $socket->recv(my $data, 65536); $socket->send($data, 0, $from) }
"""
# eth0's hardware address and MTU: SIOCGIFHWADDR, SIOCGIFMTU
INTERFACE = """
use Socket; socket(my $any, AF_INET, SOCK_DGRAM, 0);
my $name = pack("a16x24", "eth0");
ioctl($any, 0x8927, my $hardware = $name) or die $!; ioctl($any, 0x8921, my $mtu = $name) or die $!;
print join(":", unpack("x18(H2)6", $hardware)), " ", unpack("x16i", $mtu);
"""
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2


class Pod:
    """A pod whose container serves."""

    def __init__(self, network: Network, shim: Shim, server: Process) -> None:
        self.network = network
        self.shim = shim
        self.server = server

    async def run(self, command: list[str]) -> str:
        """A command's output, executed in the container."""
        process = await self.shim.exec(self.server, command)
        await process.exit_code(20)
        return bytes(process.stdout).decode().strip()

    async def echo(self) -> None:
        """Serve UDP too."""
        process = await self.shim.exec(self.server, ["perl", "-e", ECHO % ("::" if self.network.ipv6 else "0.0.0.0")])
        await process.until(lambda out: out == b"echo\n")

    async def delete(self) -> None:
        """As kubelet ends a pod."""
        await self.shim.stop(self.server, signal.SIGKILL)
        await self.shim.stop_pod()
        assert not self.shim.checks_failed


@asynccontextmanager
async def pod(world: World, name: str, families: tuple[int, ...] = (4,)) -> AsyncIterator[Pod]:
    """It is up and serves; afterwards its network in the worker must be as the CNI plugin left it."""
    with world.pod_network(families) as network:
        before = netdump.dump(network.netns)
        async with Shim(world.hypervisor_socket, pod=f"net/{name}", netns=network.netns) as shim:
            await shim.start_pod()
            server = await shim.run(service.serve("::" if network.ipv6 else "0.0.0.0"))
            await server.until(lambda out: out == f"hello from {name}\n".encode())
            made = Pod(network, shim, server)
            yield made
            await made.delete()
        assert netdump.dump(network.netns) == before


class Traffic:
    """A datagram every few milliseconds, each of which must come back."""

    def __init__(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.connect((address, UDP_PORT))
        self.sent = 0
        self.back: list[int] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, lambda: self.back.append(int(self._socket.recv(100))))
        try:
            while True:
                self._socket.send(b"%d" % self.sent)
                self.sent += 1
                await asyncio.sleep(0.005)
        finally:
            await asyncio.shield(self._rest())
            loop.remove_reader(self._socket)
            self._socket.close()

    async def _rest(self) -> None:
        async with asyncio.timeout(5):
            while len(self.back) < self.sent:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def under_traffic(address: str) -> AsyncIterator[None]:
    """Meanwhile not one reply is lost, doubled or late by seconds; nor does a TCP connection break."""
    traffic, client = Traffic(address), service.Client(address)
    await client.ask("/begin")
    task = asyncio.create_task(traffic.run())
    yield
    await client.ask("/end")
    await client.aclose()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert traffic.sent > 20
    assert sorted(traffic.back) == list(range(traffic.sent))


def vnis(netns: str) -> set[str]:
    """Of the tunnels in a pod's namespace."""
    lines = [line for line in netdump.dump(netns) if line.startswith("link") and " vxlan " in line]
    return {word for line in lines for word in line.replace("{", " ").split() if word.startswith("IFLA_VXLAN_ID=")}


def hardware_address(netns: str) -> str:
    """Of the pod's interface as the CNI plugin made it."""
    (line,) = [line for line in netdump.dump(netns) if line.startswith("link eth0 ")]
    return next(word for word in line.split() if word.startswith("address=")).removeprefix("address=")


@asynccontextmanager
async def on_the_worker(answer: bytes) -> AsyncIterator[tuple[int, list[str]]]:
    """A server on the worker that sends `answer` and hangs up: its port, and who has asked."""
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername")[0])
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, str(cni.IPV4[1])) as server:
        yield server.sockets[0].getsockname()[1], seen


async def largest_datagram(address: str) -> int:
    """Bytes of payload that come back whole and unfragmented, of those that an MTU of 1500 lets through."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
        probe.connect((address, UDP_PORT))
        probe.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        probe.send(bytes(cni.MTU - 28))
        async with asyncio.timeout(5):
            return len(await asyncio.get_running_loop().sock_recv(probe, 65536))


async def test_a_pods_address_is_its_containers_in_the_vm_and_nothing_of_it_stays_on_the_worker(world: World) -> None:
    with world.pod_network():  # for the bridge, and a neighbour who is not to notice anything
        before = netdump.dump()
        async with pod(world, "web") as web:
            assert vnis(web.network.netns)
            with Wiretap("sim-") as tap:
                answer = await service.ask(web.network.ipv4, "/hello")
            assert (answer.host, answer.client) == ("web", str(cni.IPV4[1]))
            assert any(b"GET /hello" in packet for packet in tap.packets), "by the cloud's network"
            seen = await web.run(["perl", "-e", INTERFACE])
            assert seen == f"{hardware_address(web.network.netns)} {cni.MTU}"
            await web.echo()
            assert await largest_datagram(web.network.ipv4) == cni.MTU - 28
            await much_arrives_whole(web)
            (instance,) = await world.instances()
            assert "AWS metadata" in instance["console"], "the VM itself has the metadata service"
            assert (await web.run(service.asker(METADATA, "/latest/user-data", 80))).startswith(service.NONE)
        await clean(world)
        assert netdump.dump() == before


async def much_arrives_whole(web: Pod) -> None:
    """Megabytes, from a server on the worker to the container, which is known there by the pod's address."""
    bulk = random.Random(1).randbytes(5 << 20)
    async with on_the_worker(bulk) as (port, clients):
        got = await web.run(["bash", "-c", f"md5sum < /dev/tcp/{cni.IPV4[1]}/{port}"])
    assert got.split()[0] == hashlib.md5(bulk).hexdigest()
    assert clients == [web.network.ipv4]


async def test_pods_of_one_node_reach_each_other_by_both_families_and_a_services_address(world: World) -> None:
    async with pod(world, "one") as one, pod(world, "two", (4, 6)) as two, pod(world, "six", (6,)) as six:
        assert await one.run(service.asker(two.network.ipv4, "/hi")) == f"/hi from two to {one.network.ipv4}"
        assert await two.run(service.asker(one.network.ipv4, "/hi")) == f"/hi from one to {two.network.ipv4}"
        assert await six.run(service.asker(two.network.ipv6, "/hi")) == f"/hi from two to {six.network.ipv6}"
        assert await two.run(service.asker(six.network.ipv6, "/hi")) == f"/hi from six to {two.network.ipv6}"
        for address in (two.network.ipv4, two.network.ipv6, six.network.ipv6):
            assert (await service.ask(address)).host in ("two", "six")
        with dnat.service("10.96.0.10", 80, two.network.ipv4, service.PORT):
            assert await one.run(service.asker("10.96.0.10", "/svc", 80)) == f"/svc from two to {cni.IPV4[1]}"
        assert (await one.run(service.asker("10.96.0.10", "/svc", 80))).startswith(service.NONE)
        assert len(set().union(*(vnis(each.network.netns) for each in (one, two, six)))) == 3


async def test_nothing_of_the_traffic_is_lost_when_adaptor_and_relay_are_replaced(world: World) -> None:
    async with pod(world, "first") as first:
        await first.echo()
        async with under_traffic(first.network.ipv4):
            await world.stop("adaptor", signal.SIGKILL)
            await world.start_adaptor()
            before = await RelayClient(world.relay_socket).list()
            await world.spawn("relay", "--takeover", "--socket", world.relay_socket)
            async with asyncio.timeout(20):
                while (await RelayClient(world.relay_socket).list()).pid == before.pid:
                    await asyncio.sleep(0.02)
            async with pod(world, "second") as second:
                assert (await service.ask(second.network.ipv4)).host == "second"
                assert len(vnis(first.network.netns) | vnis(second.network.netns)) == 2
        assert (await service.ask(first.network.ipv4)).host == "first"


async def test_an_encrypted_pods_packets_cannot_be_read_on_their_way(directory: Path) -> None:
    if not shutil.which("wireguard-go"):
        pytest.skip("wireguard-go is not installed, and this kernel has no WireGuard: apt-get install wireguard-go")
    settings = {"guest": {"start_timeout": "15s"}, "network": {"encryption": "required"}}
    async with World(directory, settings=settings) as world:
        await world.start_cloud()
        await world.start_adaptor()
        async with pod(world, "secret") as secret:
            await secret.echo()
            with Wiretap("sim-") as tap:
                async with under_traffic(secret.network.ipv4):
                    await service.ask(secret.network.ipv4, "/in-the-clear")
                    await world.stop("adaptor", signal.SIGKILL)
                    await world.start_adaptor()
            assert len(tap.packets) > 20
            assert not any(b"in-the-clear" in packet for packet in tap.packets)
        await clean(world)
