"""What a pod's tunnel costs: throughput and latency through it, plain and encrypted, beside the bare veth of a pod that
runs on the worker; and the CPU that it takes to build and to remove one, beside forked ip, tc and iptables.

    client on the worker ── veth ── pod's namespace                                              bare
                                    pod's namespace ── VXLAN ── veth ── VM's namespace           plain
                                    pod's namespace ── VXLAN in WireGuard ── VM's namespace      encrypted

Everything is on this machine, both ends of the encryption too, and shares its cores.
"""

import asyncio
import itertools
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from adaptor import names
from adaptor.config_network import Network
from adaptor.podnet import wireguard, wireguard_choice
from adaptor.podnet.encryption import Encryption
from adaptor.podnet.hosts import HostNetworks
from adaptor.podnet.plan import GuestAnswer, GuestPlan, Tunnel, WireGuard, guest_plan_from_json, to_json
from adaptor.podnet.wireguard_device import Endpoint
from tests.bench._report import Target, load, quantile
from tests.podnet.world import World, with_ip

_CPU: Final = 10.0  # milliseconds, for building and for removing
_VM: Final = "10.0.0.2"
_CLIENT: Final = "10.1.255.254"  # the worker's address that the pods' networks know
_PORT: Final = 9000
_CHUNK: Final = bytes(1 << 18)
_MS: Final = 1000.0
_NUMBERS: Final = itertools.count(1)  # VNIs: the far ends stay until the end


@dataclass(frozen=True, slots=True)
class Path:
    """What was measured on one way to the pod."""

    throughput: float  # gigabits of TCP payload a second
    latency: tuple[float, float]  # microseconds for a small question and its answer: median, p99


def run(seconds: float, rounds: int, pods: int) -> list[Target]:
    """Print both tables."""
    print(f"{rounds} rounds, interleaved; {load()}\n")
    world = World()
    world.worker.netlink(_client)
    try:
        _paths(world, seconds, rounds)
        print()
        return _costs(world, pods)
    finally:
        world.close()


def _client(ip: Any) -> None:
    ip.addr("add", index=1, address=_CLIENT, prefixlen=32)


# throughput and latency


def _paths(world: World, seconds: float, rounds: int) -> None:
    lacking = wireguard_choice.kernel_wants() and wireguard_choice.userspace_wants()
    kinds = ["bare", "plain"] + ([] if lacking else ["encrypted"])
    found: dict[str, list[Path]] = {kind: [] for kind in kinds}
    number = 0
    for _ in range(rounds):
        for kind in kinds:
            number += 1
            pod = world.pod(number)
            # on the worker's own thread, which has a folder for wireguard-go's socket
            found[kind].append(world.worker.do(_round, world, kind, pod, number, seconds))
    print(f"  {'':22}{'Gbit/s':>9}{'of bare':>9}{'µs p50':>9}{'µs p99':>9}")
    base = median(path.throughput for path in found["bare"])
    for kind, paths in found.items():
        through = median(path.throughput for path in paths)
        p50, p99 = (median(path.latency[which] for path in paths) for which in (0, 1))
        print(f"  {kind:22}{through:9.2f}{through / base:9.0%}{p50:9.0f}{p99:9.0f}")
    if lacking:
        print(f"  encrypted: not measured: {lacking}")


def _round(world: World, kind: str, pod: str, number: int, seconds: float) -> Path:
    address = world.address(number)
    if kind == "bare":
        with _server(world, pod, address):
            return _measured(address, seconds)
    if kind == "plain":
        return asyncio.run(_through(world, pod, address, seconds, None, None))
    seal = Encryption.open("auto")
    far = world.vm.do(lambda: Endpoint(wireguard_choice.choose("auto"), names.WIREGUARD_PORT))
    try:
        return asyncio.run(_through(world, pod, address, seconds, seal, far))
    finally:
        world.vm.do(far.delete)


async def _through(
    world: World, pod: str, address: str, seconds: float, seal: Encryption | None, far: Endpoint | None
) -> Path:
    given = Network(encryption="required" if seal else "off", first_vni=next(_NUMBERS))
    networks = HostNetworks(given, seal)
    tunnel = await networks.reached(await networks.intend(pod), _VM)
    await networks.open(tunnel)
    told = guest_plan_from_json(await networks.plan(tunnel, None, imds=False))
    if far is not None and told.wireguard is not None:
        key = world.vm.do(far.ensure)
        world.vm.do(far.put, wireguard.guest_peer(told.wireguard, told.worker))
        tunnel = networks.answered(tunnel, to_json(GuestAnswer(WireGuard(key, names.WIREGUARD_PORT))))
    inside = _guest(world, told)
    try:
        await networks.connect(tunnel, 5.0)
        with _server(world, inside, address):
            return _measured(address, seconds)
    finally:
        await networks.remove(tunnel)
        await networks.aclose()


def _guest(world: World, plan: GuestPlan) -> str:
    """The VM's half; the path of its namespace."""
    descriptor = world.namespace()
    world.keep(descriptor)
    path = f"/proc/{os.getpid()}/fd/{descriptor}"
    (interface,) = plan.interfaces
    remote = {"vxlan_group6" if ":" in plan.worker else "vxlan_group": plan.worker}

    def device(ip: Any) -> None:
        ip.link(
            "add", ifname=interface.name, kind="vxlan", vxlan_id=plan.vnis[0], vxlan_port=plan.port,
            vxlan_learning=False, net_ns_fd=descriptor, address=interface.hardware_address, **remote,
        )  # fmt: skip

    def dress(ip: Any) -> None:
        index = ip.link_lookup(ifname=interface.name)[0]
        ip.link("set", index=index, mtu=interface.mtu, state="up")
        for address in interface.addresses:
            host, _, prefix = address.partition("/")
            ip.addr("add", index=index, address=host, prefixlen=int(prefix), flags=0x02 if ":" in host else 0)

    world.vm.netlink(device)
    world.inside(path, lambda: with_ip(dress))
    return path


@contextmanager
def _server(world: World, netns: str, address: str) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.bench._network", address]
    far = world.inside(netns, lambda: subprocess.Popen(command, stdout=subprocess.PIPE))
    with far:
        assert far.stdout is not None
        far.stdout.readline()
        try:
            yield
        finally:
            far.kill()


def _serve(address: str) -> None:
    """At the far end: take all that a connection brings, and answer what is small."""
    with socket.create_server((address, _PORT)) as server:
        print("ready", flush=True)
        while True:
            link, _ = server.accept()
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with link:
                while octets := link.recv(1 << 18):
                    if len(octets) == 1:
                        link.send(octets)


def _measured(address: str, seconds: float) -> Path:
    with socket.create_connection((address, _PORT), timeout=10, source_address=(_CLIENT, 0)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trips = []
        end = time.perf_counter() + seconds / 2
        while (began := time.perf_counter()) < end:
            link.send(b"?")
            link.recv(1)
            trips.append((time.perf_counter() - began) * 1e6)
        sent, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            sent += link.send(_CHUNK)
        link.shutdown(socket.SHUT_WR)
        link.recv(1)  # the far end has had all of it
        took = time.perf_counter() - began
    return Path(sent * 8 / took / 1e9, (quantile(trips, 0.5), quantile(trips, 0.99)))


# building and removing


def _costs(world: World, pods: int) -> list[Target]:
    paths = [world.pod(10_000 + number) for number in range(pods)]
    cpu, wall = world.worker.do(lambda: asyncio.run(_built(world, paths)))
    print(f"{pods} pods, one after the other, median (ms)")
    print(f"  {'':42}{'CPU':>9}{'wall':>9}")
    for what in cpu:
        print(f"  {what:42}{median(cpu[what]):9.2f}{median(wall[what]):9.2f}")
    built, removed = (median(cpu[what]) for what in ("built", "removed"))
    print(f"  {'build and remove, by forked programs':42}{_forked(world, paths[0])}")
    return [
        Target("CPU to build one pod's network, median", built, _CPU, "ms"),
        Target("CPU to remove one pod's network, median", removed, _CPU, "ms"),
    ]


async def _built(world: World, paths: list[str]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    cpu: dict[str, list[float]] = {}
    wall: dict[str, list[float]] = {}
    networks = HostNetworks()

    async def timed(what: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter(), time.process_time()
        done = await work()
        wall.setdefault(what, []).append((time.perf_counter() - began[0]) * _MS)
        cpu.setdefault(what, []).append((time.process_time() - began[1]) * _MS)
        return done

    await networks.remove(await networks.intend(paths[0]))  # imports
    for path in paths:
        tunnel: Tunnel = await timed("intend: read the namespace", lambda: networks.intend(path))  # noqa: B023
        tunnel = await timed("reached", lambda: networks.reached(tunnel, _VM))  # noqa: B023
        await timed("open: table, device", lambda: networks.open(tunnel))  # noqa: B023
        await timed("plan", lambda: networks.plan(tunnel, None, imds=False))  # noqa: B023
        await asyncio.to_thread(world.answer, tunnel)
        await timed("connect: redirects, probe", lambda: networks.connect(tunnel, 5.0))  # noqa: B023
        for found in (cpu, wall):
            found.setdefault("built", []).append(sum(times[-1] for what, times in found.items() if what not in _SUMS))
        world.forget(tunnel)
        await timed("removed", lambda: networks.remove(tunnel))  # noqa: B023
    await networks.aclose()
    return cpu, wall


_SUMS: Final = frozenset({"built", "removed"})


def _forked(world: World, pod: str) -> str:
    """The same deeds by the programs that administrators use, one process each."""
    missing = [program for program in ("ip", "tc", "iptables", "nsenter") if shutil.which(program) is None]
    if missing:
        return f"   not measured: {', '.join(missing)} missing"
    inside = ["nsenter", f"--net={pod}"]
    match = "udp --dport 4789 -m u32 --u32 0x14=0x877f8"
    redirect = "parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev"
    steps = [
        (f"ip link add ppv type vxlan id 990000 remote {_VM} dstport 4789", []),
        (f"ip link set ppv netns {pod} name vxlan1", []),
        ("ip link set vxlan1 up", inside),
        ("tc qdisc add dev vxlan1 ingress", inside),
        ("tc qdisc add dev eth0 ingress", inside),
        (f"tc filter add dev vxlan1 {redirect} eth0", inside),
        (f"tc filter add dev eth0 {redirect} vxlan1", inside),
        (f"iptables -t raw -A OUTPUT -d {_VM} -p {match} -j NOTRACK", []),
        (f"iptables -t raw -A PREROUTING -s {_VM} -p {match} -j NOTRACK", []),
        (f"iptables -t raw -D PREROUTING -s {_VM} -p {match} -j NOTRACK", []),
        (f"iptables -t raw -D OUTPUT -d {_VM} -p {match} -j NOTRACK", []),
        ("tc qdisc del dev eth0 ingress", inside),
        ("ip link del vxlan1", inside),
    ]

    def work() -> str:
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        for step, prefix in steps:
            done = subprocess.run([*prefix, *step.split()], capture_output=True, text=True, check=False)
            if done.returncode:
                return f"   not measured: {step}: {done.stderr.strip()}"
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return f"{used * _MS:9.2f}{(time.perf_counter() - began) * _MS:9.2f}   {len(steps)} processes"

    return world.worker.do(work)


if __name__ == "__main__":
    _serve(sys.argv[1])
