"""What CreateVM's fields mean."""

import base64
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptor import names
from adaptor.errors import InvalidRequest
from adaptor.hypervisor import Hypervisor, parse
from adaptor.protos.hypervisor_pb2 import CreateVMRequest
from adaptor.sandbox.model import SandboxSpec
from adaptor.volumes.node import NodeVolumes
from adaptor.volumes.records import DirectVolume
from tests.worlds.networks import Networks

NINE = {
    names.CRI_SANDBOX_NAME: "web",
    names.CRI_SANDBOX_NAMESPACE: "shop",
    names.MACHINE_TYPE: "",
    names.IMAGE: "",
    names.DEFAULT_VCPUS: "0",
    names.DEFAULT_MEMORY: "0",
    names.INITDATA: "",
    names.DEFAULT_GPUS: "0",
    names.DEFAULT_GPU_MODEL: "",
}


def test_empty_and_zero_mean_unset() -> None:
    spec = parse("abc", NINE, "/run/netns/x")
    assert (spec.instance_type, spec.image, spec.vcpus, spec.memory_mib) == (None, None, None, None)
    assert (spec.gpus, spec.gpu_model, spec.initdata) == (None, None, None)
    assert spec.pod == "shop/web"


def test_all_nine_are_read() -> None:
    spec = parse(
        "abc",
        {
            **NINE,
            names.MACHINE_TYPE: "m6a.large",
            names.IMAGE: "ami-1",
            names.DEFAULT_VCPUS: "4",
            names.DEFAULT_MEMORY: "3512",
            names.DEFAULT_GPUS: "1",
            names.DEFAULT_GPU_MODEL: "t4",
            names.INITDATA: 'version = "0.1.0"\n',
        },
        "/run/netns/x",
    )
    assert (spec.instance_type, spec.image, spec.vcpus, spec.memory_mib) == ("m6a.large", "ami-1", 4, 3512)
    assert (spec.gpus, spec.gpu_model, spec.initdata) == (1, "t4", 'version = "0.1.0"\n')


@pytest.mark.parametrize(
    "annotations",
    [
        {names.CRI_SANDBOX_NAME: "k8s_POD_web_shop_0af1_0", names.CRI_SANDBOX_NAMESPACE: "shop"},
        {names.CRI_SANDBOX_NAME: "k8s_web_shop_0af1_0", names.CRI_SANDBOX_NAMESPACE: ""},
        {names.CRIO_SANDBOX_NAME: "k8s_web_shop_0af1_0", names.CRIO_SANDBOX_NAMESPACE: "shop"},
        {names.CRIO_SANDBOX_NAME: "web", names.CRIO_SANDBOX_NAMESPACE: "shop"},
    ],
)
def test_cri_os_forms_of_the_pods_name_are_understood(annotations: dict[str, str]) -> None:
    assert parse("abc", annotations, "/run/netns/x").pod == "shop/web"


def test_a_pod_on_the_hosts_network_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidRequest, match=r"pod shop/web uses the host's network.*Remove hostNetwork"):
        parse("abc", NINE, "")


def test_a_sandbox_without_pod_and_namespace_is_refused_by_its_id() -> None:
    with pytest.raises(InvalidRequest, match="sandbox abc comes without a network namespace"):
        parse("abc", {}, "")


def test_the_machine_type_annotation_may_carry_wishes() -> None:
    spec = parse("abc", {**NINE, names.MACHINE_TYPE: "m6a.*,c6a.large; tee=snp;root-gib=40"}, "/run/netns/x")
    assert (spec.instance_type, spec.wishes) == ("m6a.*,c6a.large", "tee=snp;root-gib=40")
    spec = parse("abc", {**NINE, names.MACHINE_TYPE: ";tee=snp"}, "/run/netns/x")
    assert (spec.instance_type, spec.wishes) == (None, "tee=snp")


@pytest.mark.parametrize("value", ["m6a.large;te=snp", ";root-gib=-1", ";scratch-gib=lots", "two words", ";tee=sgx"])
def test_a_wrong_wish_is_refused_before_anything_exists(value: str) -> None:
    with pytest.raises(InvalidRequest, match="machine_type"):
        parse("abc", {**NINE, names.MACHINE_TYPE: value}, "/run/netns/x")


@pytest.mark.parametrize("value", ["-1", "two", "1.5", "99999999999", " 2", "٢x"])
def test_a_count_that_is_none_names_its_annotation(value: str) -> None:
    with pytest.raises(InvalidRequest, match="default_vcpus is"):
        parse("abc", {**NINE, names.DEFAULT_VCPUS: value}, "/run/netns/x")


@given(st.text(), st.dictionaries(st.sampled_from(sorted(NINE)), st.text()), st.text())
def test_no_input_does_worse_than_a_refusal(sandbox: str, annotations: dict[str, str], netns: str) -> None:
    try:
        spec = parse(sandbox, annotations, netns)
    except InvalidRequest:
        return
    assert (spec.id, spec.netns) == (sandbox, netns)


class Registry:
    """Remembers what is created."""

    def __init__(self) -> None:
        self.created: list[SandboxSpec] = []

    async def create(self, spec: SandboxSpec) -> str:
        self.created.append(spec)
        return "/agent.ttrpc"


async def create_vm(root: Path) -> SandboxSpec:
    """Through the service's own handler, with the records and bundles below `root`."""
    registry, volumes = Registry(), NodeVolumes(str(root / "direct-volumes"), str(root / "bundles"))
    hypervisor = Hypervisor(cast(Any, registry), Networks(), volumes)
    request = CreateVMRequest(id="abc", annotations=NINE, network_namespace_path="/run/netns/x")
    await hypervisor.create_vm(request, cast(Any, None))
    return registry.created[0]


async def test_what_the_shim_does_not_say_is_found_on_the_node(tmp_path: Path) -> None:
    path = "/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~csi/data/mount"
    record = tmp_path / "direct-volumes" / base64.urlsafe_b64encode(path.encode()).decode()
    record.mkdir(parents=True)
    (record / "mountInfo.json").write_text('{"device": "vol-1"}')
    assert (await create_vm(tmp_path)).volumes_unknown
    bundle = tmp_path / "bundles/abc"
    bundle.mkdir(parents=True)
    (bundle / "config.json").write_text(f'{{"annotations": {{"{names.CRI_SANDBOX_UID}": "uid-1"}}}}')
    spec = await create_vm(tmp_path)
    assert (spec.pod_uid, spec.volumes_unknown) == ("uid-1", False)
    assert spec.volumes == (DirectVolume(path, "vol-1", device="vol-1"),)
    (record / "mountInfo.json").write_text("{")
    with pytest.raises(InvalidRequest, match="the direct volume of pod shop/web at"):
        await create_vm(tmp_path)
