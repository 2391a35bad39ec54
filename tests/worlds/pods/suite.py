"""The traffic that every pod must have, whichever namespace its processes are in."""

import errno

from tests.worlds.pods import bpf, build, nft, traffic
from tests.worlds.pods.build import FAR_MTU, NEIGHBOUR, POD, Pods
from tests.worlds.pods.namespaces import Namespace

SERVICE = {4: "10.96.0.10", 6: "fd96::10"}
_SERVICE_PORT, _BACKEND_PORT, _ALLOWED, _DENIED, _CLOSED = 80, 7000, 7001, 7002, 7003


def run(pods: Pods, inside: Namespace, most: int = 65535) -> None:
    """All checks, with the pod's processes in `inside`; `most`: larger packets are not sent to it."""
    for wire in range(len(pods.layout.wires)):
        own, neighbours = pods.addresses(POD, wire), pods.addresses(NEIGHBOUR, wire)
        for address, neighbour in zip(own, neighbours, strict=True):
            same_host(pods, inside, address, neighbour, most)
    for far in pods.layout.far:
        (address,) = (each for each in pods.addresses(POD) if build.family(each) == build.family(far))
        other_host(pods, inside, address, far)
        if pods.layout.wires[0].host.services:
            service(pods, inside, address, far)
        outside(inside, far)
    policy(pods, inside)


def same_host(pods: Pods, inside: Namespace, address: str, neighbour: str, most: int = 65535) -> None:
    """Another pod of the host."""
    traffic.ping(inside, neighbour)
    traffic.ping(pods.neighbour, address)
    traffic.ping(pods.host, address)  # as kubelet's probes
    assert traffic.bulk(inside, pods.neighbour, neighbour, _ALLOWED) == address
    assert traffic.bulk(pods.neighbour, inside, address, _ALLOWED) == neighbour
    traffic.datagram_at_mtu(inside, pods.neighbour, neighbour, most)
    traffic.datagram_at_mtu(pods.neighbour, inside, address, most)
    traffic.unreachable(inside, neighbour, _CLOSED, errno.ECONNREFUSED)
    traffic.unreachable(pods.neighbour, address, _CLOSED, errno.ECONNREFUSED)


def other_host(pods: Pods, inside: Namespace, address: str, far: str) -> None:
    """A pod of another host, beyond a narrower link."""
    traffic.ping(inside, far)
    traffic.ping(pods.far, address)
    assert traffic.bulk(inside, pods.far, far, _ALLOWED) == address
    assert traffic.bulk(pods.far, inside, address, _ALLOWED) == far
    traffic.datagram_at_mtu(pods.far, inside, address, FAR_MTU)


def service(pods: Pods, inside: Namespace, address: str, far: str) -> None:
    """The host's own DNAT, as kube-proxy's."""
    virtual = SERVICE[build.family(far)]
    with nft.service(pods.host, virtual, _SERVICE_PORT, far, _BACKEND_PORT):
        assert traffic.bulk(inside, pods.far, virtual, _SERVICE_PORT, at=(far, _BACKEND_PORT)) == address


def outside(inside: Namespace, far: str) -> None:
    """What is answered on the way to another host."""
    traffic.path_mtu(inside, far, _CLOSED, FAR_MTU)
    traffic.unreachable(inside, far, _CLOSED, errno.EHOSTUNREACH, hops=2)  # its host, where the packet's time is over
    traffic.unreachable(inside, far, _CLOSED, errno.ECONNREFUSED)


def policy(pods: Pods, inside: Namespace) -> None:
    """A drop at the host's end of the pod's interface stops what it means, and nothing else."""
    (neighbour, *_) = pods.addresses(NEIGHBOUR)
    traffic.bulk(inside, pods.neighbour, neighbour, _DENIED, size=1)
    drop = bpf.drop if pods.layout.wires[0].host.redirect_peer else nft.drop
    with drop(pods.host, build.veth(POD), _DENIED):
        traffic.refused(inside, neighbour, _DENIED)
        traffic.bulk(inside, pods.neighbour, neighbour, _ALLOWED, size=1)


def on_the_wire(pods: Pods, inside: Namespace, port: int, mtu: int) -> None:
    """Between worker and VM, where nobody's hardware helps: the pod's TCP segments, both ways, have their right
    checksums and none is larger than the MTU that the VM has."""
    pods.host.checksums_in_software("to-vm")
    pods.vm.checksums_in_software("eth0")
    for address, neighbour in zip(pods.addresses(POD), pods.addresses(NEIGHBOUR), strict=True):
        with traffic.captured(pods.vm, "eth0", port) as segments:
            traffic.bulk(inside, pods.neighbour, neighbour, _ALLOWED, size=1 << 17)
        for source in (address, neighbour):
            found = [each for each in segments if each.source == source]
            assert max(each.length for each in found) == mtu
            assert [each for each in found if not each.right] == []
