"""Machine types as offerings: every zone, TEE and way of paying, the default first."""

from dataclasses import replace
from typing import Any

import pytest

from providers.base import Offering, Purchase, Tee
from providers.errors import InvalidSpec
from providers.gcp import catalog, tees
from providers.gcp.config import GcpConfig

CONFIG = GcpConfig(
    project="my-project",
    zones=("us-central1-a", "us-central1-b"),
    image="podvm",
    machine_types=("n2d-standard-4", "c3-standard-4", "e2-medium"),
)
SIZES = {
    "n2d-standard-2": (2, 8192),
    "n2d-standard-4": (4, 16384),
    "c3-standard-4": (4, 16384),
    "e2-medium": (2, 4096),
    "n1-standard-4": (4, 15360),
}
MILAN, RAPIDS = "AMD Milan", "Intel Sapphire Rapids"


def sold(*names: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "guest_cpus": SIZES[name][0], "memory_mb": SIZES[name][1], "architecture": "X86_64"}
        for name in names
    ]


def offered(
    config: GcpConfig = CONFIG, *, types: Any = None, platforms: Any = None, gpus: Any = None
) -> tuple[Offering, ...]:
    everywhere = sold(*SIZES)
    found = catalog.described(
        config,
        types if types is not None else dict.fromkeys(config.zones, everywhere),
        platforms if platforms is not None else dict.fromkeys(config.zones, (MILAN, RAPIDS)),
        gpus or {},
    )
    return catalog.allowed(found, config)


def test_the_first_is_the_default_type_with_the_default_tee_in_the_first_zone() -> None:
    first = offered()[0]
    assert first == Offering("n2d-standard-2", 2, 8192, tee=Tee.SNP, zone="us-central1-a")


def test_every_zone_and_every_tee_is_offered_and_nothing_without_where_it_is_demanded() -> None:
    found = {(o.instance_type, o.zone, o.tee) for o in offered()}
    assert ("n2d-standard-2", "us-central1-b", Tee.SEV) in found
    assert ("c3-standard-4", "us-central1-a", Tee.TDX) in found
    assert not {o for o in found if o[2] is Tee.NONE}
    assert not {o for o in found if o[0] == "e2-medium"}


def test_without_confidential_a_pod_gets_none_and_may_ask_for_some() -> None:
    found = offered(replace(CONFIG, confidential=False))
    assert found[0].tee is Tee.NONE
    assert {o.tee for o in found} == {Tee.NONE, Tee.SEV, Tee.SNP, Tee.TDX}


def test_one_kind_of_tee_demanded_is_the_only_one_offered() -> None:
    found = offered(replace(CONFIG, confidential_type="sev"))
    assert {(o.instance_type, o.tee) for o in found} == {("n2d-standard-2", Tee.SEV), ("n2d-standard-4", Tee.SEV)}


def test_a_zone_without_the_platform_has_no_such_tee() -> None:
    found = offered(platforms={"us-central1-a": ("AMD Rome",), "us-central1-b": (MILAN,)})
    assert {o.zone for o in found if o.tee is Tee.SNP} == {"us-central1-b"}
    assert {o.zone for o in found if o.tee is Tee.SEV} == set(CONFIG.zones)


def test_spot_is_offered_only_where_allowed_and_behind_what_stays() -> None:
    assert {o.purchase for o in offered()} == {Purchase.ON_DEMAND}
    found = offered(replace(CONFIG, spot=True))
    assert found[0].purchase is Purchase.ON_DEMAND
    assert {o.purchase for o in found} == {Purchase.ON_DEMAND, Purchase.SPOT}


def test_gpus_are_those_of_the_type_or_attached_to_n1_where_the_zone_has_them() -> None:
    g2 = {
        "name": "g2-standard-4",
        "guest_cpus": 4,
        "memory_mb": 16384,
        "accelerators": [{"guest_accelerator_type": "nvidia-l4", "guest_accelerator_count": 1}],
    }
    config = replace(
        CONFIG,
        confidential=False,
        machine_type="g2-standard-4",
        machine_types=("n1-standard-4",),
        gpu_type="nvidia-tesla-t4",
        gpu_count=2,
    )
    types = {key: [g2, *sold("n1-standard-4")] for key in config.zones}
    found = offered(config, types=types, gpus={"us-central1-b": ["nvidia-tesla-t4"]})
    assert {(o.gpus, o.gpu_model) for o in found if o.instance_type == "g2-standard-4"} == {(1, "nvidia-l4")}
    attached = [o for o in found if o.instance_type == "n1-standard-4"]
    assert [(o.zone, o.gpus, o.gpu_model) for o in attached] == [("us-central1-b", 2, "nvidia-tesla-t4")]


def test_a_custom_type_which_no_list_names_is_read_from_its_name() -> None:
    config = replace(CONFIG, confidential=False, machine_type="n2-custom-6-20480", machine_types=())
    assert {(o.vcpus, o.memory_mib) for o in offered(config)} == {(6, 20480)}


@pytest.mark.parametrize(
    ("changes", "types", "complaint"),
    [
        ({}, {}, "not sold"),
        ({"machine_type": "e2-medium"}, None, "does not give its guest snp"),
    ],
)
def test_a_default_that_cannot_be_had_is_said(changes: dict[str, Any], types: Any, complaint: str) -> None:
    with pytest.raises(InvalidSpec, match=complaint):
        offered(replace(CONFIG, **changes), types=types)


def test_an_arm_type_is_one() -> None:
    shape = {"name": "t2a-standard-1", "guest_cpus": 1, "memory_mb": 4096, "architecture": "ARM64"}
    config = replace(CONFIG, confidential=False, machine_type="t2a-standard-1", machine_types=())
    assert {o.architecture for o in offered(config, types={key: [shape] for key in config.zones})} == {"arm64"}


@pytest.mark.parametrize(
    ("machine_type", "given"),
    [
        ("n2d-highcpu-8", (Tee.SNP, Tee.SEV)),
        ("c3-standard-22", (Tee.TDX,)),
        ("c3-highmem-4", ()),
        ("c3-standard-4-lssd", ()),
        ("a3-highgpu-1g", (Tee.TDX,)),
        ("a3-highgpu-8g", ()),
        ("c2d-standard-4", (Tee.SEV,)),
        ("c4d-highmem-8", (Tee.SEV,)),
        ("c4-standard-8", ()),
        ("n2-standard-4", ()),
        ("e2-medium", ()),
    ],
)
def test_the_table_of_tees(machine_type: str, given: tuple[Tee, ...]) -> None:
    assert tees.of(machine_type) == given


def test_a_place_that_is_not_in_the_table_is_a_doubt() -> None:
    assert tees.known_in("n2d-standard-2", Tee.SNP, "us-central1-b")
    assert not tees.known_in("n2d-standard-2", Tee.SNP, "africa-south1-a")
    assert tees.known_in("n2d-standard-2", Tee.SEV, "africa-south1-a")
    assert tees.known_in("a3-highgpu-1g", Tee.TDX, "us-central1-a")
    assert not tees.known_in("a3-highgpu-1g", Tee.TDX, "us-central1-c")
