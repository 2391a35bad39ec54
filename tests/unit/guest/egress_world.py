"""A pod, its VM, a cloud and a worker as network namespaces, for what leaves from the VM.

    podns ── eth0 ═══ pod0 ── worker (10.244.1.1, the node at 10.0.0.4, everything beyond: 198.51.100.0/24)
    VM ───── eth0 ═══ vm0 ─── cloud (gateway 10.0.0.1, metadata, internet at 203.0.113.1, another VM at 10.0.0.9)
        └─── eth1 ═══ vm1 ─── second (gateway 10.0.9.1, internet at 203.0.113.1)

The tunnel is a plain veth here: what is tried is which way packets take, and the ends tell it.
"""

import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

from pyroute2 import IPRoute
from pyroute2.nftables.main import NFTables

from adaptor.podnet.plan import Egress, GuestPlan, Interface, Route

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
INTERNET, INTERNET6 = "203.0.113.1", "2001:db8:113::1"
METADATA, METADATA6, WIRESERVER = "169.254.169.254", "fd00:ec2::254", "168.63.129.16"
NODE, NODE_LOCAL_DNS, SERVICE = "10.0.0.4", "169.254.20.10", "10.96.0.10"
OTHER_VM, VM, POD = "10.0.0.9", "10.0.0.5", "10.244.1.5"
POD6, VM6, NODE6, SERVICE6 = "fd00:10::5", "2001:db8:1::5", "2001:db8:1::4", "fd00:20::10"
INSIDE = ("10.244.0.0/16", "10.96.0.0/12")
INSIDE6 = (*INSIDE, "fd00:10::/64", "fd00:20::/112")
GUEST_PORT, OTHER_PORT = 15150, 8080


class Namespace:
    """One network namespace, for as long as it is open."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self.fd = self._thread.submit(_unshare).result()
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        self._sockets: list[socket.socket] = []

    def run(self, work: Callable[[], T]) -> T:
        return self._thread.submit(work).result()

    def ip(self, work: Callable[[Any], T]) -> T:
        def inside() -> T:
            with IPRoute() as ip:
                return work(ip)

        return self.run(inside)

    def aside(self, work: Callable[[Any], T]) -> T:
        """As `ip`, in a thread of its own: while `run` is busy."""

        def inside() -> T:
            if ctypes.CDLL(None, use_errno=True).setns(self.fd, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            with IPRoute() as ip:
                return work(ip)

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(inside).result()

    def listen(self, address: str, port: int, ttl: int = 0) -> None:
        """Tell whoever connects how its address looks from here."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def inside() -> socket.socket:
            listener = socket.create_server((address, port), family=family)
            if ttl and family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
            elif ttl:
                listener.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            return listener

        listener = self.run(inside)
        self._sockets.append(listener)
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()

    def add(self, address: str) -> None:
        """One of its own; it may have it."""
        self.ip(lambda ip: ip.addr("replace", index=1, address=address, prefixlen=128 if ":" in address else 32))

    def sees(self, port: int, address: str = "0.0.0.0") -> socket.socket:
        """A UDP socket, to see whether anything comes."""

        def inside() -> socket.socket:
            found = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            found.bind((address, port))
            found.settimeout(0.3)
            return found

        made = self.run(inside)
        self._sockets.append(made)
        return made

    def ask(self, address: str, port: int = 80, timeout: float = 2.0, source: str = "") -> str:
        """What the listener there says: whom it sees; empty where nobody answers."""

        def inside() -> str:
            try:
                with socket.create_connection((address, port), timeout, (source, 0) if source else None) as connection:
                    return connection.recv(200).decode()
            except OSError:
                return ""

        return self.run(inside)

    def send(self, address: str, port: int, what: bytes = b"x") -> None:
        """One datagram."""

        def inside() -> None:
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(what, (address, port))

        self.run(inside)

    def sysctl(self, path: str, value: int | None = None) -> int:
        def inside() -> int:
            with open(f"/proc/sys/net/{path}", "r+" if value is not None else "r") as file:
                if value is not None:
                    file.write(str(value))
                    return value
                return int(file.read())

        return self.run(inside)

    def state(self) -> list[str]:
        """Its links, routes, rules, and the filter's."""

        def dump(ip: Any) -> list[str]:
            links = [(each.get_attr("IFLA_IFNAME"), each["flags"] & 1) for each in ip.get_links()]
            names = {each["index"]: each.get_attr("IFLA_IFNAME") for each in ip.get_links()}
            routes = [
                (
                    *(each["family"], each["type"], each.get_attr("RTA_TABLE"), each["dst_len"]),
                    *(each.get_attr("RTA_DST"), names.get(each.get_attr("RTA_OIF")) if each["type"] == 1 else ""),
                )
                for family in (2, 10)
                for each in ip.get_routes(family=family)
                # What the kernel adds for IPv6 comes when the other end is up.
                if each.get_attr("RTA_TABLE") != 255 and each.get_attr("RTA_DST") != "fe80::"
            ]
            rules = [
                (each["family"], each.get_attr("FRA_PRIORITY"), each.get_attr("FRA_TABLE"))
                for family in (2, 10)
                for each in ip.get_rules(family=family)
            ]
            with NFTables(nfgen_family=1) as nft:
                filters = [
                    (each.get_attr("NFTA_RULE_TABLE"), each.get_attr("NFTA_RULE_CHAIN")) for each in nft.get_rules()
                ]
            return sorted(map(str, (*links, *routes, *rules, *filters)))

        return self.ip(dump)

    def close(self) -> None:
        for each in self._sockets:
            each.close()
        self._thread.shutdown()
        os.close(self.fd)


class World:
    """`with World() as world`: everything but what is tried."""

    def __init__(self, *, second: bool = False, ipv6: bool = False) -> None:
        self.ipv6 = ipv6
        self._stack = contextlib.ExitStack()
        self.pod, self.vm, self.cloud, self.second, self.worker = (self._namespace() for _ in range(5))
        self._tunnel()
        self._card("eth0", self.cloud, "10.0.0", 0)
        if second:
            self._card("eth1", self.second, "10.0.9", 200)
        if ipv6:
            self._ipv6()
        if ipv6 and second:
            _configure(self.vm, "eth1", ["2001:db8:9::5/64"])
            _configure(self.second, "vm0", ["2001:db8:9::1/64"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def plan(
        self, *, egress: bool = True, nic: bool = False, imds: bool = False, inside: tuple[str, ...] = ()
    ) -> GuestPlan:
        addresses = (f"{POD}/24", f"{POD6}/64") if self.ipv6 else (f"{POD}/24",)
        eth0 = Interface("eth0", "02:00:00:00:00:07", 1400, addresses, (Route("", 4, "10.244.1.1"),))
        inside = inside or (INSIDE6 if self.ipv6 else INSIDE)
        return GuestPlan((eth0,), (7,), 4789, NODE, egress=Egress(inside, nic=nic) if egress else None, imds=imds)

    def behind(self, address: str, gateway: str) -> None:
        """A network inside the pod's, as a container engine makes it."""
        self.inner = self._namespace()
        _veth(self.pod, "inner", self.inner, "eth0")
        _configure(self.pod, "inner", [f"{gateway}/24"])
        _configure(self.inner, "eth0", [f"{address}/24"])
        self.inner.ip(lambda ip: ip.route("add", dst="default", gateway=gateway))
        self.pod.sysctl("ipv4/ip_forward", 1)

    def _namespace(self) -> Namespace:
        made = Namespace()
        self._stack.callback(made.close)
        made.ip(lambda ip: ip.link("set", index=1, state="up"))
        return made

    def _tunnel(self) -> None:
        _veth(self.pod, "eth0", self.worker, "pod0")
        _configure(self.pod, "eth0", [f"{POD}/24"])
        _configure(self.worker, "pod0", ["10.244.1.1/24"])
        self.pod.ip(lambda ip: ip.route("add", dst="198.51.100.7/32", gateway="10.244.1.1"))
        self.pod.ip(lambda ip: ip.route("add", dst="default", gateway="10.244.1.1"))
        elsewhere = (NODE, NODE_LOCAL_DNS, SERVICE, "198.51.100.7", INTERNET, METADATA, WIRESERVER, OTHER_VM)
        _add(self.worker, 1, [f"{each}/32" for each in elsewhere])

    def _card(self, name: str, cloud: Namespace, prefix: str, metric: int) -> None:
        _veth(self.vm, name, cloud, "vm0")
        _configure(self.vm, name, [f"{prefix}.5/24"])
        _configure(cloud, "vm0", [f"{prefix}.1/24"])
        self.vm.ip(lambda ip: ip.route("add", dst="default", gateway=f"{prefix}.1", priority=metric))
        _add(cloud, 1, [f"{each}/32" for each in (INTERNET, METADATA, WIRESERVER, OTHER_VM)])

    def _ipv6(self) -> None:
        for namespace, name, addresses in (
            (self.pod, "eth0", [f"{POD6}/64"]),
            (self.worker, "pod0", ["fd00:10::1/64"]),
            (self.vm, "eth0", [f"{VM6}/64"]),
            (self.cloud, "vm0", ["2001:db8:1::1/64"]),
        ):
            _configure(namespace, name, addresses)
        self.pod.ip(lambda ip: ip.route("add", family=10, dst="default", gateway="fd00:10::1"))
        self.vm.ip(lambda ip: ip.route("add", family=10, dst="default", gateway="2001:db8:1::1"))
        _add(self.worker, 1, [f"{each}/128" for each in (NODE6, SERVICE6, INTERNET6, METADATA6)])
        _add(self.cloud, 1, [f"{each}/128" for each in (INTERNET6, METADATA6)])


def _unshare() -> int:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    with open("/proc/sys/net/ipv6/conf/default/accept_dad", "w") as file:
        file.write("0")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _serve(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, peer = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(peer[0].encode())


def _veth(one: Namespace, name: str, other: Namespace, peer: str) -> None:
    one.ip(lambda ip: ip.link("add", ifname=name, kind="veth", peer={"ifname": peer, "net_ns_fd": other.fd}))


def _configure(namespace: Namespace, name: str, addresses: list[str]) -> None:
    def work(ip: Any) -> None:
        index = ip.link_lookup(ifname=name)[0]
        ip.link("set", index=index, state="up")

    namespace.ip(work)
    _add(namespace, namespace.ip(lambda ip: ip.link_lookup(ifname=name)[0]), addresses)


def _add(namespace: Namespace, index: int, addresses: list[str]) -> None:
    def work(ip: Any) -> None:
        for each in addresses:
            address, _, length = each.partition("/")
            ip.addr("add", index=index, address=address, prefixlen=int(length))

    namespace.ip(work)
