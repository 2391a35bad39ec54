"""The network of a simulated cloud: a router namespace, one link to this one, one to each instance.

    here (the worker)                router (held by this process alone)          an instance
    sim-172-31  172.31.0.4/32 ══════ uplink     172.31.x.y/32 per instance ═════ eth0 172.31.x.y/20
    172.31.0.0/16 via 172.31.0.1     lo: each subnet's gateway                   default via its gateway
                                     lo: 169.254.169.254, metadata
                                     172.31.0.0/16 blackhole

As in a VPC, metadata come from outside the instance, one hop away, and packets to an address that nobody has vanish
without an answer. The router namespace has no name and no process: it goes when this process does, and takes every
link with it.

All of this is blocking and moves the calling thread between namespaces: `namespace.py` keeps one thread for it.
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
_LO: Final = 1  # its index in every namespace
_IMDS_BACKLOG: Final = 128  # connections: all instances may boot at once
_libc: Final = ctypes.CDLL(None, use_errno=True)

_NO_NAMESPACES: Final = (
    "cannot make a network: {error}. Booting instances needs root, or a user and network namespace of one's own:"
    " `peerpods demo` makes them, or `unshare -Urnm peerpods simcloud ...`; or choose --instances api-only"
)


class Network:
    """Made, used and closed in one and the same thread, which is never at home again.

    `metadata` is the socket that listens for all instances' metadata requests; the peer's address says whose.
    """

    def __init__(self, wanted: str = "") -> None:
        """Claim `wanted`, or the first free candidate, in this thread's namespace. Raises SimcloudError."""
        self._stack = ExitStack()
        try:
            with _plain_errors():
                self._home = self._stack.enter_context(IPRoute())
                _call(_libc.unshare, _CLONE_NEWNET | _CLONE_NEWUTS)
                self._router_namespaces = [self._stack.enter_context(_own_namespace(kind)) for kind in ("net", "uts")]
                self._router = self._stack.enter_context(IPRoute())
                self.range = self._claim(wanted)
                self._set_up_home()
                self._set_up_router()
                self.metadata = self._stack.enter_context(socket.create_server(IMDS, backlog=_IMDS_BACKLOG))
        except PermissionError as error:
            self.close()
            raise SimcloudError(_NO_NAMESPACES.format(error=error.strerror)) from error
        except BaseException:
            self.close()
            raise

    @property
    def worker(self) -> IPv4Address:
        """Where instances see this side: the first address a subnet has to give."""
        return self.range[4]

    def close(self) -> None:
        """Take the link away, and with it the router."""
        self._stack.close()

    @contextmanager
    def instance(self, machine: Machine, link: str, *, reachable: bool) -> Iterator[None]:
        """Inside, this thread lives in the instance's new network, with its hostname: what is started there stays
        there. After an error nothing is left. Unless `reachable`, packets to the instance vanish. Raises OSError.
        """
        with ExitStack() as undo, _plain_errors():
            undo.callback(self._to_router)
            _call(_libc.unshare, _CLONE_NEWNET)
            with _own_namespace("net") as namespace:
                self._to_router()
                undo.callback(self.disconnect, link)
                self._wire(machine, link, namespace, reachable=reachable)
                _call(_libc.setns, namespace, _CLONE_NEWNET)
            _call(_libc.unshare, _CLONE_NEWUTS)
            socket.sethostname(machine.hostname)
            _set_up_instance(machine)
            yield
            undo.pop_all()
            self._to_router()

    def disconnect(self, link: str) -> None:
        """Take an instance's links away; those that are not there are fine."""
        for each in (link, _second(link)):
            _unlink(self._router, each)

    def plug(self, machine: Machine, link: str, *, connected: bool) -> None:
        """Take the cable out of an instance, or put it back in; a link that is not there any more is fine.

        Packets on their way are lost, and nobody is told: an address that nobody has at the moment.
        """
        with _plain_errors():
            for name, address, _, _ in _cards(machine, link):
                found = self._router.link_lookup(ifname=name)
                if not found:
                    continue
                self._router.link("set", index=found[0], state="up" if connected else "down")
                if connected:  # the route went with the link
                    self._router.route("replace", dst=f"{address.ip}/32", oif=found[0], scope="link")

    def _claim(self, wanted: str) -> IPv4Network:
        candidates = (IPv4Network(wanted),) if wanted else CANDIDATES
        routes = self._home.get_routes(family=socket.AF_INET)
        used = [ip_network(f"{dst}/{route['dst_len']}") for route in routes if (dst := route.get_attr("RTA_DST"))]
        for candidate in candidates:
            if not any(candidate.overlaps(net) for net in used) and self._link_home(candidate):
                return candidate
        raise SimcloudError(
            f"this network namespace already uses {' and '.join(map(str, candidates))}"
            " (for another simcloud?); end what uses it, or give another /16 with --network"
        )

    def _link_home(self, candidate: IPv4Network) -> bool:
        """Make the link whose name claims the range; False when another simcloud was faster."""
        name = _home_link(candidate)
        peer = {"ifname": "uplink", "net_ns_fd": self._router_namespaces[0], "mtu": MTU}
        try:
            self._home.link("add", ifname=name, kind="veth", mtu=MTU, peer=peer)
        except NetlinkError as error:
            if error.code == errno.EEXIST:
                return False
            raise
        self._stack.callback(_unlink, self._home, name)
        return True

    def _set_up_home(self) -> None:
        index = _index(self._home, _home_link(self.range))
        router = self.range[1]
        self._home.addr("add", index=index, address=str(self.worker), prefixlen=32)
        for each in (_LO, index):  # a fresh namespace's loopback is down, and the API listens there
            self._home.link("set", index=each, state="up")
        self._home.route("add", dst=f"{router}/32", oif=index, scope="link")
        self._home.route("add", dst=str(self.range), gateway=str(router), oif=index)

    def _set_up_router(self) -> None:
        _sysctl("ipv4/ip_forward", 1)
        _sysctl("ipv4/conf/all/proxy_arp", 1)  # instances of one subnet ask for each other; the router answers for all
        uplink = _index(self._router, "uplink")
        for index in (_LO, uplink):
            self._router.link("set", index=index, state="up")
        for address in (str(self.range[1]), IMDS[0]):
            self._router.addr("add", index=_LO, address=address, prefixlen=32)
        self._router.route("add", dst=f"{self.worker}/32", oif=uplink, scope="link")
        self._router.route("add", dst="default", gateway=str(self.worker), oif=uplink)
        self._router.route("add", dst=str(self.range), type="blackhole")

    def _wire(self, machine: Machine, link: str, namespace: int, *, reachable: bool) -> None:
        for name, address, mac, inside in _cards(machine, link):
            peer = {"ifname": inside, "net_ns_fd": namespace, "address": mac, "mtu": MTU}
            self._router.link("add", ifname=name, kind="veth", mtu=MTU, peer=peer)
            index = _index(self._router, name)
            _sysctl(f"ipv4/neigh/{name}/proxy_delay", 0)  # else the router's answers for others wait up to 0.8 s
            self._router.link("set", index=index, state="up")
            self._router.addr("replace", index=_LO, address=str(gateway_of(address)), prefixlen=32)
            if reachable:
                self._router.route("add", dst=f"{address.ip}/32", oif=index, scope="link")

    def _to_router(self) -> None:
        for fd, kind in zip(self._router_namespaces, (_CLONE_NEWNET, _CLONE_NEWUTS), strict=True):
            _call(_libc.setns, fd, kind)


def gateway_of(address: IPv4Interface) -> IPv4Address:
    """A subnet's router: its first address, as in a VPC."""
    return address.network[1]


def _cards(machine: Machine, link: str) -> Iterator[tuple[str, IPv4Interface, str, str]]:
    """The link at the router, address, MAC, and the instance's own name, of each of its interfaces."""
    yield link, machine.address, machine.mac, "eth0"
    if machine.second is not None:
        yield _second(link), *machine.second, "eth1"


def _second(link: str) -> str:
    return f"{link}-2"


def _set_up_instance(machine: Machine) -> None:
    """As DHCP does: the first interface's default route counts, the second's is there for who asks for it."""
    with IPRoute() as inside:
        inside.link("set", index=_LO, state="up")
        for number, (_, address, _, name) in enumerate(_cards(machine, "")):
            index = _index(inside, name)
            inside.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
            inside.link("set", index=index, state="up")
            gateway = str(gateway_of(address))
            metric = {"priority": number * 100} if number else {}
            inside.route("add", dst="default", gateway=gateway, oif=index, **metric)


def _home_link(network: IPv4Network) -> str:
    return "sim-{}-{}".format(*network.network_address.packed)


def _unlink(netlink: IPRoute, link: str) -> None:
    try:
        netlink.link("del", ifname=link)
    except NetlinkError as error:
        if error.code != errno.ENODEV:  # it may have gone with the namespace at its other end
            raise


def _index(netlink: IPRoute, link: str) -> int:
    return int(netlink.link_lookup(ifname=link)[0])


@contextmanager
def _own_namespace(kind: str) -> Iterator[int]:
    """This thread's namespace of that kind, held open."""
    fd = os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _sysctl(path: str, value: int) -> None:
    """Set one of this thread's namespace; /proc/sys/net is always the reader's own."""
    try:
        with open(f"/proc/sys/net/{path}", "w") as file:
            file.write(str(value))
    except OSError as error:
        raise SimcloudError(
            f"cannot set net.{path.replace('/', '.')} in a namespace of its own: {error.strerror}; in a container,"
            " /proc/sys must be writable (a privileged container); or choose --instances api-only"
        ) from error


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Netlink's refusals as OSError."""
    try:
        yield
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error


def _call(function: Any, *arguments: int) -> None:
    """A C function that returns -1 and sets errno. Raises OSError."""
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
