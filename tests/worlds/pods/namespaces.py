"""Network namespaces that live as long as their file descriptor, and what is done inside them."""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

from pyroute2 import IPRoute

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17

# What the machine's own namespace has may be inherited; an address is there at once, and so is each ICMP error.
_SYSCTLS = {
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv4/icmp_ratelimit": 0,
    "ipv6/icmp/ratelimit": 0,
    "ipv6/conf/all/disable_ipv6": 0,
    "ipv6/conf/default/disable_ipv6": 0,
    "ipv6/conf/all/accept_dad": 0,
    "ipv6/conf/default/accept_dad": 0,
    "ipv6/conf/default/router_solicitations": 0,
}


class Namespace:
    """One network namespace, with a netlink socket of its own, which is for the thread that this is made in."""

    def __init__(self, descriptor: int) -> None:
        """Takes over the descriptor."""
        self.descriptor = descriptor
        with self.entered():
            self.ip: Any = IPRoute()

    @classmethod
    def made(cls) -> "Namespace":
        made: list[int] = []
        maker = threading.Thread(target=lambda: made.append(_make()))
        maker.start()
        maker.join()
        namespace = cls(*made)
        with namespace.entered():
            for path, value in _SYSCTLS.items():
                namespace.sysctl(path, value)
        namespace.ip.link("set", index=1, state="up")
        return namespace

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is inside meanwhile. What it opens there stays there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_LIBC.setns(self.descriptor, _CLONE_NEWNET))
            try:
                yield
            finally:
                _checked(_LIBC.setns(home, _CLONE_NEWNET))
        finally:
            os.close(home)

    def settle(self) -> None:
        """This thread is inside from now on."""
        _checked(_LIBC.setns(self.descriptor, _CLONE_NEWNET))

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        with self.entered():
            made = socket.socket(family, kind, protocol)
        made.settimeout(5)
        return made

    def sysctl(self, path: str, value: int) -> None:
        """Of the namespace that this thread is in."""
        with open(f"/proc/sys/net/{path}", "w", encoding="ascii") as file:
            file.write(str(value))

    def forward(self) -> None:
        with self.entered():
            self.sysctl("ipv4/ip_forward", 1)
            self.sysctl("ipv6/conf/all/forwarding", 1)

    def index(self, device: str) -> int:
        (index,) = self.ip.link_lookup(ifname=device)
        return int(index)

    def mac(self, device: str) -> str:
        (link,) = self.ip.get_links(self.index(device))
        return str(link.get("address"))

    def checksums_in_software(self, device: str) -> None:
        """Its packets leave with their checksums written, and none larger than the MTU."""
        value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_STXCSUM, 0))
        request = struct.pack("16sP16x", device.encode(), ctypes.addressof(value))
        with self.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            fcntl.ioctl(asked, _SIOCETHTOOL, request)

    def close(self) -> None:
        self.ip.close()
        os.close(self.descriptor)


def _make() -> int:
    """In a thread that ends there."""
    _checked(_LIBC.unshare(_CLONE_NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
