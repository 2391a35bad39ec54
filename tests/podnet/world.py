"""A worker, its pods and their VMs as namespaces, and everything that the kernel tells of one of them, to be compared."""

import asyncio
import ctypes
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from adaptor.podnet.exchange import NETLINK_NETFILTER, NETLINK_ROUTE, Exchange, attribute, attributes, message, pairs
from adaptor.podnet.plan import Tunnel
from tests.unit.podnet.netns import Host

T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000
# rtnetlink's dumps: request, its header, the attributes that change by themselves (counters and times)
_DUMPS: Final = {
    "links": (18, 16, {7, 23, 35, 36, 47, 48}),
    "addresses": (22, 8, {6}),
    "routes": (26, 12, {12}),
    "rules": (34, 12, set[int]()),
    "neighbours": (30, 12, {3}),
    "qdiscs": (38, 20, {3, 4, 7}),
    "namespaces": (90, 4, set[int]()),
}
_AF_SPEC, _AF_INET6, _INET6_COUNTERS = 26, 10, {3, 5, 6}
_FILTERS, _ACTIONS = 46, 50
_PARENTS: Final = (0xFFFFFFF2, 0xFFFFFFF3)
_TABLES, _CHAINS, _RULES, _SETS, _ELEMENTS = 1, 4, 7, 10, 13
_NUD_PERMANENT: Final = 0x80
_RS_SENT: Final = 0x10

Dump = dict[str, list[Any]]


class World:
    """One worker and the network that its VMs are in: eth0 of the worker is 10.0.0.1 and fd00::1, of the VMs' host
    10.0.0.2 and fd00::2."""

    def __init__(self) -> None:
        self.worker, self.vm = Host("worker"), Host("vm")
        self._held: list[int] = []
        self._workshop = ThreadPoolExecutor(max_workers=1, thread_name_prefix="workshop")
        # Devices get no address by themselves, some time after they were made.
        self.worker.do(lambda: Path("/proc/sys/net/ipv6/conf/default/addr_gen_mode").write_text("1"))
        with open(self.vm.path, "rb") as there:
            peer = {"ifname": "eth0", "net_ns_fd": there.fileno()}
            self.worker.netlink(lambda ip: ip.link("add", ifname="eth0", kind="veth", peer=peer))
        self.worker.up("eth0", "10.0.0.1/24", "fd00::1/64")
        self.vm.up("eth0", "10.0.0.2/24", "fd00::2/64")

    def close(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)
        self._workshop.shutdown()
        self.worker.close()
        self.vm.close()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """In the worker's namespace, with its threads; the worker's own stays free."""
        return self.inside(self.worker.path, lambda: asyncio.run(work()))

    def everything(self, pod: str, *, sysctls: bool = False) -> Dump:
        """What the kernel tells of the worker and of a pod."""
        worker = self.inside(self.worker.path, lambda: dump(sysctls=sysctls))
        inside = self.inside(pod, lambda: dump(sysctls=sysctls))
        return {f"worker {kind}": rows for kind, rows in worker.items()} | {
            f"pod {kind}": rows for kind, rows in inside.items()
        }

    def left(self, before: Dump, pod: str, *, sysctls: bool = False) -> dict[str, tuple[list[Any], list[Any]]]:
        """What differs from `before`. A filter's action goes a moment after the filter: that is waited for."""
        end = time.monotonic() + 2.0
        while (found := changed(before, self.everything(pod, sysctls=sysctls))) and time.monotonic() < end:
            time.sleep(0.005)
        return found

    def pod(self, number: int, *, interfaces: int = 1) -> str:
        """The path of a pod's namespace: eth0, eth1, ... at pod<number>.0, ... of the worker, 10.1.x.y/16 and fd10::."""
        descriptor = self.namespace()  # which the workshop is in now
        self._held.append(descriptor)

        def cables(ip: Any) -> None:
            for place in range(interfaces):
                name = f"pod{number}.{place}"
                peer = {"ifname": f"eth{place}", "net_ns_fd": descriptor, "address": _mac(number, place)}
                ip.link("add", ifname=name, kind="veth", peer=peer)
                index = _link(ip, name).get("index")
                ip.link("set", index=index, state="up")
                ip.route("add", dst=f"{self.address(number, place)}/32", oif=index)

        def dress(ip: Any) -> None:
            for place in range(interfaces):
                index = _link(ip, f"eth{place}").get("index")
                ip.addr("add", index=index, address=self.address(number, place), prefixlen=16)
                for address in (_ipv6(number, place), f"fe80::{number:x}:{place}"):
                    ip.addr("add", index=index, address=address, prefixlen=64, flags=0x02)
                ip.link("set", index=index, state="up")
            ip.route("add", dst="default", gateway="10.1.255.254")
            _settled(ip, [f"eth{place}" for place in range(interfaces)], solicited=True)

        ends = [f"pod{number}.{place}" for place in range(interfaces)]
        self.worker.netlink(cables)
        self._workshop.submit(with_ip, dress).result()
        self.worker.netlink(lambda ip: _settled(ip, ends))
        return f"/proc/{os.getpid()}/fd/{descriptor}"

    def keep(self, descriptor: int) -> None:
        """Until the world ends."""
        self._held.append(descriptor)

    def namespace(self) -> int:
        """The descriptor of a bare one, which ends when that is closed."""
        return self._workshop.submit(_namespace).result()

    @staticmethod
    def address(number: int, place: int = 0) -> str:
        """A pod's IPv4 address on one of its interfaces."""
        high, low = divmod(number, 200)
        return f"10.{place + 1}.{high}.{low + 2}"

    def inside(self, path: str, work: Callable[[], T]) -> T:
        """In that namespace, on a thread that ends there."""
        return elsewhere(path, work)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Every VM's half as far as a probe sees it: one program that answers whatever ARP comes by any tunnel."""
        stop = threading.Event()
        link = self.vm.do(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        link.bind(("10.0.0.2", 4789))
        link.settimeout(0.05)

        def serve() -> None:
            while not stop.is_set():
                try:
                    packet, worker = link.recvfrom(2000)
                except TimeoutError:
                    continue
                vxlan, source, arp = packet[:8], packet[14:20], packet[22:50]
                if packet[20:22] == b"\x08\x06":
                    reply = arp[:6] + b"\0\2" + bytes(6) + arp[24:28] + arp[8:14] + arp[14:18]
                    link.sendto(vxlan + source + bytes.fromhex("020000000001") + b"\x08\x06" + reply, (worker[0], 4789))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            link.close()

    def answer(self, tunnel: Tunnel, *, family: int = 4) -> None:
        """The VM's half: a device for each cord, which has the pod's MAC and addresses. Many pods' VMs may be one."""

        def deed(ip: Any) -> None:
            for place, cord in enumerate(tunnel.cords):
                number = self.number_of(tunnel)
                name = f"v{cord.vni}"
                remote = {"vxlan_group": tunnel.worker} if ":" not in tunnel.worker else {"vxlan_group6": tunnel.worker}
                ip.link(
                    "add",
                    ifname=name,
                    kind="vxlan",
                    vxlan_id=cord.vni,
                    vxlan_port=tunnel.port,
                    vxlan_learning=False,
                    address=_mac(number, place),
                    **remote,
                )
                index = ip.link_lookup(ifname=name)[0]
                ip.link("set", index=index, state="up")
                if family == 4:
                    ip.addr("add", index=index, address=self.address(number, place), prefixlen=32)
                else:
                    ip.addr("add", index=index, address=_ipv6(number, place), prefixlen=64, flags=0x02)

        self.vm.netlink(deed)

    def number_of(self, tunnel: Tunnel) -> int:
        """Of the pod whose tunnel that is."""
        interface = tunnel.cords[0].interface
        mac = self.inside(tunnel.netns, lambda: with_ip(lambda ip: _link(ip, interface).get("address")))
        return int(mac.replace(":", "")[2:8], 16)

    def forget(self, tunnel: Tunnel) -> None:
        """The VM is gone."""

        def deed(ip: Any) -> None:
            for cord in tunnel.cords:
                for index in ip.link_lookup(ifname=f"v{cord.vni}"):
                    ip.link("del", index=index)

        self.vm.netlink(deed)


def _namespace() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/sys/net/ipv6/conf/default/addr_gen_mode").write_text("1")  # addresses are what the test gives, at once
    return os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def elsewhere(path: str, work: Callable[[], T]) -> T:
    """In the namespace at that path, on a thread that ends there."""

    def visit() -> T:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(path, "rb") as there:
            if libc.setns(there.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        return work()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(visit).result()


def with_ip(deed: Callable[[Any], T]) -> T:
    """With pyroute2's IPRoute, where this thread is."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        return deed(ip)


def _link(ip: Any, name: str) -> Any:
    return ip.link("get", ifname=name)[0]


def _settled(ip: Any, names: list[str], *, solicited: bool = False) -> None:
    """A link's state follows its carrier a moment later; an address of IPv6, even one that is not to be tried first, is
    complete when the kernel has asked for routers there."""
    for name in names:
        while True:
            link = _link(ip, name)
            asked = link.get(("af_spec", "af_inet6", "inet6_flags")) or 0
            if link.get("operstate") == "UP" and (asked & _RS_SENT or not solicited):
                break
            time.sleep(0.001)


def _mac(number: int, place: int) -> str:
    return ":".join(f"{byte:02x}" for byte in struct.pack(">BBHBB", 2, 0, number, place, 1))


def _ipv6(number: int, place: int) -> str:
    return f"fd1{place}::{number + 2:x}"


# everything that the kernel tells


def dump(*, sysctls: bool = False) -> Dump:
    """Of the namespace that this thread is in, without what changes by itself: counters, times, entries that were
    learnt."""
    found: Dump = {}
    with Exchange(NETLINK_ROUTE) as route:
        for name, (kind, header, volatile) in _DUMPS.items():
            rows = route.dump(message(kind, 0, bytes(header)))
            found[name] = sorted(_row(name, body, header, volatile) for body in rows if _stays(name, body))
        indexes = [struct.unpack_from("=i", row[0], 4)[0] for row in found["links"]]
        found["filters"] = [
            _row("filters", body, 20, {2})
            for index in indexes
            for parent in _PARENTS
            for body in route.dump(message(_FILTERS, 0, struct.pack("=BxxxiIII", 0, index, 0, parent, 0)))
        ]
        wanted = attribute(1 | 0x8000, attribute(1 | 0x8000, attribute(1, b"mirred\0")))
        found["actions"] = [
            kind for body in route.dump(message(_ACTIONS, 0, bytes(4) + wanted)) for kind, _ in _listed(body)
        ]
    with Exchange(NETLINK_NETFILTER) as netfilter:
        for name, kind in {"tables": _TABLES, "chains": _CHAINS, "nft rules": _RULES, "sets": _SETS}.items():
            # the header ends with the ruleset's generation, which any change moves on
            found[name] = [body[:2] + body[4:] for body in netfilter.dump(message(10 << 8 | kind, 0, bytes(4)))]
        found["elements"] = [
            sorted(
                element
                for body in netfilter.dump(message(10 << 8 | _ELEMENTS, 0, set_[:2] + bytes(2) + _named(set_[2:])))
                for element in pairs(attributes(body[4:]).get(3, b""))
            )
            for set_ in found["sets"]
        ]
    if sysctls:
        found["sysctls"] = list(_sysctls())
    return found


def _named(set_: bytes) -> bytes:
    told = attributes(set_)
    return attribute(1, told[1]) + attribute(2, told[2])


def _listed(body: bytes) -> list[tuple[int, bytes]]:
    return list(pairs(attributes(body[4:]).get(1, b"")))


def _stays(name: str, body: bytes) -> bool:
    return name != "neighbours" or bool(struct.unpack_from("=H", body, 8)[0] & _NUD_PERMANENT)


def _row(name: str, body: bytes, header: int, volatile: set[int]) -> tuple[bytes, tuple[tuple[int, bytes], ...]]:
    kept = [(kind, value) for kind, value in pairs(body[header:]) if kind not in volatile]
    if name == "links":
        kept = [(kind, _settings(value) if kind == _AF_SPEC else value) for kind, value in kept]
    return body[:header], tuple(kept)


def _settings(families: bytes) -> bytes:
    found = b""
    for family, values in pairs(families):
        inner = [(k, v) for k, v in pairs(values) if family != _AF_INET6 or k not in _INET6_COUNTERS]
        found += attribute(family, b"".join(attribute(k, v) for k, v in inner))
    return found


def _sysctls() -> Iterator[tuple[str, str]]:
    """What a tunnel could have changed; not the state of connection tracking and caches."""
    for path in sorted(Path("/proc/sys/net").rglob("*")):
        if path.is_file() and os.access(path, os.R_OK) and not path.name.endswith(("_count", "flush", "_allocated")):
            try:
                yield str(path), path.read_text()
            except OSError:
                continue


def changed(before: Dump, after: Dump) -> dict[str, tuple[list[Any], list[Any]]]:
    """By kind: what is gone, and what is new."""
    return {
        kind: ([row for row in before[kind] if row not in rows], [row for row in rows if row not in before[kind]])
        for kind, rows in after.items()
        if rows != before[kind]
    }
