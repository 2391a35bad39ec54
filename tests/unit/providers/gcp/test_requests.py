"""What is asked for each setting and each wish, checked against the SDK's own messages."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from google.cloud.compute_v1.types import compute

from providers import tags
from providers.base import InstanceState, LaunchSpec, Ownership, Purchase, Tee, Volume
from providers.errors import InvalidSpec
from providers.gcp import marks, requests
from providers.gcp.config import GcpConfig
from providers.gcp.requests import Image

CONFIG = GcpConfig(
    project="my-project",
    zones=("us-central1-a", "us-central1-b"),
    image="podvm",
    machine_types=("c3-standard-4", "e2-medium", "n1-standard-4", "c4d-standard-2", "g2-standard-4"),
)
OWNER = Ownership("cluster-a", "node.1")
IMAGE = Image("projects/my-project/global/images/podvm", 12)
SPEC = LaunchSpec("podvm-nginx-1a2b3c4d", "n2d-standard-2", b"user data", "podvm", {"team": "blue"})


def asked(config: GcpConfig = CONFIG, token: str = "token-1", **wish: Any) -> dict[str, Any]:
    spec = replace(SPEC, **wish)
    requests.check(spec, token, config)
    made = requests.insert(spec, token, config=config, owner=OWNER, image=IMAGE)
    compute.InsertInstanceRequest(made)  # raises for a field that the API does not have
    return made


def resource(config: GcpConfig = CONFIG, **wish: Any) -> dict[str, Any]:
    found: dict[str, Any] = asked(config, **wish)["instance_resource"]
    return found


def test_a_plain_launch() -> None:
    made = asked()
    assert (made["project"], made["zone"]) == ("my-project", "us-central1-a")
    body = made["instance_resource"]
    assert body["machine_type"] == "zones/us-central1-a/machineTypes/n2d-standard-2"
    assert body["network_interfaces"] == [{"network": "global/networks/default"}]
    assert body["confidential_instance_config"] == {"confidential_instance_type": "SEV_SNP"}
    assert body["min_cpu_platform"] == "AMD Milan"
    assert body["scheduling"] == {"automatic_restart": False, "on_host_maintenance": "TERMINATE"}
    assert "service_accounts" not in body
    (root,) = body["disks"]
    assert root["boot"]
    assert root["auto_delete"]
    params = root["initialize_params"]
    assert params["source_image"] == IMAGE.link
    assert (params["disk_size_gb"], params["disk_type"]) == (
        12,
        "projects/my-project/zones/us-central1-a/diskTypes/pd-balanced",
    )


def test_equal_wishes_make_equal_requests() -> None:
    assert asked() == asked()
    assert asked()["request_id"] != asked(token="token-2")["request_id"]


def test_the_guest_reads_its_user_data_as_bytes_and_nobodys_ssh_keys() -> None:
    items = {item["key"]: item["value"] for item in resource(user_data=b"\x00\xff{")["metadata"]["items"]}
    assert base64.b64decode(items["user-data"]) == b"\x00\xff{"
    assert items["user-data-encoding"] == "base64"
    assert items["block-project-ssh-keys"] == "true"


def test_user_data_at_its_limit_fits_into_a_metadata_value() -> None:
    items = {
        item["key"]: item["value"] for item in resource(user_data=b"x" * requests.USER_DATA_LIMIT)["metadata"]["items"]
    }
    assert len(items["user-data"]) == 256 * 1024


def test_tags_are_exact_in_the_metadata_and_for_filtering_in_the_labels() -> None:
    body = resource(tags={"team": "blue", tags.POD_NAME: "web.0", tags.NODE: "node-2"})
    note = json.loads(next(i["value"] for i in body["metadata"]["items"] if i["key"] == marks.METADATA_KEY))
    assert note["tags"][tags.POD_NAME] == "web.0"
    assert note["tags"][tags.NODE] == "node.1"  # a pod cannot claim another node
    assert (body["labels"]["team"], body["labels"]["peerpods-cluster"]) == ("blue", "cluster-a")
    disk = body["disks"][0]["initialize_params"]
    assert marks.described(disk["description"])[tags.TOKEN] == "token-1"
    assert marks.of_owner(OWNER).items() <= disk["labels"].items()


@pytest.mark.parametrize(
    ("config", "wish", "size"),
    [
        ({}, {}, 12),
        ({"root_volume_gib": 10}, {}, 12),  # never less than the image's
        ({"root_volume_gib": 30}, {}, 30),
        ({"root_volume_gib": 30}, {"root_volume_gib": 20}, 20),
        ({}, {"scratch_gib": 8}, 20),
        ({"root_volume_gib": 30}, {"root_volume_gib": 40, "scratch_gib": 5}, 45),
    ],
)
def test_the_root_disk_is_as_large_as_asked_and_has_the_scratch_behind_it(
    config: dict[str, Any], wish: dict[str, Any], size: int
) -> None:
    body = resource(replace(CONFIG, **config), **wish)
    assert body["disks"][0]["initialize_params"]["disk_size_gb"] == size


@pytest.mark.parametrize(
    ("machine_type", "tee", "said", "nic", "disk"),
    [
        ("c3-standard-4", Tee.TDX, {"confidential_instance_type": "TDX"}, "GVNIC", "pd-balanced"),
        (
            "n2d-standard-2",
            Tee.SEV,
            {"confidential_instance_type": "SEV", "enable_confidential_compute": True},
            None,
            "pd-balanced",
        ),
        ("e2-medium", Tee.NONE, None, None, "pd-balanced"),
        ("c4d-standard-2", Tee.NONE, None, "GVNIC", "hyperdisk-balanced"),
    ],
)
def test_each_family_gets_what_it_takes(machine_type: str, tee: Tee, said: Any, nic: str | None, disk: str) -> None:
    body = resource(instance_type=machine_type, tee=tee)
    assert body.get("confidential_instance_config") == said
    assert body["network_interfaces"][0].get("nic_type") == nic
    assert body["disks"][0]["initialize_params"]["disk_type"].endswith(disk)
    assert body["scheduling"]["on_host_maintenance"] == ("MIGRATE" if said is None else "TERMINATE")


def test_only_n2d_is_told_its_platform() -> None:
    assert "min_cpu_platform" not in resource(instance_type="c3-standard-4", tee=Tee.TDX)
    assert resource(replace(CONFIG, min_cpu_platform="AMD Rome"), tee=Tee.SEV)["min_cpu_platform"] == "AMD Rome"


def test_every_option_is_where_google_looks_for_it() -> None:
    config = replace(
        CONFIG,
        confidential=False,
        subnetwork="projects/host/regions/us-central1/subnetworks/pods",
        public_ip=True,
        disk_type="pd-ssd",
        extra_disks=("pd-ssd:100", "local-ssd"),
        kms_key="projects/p/locations/l/keyRings/r/cryptoKeys/k",
        network_tags=("podvm",),
        service_account="podvm@my-project.iam.gserviceaccount.com",
        gpu_type="nvidia-tesla-t4",
        gpu_count=2,
        spot=True,
        secure_boot=True,
        reservation="mine",
        node_affinity=(("workload", ("pods",)),),
        labels=(("cost", "center-1"),),
        resource_tags=(("env", "prod"), ("tagKeys/1", "tagValues/2")),
    )
    body = resource(config, instance_type="n1-standard-4", purchase=Purchase.SPOT)
    assert body["network_interfaces"] == [
        {
            "subnetwork": "projects/host/regions/us-central1/subnetworks/pods",
            "access_configs": [{"name": "External NAT", "type_": "ONE_TO_ONE_NAT"}],
        }
    ]
    root, extra, scratch = body["disks"]
    assert all(disk["disk_encryption_key"]["kms_key_name"].endswith("/k") for disk in (root, extra))
    assert (extra["initialize_params"]["disk_size_gb"], extra["auto_delete"]) == (100, True)
    assert (scratch["type_"], scratch["auto_delete"]) == ("SCRATCH", True)
    assert body["tags"] == {"items": ["podvm"]}
    assert body["service_accounts"][0]["email"].startswith("podvm@")
    assert body["guest_accelerators"] == [
        {
            "accelerator_type": "projects/my-project/zones/us-central1-a/acceleratorTypes/nvidia-tesla-t4",
            "accelerator_count": 2,
        }
    ]
    assert body["scheduling"] == {
        "automatic_restart": False,
        "on_host_maintenance": "TERMINATE",
        "provisioning_model": "SPOT",
        "instance_termination_action": "DELETE",
        "node_affinities": [{"key": "workload", "operator": "IN", "values": ["pods"]}],
    }
    assert body["shielded_instance_config"]["enable_secure_boot"]
    assert body["reservation_affinity"] == {
        "consume_reservation_type": "SPECIFIC_RESERVATION",
        "key": "compute.googleapis.com/reservation-name",
        "values": ["mine"],
    }
    assert (body["labels"]["cost"], root["initialize_params"]["labels"]["cost"]) == ("center-1", "center-1")
    assert body["params"]["resource_manager_tags"] == {"my-project/env": "prod", "tagKeys/1": "tagValues/2"}


def test_gpus_are_attached_to_n1_only() -> None:
    config = replace(CONFIG, confidential=False, gpu_type="nvidia-tesla-t4")
    assert "guest_accelerators" not in resource(config, instance_type="e2-medium")
    built_in = resource(config, instance_type="g2-standard-4")
    assert "guest_accelerators" not in built_in
    assert built_in["scheduling"]["on_host_maintenance"] == "TERMINATE"


def test_volumes_come_last_under_names_of_their_own_and_outlive_the_instance() -> None:
    volumes = (
        Volume("projects/my-project/zones/us-central1-a/disks/data"),
        Volume("projects/my-project/regions/us-central1/disks/shared", read_only=True),
    )
    _, one, two = resource(volumes=volumes)["disks"]
    assert (one["source"], one["mode"], one["auto_delete"]) == (volumes[0].id, "READ_WRITE", False)
    assert (two["source"], two["mode"], two["device_name"]) == (volumes[1].id, "READ_ONLY", "volume-1")


@pytest.mark.parametrize(
    ("wish", "complaint"),
    [
        ({"instance_type": "m1-ultramem-40"}, "not among the machine types"),
        ({"zone": "us-central1-f"}, "us-central1-f"),
        ({"purchase": Purchase.SPOT}, "gcp.spot"),
        ({"instance_type": "e2-medium", "tee": Tee.SNP}, "snp"),
        ({"instance_type": "c3-standard-4", "tee": Tee.SEV}, "tdx"),
        ({"volumes": (Volume("vol-1"),)}, "no disk"),
        ({"volumes": (Volume("zones/us-central1-b/disks/d"),)}, "us-central1-b"),
        ({"volumes": (Volume("regions/europe-west4/disks/d"),)}, "europe-west4"),
        ({"volumes": tuple(Volume(f"zones/us-central1-a/disks/d{n}") for n in range(40))}, "41 disks"),
        ({"tags": {f"k{n}": "v" for n in range(70)}}, "labels"),
    ],
)
def test_what_google_would_refuse_is_refused_here(wish: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidSpec, match=complaint):
        asked(**wish)


def shape(**changes: Any) -> dict[str, Any]:
    found = {
        "name": "podvm-1",
        "zone": "https://www.googleapis.com/compute/v1/projects/p/zones/us-central1-a",
        "machine_type": "https://www.googleapis.com/compute/v1/projects/p/zones/us-central1-a/machineTypes/e2-medium",
        "status": "RUNNING",
        "creation_timestamp": "2026-11-21T07:00:00.000-08:00",
        "network_interfaces": [{"network_i_p": "10.128.0.5"}],
    }
    return found | changes


def test_an_instance_nobody_marked_reads_as_what_it_is() -> None:
    seen = requests.instance(shape(metadata={"items": [{"key": "peerpods", "value": "nonsense"}]}))
    assert (seen.id, seen.name, seen.instance_type) == ("us-central1-a/podvm-1", "podvm-1", "e2-medium")
    assert (seen.addresses, seen.tags, seen.launched_at) == (("10.128.0.5",), {}, 1795273200.0)


def test_a_public_address_comes_first() -> None:
    nic = {"network_i_p": "10.0.0.2", "access_configs": [{"nat_i_p": "34.1.2.3"}]}
    assert requests.addresses(shape(network_interfaces=[nic])) == ("34.1.2.3", "10.0.0.2")


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("PROVISIONING", InstanceState.PENDING),
        ("STAGING", InstanceState.PENDING),
        ("RUNNING", InstanceState.RUNNING),
        ("REPAIRING", InstanceState.RUNNING),
        ("TERMINATED", InstanceState.STOPPED),
        ("SUSPENDED", InstanceState.STOPPED),
        ("A_NEW_WORD", InstanceState.PENDING),
    ],
)
def test_googles_states_are_ours(status: str, state: InstanceState) -> None:
    assert requests.instance(shape(status=status)).state is state
    assert requests.instance(shape(status=status), gone=True).state is InstanceState.GONE


@pytest.mark.parametrize(
    ("status", "nic", "public", "settled"),
    [
        ("PROVISIONING", {"network_i_p": "10.0.0.2"}, False, False),
        ("STAGING", {"network_i_p": "10.0.0.2"}, False, True),
        ("STAGING", {}, False, False),
        ("STAGING", {"network_i_p": "10.0.0.2"}, True, False),
        ("STAGING", {"network_i_p": "10.0.0.2", "access_configs": [{"nat_i_p": "34.0.0.1"}]}, True, True),
    ],
)
def test_hardware_is_there_once_provisioning_is_over_and_the_address_known(
    status: str, nic: dict[str, Any], public: bool, settled: bool
) -> None:
    found = shape(status=status, network_interfaces=[nic])
    assert requests.has_hardware(found, replace(CONFIG, public_ip=public)) is settled


@pytest.mark.parametrize(
    ("wish", "method", "request_"),
    [
        ("podvm", "get", {"project": "my-project", "image": "podvm"}),
        ("family/podvm", "get_from_family", {"project": "my-project", "family": "podvm"}),
        ("projects/other/global/images/podvm-7", "get", {"project": "other", "image": "podvm-7"}),
        ("/projects/other/global/images/podvm-7", "get", {"project": "other", "image": "podvm-7"}),
        ("projects/o/global/images/family/podvm", "get_from_family", {"project": "o", "family": "podvm"}),
        (
            "https://www.googleapis.com/compute/v1/projects/o/global/images/i",
            "get",
            {"project": "o", "image": "i"},
        ),
        ("global/images/podvm", "get", {"project": "my-project", "image": "podvm"}),
    ],
)
def test_an_image_may_be_named_in_every_way_google_does(wish: str, method: str, request_: dict[str, str]) -> None:
    assert requests.image_request(CONFIG, wish) == (method, request_)


def test_ids_are_asked_for_in_calls_whose_urls_google_takes() -> None:
    ids = [f"us-central1-a/{'p' * 50}-{number:012x}" for number in range(400)]
    calls = list(requests.by_id(CONFIG, ids))
    assert len(calls) == 3
    assert all(len(call["filter"]) < 12_000 for call in calls)
    assert list(requests.by_id(CONFIG, ["not an id"])) == []
