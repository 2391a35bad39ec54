"""What a WireGuard device is besides WireGuard: a link with an address and a route, by pyroute2."""

import errno
import fcntl
import ipaddress
import os
import socket
import struct
import subprocess
from typing import Any, Final, Self

from adaptor.errors import Unavailable
from adaptor.podnet import wireguard

_BLACKHOLE_METRIC: Final = 4096  # behind the device's own route, whose is 256
_NODAD: Final = 0x02  # IFA_F_NODAD: whose address it is follows from the key
_IFF_UP: Final = 0x1
_AF_INET6: Final = 10
_SIOCGIFFLAGS: Final = 0x8913
_IFREQ: Final = struct.Struct("16sH22x")


class Links:
    """Links, addresses and routes of one device. Raises Unavailable."""

    def __init__(self, device: str) -> None:
        self._device = device

    def __enter__(self) -> Self:
        from pyroute2 import IPRoute

        with telling("open netlink"):
            self._ip = IPRoute()
        return self

    def __exit__(self, *_: object) -> None:
        self._ip.close()

    def kind(self) -> str | None:
        """wireguard, tun, ...; None: there is no such device."""
        link = self._link()
        if link is None:
            return None
        info = link.get("linkinfo")
        return str(info.get("kind") if info else "device")

    def add(self, kind: str) -> None:
        with telling(f"make {self._device}", but=errno.EEXIST):
            self._ip.link("add", ifname=self._device, kind=kind)

    def delete(self) -> None:
        if (link := self._link()) is not None:
            with telling(f"delete {self._device}", but=errno.ENODEV):
                self._ip.link("del", index=link.get("index"))

    def dress(self, inner: str) -> None:
        """Up, with this address; and what is for others of our network goes by it or nowhere."""
        link = self._link()
        if link is None:
            raise Unavailable(f"{self._device} was gone as soon as it was made")
        index = link.get("index")
        with telling(f"set up {self._device}"):
            self._ip.link("set", index=index, mtu=wireguard.DEVICE_MTU)
            self._flush(index, but=inner)
            with telling(f"give {self._device} its address", but=errno.EEXIST):
                prefix = wireguard.NETWORK.prefixlen
                self._ip.addr("add", index=index, address=inner, prefixlen=prefix, flags=_NODAD)
            with telling("make the route that keeps encrypted traffic in", but=errno.EEXIST):
                self._ip.route("add", **_BLACKHOLE)
            self._ip.link("set", index=index, state="up")

    def strip(self) -> None:
        """Down, without an address."""
        if (link := self._link()) is not None:
            with telling(f"take down {self._device}"):
                self._flush(link.get("index"))
                self._ip.link("set", index=link.get("index"), state="down")

    def open_blackhole(self) -> None:
        with telling("delete the route that kept encrypted traffic in", but=errno.ESRCH):
            self._ip.route("del", **_BLACKHOLE)

    def _flush(self, index: int, but: str = "") -> None:
        """Take its addresses of our network away."""
        for row in self._ip.get_addr(family=_AF_INET6, index=index):
            address = row.get("address")
            if ipaddress.IPv6Address(address) in wireguard.NETWORK and address != but:
                self._ip.addr("del", index=index, address=address, prefixlen=row.get("prefixlen"))

    def _link(self) -> Any:
        with telling(f"look for {self._device}"):
            found = self._ip.link_lookup(ifname=self._device)
            return next(iter(self._ip.get_links(found[0])), None) if found else None


def is_up(device: str) -> bool:
    """By the oldest of ways, which costs next to nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(device.encode(), 0))
        except OSError:
            return False
    return bool(_IFREQ.unpack(answer)[1] & _IFF_UP)


_BLACKHOLE: Final = {
    "dst": str(wireguard.NETWORK),
    "type": "blackhole",
    "priority": _BLACKHOLE_METRIC,
    "family": _AF_INET6,
}


class telling:  # noqa: N801 - a context manager, used as a word
    """Make of what is refused an Unavailable that says what was being done; the errno `but` is as good as done."""

    def __init__(self, deed: str, but: int = 0) -> None:
        self._deed = deed
        self._but = but

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        from pyroute2.netlink.exceptions import NetlinkError

        match error:
            case NetlinkError():
                number, why = error.code, os.strerror(error.code)
            case subprocess.TimeoutExpired():
                number, why = 0, f"it takes longer than {error.timeout:.0f} s"
            case OSError():
                number, why = error.errno or 0, error.strerror or str(error)
            case _:
                return False
        if self._but and number == self._but:
            return True
        raise Unavailable(f"cannot {self._deed}: {why}") from None
