"""The bridge that VMs hang on, and their links: taps for QEMU, veth pairs for namespaces. Blocking.

    here     peerpods0 10.123.0.1/24 ══ pp-…  tap ═══════ the VM's card, which asks for its address by DHCP
                                     ══ pp-…  veth ══════ eth0 of a namespace

Called in threads that have no event loop: pyroute2 runs one of its own.
"""

import ctypes
import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from providers.local import requests

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_CAP_NET_ADMIN: Final = 12
_CLONE_NEWNET: Final = 0x40000000
_CLONE_NEWUTS: Final = 0x04000000
_LO: Final = 1


def may_make() -> bool:
    """Whether this process may make links."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False


def ensure_bridge(name: str, subnet: str) -> None:
    """Make it and give it the subnet's first address; as often as you like. Raises OSError."""
    network = ipaddress.IPv4Network(subnet)
    with _netlink() as ip:
        _unless_there(lambda: ip.link("add", ifname=name, kind="bridge", address=requests.mac_of(str(network[1]))))
        index = _index(ip, name)
        _unless_there(lambda: ip.addr("add", index=index, address=str(network[1]), prefixlen=network.prefixlen))
        with suppress(OSError):  # VMs have IPv4 only; a kernel may have it only, too
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        ip.link("set", index=index, state="up")


def add_tap(name: str, bridge: str) -> None:
    """A tap that stays until it is deleted; one that is there is taken. Raises OSError."""
    with _netlink() as ip:
        _unless_there(lambda: ip.link("add", ifname=name, kind="tuntap", mode="tap"))
        ip.link("set", ifname=name, master=_index(ip, bridge), state="up")


def remove(name: str) -> None:
    """One that is gone is fine. Raises OSError."""
    try:
        with _netlink() as ip:
            ip.link("del", index=_index(ip, name))
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.EPERM):  # without the right to, there is none of ours
            raise


def exists(name: str) -> bool:
    """Whether there is a link of this name here."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


@contextmanager
def namespace(link: str, bridge: str, subnet: str, address: str, mac: str, hostname: str) -> Iterator[None]:
    """Move this thread, for good, into a new network namespace on the bridge: what is started inside stays there.

    The thread must be one that ends afterwards. Raises OSError, having taken the link away.
    """
    network = ipaddress.IPv4Network(subnet)
    libc = ctypes.CDLL(None, use_errno=True)
    with _netlink() as home:
        if libc.unshare(_CLONE_NEWNET | _CLONE_NEWUTS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "unshare")
        new = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            peer = {"ifname": "eth0", "net_ns_fd": new, "address": mac}
            home.link("add", ifname=link, kind="veth", peer=peer)
            home.link("set", ifname=link, master=_index(home, bridge), state="up")
            with _netlink() as inside:
                index = _index(inside, "eth0")
                inside.addr("add", index=index, address=address, prefixlen=network.prefixlen)
                for each in (_LO, index):
                    inside.link("set", index=each, state="up")
                inside.route("add", dst="default", gateway=str(network[1]), oif=index)
            socket.sethostname(hostname)
            yield
        except BaseException:
            with _netlink_at(home):
                if found := home.link_lookup(ifname=link):
                    home.link("del", index=found[0])
            raise
        finally:
            os.close(new)


@contextmanager
def _netlink() -> Iterator["IPRoute"]:
    """Netlink of this thread's namespace; its refusals as OSError."""
    from pyroute2 import IPRoute

    with IPRoute() as ip, _netlink_at(ip):
        yield ip


@contextmanager
def _netlink_at(ip: "IPRoute") -> Iterator[None]:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error


def _unless_there(do: object) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        do()  # type: ignore[operator]
    except NetlinkError as error:
        if error.code not in (errno.EEXIST, errno.EBUSY):
            raise


def _index(ip: "IPRoute", name: str) -> int:
    found = ip.link_lookup(ifname=name)
    if not found:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
    return int(found[0])
