"""The demo's own CNI plugin, and the count of what is left."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptor.demo import cni, leftovers, netdump, netns
from adaptor.demo.cni import Bridge, NetworkRefused

pytestmark = pytest.mark.netns


@pytest.fixture
def bridge(directory: Path) -> Iterator[Bridge]:
    bridge = Bridge(directory)
    yield bridge
    bridge.close()


def test_a_pods_namespace_is_as_the_bridge_plugin_leaves_it(bridge: Bridge) -> None:
    with bridge.pod((4, 6)) as pod:
        lines = {" ".join(line.split()[:4]) for line in netdump.dump(pod.netns)}
        addresses = {line.split()[1] for line in lines if line.startswith("address")}
    assert {"link eth0 veth up", "link lo up address=00:00:00:00:00:00"} <= lines
    assert {f"{pod.ipv4}/24", f"{pod.ipv6}/64", "127.0.0.1/8", "::1/128"} < addresses
    assert (pod.ipv4, pod.ipv6, pod.address) == ("10.244.1.2", "fd00:10:244:1::2", "10.244.1.2")


def test_worker_and_pod_reach_each_other_and_the_worker_forwards(bridge: Bridge) -> None:
    with bridge.pod() as pod:
        server = netns.visit(pod.netns, lambda: socket.create_server((pod.ipv4, 80)))
        with server, socket.create_connection((pod.ipv4, 80), timeout=5), server.accept()[0] as client:
            assert client.getpeername()[0] == str(cni.IPV4[1])
        assert Path("/proc/thread-self/net/snmp").read_text().splitlines()[1].split()[1] == "1", "Ip: Forwarding"


def test_an_address_that_was_free_a_moment_ago_is_not_another_pods_at_once(bridge: Bridge) -> None:
    with bridge.pod() as first, bridge.pod() as second:
        pass
    with bridge.pod() as third:
        assert [pod.ipv4 for pod in (first, second, third)] == ["10.244.1.2", "10.244.1.3", "10.244.1.4"]
    assert not bridge._used


def test_pods_and_bridge_leave_nothing(directory: Path) -> None:
    before, mounts = netdump.dump(), Path("/proc/self/mountinfo").read_text()
    bridge = Bridge(directory)
    with bridge.pod(), bridge.pod((4, 6)):
        assert netdump.dump() > before
    bridge.close()
    assert netdump.dump() == before
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert list(directory.iterdir()) == []
    assert Path("/proc/thread-self/net/snmp").read_text().splitlines()[1].split()[1] == "2", "Ip: NotForwarding"


def test_a_network_that_cannot_be_made_is_refused_and_leaves_nothing(bridge: Bridge, directory: Path) -> None:
    with bridge.pod():
        before = netdump.dump()
        bridge._directory = directory / "gone"
        with pytest.raises(NetworkRefused, match="cannot make a pod's network: No such file"), bridge.pod():
            pass
        assert netdump.dump() == before


def test_what_a_pods_tunnel_leaves_is_counted_wherever_it_is(bridge: Bridge, directory: Path) -> None:
    with bridge.pod() as pod:

        def count() -> leftovers.Inventory:
            return leftovers.take([], [str(directory)], f"{directory}/no.db", {"the pod's": pod.netns})

        before = count()
        assert not any(count().added_since(before).values())
        netns.visit(pod.netns, _a_tunnel)
        left = count().added_since(before)
    assert left["tunnels"] == ["the pod's vxlan7"]
    assert left["interfaces"] == ["the pod's vxlan7"]
    assert [line.split(" on ")[0] for line in left["traffic_control"]] == ["the pod's qdisc ingress ffff0000 fffffff1"]
    assert left["nftables"] == []


def _a_tunnel() -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.link("add", ifname="vxlan7", kind="vxlan", vxlan_id=7, vxlan_port=4789)
        ip.tc("add", "ingress", index=ip.link_lookup(ifname="eth0")[0])
