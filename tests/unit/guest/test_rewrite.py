"""What the VM changes in agent calls: the bytes that go in, and those that come out."""

from typing import Final

import pytest

from adaptor import names
from adaptor.protos.agent_pb2 import CreateContainerRequest, CreateSandboxRequest, LinuxNamespace
from adaptor.relay.splice import Rules, Verdict
from podvm_images.guest import rewrite

WITH: Final = rewrite.rules(has_network=True)
WITHOUT: Final = rewrite.rules(has_network=False)
CONTAINER: Final = (names.AGENT_SERVICE, "CreateContainer")
SANDBOX: Final = (names.AGENT_SERVICE, "CreateSandbox")
NETWORK: Final = LinuxNamespace(type="network", path="/run/netns/podns")


def field(number: int, value: bytes | str | int) -> bytes:
    """One field of the wire, by its number."""
    if isinstance(value, int):
        return bytes((number << 3, value))
    data = value.encode() if isinstance(value, str) else value
    size = len(data)
    return bytes((number << 3 | 2, size) if size < 128 else (number << 3 | 2, size & 127 | 128, size >> 7)) + data


def changed(verdict: Verdict) -> CreateContainerRequest:
    assert isinstance(verdict, bytes)
    return CreateContainerRequest.FromString(verdict)


def test_to_the_bytes_a_container_is_passed_on_as_it_came_but_for_its_network() -> None:
    """With fields that our agent.proto does not declare, at every level that is written anew."""
    ipc = field(6, field(1, "ipc"))
    mount_namespace = field(6, field(1, "mount") + field(2, "/proc/1/ns/mnt"))
    known = field(3, field(1, "net.ipv4.ip_forward") + field(2, "1"))
    mapping = field(1, field(1, 1) + field(3, 9))  # uid mappings
    seccomp = field(8, field(1, "SCMP_ACT_ERRNO"))
    hooks = field(6, field(1, field(1, "/bin/hook")))
    user = field(3, field(1, "1000"))  # string_user
    device = field(4, field(1, "gpu") + field(2, "vfio-pci-gk"))
    ports = field(9, 1) + field(10, 2) + field(11, 3)
    storage = field(5, field(1, "local") + field(7, field(2, 100)) + field(8, 1))  # with fs_group and shared

    came = field(1, "c0") + field(2, "c0") + user + device + storage
    came += field(6, field(1, "1.0.2") + hooks + field(8, mapping + known + ipc + mount_namespace + seccomp))
    came += field(7, 1) + ports

    # What is known comes in the order of the numbers, and then what is not, as it came.
    joined = field(6, field(1, "network") + field(2, "/run/netns/podns"))
    linux = known + ipc + mount_namespace + joined + mapping + seccomp
    expected = field(1, "c0") + field(2, "c0") + storage
    expected += field(6, field(1, "1.0.2") + field(8, linux) + hooks) + field(7, 1)
    expected += user + device + ports
    assert WITH[CONTAINER](came) == expected


def test_a_network_that_the_shim_named_gives_way_to_the_pods() -> None:
    request = CreateContainerRequest(container_id="c0")
    request.oci.linux.namespaces.add(type="network", path="/proc/1/ns/net")
    request.oci.linux.namespaces.add(type="ipc")
    assert list(changed(WITH[CONTAINER](request.SerializeToString())).oci.linux.namespaces) == [
        NETWORK,
        LinuxNamespace(type="ipc"),
    ]


def test_a_container_that_says_nothing_of_namespaces_joins_the_pods_network_too() -> None:
    assert list(changed(WITH[CONTAINER](b"")).oci.linux.namespaces) == [NETWORK]


def test_without_a_network_of_the_pods_own_its_containers_pass_unread() -> None:
    assert CONTAINER not in WITHOUT


@pytest.mark.parametrize("rules", [WITH, WITHOUT], ids=["with", "without"])
def test_the_pods_name_servers_do_not_become_the_vms(rules: Rules) -> None:
    unknown = field(7, field(1, "vfio") + field(2, "x=y"))  # kernel_modules
    came = field(1, "web-0") + field(2, "nameserver 10.0.0.10") + field(2, "") + field(5, "s") + unknown
    verdict = rules[SANDBOX](came)
    assert verdict == field(1, "web-0") + field(5, "s") + unknown
    assert CreateSandboxRequest.FromString(came).dns == ["nameserver 10.0.0.10", ""]


@pytest.mark.parametrize("call", [CONTAINER, SANDBOX])
def test_what_cannot_be_read_is_the_agents_to_judge(call: tuple[str, str]) -> None:
    assert WITH[call](b"\xff\xff\xff") is None
