"""What Google refuses of an instance before anything is spent: one row per rule."""

from typing import Any

import pytest

from providers.simcloud.gce import tees
from providers.simcloud.gce.machine_types import TYPES
from tests.unit.simcloud.gce.owner import IMAGES, PROJECT, REGION, ZONE, Owner, boot_disk, refused

TERMINATE = {"on_host_maintenance": "TERMINATE"}
SNP = {"confidential_instance_type": "SEV_SNP"}
TDX = {"confidential_instance_type": "TDX"}
ZONES = f"zones/{ZONE}"


def kind(name: str) -> str:
    return f"{ZONES}/machineTypes/{name}"


def gpu(name: str, count: int = 1) -> list[dict[str, Any]]:
    return [{"accelerator_type": f"{ZONES}/acceleratorTypes/{name}", "accelerator_count": count}]


def balanced(**params: Any) -> list[dict[str, Any]]:
    return [boot_disk(disk_type=f"{ZONES}/diskTypes/pd-balanced", **params)]


def nic(**changes: Any) -> list[dict[str, Any]]:
    return [{"subnetwork": f"regions/{REGION}/subnetworks/default", **changes}]


def metadata(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"items": [{"key": key, "value": value} for key, value in pairs]}


CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("no name", "required", "resource.name", {"name": None}),
    ("a name in capitals", "invalid", "resource.name': 'Podvm'. Must be a match of regex", {"name": "Podvm"}),
    ("a name of 64 characters", "invalid", "resource.name", {"name": "a" * 64}),
    ("a name that ends with a dash", "invalid", "resource.name", {"name": "a-"}),
    ("no machine type", "required", "resource.machineType", {"machine_type": None}),
    ("a bare machine type", "invalid", "The URL is malformed", {"machine_type": "n2d-standard-2"}),
    ("a type nobody has", "invalid", "'n9-huge-1' does not exist in zone 'us-central1-a'", {"machine_type": kind("n9-huge-1")}),
    ("a type of another zone", "invalid", "machineType", {"machine_type": "zones/us-central1-b/machineTypes/n2d-standard-2"}),
    ("no disk", "invalid", "At least one disk is required", {"disks": None}),
    ("no boot disk", "invalid", "Exactly one disk must be a boot disk", {"disks": [{**boot_disk(), "boot": False}]}),
    ("two boot disks", "invalid", "Exactly one disk", {"disks": [boot_disk(), boot_disk(disk_name="second")]}),
    ("an image nobody has", "invalid", "The referenced image resource cannot be found", {"disks": [boot_disk(f"{IMAGES}/none")]}),
    ("a family nobody has", "invalid", "cannot be found", {"disks": [boot_disk(f"{IMAGES}/family/none")]}),
    ("a bare image", "invalid", "The URL is malformed", {"disks": [boot_disk("peerpods-podvm-x86-64")]}),
    ("a disk smaller than its image", "invalid", "cannot be smaller than the image size (10 GB)", {"disks": [boot_disk(disk_size_gb=9)]}),
    ("an absurd disk", "invalid", "between 10 GB and 65536 GB", {"disks": [boot_disk(disk_size_gb=70_000)]}),
    ("a disk type nobody has", "invalid", "diskType resource cannot be found", {"disks": [boot_disk(disk_type=f"{ZONES}/diskTypes/pd-fast")]}),
    ("a disk type the machine cannot use", "badRequest", "pd-standard disk type cannot be used by c3-standard-4",
     {"machine_type": kind("c3-standard-4")}),
    ("a disk that is not there", "invalid", "The referenced disk resource cannot be found", {"disks": [boot_disk(), {"source": f"{ZONES}/disks/x"}]}),
    ("a disk of another zone", "invalid", "same zone", {"disks": [boot_disk(), {"source": "zones/us-central1-b/disks/x"}]}),
    ("two devices of one name", "invalid", "deviceName",
     {"disks": [{**boot_disk(), "device_name": "a"}, {"device_name": "a", "initialize_params": {"disk_size_gb": 10}}]}),
    ("a device's name with a point", "invalid", "deviceName", {"disks": [{**boot_disk(), "device_name": "a.b"}]}),
    ("an ARM image on x86", "badRequest", "architecture (ARM64)", {"disks": [boot_disk(f"{IMAGES}/peerpods-podvm-arm64")]}),
    ("an x86 image on ARM", "badRequest", "architecture (X86_64)", {"machine_type": kind("t2a-standard-1")}),
    ("no network interface", "invalid", "At least one network interface", {"network_interfaces": None}),
    ("a subnetwork nobody has", "invalid", "The referenced subnetwork resource cannot be found",
     {"network_interfaces": [{"subnetwork": f"regions/{REGION}/subnetworks/none"}]}),
    ("a subnetwork of another region", "invalid", "region 'us-central1'",
     {"network_interfaces": [{"subnetwork": "regions/europe-west4/subnetworks/default"}]}),
    ("a network nobody has", "invalid", "network resource cannot be found", {"network_interfaces": [{"network": "global/networks/none"}]}),
    ("two interfaces in one network", "invalid", "Networks must be distinct", {"network_interfaces": nic() + nic()}),
    ("an address elsewhere", "invalid", "subnetwork's range", {"network_interfaces": nic(network_i_p="10.9.8.7")}),
    ("the gateway's address", "invalid", "subnetwork's range", {"network_interfaces": nic(network_i_p="172.31.0.1")}),
    ("an address that is none", "invalid", "valid IPv4 address", {"network_interfaces": nic(network_i_p="172.31.0")}),
    ("two external addresses", "invalid", "At most one access config", {"network_interfaces": nic(access_configs=[{"name": "a"}, {"name": "b"}])}),
    ("a label in capitals", "invalid", "Label keys", {"labels": {"Team": "blue"}}),
    ("a label that begins with a digit", "invalid", "Label keys", {"labels": {"1team": "blue"}}),
    ("a label's value in capitals", "invalid", "Label values", {"labels": {"team": "Blue"}}),
    ("a label's value of 64 characters", "invalid", "63 characters", {"labels": {"team": "b" * 64}}),
    ("65 labels", "invalid", "more than 64 labels", {"labels": {f"k{n}": "" for n in range(65)}}),
    ("a disk's label with a point", "invalid", "disks[0].initializeParams.labels", {"disks": [boot_disk(labels={"a.b": "c"})]}),
    ("a metadata key with a blank", "invalid", "metadata.items[0].key", {"metadata": metadata(("user data", ""))}),
    ("a metadata key twice", "invalid", "duplicate keys: a", {"metadata": metadata(("a", "1"), ("a", "2"))}),
    ("a metadata value that is too long", "fieldSizeTooLarge", "maximum size 262144", {"metadata": metadata(("a", "x" * 262_145))}),
    ("too much metadata", "fieldSizeTooLarge", "maximum size 524288", {"metadata": metadata(*((f"k{n}", "x" * 262_000) for n in range(3)))}),
    ("a network tag in capitals", "invalid", "resource.tags.items[0]", {"tags": {"items": ["Pod"]}}),
    ("65 network tags", "invalid", "more than 64 tags", {"tags": {"items": [f"t{n}" for n in range(65)]}}),
    ("a hostname without a domain", "invalid", "fully qualified", {"hostname": "podvm"}),
    ("a platform the type has not", "invalid", "AMD Rome or AMD Milan", {"min_cpu_platform": "Intel Ice Lake"}),
    ("a platform for a type that has one", "badRequest", "required CPU platform of AMD Milan",
     {"machine_type": kind("c2d-standard-2"), "min_cpu_platform": "AMD Rome"}),
    ("SNP on Intel", "badRequest", "(n2d), c3-standard-4 is not one",
     {"machine_type": kind("c3-standard-4"), "disks": balanced(), "confidential_instance_config": SNP, "scheduling": TERMINATE}),
    ("TDX on AMD", "badRequest", "n2d-standard-2 is not one", {"confidential_instance_config": TDX, "scheduling": TERMINATE}),
    ("TDX on c3-highcpu", "badRequest", "c3-highcpu-4 is not one",
     {"machine_type": kind("c3-highcpu-4"), "disks": balanced(), "confidential_instance_config": TDX, "scheduling": TERMINATE}),
    ("SNP that would migrate", "badRequest", "onHostMaintenance to TERMINATE", {"confidential_instance_config": SNP, "min_cpu_platform": "AMD Milan"}),
    ("SNP on any platform", "badRequest", "minCpuPlatform", {"confidential_instance_config": SNP, "scheduling": TERMINATE}),
    ("SNP of an image that cannot", "badRequest", "lack SEV_SNP_CAPABLE",
     {"confidential_instance_config": SNP, "scheduling": TERMINATE, "min_cpu_platform": "AMD Milan",
      "disks": [boot_disk("projects/debian-cloud/global/images/family/debian-12")]}),
    ("SNP in the old spelling", "invalid", "enableConfidentialCompute is for SEV only",
     {"confidential_instance_config": {**SNP, "enable_confidential_compute": True}, "scheduling": TERMINATE}),
    ("a confidential VM with a SCSI disk", "invalid", "interface NVME only",
     {"confidential_instance_config": {"enable_confidential_compute": True}, "disks": [{**boot_disk(), "interface": "SCSI"}]}),
    ("a GPU beside N2D", "badRequest", "features are not compatible", {"guest_accelerators": gpu("nvidia-tesla-t4"), "scheduling": TERMINATE}),
    ("a GPU the zone has not", "invalid", "does not exist in zone", {"guest_accelerators": gpu("nvidia-tesla-x9")}),
    ("a GPU that would migrate", "badRequest", "do not support live migration",
     {"machine_type": kind("n1-standard-4"), "guest_accelerators": gpu("nvidia-tesla-t4")}),
    ("three T4", "invalid", "must be one of [1, 2, 4]",
     {"machine_type": kind("n1-standard-4"), "guest_accelerators": gpu("nvidia-tesla-t4", 3), "scheduling": TERMINATE}),
    ("one T4 for 64 vCPUs", "badRequest", "48 vCPUs at most",
     {"machine_type": kind("n1-standard-64"), "guest_accelerators": gpu("nvidia-tesla-t4"), "scheduling": TERMINATE}),
    ("an L4 beside N1", "badRequest", "comes with machine types of its own",
     {"machine_type": kind("n1-standard-4"), "guest_accelerators": gpu("nvidia-l4"), "scheduling": TERMINATE}),
    ("a G2 that would migrate", "badRequest", "live migration", {"machine_type": kind("g2-standard-4"), "disks": balanced()}),
    ("spot that would migrate", "badRequest", "TERMINATE", {"scheduling": {"provisioning_model": "SPOT", "on_host_maintenance": "MIGRATE"}}),
    ("spot that would restart", "invalid", "automaticRestart", {"scheduling": {"provisioning_model": "SPOT", "automatic_restart": True}}),
    ("what to do at the end of spot that is none", "invalid", "instanceTerminationAction", {"scheduling": {"instance_termination_action": "DELETE"}}),
    ("preemptible and not spot", "invalid", "provisioningModel", {"scheduling": {"preemptible": True, "provisioning_model": "STANDARD"}}),
    ("two service accounts", "invalid", "At most one service account", {"service_accounts": [{"email": "default", "scopes": ["a"]}] * 2}),
    ("a service account that is none", "invalid", "serviceAccounts[0].email", {"service_accounts": [{"email": "me@example.com", "scopes": ["a"]}]}),
    ("a service account without scopes", "required", "serviceAccounts[0].scopes", {"service_accounts": [{"email": "default"}]}),
    ("a resource tag nobody has", "invalid", "tagKeys/9 does not exist", {"params": {"resource_manager_tags": {"tagKeys/9": "tagValues/9"}}}),
    ("a resource tag's value nobody has", "invalid", "red of peerpods-simcloud/team does not exist",
     {"params": {"resource_manager_tags": {f"{PROJECT}/team": "red"}}}),
    ("a resource tag without a parent", "invalid", "A tag key must be", {"params": {"resource_manager_tags": {"team": "blue"}}}),
    ("a reservation without a name", "invalid", "reservation-name", {"reservation_affinity": {"consume_reservation_type": "SPECIFIC_RESERVATION"}}),
    ("secure boot of an image without UEFI", "badRequest", "UEFI-compatible",
     {"disks": [boot_disk("projects/debian-cloud/global/images/family/debian-10")], "shielded_instance_config": {"enable_secure_boot": True}}),
    ("an SSD that is none", "invalid", "local-ssd", {"disks": [boot_disk(), {"type_": "SCRATCH", "initialize_params": {"disk_type": f"{ZONES}/diskTypes/pd-ssd"}}]}),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "words", "changes"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_refused_and_nothing_is_left(owner: Owner, reason: str, words: str, changes: dict[str, Any]) -> None:
    with refused(reason, words):
        owner.insert(**changes)
    assert (owner.names(), owner.disks(), owner.cloud.instances()) == ([], [], [])


def test_what_a_project_does_not_have_is_not_found(owner: Owner) -> None:
    account = f"nobody@{PROJECT}.iam.gserviceaccount.com"
    with refused("notFound", account, 404):
        owner.insert(service_accounts=[{"email": account, "scopes": ["a"]}])
    affinity = {"consume_reservation_type": "SPECIFIC_RESERVATION", "key": "compute.googleapis.com/reservation-name"}
    with refused("notFound", "reservations/mine", 404):
        owner.insert(reservation_affinity={**affinity, "values": ["mine"]})
    for where, words in (({"zone": "us-central1-z"}, "zones/us-central1-z"), ({"project": "other-1"}, "other-1")):
        with refused("notFound", words, 404):
            owner.ask("Instances", "get", instance="a", **where)


RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("SNP", {"confidential_instance_config": SNP, "scheduling": TERMINATE, "min_cpu_platform": "AMD Milan"}),
    ("SEV that migrates", {"confidential_instance_config": {"enable_confidential_compute": True}}),
    ("SEV on C2D", {"machine_type": kind("c2d-standard-2"), "scheduling": TERMINATE,
                    "confidential_instance_config": {"confidential_instance_type": "SEV"}}),
    ("TDX", {"machine_type": kind("c3-standard-4"), "disks": balanced(), "confidential_instance_config": TDX,
             "scheduling": TERMINATE, "network_interfaces": nic(nic_type="GVNIC")}),
    ("ARM", {"machine_type": kind("t2a-standard-1"), "disks": [boot_disk(f"{IMAGES}/peerpods-podvm-arm64")]}),
    ("N1 with a T4", {"machine_type": kind("n1-standard-4"), "guest_accelerators": gpu("nvidia-tesla-t4"), "scheduling": TERMINATE}),
    ("G2", {"machine_type": kind("g2-standard-4"), "disks": balanced(), "scheduling": TERMINATE}),
    ("G2 with its own GPU named", {"machine_type": kind("g2-standard-4"), "disks": balanced(), "scheduling": TERMINATE,
                                   "guest_accelerators": gpu("nvidia-l4")}),
    ("a local SSD", {"disks": [boot_disk(), {"type_": "SCRATCH", "interface": "NVME", "auto_delete": True,
                                             "initialize_params": {"disk_type": f"{ZONES}/diskTypes/local-ssd"}}]}),
    ("a family of another project", {"disks": [boot_disk("projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64")]}),
    ("a full URL", {"machine_type": f"https://www.googleapis.com/compute/v1/projects/{PROJECT}/{kind('e2-small')}"}),
    ("resource tags by id", {"params": {"resource_manager_tags": {"tagKeys/281475000000001": "tagValues/281475000000011"}}}),
    ("resource tags by name", {"params": {"resource_manager_tags": {f"{PROJECT}/team": "blue"}}}),
    ("international labels", {"labels": {"größe": "groß"}}),
    ("256 KiB of user data", {"metadata": metadata(("user-data", "x" * 262_144))}),
    ("an external address", {"network_interfaces": nic(access_configs=[{"name": "nat", "type_": "ONE_TO_ONE_NAT"}])}),
    ("no reservation", {"reservation_affinity": {"consume_reservation_type": "NO_RESERVATION"}}),
]  # fmt: skip


@pytest.mark.parametrize("changes", [case[1] for case in RIGHT], ids=[case[0] for case in RIGHT])
def test_accepted(owner: Owner, changes: dict[str, Any]) -> None:
    assert owner.launch(**changes).status == "RUNNING"


def test_what_was_attached_shows_in_the_way_it_was_asked_for(owner: Owner) -> None:
    shown = owner.launch(**dict(RIGHT)["N1 with a T4"])
    (accelerator,) = shown.guest_accelerators
    assert (accelerator.accelerator_type.rpartition("/")[2], accelerator.accelerator_count) == ("nvidia-tesla-t4", 1)
    shown = owner.launch("podvm-2", **dict(RIGHT)["SNP"])
    assert shown.confidential_instance_config.confidential_instance_type == "SEV_SNP"
    assert (shown.disks[0].interface, shown.cpu_platform) == ("NVME", "AMD Milan")


def test_a_tee_in_a_zone_that_has_none_is_like_a_zone_that_is_full(owner: Owner) -> None:
    zone = "us-central1-f"
    changes = {**dict(RIGHT)["SNP"], "machine_type": f"zones/{zone}/machineTypes/n2d-standard-2"}
    assert owner.fails(zone=zone, **changes).code == "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"


def test_the_table_of_tees_is_about_types_that_exist() -> None:
    for tee, wanted in (("SEV", 4), ("SEV_SNP", 1), ("TDX", 2)):
        assert len({name.partition("-")[0] for name in TYPES if tees.has(tee, name)}) == wanted
    assert [name for name in TYPES if tees.has("TDX", name) and tees.has("SEV", name)] == []
