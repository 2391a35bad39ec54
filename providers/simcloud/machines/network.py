"""The network of a simulated cloud: a router namespace, one link to this one, one to each instance.

    here (the worker)                router (held by this process alone)          an instance
    sim-172-31  172.31.0.4/32 ══════ uplink     lo: each subnet's gateway ══════ eth0 172.31.x.y/20
    172.31.0.0/16 via 172.31.0.1     172.31.x.y/32 per instance                  lo   169.254.169.254/32
                                     172.31.0.0/16 blackhole

As in a VPC, packets to an address that nobody has vanish without an answer. The router namespace has no name and
no process: it goes when this process does, and takes every link with it.

All of this is blocking and changes the namespaces of the calling thread: `namespace.py` keeps one thread for it.
"""

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_network
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from providers.simcloud.machines.base import Machine
from providers.simcloud.options import SimcloudError

# EC2's default VPC first; the others when this namespace already uses that range.
CANDIDATES: Final = tuple(IPv4Network(f"172.{n}.0.0/16") for n in range(31, 15, -1))
IMDS: Final = ("169.254.169.254", 80)
MTU: Final = 9001  # as in a VPC
_CLONE_NEWNET: Final = 0x40000000
_CLONE_NEWUTS: Final = 0x04000000
_EXISTS: Final = 17
_IMDS_BACKLOG: Final = 16
_libc: Final = ctypes.CDLL(None, use_errno=True)

_NO_NAMESPACES: Final = (
    "cannot make network namespaces: {error}. Booting instances needs root, or a user namespace of one's own:"
    " run `peerpods demo`, which makes one, or `unshare -Urnm peerpods simcloud ...`;"
    " or choose --instances api-only"
)


class Network:
    """Made, used and closed in one and the same thread."""

    def __init__(self, wanted: str = "") -> None:
        """Claim `wanted`, or the first free candidate, in this thread's namespace. Raises SimcloudError."""
        self._stack = ExitStack()
        try:
            self._home = self._stack.enter_context(IPRoute())
            self.range = self._claim(wanted)
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """Take the link away, and with it the router."""
        self._stack.close()

    @contextmanager
    def instance(self, machine: Machine, link: str) -> Iterator[socket.socket]:
        """Inside: this thread lives in the instance's new network (and its hostname), whatever is started there
        stays in it. The value is the socket that listens for its metadata requests. On an error nothing is left.
        """
        try:
            _call(_libc.unshare, _CLONE_NEWNET | _CLONE_NEWUTS)
            socket.sethostname(machine.hostname)
            with _descriptor("net") as namespace:
                self._wire(machine, link, namespace)
            listener = socket.create_server(IMDS, backlog=_IMDS_BACKLOG)
            try:
                yield listener
            except BaseException:
                listener.close()
                raise
        except BaseException:
            self._to_router()
            self.disconnect(link)
            raise
        self._to_router()

    def connect(self, machine: Machine, link: str) -> None:
        """Let packets for the instance through; until then they vanish."""
        _sysctl(f"ipv4/neigh/{link}/proxy_delay", 0)  # else the router's ARP answers wait up to 0.8 s
        self._router.route("add", dst=f"{machine.address.ip}/32", oif=self._index(link), scope="link")

    def disconnect(self, link: str) -> None:
        """Take an instance's link away; one that is not there is fine."""
        for index in self._router.link_lookup(ifname=link):
            self._router.link("del", index=index)

    @property
    def worker(self) -> IPv4Address:
        """Where instances see this side: the first address a subnet has to give."""
        return self.range[4]

    def _claim(self, wanted: str) -> IPv4Network:
        candidates = (IPv4Network(wanted),) if wanted else CANDIDATES
        routes = self._home.get_routes(family=socket.AF_INET)
        used = [ip_network(f"{dst}/{route['dst_len']}") for route in routes if (dst := route.get_attr("RTA_DST"))]
        for candidate in candidates:
            if not any(candidate.overlaps(net) for net in used) and self._build(candidate):
                return candidate
        raise SimcloudError(
            f"this network namespace already uses {' and '.join(map(str, candidates))}"
            " (another simcloud?); end what uses it, or give another /16 with --network"
        )

    def _build(self, candidate: IPv4Network) -> bool:
        """Make router and link; False when another simcloud was faster."""
        name = "sim-{}-{}".format(*candidate.network_address.packed)
        with ExitStack() as stack:
            here = {kind: stack.enter_context(_descriptor(kind)) for kind in ("net", "uts")}
            try:
                _call(_libc.unshare, _CLONE_NEWNET)
            except PermissionError as error:
                raise SimcloudError(_NO_NAMESPACES.format(error=error)) from error
            stack.callback(_call, _libc.setns, here["net"], _CLONE_NEWNET)
            self._router_fd = stack.enter_context(_descriptor("net"))
            self._router = stack.enter_context(IPRoute())
            try:
                self._home.link(
                    "add", ifname=name, kind="veth", mtu=MTU,
                    peer={"ifname": "uplink", "net_ns_fd": self._router_fd, "mtu": MTU},
                )  # fmt: skip
            except NetlinkError as error:
                if error.code == _EXISTS:
                    return False
                raise
            stack.callback(self._home.link, "del", ifname=name)
            self.range, self._home_uts = candidate, here["uts"]
            self._configure_home(name, candidate)
            self._configure_router(candidate)
            self._stack.push(stack.pop_all())
        return True

    def _configure_home(self, name: str, candidate: IPv4Network) -> None:
        index = self._home.link_lookup(ifname=name)[0]
        self._home.addr("add", index=index, address=str(self.worker), prefixlen=32)
        self._home.link("set", index=index, state="up")
        self._home.route("add", dst=f"{candidate[1]}/32", oif=index, scope="link")
        self._home.route("add", dst=str(candidate), gateway=str(candidate[1]), oif=index)

    def _configure_router(self, candidate: IPv4Network) -> None:
        _sysctl("ipv4/ip_forward", 1)
        _sysctl("ipv4/conf/all/proxy_arp", 1)  # instances of one subnet ask for each other; the router answers for all
        uplink = self._index("uplink")
        self._router.link("set", index=1, state="up")
        self._router.link("set", index=uplink, state="up")
        self._router.addr("add", index=1, address=str(candidate[1]), prefixlen=32)
        self._router.route("add", dst=f"{self.worker}/32", oif=uplink, scope="link")
        self._router.route("add", dst="default", gateway=str(self.worker), oif=uplink)
        self._router.route("add", dst=str(candidate), type="blackhole")

    def _wire(self, machine: Machine, link: str, namespace: int) -> None:
        gateway = gateway_of(machine.address)
        self._router.link(
            "add", ifname=link, kind="veth", mtu=MTU,
            peer={"ifname": "eth0", "net_ns_fd": namespace, "address": machine.mac, "mtu": MTU},
        )  # fmt: skip
        self._router.addr("replace", index=1, address=str(gateway), prefixlen=32)
        self._router.link("set", index=self._index(link), state="up")
        with IPRoute() as inside:
            eth0 = inside.link_lookup(ifname="eth0")[0]
            inside.link("set", index=1, state="up")
            inside.addr("add", index=1, address=IMDS[0], prefixlen=32)
            inside.addr("add", index=eth0, address=str(machine.address.ip), prefixlen=machine.address.network.prefixlen)
            inside.link("set", index=eth0, state="up")
            inside.route("add", dst="default", gateway=str(gateway), oif=eth0)

    def _to_router(self) -> None:
        _call(_libc.setns, self._router_fd, _CLONE_NEWNET)
        _call(_libc.setns, self._home_uts, _CLONE_NEWUTS)

    def _index(self, link: str) -> int:
        return int(self._router.link_lookup(ifname=link)[0])


def gateway_of(address: IPv4Interface) -> IPv4Address:
    """A subnet's router: its first address, as in a VPC."""
    return address.network[1]


@contextmanager
def _descriptor(kind: str) -> Iterator[int]:
    """This thread's namespace of that kind, held open."""
    fd = os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _sysctl(path: str, value: int) -> None:
    try:
        with open(f"/proc/sys/net/{path}", "w") as file:
            file.write(str(value))
    except OSError as error:
        raise SimcloudError(
            f"cannot set net.{path.replace('/', '.')} in a namespace of its own: {error}; in a container, /proc/sys"
            " must be writable (a privileged container), or choose --instances api-only"
        ) from error


def _call(function: Any, *arguments: int) -> None:
    """A C function that returns -1 and sets errno. Raises the OSError."""
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), errno.errorcode.get(number, ""))
