"""A worker's pod network as the bridge CNI plugin leaves it.

    here (the worker)                            a pod's namespace, mounted on a file
    cni0 10.244.1.1/24 ══ veth ═════════════════ eth0 10.244.1.x/24, MTU 1500
         fd00:10:244:1::1/64                     default via 10.244.1.1; with IPv6 the same again
    IP forwarding on

The bridge comes with the first pod and goes with `close`. Addresses are given out in turn, so that one that was free
a moment ago is not another pod's at once: neighbours remember whose it was.
"""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from adaptor.demo import netns
from adaptor.errors import AdaptorError

if TYPE_CHECKING:
    from pyroute2 import IPRoute

BRIDGE: Final = "cni0"
IPV4: Final = IPv4Network("10.244.1.0/24")
IPV6: Final = IPv6Network("fd00:10:244:1::/64")
MTU: Final = 1500  # as the plugin leaves it where nothing else is said
_FORWARD: Final = (Path("/proc/sys/net/ipv4/ip_forward"), Path("/proc/sys/net/ipv6/conf/all/forwarding"))
_SETTLED: Final = 1.0  # seconds; where IPv6 is turned off, it is in vain
_IFA_F_NODAD: Final = 0x02  # nobody else has the address: it is usable at once


class NetworkRefused(AdaptorError):
    """This machine does not let a pod's network be made."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod's network; an address is empty where the family was not asked for."""

    netns: str
    interface: str  # the worker's end
    ipv4: str
    ipv6: str

    @property
    def address(self) -> str:
        """The one that Kubernetes would show."""
        return self.ipv4 or self.ipv6


class Bridge:
    """The plugin, for one worker; pods' namespaces are mounted in `directory`. Blocking, a few milliseconds a pod."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = cycle(range(2, 255))  # hosts of IPV4 besides the bridge
        self._used: set[int] = set()
        self._made: list[Callable[[], None]] = []

    @contextmanager
    def pod(self, families: tuple[int, ...] = (4,)) -> Iterator[Pod]:
        """A pod's namespace with its addresses; afterwards nothing of it is left. Raises NetworkRefused."""
        number = next(number for number in self._numbers if number not in self._used)
        self._used.add(number)
        path = self._directory / f"cni-{number}"
        pod = Pod(
            str(path),
            f"veth{number}",
            str(IPV4[number]) if 4 in families else "",
            str(IPV6[number]) if 6 in families else "",
        )
        try:
            self._add(path, pod)
            try:
                yield pod
            finally:
                self._in_thread(lambda: _delete(pod.interface))
                netns.remove(path)
        finally:
            self._used.discard(number)

    def close(self) -> None:
        """Take the bridge away, and put forwarding back as it was."""
        while self._made:
            self._made.pop()()

    def _add(self, path: Path, pod: Pod) -> None:
        try:
            if not self._made:
                self._in_thread(self._make)
            netns.make(path)
            try:
                self._in_thread(lambda: _plug(pod))
                netns.visit(pod.netns, lambda: _set_up(pod))
                netns.visit(pod.netns, lambda: _settle("eth0"))
                netns.visit(netns.HERE, lambda: _settle(BRIDGE, pod.interface))
            except BaseException:
                self._in_thread(lambda: _delete(pod.interface))
                netns.remove(path)
                raise
        except OSError as error:
            raise NetworkRefused(f"cannot make a pod's network: {error.strerror or error}") from error

    def _make(self) -> None:
        from pyroute2 import IPRoute

        for switch in _FORWARD:
            self._switch(switch)
        with _plain_errors(), IPRoute() as ip:
            ip.link("add", ifname=BRIDGE, kind="bridge", address=_hardware(IPV4[1]), mtu=MTU)
            self._made.append(lambda: self._in_thread(lambda: _delete(BRIDGE)))
            index = _index(ip, BRIDGE)
            _address(ip, index, IPV4[1], IPV4.prefixlen)
            with suppress(OSError):  # a kernel without IPv6 has IPv4 pods all the same
                _address(ip, index, IPV6[1], IPV6.prefixlen)
            ip.link("set", index=index, state="up")

    def _switch(self, switch: Path) -> None:
        """On, where /proc/sys may be written: else pods reach the worker and each other, and nobody beyond."""
        with suppress(OSError):
            before = switch.read_text()
            switch.write_text("1")
            self._made.append(lambda: self._in_thread(lambda: _write(switch, before)))

    def _in_thread(self, work: Callable[[], Any]) -> None:
        """pyroute2 runs an event loop of its own, which a thread that has one already does not bear."""
        with ThreadPoolExecutor(1, thread_name_prefix="cni") as thread:
            thread.submit(work).result()


def _plug(pod: Pod) -> None:
    from pyroute2 import IPRoute

    with _plain_errors(), IPRoute() as ip, open(pod.netns) as namespace:
        peer = {"ifname": "eth0", "mtu": MTU, "net_ns_fd": namespace.fileno()}
        ip.link("add", ifname=pod.interface, kind="veth", mtu=MTU, peer=peer)
        ip.link("set", ifname=pod.interface, master=_index(ip, BRIDGE), state="up")


def _set_up(pod: Pod) -> None:
    from pyroute2 import IPRoute

    with _plain_errors(), IPRoute() as ip:
        eth0 = _index(ip, "eth0")
        if pod.ipv4:
            _address(ip, eth0, IPv4Address(pod.ipv4), IPV4.prefixlen)
        if pod.ipv6:
            _address(ip, eth0, IPv6Address(pod.ipv6), IPV6.prefixlen)
        for index in (1, eth0):
            ip.link("set", index=index, state="up")
        if pod.ipv4:
            ip.route("add", family=socket.AF_INET, dst="default", gateway=str(IPV4[1]), oif=eth0)
        if pod.ipv6:
            ip.route("add", family=socket.AF_INET6, dst="default", gateway=str(IPV6[1]), oif=eth0)


def _settle(*interfaces: str) -> None:
    """Until the kernel has given them their link-local addresses, which it does some milliseconds after they are up."""
    deadline = time.monotonic() + _SETTLED
    while time.monotonic() < deadline:
        try:
            lines = Path("/proc/thread-self/net/if_inet6").read_text().splitlines()
        except FileNotFoundError:
            return  # a kernel without IPv6
        if set(interfaces) <= {line.split()[-1] for line in lines if line.startswith("fe80")}:
            return
        time.sleep(0.001)


def _address(ip: "IPRoute", index: int, address: IPv4Address | IPv6Address, prefix: int) -> None:
    flags = {} if address.version == 4 else {"flags": _IFA_F_NODAD}
    with _plain_errors():
        ip.addr("add", index=index, address=str(address), prefixlen=prefix, **flags)


def _delete(interface: str) -> None:
    """The other end goes with it; one that is gone is fine."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        try:
            with _plain_errors():
                ip.link("del", ifname=interface)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _index(ip: "IPRoute", name: str) -> int:
    return int(ip.link_lookup(ifname=name)[0])


def _hardware(address: IPv4Address) -> str:
    """Of the bridge, which else takes its ports' lowest and changes with them."""
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in address.packed)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Netlink's refusals as OSError."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error
