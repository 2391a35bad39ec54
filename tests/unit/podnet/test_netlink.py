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
from adaptor.podnet.hosts import HostNetworks
from adaptor.podnet.plan import Interface, Neighbour, PodNetwork, Route
from adaptor.podnet.worker import Worker

_SETUP = """
from pyroute2 import IPRoute
with IPRoute() as ip:
    ip.link("set", index=1, state="up")
    ip.link("add", ifname="eth0", kind="veth", peer={"ifname": "far"})
    here = ip.link_lookup(ifname="eth0")[0]
    ip.link("set", index=here, address="02:00:00:00:00:07", mtu=1410, state="up")
    ip.addr("add", index=here, address="10.1.2.3", prefixlen=24)
    ip.addr("add", index=here, local="10.9.9.9", address="10.9.9.8", prefixlen=32)
    ip.route("add", dst="default", gateway="10.1.2.1")
    ip.route("add", dst="10.50.0.0/16", gateway="169.254.1.1", oif=here, flags=4, priority=7, metrics={"mtu": 1280})
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
    worker = Worker(None)
    network = await asyncio.to_thread(worker.describe, pod_netns, [])
    worker.close()
    # the veth's other end is down, so there is exactly one
    assert network == PodNetwork(
        (
            Interface(
                name="eth0",
                hardware_address="02:00:00:00:00:07",
                mtu=1410,
                addresses=("10.1.2.3/24", "10.9.9.9/32"),
                routes=(
                    Route("", 4, gateway="10.1.2.1", protocol=4),
                    Route("10.1.2.0/24", 4, source="10.1.2.3", scope=253, protocol=2),
                    Route("10.9.9.8/32", 4, source="10.9.9.9", scope=253, protocol=2),
                    Route("10.50.0.0/16", 4, gateway="169.254.1.1", protocol=4, metric=7, on_link=True, mtu=1280),
                ),
                neighbours=(Neighbour("10.1.2.1", "02:00:00:00:00:01"),),
                peers=("10.9.9.9=10.9.9.8",),
            ),
        )
    )
    assert os.readlink("/proc/self/ns/net") != os.readlink(pod_netns)


@pytest.mark.netns
async def test_reading_a_namespace_sends_no_signal_and_leaves_no_thread_behind(pod_netns: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("entering another user namespace's network needs root")
    signals: list[int] = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, signals.append, signal.SIGTERM)
    try:
        networks = HostNetworks()
        for _ in range(50):
            await networks.intend(pod_netns)
        await networks.aclose()
        await asyncio.sleep(0)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    assert signals == []
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("podnet")]


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
