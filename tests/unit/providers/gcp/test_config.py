"""What an admin may write, and what is refused at start."""

from typing import Any

import pytest

from providers.base import Tee
from providers.gcp.config import GcpConfig, parse
from providers.settings import Faults

LEAST = {"project": "my-project", "zones": ["europe-west4-a", "europe-west4-b"], "image": "podvm"}


def parsed(table: dict[str, Any] | None = None, env: dict[str, str] | None = None) -> tuple[GcpConfig, list[str]]:
    faults: Faults = []
    config = parse({**LEAST, **(table or {})}, env or {}, faults)
    return config, [str(fault) for fault in faults]


def test_three_settings_are_enough() -> None:
    config, faults = parsed()
    assert faults == []
    assert (config.region, config.tee, config.machine_type) == ("europe-west4", Tee.SNP, "n2d-standard-2")
    assert not config.reserve_address
    assert config.service_account is None


def test_without_them_each_is_named_with_its_name_in_the_environment() -> None:
    faults: Faults = []
    parse({}, {}, faults)
    said = "\n".join(map(str, faults))
    for name in ("GCP_PROJECT_ID", "GCP_ZONE", "PODVM_IMAGE_NAME"):
        assert name in said


def test_upstreams_environment_is_understood_as_upstream_means_it() -> None:
    config, faults = parsed(
        env={
            "GCP_PROJECT_ID": "their-project",
            "GCP_ZONE": "us-central1-a",
            "PODVM_IMAGE_NAME": "/projects/images-1/global/images/podvm-7",
            "GCP_MACHINE_TYPE": "e2-medium",
            "GCP_INSTANCE_TYPES": "e2-medium,c3-standard-4",
            "GCP_NETWORK": "global/networks/pods",
            "GCP_SUBNETWORK": "",
            "GCP_DISK_TYPE": "pd-standard",
            "GCP_CONFIDENTIAL_TYPE": "TDX",
            "DISABLECVM": "true",
            "ROOT_VOLUME_SIZE": "10",
            "USE_PUBLIC_IP": "true",
            "TAGS": "env=prod,tagKeys/12=tagValues/34",
            "GCP_CREDENTIALS": '{"type": "service_account", "private_key": "S3CRET"}',
        }
    )
    assert faults == []
    assert (config.project, config.zones, config.allowed_types) == (
        "their-project",
        ("us-central1-a",),
        ("e2-medium", "c3-standard-4"),
    )
    assert (config.confidential, config.tee, config.confidential_type) == (False, Tee.NONE, "tdx")
    assert (config.root_volume_gib, config.public_ip, config.disk_type) == (10, True, "pd-standard")
    assert dict(config.resource_tags) == {"env": "prod", "tagKeys/12": "tagValues/34"}
    assert config.credentials
    assert "S3CRET" not in repr(config)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"labels": {"Team": "blue"}}, "Team"),
        ({"labels": {"team": "Blue Team"}}, "Blue Team"),
        ({"labels": {"k" * 64: "v"}}, "1 to 63"),
        ({"labels": {"peerpods-cluster": "mine"}}, "written by peerpods"),
        ({"labels": {f"k{n}": "v" for n in range(40)}}, "40 labels"),
        ({"resource_tags": {"tagKeys/1": "prod"}}, "the other is not"),
        ({"zones": ["us-central1-a", "europe-west4-a"]}, "not of one region"),
        ({"zones": []}, "zones"),
        ({"zones": ["us-central1"]}, "a zone"),
        ({"machine_type": "e2-medium"}, "does not give its guest"),
        ({"machine_type": "n2d-standard-2", "confidential_type": "TDX"}, "tdx"),
        ({"machine_type": "c3-standard-4-lssd"}, "does not give its guest"),
        ({"vtpm": False}, "needs vtpm"),
        ({"extra_disks": ["pd-ssd"]}, "TYPE:GIB"),
        ({"kms_key": "my-key"}, "cryptoKeys"),
        ({"network_tags": ["Podvm"]}, "network tag"),
        ({"root_volume_gib": 5}, "65536"),
        ({"image": "my image"}, "family/NAME"),
        ({"project": "x"}, "project's id"),
        ({"unheard_of": 1}, "unknown key"),
    ],
)
def test_what_google_would_refuse_is_a_fault_at_start(table: dict[str, Any], complaint: str) -> None:
    _, faults = parsed(table)
    assert len(faults) == 1
    assert complaint in faults[0]


@pytest.mark.parametrize("text", ["not json", "[]", '{"no": "type"}'])
def test_credentials_that_are_none_are_refused_without_showing_them(text: str) -> None:
    _, faults = parsed(env={"GCP_CREDENTIALS": text})
    assert len(faults) == 1
    assert text not in faults[0]


@pytest.mark.parametrize(
    ("machine_type", "tee"),
    [("n2d-standard-4", Tee.SNP), ("c3-standard-4", Tee.TDX), ("c3d-standard-4", Tee.SEV), ("a3-highgpu-1g", Tee.TDX)],
)
def test_a_confidential_vm_gets_the_strongest_that_its_type_gives(machine_type: str, tee: Tee) -> None:
    config, faults = parsed({"machine_type": machine_type})
    assert faults == []
    assert config.tee is tee


def test_sole_tenant_labels_may_have_several_values() -> None:
    config, faults = parsed({"node_affinity": {"workload": "pods|tests"}})
    assert faults == []
    assert config.node_affinity == (("workload", ("pods", "tests")),)
