"""The sizing cases of upstream's end-to-end list, from the shim's annotations to the type that is launched, or the text
that the pod's event shows; kata passes it on word for word. A node in virtual time."""

from pathlib import Path
from typing import Any, Final

import pytest

from adaptor import names
from adaptor.errors import InvalidRequest
from adaptor.hypervisor import Hypervisor
from adaptor.protos import hypervisor_pb2 as pb
from adaptor.ttrpc.aio import Call
from adaptor.volumes.node import NodeVolumes
from providers.base import Offering, Purchase
from tests.worlds.networks import Networks
from tests.worlds.node import Node

SANDBOX: Final = "5" * 64
# The shim sends these nine with every pod, "" and "0" meaning unset.
NINE: Final = {
    names.CRI_SANDBOX_NAME: "sizing",
    names.CRI_SANDBOX_NAMESPACE: "shop",
    names.MACHINE_TYPE: "",
    names.IMAGE: "",
    names.DEFAULT_VCPUS: "0",
    names.DEFAULT_MEMORY: "0",
    names.INITDATA: "",
    names.DEFAULT_GPUS: "0",
    names.DEFAULT_GPU_MODEL: "",
}
T3 = (
    Offering("t3.large", 2, 8192),  # the default
    Offering("t3.small", 2, 2048),
    Offering("t3.medium", 2, 4096),
    Offering("t3.xlarge", 2, 16384),
)
LARGER_MEMORY: Final = (
    "failed to get instance type based on vCPU and memory annotations: no instance type found for the given vcpus (2) "
    "and memory (18432)"
)


async def launched(node: Node, **annotations: str) -> str:
    """The type of the VM that such a pod gets, and its other wishes."""
    said = {getattr(names, key): value for key, value in annotations.items()}
    call: Any = Call
    async with node.adaptor() as registry:
        service = Hypervisor(registry, Networks(), NodeVolumes("/nowhere", "/nowhere"))
        await service.create_vm(
            pb.CreateVMRequest(id=SANDBOX, annotations={**NINE, **said}, network_namespace_path="/run/netns/x"), call
        )
        try:
            await service.start_vm(pb.StartVMRequest(id=SANDBOX), call)
        finally:
            await node.clock.sleep(60)
            assert len(node.cloud.living) == len(registry.sandboxes) == node.cloud.calls["create"]
    return node.cloud.specs[node.cloud.living[0]].instance_type


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path)
    node.cloud.offered = T3
    return node


async def test_no_annotations(node: Node) -> None:
    assert await launched(node) == "t3.large"


async def test_instance_type(node: Node) -> None:
    assert await launched(node, MACHINE_TYPE="t3.small") == "t3.small"


async def test_an_instance_type_beats_the_pods_resources(node: Node) -> None:
    assert await launched(node, MACHINE_TYPE="t3.small", DEFAULT_VCPUS="2", DEFAULT_MEMORY="12288") == "t3.small"


async def test_cpu_and_memory(node: Node) -> None:
    assert await launched(node, DEFAULT_VCPUS="2", DEFAULT_MEMORY="12288") == "t3.xlarge"


async def test_a_size_that_is_wished_for_beats_what_kata_adds_up(node: Node) -> None:
    wish = ";vcpus=2;memory-mib=4096"
    assert await launched(node, DEFAULT_VCPUS="64", DEFAULT_MEMORY="999999", MACHINE_TYPE=wish) == "t3.medium"


async def test_cpu_only(node: Node) -> None:
    assert await launched(node, DEFAULT_VCPUS="2") == "t3.small", "upstream falls back to its default"


async def test_memory_only(node: Node) -> None:
    assert await launched(node, DEFAULT_MEMORY="4096") == "t3.medium", "upstream falls back to its default"


async def test_a_wish_beside_the_sizes(node: Node) -> None:
    node.cloud.offered = (*T3, Offering("t3.large", 2, 8192, purchase=Purchase.SPOT))
    assert await launched(node, MACHINE_TYPE="*;spot=only", DEFAULT_VCPUS="2") == "t3.large"


@pytest.mark.parametrize(
    ("annotations", "text"),
    [
        (
            {"DEFAULT_VCPUS": "2", "DEFAULT_MEMORY": "18432"},
            LARGER_MEMORY,
        ),
        (
            {"DEFAULT_VCPUS": "3", "DEFAULT_MEMORY": "12288"},
            "no instance type found for the given vcpus (3) and memory (12288)",
        ),
        (
            {"MACHINE_TYPE": "t3.nano-invalid"},
            'requested instance type ("t3.nano-invalid") is not part of supported instance types list',
        ),
    ],
    ids=["LargerMemory", "LargerCPU", "InvalidInstanceType"],
)
async def test_what_cannot_be_had_is_refused_in_upstreams_words(
    node: Node, annotations: dict[str, str], text: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await launched(node, **annotations)
    assert text in str(caught.value)
    assert node.cloud.calls["create"] == 0


@pytest.mark.parametrize(
    ("annotations", "text"),
    [
        ({"MACHINE_TYPE": "t3.large;root-gib=-1"}, 'machine_type: root-gib "-1" is out of range'),
        ({"MACHINE_TYPE": "t3.large;colour=red"}, "not a wish known here"),
        ({"DEFAULT_VCPUS": "-2"}, 'default_vcpus is "-2": a whole number is needed'),
        ({"DEFAULT_MEMORY": "8Gi"}, 'default_memory is "8Gi": a whole number is needed'),
        ({"DEFAULT_GPUS": "9" * 12}, "default_gpus is"),
    ],
)
async def test_bad_input_is_refused_before_anything_exists(node: Node, annotations: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await launched(node, **annotations)
    assert text in str(caught.value)
    assert not node.cloud.calls
    assert await node.nothing_is_left()
