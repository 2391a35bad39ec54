"""A pod VM's network for tests: namespaces of this thread's own, an uplink to a worker's, and deeds in any of them."""

import asyncio
import contextlib
import ctypes
import functools
import inspect
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from pyroute2 import IPRoute

from adaptor.podnet import netlink
from adaptor.podnet.inspect import describe
from adaptor.podnet.plan import GuestPlan, Interface, Neighbour, PodNetwork, Route
from podvm_images.guest.development_agent import kernel
from podvm_images.guest.network import Network

T = TypeVar("T")

PORT: Final = 4789
VNI: Final = 555_001
WORKER, WORKER_V6 = "10.0.0.1", "fd00::1"
STRANGER, STRANGER_V6 = "10.0.0.3", "fd00::3"  # on the worker's network, and not the worker
OURS, OURS_V6 = "10.0.0.2", "fd00::2"
MAC: Final = "02:00:00:00:00:07"
_VXLAN_VALID: Final = 0x08000000


def plan(*interfaces: Interface, worker: str = WORKER, **more: Any) -> GuestPlan:
    return GuestPlan(interfaces, tuple(range(VNI, VNI + len(interfaces))), PORT, worker, **more)


def bridge(mtu: int = 1400) -> Interface:
    """As the bridge plugin's pods look."""
    return Interface(
        "eth0", MAC, mtu, ("10.244.1.5/24",),
        (Route("10.244.1.0/24", 4, source="10.244.1.5", scope=253, protocol=2), Route("", 4, "10.244.1.1")),
        (Neighbour("10.244.1.1", "02:00:00:00:00:01"),),
    )  # fmt: skip


class Vm:
    """`podns` is where the pod's namespace is to be; `worker` is one that the uplink leads to."""

    def __init__(self, folder: Path) -> None:
        self.podns = str(folder / "podns")
        self.worker = str(folder / "worker")
        self.network = Network(self.podns)
        make_namespace(self.worker)

    def uplink(self, mtu: int = 1500) -> None:
        in_thread(lambda: self._uplink(mtu))
        self.at_worker(lambda: _in_namespace("vm", WORKER, WORKER_V6, STRANGER, STRANGER_V6))

    def _uplink(self, mtu: int) -> None:
        with IPRoute() as ip:
            ip.link("set", index=1, state="up")
            worker = os.open(self.worker, os.O_RDONLY)
            ip.link("add", ifname="ens5", kind="veth", mtu=mtu, peer={"ifname": "vm", "net_ns_fd": worker, "mtu": mtu})
            os.close(worker)
            _up(ip, "ens5", OURS, OURS_V6)

    def at_worker(self, deed: Callable[[], T]) -> T:
        return inside(self.worker, deed)

    def in_pod(self, deed: Callable[[], T]) -> T:
        return inside(self.podns, deed)

    async def lay(self, given: GuestPlan) -> None:
        await self.network.make()
        await self.network.lay(given)

    def found(self) -> PodNetwork:
        """What the worker's own reader makes of the pod's namespace."""

        return self.in_pod(lambda: describe(self.podns, netlink.read_here()))


def in_a_vm(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the test with `vm`, in a thread with network and mount namespaces of its own; threads it starts share them."""

    @functools.wraps(test)
    def wrapped(tmp_path: Path, **given: Any) -> None:
        if os.geteuid() != 0:
            pytest.skip("namespaces of its own for a thread need root: run the tests by `make test`")

        def run() -> None:
            kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET)
            kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_SLAVE)
            asyncio.run(test(Vm(tmp_path), **given))

        in_thread(run)

    # For pytest: the test's own parameters are its fixtures, but `vm` is made here.
    own = [name for name in inspect.signature(test).parameters if name != "vm"]
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ("tmp_path", *own)]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    marked: Callable[..., None] = pytest.mark.netns(wrapped)
    return marked


def in_thread(deed: Callable[[], T]) -> T:
    """In our own namespaces; pyroute2 runs a loop of its own, which none may be around."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(deed).result()


def inside(namespace: str, deed: Callable[[], T]) -> T:
    """In a thread that enters the network namespace, and ends."""

    def enter() -> T:
        descriptor = os.open(namespace, os.O_RDONLY)
        try:
            assert ctypes.CDLL(None).setns(descriptor, kernel.CLONE_NEWNET) == 0
        finally:
            os.close(descriptor)
        return deed()

    return in_thread(enter)


def make_namespace(path: str) -> None:
    """As a unit of the image, or `ip netns`, does."""

    def make() -> None:
        Path(path).touch()
        kernel.unshare(kernel.CLONE_NEWNET)
        kernel.mount("/proc/thread-self/ns/net", path, "", kernel.MS_BIND)

    in_thread(make)


def set_up() -> None:
    """Loopback, as every VM has it."""
    with IPRoute() as ip:
        ip.link("set", index=1, state="up")


def _in_namespace(device: str, *addresses: str) -> None:
    with IPRoute() as ip:
        _up(ip, device, *addresses)


def _up(ip: Any, device: str, *addresses: str) -> None:
    (index,) = ip.link_lookup(ifname=device)
    ip.link("set", index=index, state="up")
    for address in addresses:
        prefix = 64 if ":" in address else 24
        ip.addr("add", index=index, address=address, prefixlen=prefix, flags=0x02)


def far_end(worker: str, peer: str, mtu: int, *addresses: str) -> None:
    """At the worker: a tunnel's other end, which has these addresses of the pod's network itself."""
    six = "6" if ":" in peer else ""
    with IPRoute() as ip:
        ip.link("add", ifname="far", kind="vxlan", vxlan_id=VNI, vxlan_port=PORT, vxlan_learning=False, mtu=mtu,
                address="02:00:00:00:00:01", **{f"vxlan_group{six}": peer, f"vxlan_local{six}": worker})  # fmt: skip
        _up(ip, "far", *addresses)


def forged(source: str, target: str, payload: bytes, pod: str = "10.244.1.5", port: int = 7) -> None:
    """Send a VXLAN packet to the VM by hand, from `source`: in it, a datagram for the pod."""
    udp = struct.pack(">HHHH", 9, port, 8 + len(payload), 0) + payload
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    ip += ipaddress.ip_address("10.244.1.1").packed + ipaddress.ip_address(pod).packed
    total = sum(struct.unpack(">10H", ip))
    ip = ip[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + ip[12:]
    frame = bytes.fromhex(MAC.replace(":", "")) + bytes.fromhex("020000000001") + b"\x08\x00" + ip + udp
    with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.bind((source, 0))
        out.sendto(struct.pack(">II", _VXLAN_VALID, VNI << 8) + frame, (target, PORT))


def until_received(receiver: socket.socket, send: Callable[[], object]) -> tuple[bytes, str]:
    """What comes of sending it until something comes, and from whom: the kernel lets a new cable pass nothing for up to
    seconds, where many are plugged in at a time."""
    for _ in range(100):
        send()
        with contextlib.suppress(TimeoutError):
            data, sender = receiver.recvfrom(1 << 16)
            return data, sender[0]
    raise AssertionError("nothing came")


def listener(address: str, port: int) -> socket.socket:
    """For datagrams; it waits as long for one as it is worth, where another can be sent."""
    found = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    found.settimeout(0.2)
    found.bind((address, port))
    return found
