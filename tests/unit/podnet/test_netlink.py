"""Real namespaces, read by real netlink."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptor.errors import InvalidRequest
from adaptor.podnet.netlink import HostNetworks

_SETUP = """
from pyroute2 import IPRoute
with IPRoute() as ip:
    ip.link("set", index=1, state="up")
    ip.link("add", ifname="eth0", kind="veth", peer={"ifname": "far"})
    here, far = ip.link_lookup(ifname="eth0")[0], ip.link_lookup(ifname="far")[0]
    ip.link("set", index=here, address="02:00:00:00:00:07", mtu=1410, state="up")
    ip.link("set", index=far, state="up")
    ip.addr("add", index=here, address="10.1.2.3", prefixlen=24)
    ip.route("add", dst="default", gateway="10.1.2.1")
    ip.neigh("add", dst="10.1.2.1", lladdr="02:00:00:00:00:01", ifindex=here, state=0x80)
print("ready", flush=True)
input()
"""


@pytest.fixture
def pod_netns() -> Iterator[str]:
    program = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", _SETUP]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield f"/proc/{process.pid}/ns/net"
        process.kill()


@pytest.mark.netns
async def test_a_pods_namespace_is_read_as_it_is(pod_netns: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("entering another user namespace's network needs root")
    network = await HostNetworks().describe(pod_netns)
    # the veth's other end has no address, so there is exactly one
    assert (network.interface, network.address, network.hardware_address, network.mtu) == (
        "eth0",
        "10.1.2.3/24",
        "02:00:00:00:00:07",
        1410,
    )
    assert {(r.destination, r.gateway, r.protocol) for r in network.routes} >= {("10.1.2.0/24", "", 2)}
    assert [(n.address, n.hardware_address) for n in network.neighbours] == [("10.1.2.1", "02:00:00:00:00:01")]
    assert os.readlink("/proc/self/ns/net") != os.readlink(pod_netns)


@pytest.mark.netns
async def test_reading_a_namespace_sends_no_signal_and_leaves_no_thread_behind(pod_netns: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("entering another user namespace's network needs root")
    signals: list[int] = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, signals.append, signal.SIGTERM)
    try:
        for _ in range(50):
            await HostNetworks().describe(pod_netns)
        await asyncio.sleep(0)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    assert signals == []
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("netns")]


def test_a_namespace_that_is_not_there_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="gone cannot be opened: No such file"):
        HostNetworks().check(str(tmp_path / "gone"))


def test_a_plain_file_is_no_namespace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match="is not a network namespace"):
        HostNetworks().check(str(tmp_path / "file"))


def test_another_kind_of_namespace_is_no_network_namespace() -> None:
    with pytest.raises(InvalidRequest, match="is not a network namespace"):
        HostNetworks().check("/proc/self/ns/uts")


def test_ones_own_namespace_is_one() -> None:
    HostNetworks().check("/proc/self/ns/net")
