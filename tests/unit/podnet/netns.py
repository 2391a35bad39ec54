"""Hosts of a test's own: network namespaces, each held by a thread that lives in it, and cables between them."""

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")
_CLONE_NEWNET: Final = 0x40000000
_CLONE_NEWNS: Final = 0x00020000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 0x40000
_ETH_P_ALL: Final = 3
_MADE: Final = 0xFFBF  # of a link's flags, those that somebody sets; whether it runs shows some time after
_SO_RCVBUFFORCE: Final = 33


class Host:
    """A namespace. `do` runs what it is given there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self.path = self.do(self._enter)

    def do(self, deed: Callable[..., T], *arguments: Any, **named: Any) -> T:
        return self._thread.submit(deed, *arguments, **named).result()

    def start(self, deed: Callable[..., T], *arguments: Any) -> "Future[T]":
        return self._thread.submit(deed, *arguments)

    def close(self) -> None:
        self._thread.shutdown()

    def netlink(self, deed: Callable[[Any], T]) -> T:
        """With pyroute2's IPRoute."""
        from pyroute2 import IPRoute

        def inside() -> T:
            with IPRoute() as ip:
                return deed(ip)

        return self.do(inside)

    def up(self, device: str, *addresses: str, **more: Any) -> None:
        def deed(ip: Any) -> None:
            index = ip.link_lookup(ifname=device)[0]
            for address in addresses:
                host, _, prefix = address.partition("/")
                ip.addr("add", index=index, address=host, prefixlen=int(prefix), flags=0x02 if ":" in host else 0)
            ip.link("set", index=index, state="up", **more)

        self.netlink(deed)

    def names(self) -> set[str]:
        return {link.get("ifname") for link in self.netlink(lambda ip: ip.get_links())}

    def dump(self) -> tuple[list[str], ...]:
        """Links, addresses and routes, to be compared."""

        def deed(ip: Any) -> tuple[list[str], ...]:
            links = sorted(f"{x.get('ifname')} {x.get('flags') & _MADE} {x.get('mtu')}" for x in ip.get_links())
            addresses = sorted(f"{x.get('index')} {x.get('address')}/{x.get('prefixlen')}" for x in ip.get_addr())
            routes = sorted(
                f"{x.get('dst')}/{x.get('dst_len')} {x.get('type')} {x.get('oif')} {x.get('priority')}"
                for family in (2, 10)
                for x in ip.get_routes(family=family)
                if x.get("dst") != "ff00::"
            )
            return links, addresses, routes

        return self.netlink(deed)

    def _enter(self) -> str:
        _call("unshare", _CLONE_NEWNET | _CLONE_NEWNS)
        # Of its own too, as on a host: where userspace WireGuards have their sockets.
        _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
        os.makedirs("/run/wireguard", exist_ok=True)
        _call("mount", b"none", b"/run/wireguard", b"tmpfs", 0, None)
        # No link-local addresses, which come some time after a device is up: dumps are compared.
        Path("/proc/sys/net/ipv6/conf/default/addr_gen_mode").write_text("1")
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            ip.link("set", index=1, state="up")
        return f"/proc/self/task/{threading.get_native_id()}/ns/net"


def _call(name: str, *arguments: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def cable(one: Host, one_name: str, other: Host, other_name: str, mtu: int = 1500) -> None:
    with open(other.path, "rb") as netns:

        def deed(ip: Any) -> None:
            peer = {"ifname": other_name, "net_ns_fd": netns.fileno(), "mtu": mtu}
            ip.link("add", ifname=one_name, kind="veth", mtu=mtu, peer=peer)

        one.netlink(deed)


@contextmanager
def capture(host: Host, device: str) -> Iterator[list[bytes]]:
    """Every frame that passes there; the list is complete when this ends."""
    frames: list[bytes] = []

    def begin() -> socket.socket:
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        listener.bind((device, 0))
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
        return listener

    listener = host.do(begin)
    try:
        yield frames
    finally:
        listener.setblocking(False)
        try:
            while True:
                frames.append(listener.recv(1 << 16))
        except BlockingIOError:
            listener.close()


def ping6(address: str, size: int = 56, timeout: float = 3.0) -> bool:
    """In the calling thread's namespace."""
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as link:
        link.settimeout(timeout)
        request = struct.pack("!BBHHH", 128, 0, 0, 7, 1) + b"ping" * (size // 4)
        link.sendto(request, (address, 0))
        try:
            while True:
                answer, sender = link.recvfrom(1 << 16)
                if answer[0] == 129 and sender[0] == address:
                    return answer[8:] == request[8:]
        except TimeoutError:
            return False
