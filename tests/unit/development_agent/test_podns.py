"""Containers whose Spec names the pod's network namespace, in a VM that has one."""

import sys
from collections.abc import AsyncIterator, Iterator, Mapping

import pytest

from adaptor import names
from tests.unit.development_agent.shim import Shim, container_request, process
from tests.unit.development_agent.vm import Vm

pytestmark = pytest.mark.netns

RANGE = "net.ipv4.ping_group_range"
_INTERFACES = """
from pyroute2 import IPRoute
with IPRoute() as ip:
    ip.link("add", ifname="eth7", kind="veth", peer={"ifname": "eth8"})
"""


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    machine = Vm(tmp_path_factory.mktemp("vm") / "agent.log")
    try:
        machine.run("sh", "-c", f"mkdir -p /run/netns; : >{names.POD_NETNS}; unshare --net={names.POD_NETNS} true")
        inside(machine, sys.executable, "-c", _INTERFACES)
        machine.start_agent()
        yield machine
    finally:
        machine.close()


@pytest.fixture
async def shim(vm: Vm) -> AsyncIterator[Shim]:
    shim = await Shim.connect(vm.socket)
    await shim.create_sandbox()
    yield shim
    await shim.destroy_sandbox()
    vm.check_pristine()
    await shim.client.aclose()


async def run(shim: Shim, id: str, *args: str, network: bool = True, sysctls: Mapping[str, str] = {}) -> None:
    request = container_request(id, process(*args))
    if network:
        request.oci.linux.namespaces.add(type="network", path=names.POD_NETNS)
    request.oci.linux.sysctl.update(sysctls)
    await shim.do("CreateContainer", request)
    await shim.start(id)


def inside(vm: Vm, *command: str) -> str:
    return vm.run("nsenter", f"--net={names.POD_NETNS}", *command)


async def test_a_container_and_what_is_executed_in_it_are_in_the_pods_network(shim: Shim, vm: Vm) -> None:
    pods, vms = inside(vm, "readlink", "/proc/self/ns/net"), vm.run("readlink", "/proc/self/ns/net")
    assert pods != vms
    await run(shim, "c", "sh", "-c", "readlink /proc/self/ns/net; sleep 600")
    assert (await shim.read_until(b"\n", "c")).decode() == pods
    assert await shim.executed("c", "readlink", "/proc/self/ns/net") == (pods, 0)
    await run(shim, "d", "readlink", "/proc/self/ns/net", network=False)
    assert (await shim.read("d")).decode() == vms


async def test_sysfs_and_statistics_tell_of_the_pods_interfaces(shim: Shim) -> None:
    await run(shim, "c", "sh", "-c", "ls /sys/class/net; sleep 600")
    assert set((await shim.read_until(b"lo\n", "c")).split()) >= {b"eth7", b"eth8", b"lo"}
    await run(shim, "d", "sleep", "600", network=False)
    assert {each.name for each in (await shim.stats("c")).network_stats} >= {"eth7", "eth8"}
    assert not {each.name for each in (await shim.stats("d")).network_stats} & {"eth7", "eth8"}


async def test_sysctls_of_the_network_are_set_in_the_pods_and_not_in_the_vms(shim: Shim, vm: Vm) -> None:
    before = vm.run("cat", "/proc/sys/net/ipv4/ping_group_range")
    await run(shim, "c", "cat", "/proc/sys/net/ipv4/ping_group_range", "/proc/sys/kernel/shmmni",
              sysctls={RANGE: "0\t0", "kernel.shmmni": "777"})  # fmt: skip
    assert await shim.read("c") == b"0\t0\n777\n"
    assert vm.run("cat", "/proc/sys/net/ipv4/ping_group_range") == before


async def test_a_sysctl_that_the_pods_network_does_not_have_is_told_in_the_log(shim: Shim, vm: Vm) -> None:
    await run(shim, "c", "true", sysctls={"net.ipv4.no_such_thing": "1"})
    assert "sysctl not set" in vm.log.read_text()
