"""What the preflight makes of Google's answers."""

from dataclasses import replace
from typing import Any

import pytest

from providers.base import Finding, Grade, Headroom, Offering, Tee
from providers.gcp import findings, quotas
from providers.gcp.config import GcpConfig
from providers.gcp.requests import Image

CONFIG = GcpConfig(project="my-project", zones=("us-central1-a",), image="podvm")
ALL = frozenset({"UEFI_COMPATIBLE", "SEV_SNP_CAPABLE", "SEV_CAPABLE", "GVNIC"})
OFFERED = (
    Offering("n2d-standard-2", 2, 8192, tee=Tee.SNP, zone="us-central1-a"),
    Offering("n2d-standard-2", 2, 8192, tee=Tee.SEV, zone="us-central1-a"),
)


def grades(found: list[Finding]) -> list[Grade]:
    return [each.grade for each in found]


def test_every_missing_permission_is_named_and_weighed() -> None:
    wanted = findings.permissions(replace(CONFIG, public_ip=True))
    held = set(wanted) - {"compute.instances.create", "compute.disks.delete", "compute.subnetworks.useExternalIp"}
    found = {each.subject: each for each in findings.of_permissions(wanted, held)}
    assert found["permission compute.instances.create"].grade is Grade.FAULT
    assert found["permission compute.disks.delete"].grade is Grade.WARNING
    assert found["permission compute.subnetworks.useExternalIp"].grade is Grade.FAULT
    assert all(each.fix for each in found.values())
    assert grades(findings.of_permissions(wanted, wanted)) == [Grade.OK]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image("l", 10, "X86_64", ALL), [Grade.OK]),
        (Image("l", 10, "X86_64", ALL - {"SEV_CAPABLE"}), [Grade.WARNING]),
        (Image("l", 10, "X86_64", ALL - {"SEV_SNP_CAPABLE"}), [Grade.FAULT]),
        (Image("l", 10, "X86_64", ALL - {"UEFI_COMPATIBLE"}), [Grade.FAULT]),
        (Image("l", 10, "ARM64", ALL), [Grade.FAULT]),
    ],
)
def test_an_image_must_be_able_to_boot_what_is_offered(image: Image, expected: list[Grade]) -> None:
    assert grades(findings.of_image(CONFIG, image, OFFERED)) == expected


def test_a_subnetwork_elsewhere_is_a_fault() -> None:
    shape = {"name": "pods", "region": "https://x/regions/europe-west4", "private_ip_google_access": True}
    assert grades(findings.of_subnetwork(CONFIG, shape)) == [Grade.FAULT]
    assert grades(findings.of_subnetwork(CONFIG, shape | {"region": "https://x/regions/us-central1"})) == [Grade.OK]


def rule(name: str, **changes: Any) -> dict[str, Any]:
    made = {
        "name": name,
        "network": "https://x/global/networks/default",
        "direction": "INGRESS",
        "priority": 1000,
        "source_ranges": ["10.0.0.0/8"],
        "allowed": [{"I_p_protocol": "tcp", "ports": ["15000-16000"]}, {"I_p_protocol": "udp", "ports": ["4789"]}],
    }
    return made | changes


PORTS = {"tcp": 15150, "udp": 4789}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([rule("r")], [Grade.OK, Grade.OK]),
        ([], [Grade.FAULT, Grade.FAULT]),
        ([rule("r", disabled=True)], [Grade.FAULT, Grade.FAULT]),
        ([rule("r", direction="EGRESS")], [Grade.FAULT, Grade.FAULT]),
        ([rule("r", network="https://x/global/networks/other")], [Grade.FAULT, Grade.FAULT]),
        ([rule("r", target_tags=["web"])], [Grade.FAULT, Grade.FAULT]),
        ([rule("r", target_tags=["podvm"])], [Grade.OK, Grade.OK]),
        ([rule("r", allowed=[{"I_p_protocol": "tcp", "ports": ["22"]}])], [Grade.FAULT, Grade.FAULT]),
        ([rule("r", allowed=[{"I_p_protocol": "17"}])], [Grade.FAULT, Grade.OK]),
        ([rule("r"), rule("no", priority=10, allowed=[], denied=[{"I_p_protocol": "all"}])], [Grade.WARNING] * 2),
        ([rule("r"), rule("no", priority=2000, allowed=[], denied=[{"I_p_protocol": "all"}])], [Grade.OK] * 2),
        ([rule("r"), rule("no", allowed=[], denied=[{"I_p_protocol": "tcp"}])], [Grade.WARNING, Grade.OK]),
    ],
)
def test_the_firewall_is_read_as_google_reads_it(rules: list[dict[str, Any]], expected: list[Grade]) -> None:
    config = replace(CONFIG, network_tags=("podvm",))
    found = findings.of_firewall(config, "default", rules, PORTS)
    assert grades(found) == expected
    assert all(each.fix for each in found if each.grade is not Grade.OK)


def test_a_quota_that_the_next_pod_meets_is_a_fault() -> None:
    def limit(used: float) -> list[Headroom]:
        return [Headroom("N2D_CPUS", 24.0, used, "vCPU", ("n2d-standard-2",))]

    assert grades(findings.of_quotas(limit(4), OFFERED)) == [Grade.OK]
    assert grades(findings.of_quotas(limit(22), OFFERED)) == [Grade.WARNING]
    assert grades(findings.of_quotas(limit(23), OFFERED)) == [Grade.FAULT]


def test_headroom_is_of_the_families_and_gpus_that_are_configured() -> None:
    region = {
        "quotas": [
            {"metric": name, "limit": 24.0, "usage": 2.0}
            for name in ("CPUS", "N2D_CPUS", "C3_CPUS", "NVIDIA_T4_GPUS", "INSTANCES", "ROUTES", "PREEMPTIBLE_CPUS")
        ]
    }
    config = replace(CONFIG, machine_types=("n1-standard-4",), gpu_type="nvidia-tesla-t4")
    found = {each.name: each for each in quotas.headroom(region, config)}
    assert set(found) == {"CPUS", "N2D_CPUS", "NVIDIA_T4_GPUS", "INSTANCES"}
    assert found["N2D_CPUS"].types == ("n2d-standard-2",)
    assert (found["NVIDIA_T4_GPUS"].unit, found["NVIDIA_T4_GPUS"].types) == ("GPU", ("n1-standard-4",))
    assert found["INSTANCES"].types == ("n2d-standard-2", "n1-standard-4")
    assert "PREEMPTIBLE_CPUS" in {each.name for each in quotas.headroom(region, replace(CONFIG, spot=True))}


def test_zones_and_types_that_cannot_be_had_are_warned_of() -> None:
    config = replace(CONFIG, zones=("us-central1-a", "us-central1-b"), machine_types=("e2-medium",))
    found = findings.of_offerings(config, OFFERED)
    said = " ".join(each.message for each in found if each.grade is Grade.WARNING)
    assert "us-central1-b" in said
    assert any(each.subject == "machine type e2-medium" for each in found)


def test_a_tee_in_a_region_nobody_knows_of_is_a_warning() -> None:
    config = replace(CONFIG, zones=("africa-south1-a",))
    offered = [replace(OFFERED[0], zone="africa-south1-a")]
    assert Grade.WARNING in grades(findings.of_offerings(config, offered))
