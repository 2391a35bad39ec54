"""Disks and addresses by themselves, and on instances."""

import pytest

from tests.unit.simcloud.gce.owner import PROJECT, REGION, ZONE, Owner, boot_disk, refused

DATA = {"source": f"zones/{ZONE}/disks/data"}
SUBNETWORK = f"regions/{REGION}/subnetworks/default"


def test_a_disk_is_made_found_and_deleted(owner: Owner) -> None:
    owner.disk("data", labels={"team": "blue"}, description="mine", type_=f"zones/{ZONE}/diskTypes/pd-ssd")
    disk = owner.ask("Disks", "get", disk="data")
    assert (disk.size_gb, disk.status, disk.type_.rpartition("/")[2]) == (10, "READY", "pd-ssd")
    assert (dict(disk.labels), disk.description) == ({"team": "blue"}, "mine")
    found = {scope: [d.name for d in each.disks] for scope, each in owner.ask("Disks", "aggregated_list")}
    assert {scope: names for scope, names in found.items() if names} == {f"zones/{ZONE}": ["data"]}
    owner.done(owner.ask("Disks", "delete_unary", disk="data"))
    with refused("notFound", "disks/data", 404):
        owner.ask("Disks", "get", disk="data")


def test_a_disk_is_refused_as_google_does(owner: Owner) -> None:
    owner.disk("data")
    with refused("alreadyExists", status=409):
        owner.disk("data")
    with refused("invalid", "resource.name"):
        owner.disk("Data")
    with refused("invalid", "resource.sizeGb"):
        owner.disk("tiny", size_gb=1)
    with refused("invalid", "labels"):
        owner.disk("other", labels={"A": "b"})


def test_a_disk_in_use_belongs_to_its_instance(owner: Owner) -> None:
    owner.disk("data")
    owner.launch(disks=[boot_disk(), DATA])
    with refused(
        "resourceInUseByAnotherResource", f"already being used by 'projects/{PROJECT}/zones/{ZONE}/instances/podvm-1'"
    ):
        owner.ask("Disks", "delete_unary", disk="data")
    with refused("resourceInUseByAnotherResource", "disks/data"):
        owner.insert(name="podvm-2", disks=[boot_disk(), DATA])
    with refused("resourceInUseByAnotherResource"):
        owner.insert(name="podvm-2", disks=[boot_disk(), {**DATA, "mode": "READ_ONLY"}])


def test_a_disk_that_is_only_read_is_shared(owner: Owner) -> None:
    owner.disk("data")
    for name in ("podvm-1", "podvm-2"):
        owner.launch(name, disks=[boot_disk(), {**DATA, "mode": "READ_ONLY"}])
    assert len(owner.ask("Disks", "get", disk="data").users) == 2


def test_a_disk_is_attached_and_detached(owner: Owner) -> None:
    owner.disk("data")
    owner.launch()
    owner.done(
        owner.ask(
            "Instances", "attach_disk_unary", instance="podvm-1", attached_disk_resource={**DATA, "device_name": "vol"}
        )
    )
    assert [(d.device_name, d.index, d.auto_delete) for d in owner.show().disks][1] == ("vol", 1, False)
    owner.done(owner.ask("Instances", "detach_disk_unary", instance="podvm-1", device_name="vol"))
    assert len(owner.show().disks) == 1
    with refused("invalid", "No attached disk found with device name 'vol'"):
        owner.ask("Instances", "detach_disk_unary", instance="podvm-1", device_name="vol")
    owner.done(owner.ask("Disks", "delete_unary", disk="data"))


def test_an_attached_disks_name_is_its_own(owner: Owner) -> None:
    owner.disk("data")
    owner.launch()
    with refused("invalid", "deviceName"):
        wish = {**DATA, "device_name": "persistent-disk-0"}
        owner.ask("Instances", "attach_disk_unary", instance="podvm-1", attached_disk_resource=wish)


def test_labels_of_disks_and_addresses_carry_a_fingerprint(owner: Owner) -> None:
    owner.disk("data")
    seen = owner.ask("Disks", "get", disk="data").label_fingerprint
    change = {"labels": {"a": "b"}, "label_fingerprint": seen}
    owner.done(owner.ask("Disks", "set_labels_unary", resource="data", zone_set_labels_request_resource=change))
    with refused("conditionNotMet", "Labels fingerprint", 412):
        owner.ask("Disks", "set_labels_unary", resource="data", zone_set_labels_request_resource=change)


def reserve(owner: Owner, name: str = "ip-1", **changes: object) -> str:
    wish = {"name": name, "address_type": "INTERNAL", "purpose": "GCE_ENDPOINT", "subnetwork": SUBNETWORK, **changes}
    finished = owner.done(owner.ask("Addresses", "insert_unary", address_resource=wish))
    assert not finished.error.errors, finished.error
    return str(owner.ask("Addresses", "get", address=name).address)


def test_a_reserved_address_is_its_instances_for_a_while_and_stays(owner: Owner) -> None:
    address = reserve(owner)
    nic = {"subnetwork": SUBNETWORK, "network_i_p": address}
    launched = owner.launch(network_interfaces=[nic])
    assert launched.network_interfaces[0].network_i_p == address
    held = owner.ask("Addresses", "get", address="ip-1")
    assert (held.status, list(held.users)) == ("IN_USE", [launched.self_link])
    with refused("resourceInUseByAnotherResource", "addresses/ip-1"):
        owner.ask("Addresses", "delete_unary", address="ip-1")
    with refused("resourceInUseByAnotherResource", "addresses/ip-1"):
        owner.insert(name="podvm-2", network_interfaces=[nic])
    owner.done(owner.ask("Instances", "delete_unary", instance="podvm-1"))
    assert owner.ask("Addresses", "get", address="ip-1").status == "RESERVED"
    assert owner.launch("podvm-3").network_interfaces[0].network_i_p != address
    owner.done(owner.ask("Addresses", "delete_unary", address="ip-1"))
    assert [a.name for a in owner.ask("Addresses", "list")] == []
    assert reserve(owner, "ip-2") == address


def test_an_address_is_refused_as_google_does(owner: Owner) -> None:
    address = reserve(owner, labels={"team": "blue"})
    with refused("alreadyExists", status=409):
        reserve(owner)
    with refused("invalid", "subnetwork resource cannot be found"):
        reserve(owner, "ip-2", subnetwork=f"regions/{REGION}/subnetworks/none")
    with refused("invalid", "within the subnetwork's range"):
        reserve(owner, "ip-2", address="10.0.0.1")
    with refused("invalid", "external"):
        reserve(owner, "ip-2", address_type="EXTERNAL")
    wish = {"name": "ip-2", "address_type": "INTERNAL", "subnetwork": SUBNETWORK, "address": address}
    failed = owner.done(owner.ask("Addresses", "insert_unary", address_resource=wish))
    assert failed.error.errors[0].code == "IP_IN_USE_BY_ANOTHER_RESOURCE"
    scopes = dict(owner.ask("Addresses", "aggregated_list", filter='labels.team = "blue"'))
    assert [a.name for a in scopes[f"regions/{REGION}"].addresses] == ["ip-1"]


def test_an_external_address_counts_against_its_quota(owner: Owner) -> None:
    owner.done(owner.ask("Addresses", "insert_unary", address_resource={"name": "out", "address_type": "EXTERNAL"}))
    assert owner.ask("Addresses", "get", address="out").purpose == ""
    assert {q.metric: q.usage for q in owner.ask("Regions", "get").quotas}["STATIC_ADDRESSES"] == 1


@pytest.mark.parametrize("device", ["persistent-disk-0", "data"])
def test_a_running_instance_keeps_its_boot_disk(owner: Owner, device: str) -> None:
    owner.launch()
    with refused("invalid"):
        owner.ask("Instances", "detach_disk_unary", instance="podvm-1", device_name=device)
