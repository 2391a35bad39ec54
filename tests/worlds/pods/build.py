"""Makes a layout for real.

far pod ── other host ── host ─┬─ pod        the host is the worker: the pod is the one that a VM is to run
                          │    └─ neighbour
                          VM
"""

import contextlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from tests.worlds.pods import bpf, layouts
from tests.worlds.pods.layouts import Layout, Via, Wire
from tests.worlds.pods.namespaces import Namespace

POD, NEIGHBOUR = 5, 6  # the pods' numbers on the host
HOST_ADDRESSES = ("172.31.66.1/24", "fd66::1/64")
VM_ADDRESSES = ("172.31.66.2/24", "fd66::2/64")
FAR_MTU = 1300  # of the far pod's interface: less than on the way there
_BETWEEN_HOSTS = (("172.31.67.1/24", "fd67::1/64"), ("172.31.67.2/24", "fd67::2/64"))
_FAMILY = {4: 2, 6: 10}
_PERMANENT = 0x80
_NODAD = 0x02
_KERNEL = 2  # a route's protocol
_FAR_GATEWAY = {4: layouts.STATIC_V4, 6: layouts.STATIC_V6}
_OUTWARD_TABLE = 2


@dataclass(frozen=True, slots=True)
class Pods:
    """The namespaces of a layout."""

    layout: Layout
    host: Namespace
    other: Namespace
    vm: Namespace
    pod: Namespace
    neighbour: Namespace
    far: Namespace

    def addresses(self, number: int, wire: int = 0) -> list[str]:
        """Of the pod with the number, without prefix lengths."""
        return [each.format(n=number).partition("/")[0] for each in self.layout.wires[wire].addresses]


def veth(number: int, wire: int = 0) -> str:
    """The host's end of a pod's interface."""
    return f"pod{number}-{wire}"


@contextlib.contextmanager
def built(layout: Layout) -> Iterator[Pods]:
    with contextlib.ExitStack() as stack:

        def made() -> Namespace:
            namespace = Namespace.made()
            stack.callback(namespace.close)
            return namespace

        pods = Pods(layout, made(), made(), made(), made(), made(), made())
        mtu = layout.underlay_mtu
        join(pods.host, "to-vm", HOST_ADDRESSES, pods.vm, "eth0", VM_ADDRESSES, mtu)
        join(pods.host, "to-other", _BETWEEN_HOSTS[0], pods.other, "eth0", _BETWEEN_HOSTS[1], mtu)
        pods.host.forward()
        pods.other.forward()
        _other_host(pods)
        for index, wire in enumerate(layout.wires):
            _host(pods.host, wire)
            for number, pod in ((POD, pods.pod), (NEIGHBOUR, pods.neighbour)):
                _attach(pods.host, pod, wire, number, veth(number, index))
            if wire.host.redirect_peer:
                for number, pod in ((POD, pods.pod), (NEIGHBOUR, pods.neighbour)):
                    from_others = [veth(POD + NEIGHBOUR - number, index)] + (["to-other"] if number == POD else [])
                    (address,) = (each.format(n=number).partition("/")[0] for each in wire.addresses)
                    bpf.hand_over(pods.host, from_others, address, pod.mac(wire.name), veth(number, index))
        yield pods


def family(address: str) -> int:
    return 6 if ":" in address else 4


def join(
    one: Namespace, name: str, addresses: tuple[str, ...], two: Namespace, far: str, theirs: tuple[str, ...], mtu: int
) -> None:
    """By a veth, with addresses at both ends."""
    one.ip.link("add", ifname=name, kind="veth", mtu=mtu, peer={"ifname": far, "net_ns_fd": two.descriptor, "mtu": mtu})
    for namespace, device, own in ((one, name, addresses), (two, far, theirs)):
        index = namespace.index(device)
        namespace.ip.link("set", index=index, state="up")
        for address in own:
            add_address(namespace, index, address)


def add_address(namespace: Namespace, index: int, address: str) -> None:
    own, _, prefix = address.partition("/")
    namespace.ip.addr("add", index=index, address=own, prefixlen=int(prefix), flags=_NODAD if ":" in own else 0)


def add_route(namespace: Namespace, index: int, via: Via, *, table: int = 254) -> None:
    which = family(via.destination or via.gateway)
    arguments = {"gateway": via.gateway} if via.gateway else {}
    arguments |= {"prefsrc": via.source} if via.source else {}
    metrics = {"metrics": {"mtu": via.mtu}} if via.mtu else {}
    namespace.ip.route(
        "add",
        family=_FAMILY[which],
        dst=via.destination or "default",
        oif=index,
        scope=via.scope,
        table=table,
        **arguments,
        **metrics,
    )


def add_neighbour(namespace: Namespace, index: int, address: str, mac: str) -> None:
    namespace.ip.neigh("add", family=_FAMILY[family(address)], dst=address, lladdr=mac, ifindex=index, state=_PERMANENT)


def _other_host(pods: Pods) -> None:
    """With the far pod, which is routed to."""
    other, far = pods.other, pods.far
    join(other, "pod", (), far, "eth0", tuple(f"{a}/{_whole(a)}" for a in pods.layout.far), FAR_MTU)
    inside, outside, up = far.index("eth0"), other.index("pod"), other.index("eth0")
    for address in pods.layout.far:
        which = family(address)
        gateway = _FAR_GATEWAY[which]
        add_route(other, outside, Via(f"{address}/{_whole(address)}", scope=layouts.LINK if which == 4 else 0))
        add_route(far, inside, Via(f"{gateway}/{_whole(gateway)}", scope=layouts.LINK if which == 4 else 0))
        add_route(far, inside, Via("", gateway))
        add_neighbour(far, inside, gateway, other.mac("pod"))
        ours, theirs = (each[which == 6].partition("/")[0] for each in _BETWEEN_HOSTS)
        add_route(other, up, Via("", ours))
        add_route(pods.host, pods.host.index("to-other"), Via("", theirs))


def _whole(address: str) -> int:
    return 128 if ":" in address else 32


def _host(host: Namespace, wire: Wire) -> None:
    """What all pods share."""
    if wire.host.bridge:
        host.ip.link("add", ifname=wire.host.bridge, kind="bridge", mtu=wire.mtu)
        index = host.index(wire.host.bridge)
        host.ip.link("set", index=index, state="up")
        for address in wire.host.addresses:
            add_address(host, index, address)
    if wire.host.router:
        add_address(host, 1, wire.host.router)


def _attach(host: Namespace, pod: Namespace, wire: Wire, number: int, name: str) -> None:
    """As a CNI plugin does when it is called for the pod."""
    mac = {"address": wire.mac.format(n=number)} if wire.mac else {}
    peer = {"ifname": wire.name, "net_ns_fd": pod.descriptor, "mtu": wire.mtu, **mac}
    ours = {"address": wire.host.mac} if wire.host.mac else {}
    host.ip.link("add", ifname=name, kind="veth", mtu=wire.mtu, peer=peer, **ours)
    outside, inside = host.index(name), pod.index(wire.name)
    if wire.host.bridge:
        host.ip.link("set", index=outside, master=host.index(wire.host.bridge), state="up")
    else:
        _route_to(host, outside, wire, number, name)
    pod.ip.link("set", index=inside, state="up")
    for address in wire.addresses:
        add_address(pod, inside, address.format(n=number))
        if not wire.connected:
            network = ipaddress.ip_interface(address.format(n=number)).network
            which = _FAMILY[family(address)]
            pod.ip.route("del", family=which, dst=str(network), oif=inside, scope=layouts.LINK, proto=_KERNEL)
    for via in sorted(wire.routes, key=lambda each: bool(each.gateway)):
        add_route(pod, inside, Via(via.destination, via.gateway, via.source.format(n=number), via.scope, via.mtu))
    for address, hardware in wire.neighbours:
        add_neighbour(pod, inside, address, hardware.format(mac=host.mac(name)))


def _route_to(host: Namespace, index: int, wire: Wire, number: int, name: str) -> None:
    with host.entered():
        if wire.host.proxy:
            host.sysctl(f"ipv4/conf/{name}/proxy_arp", 1)
            host.sysctl(f"ipv4/neigh/{name}/proxy_delay", 0)
    host.ip.link("set", index=index, state="up")
    for address in wire.host.addresses:
        add_address(host, index, address)
    for each in wire.addresses:
        address = each.format(n=number).partition("/")[0]
        add_route(host, index, Via(f"{address}/{_whole(address)}", scope=layouts.LINK if family(address) == 4 else 0))
        if wire.host.main_rule:
            host.ip.rule("add", table=254, dst=address, dst_len=32, priority=512)
            host.ip.rule("add", table=_OUTWARD_TABLE, src=address, src_len=32, priority=1536)
    if wire.host.main_rule and not list(host.ip.get_routes(table=_OUTWARD_TABLE, family=_FAMILY[4])):
        gateway = _BETWEEN_HOSTS[1][0].partition("/")[0]
        add_route(host, host.index("to-other"), Via("", gateway), table=_OUTWARD_TABLE)
