"""instances.insert as Google answers it: operations, request ids, what runs out, and what an instance shows."""

import uuid
from typing import Any

import pytest

from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.gce.owner import DONE, PROJECT, REGION, ZONE, Owner, boot_disk, owner_of, refused


def test_an_insert_is_answered_with_an_operation_that_runs_until_the_instance_does(slow: Owner) -> None:
    operation = slow.insert()
    assert operation.status.name == "PENDING"
    assert operation.target_link.endswith(f"/zones/{ZONE}/instances/podvm-1")
    again = slow.ask("ZoneOperations", "get", operation=operation.name)
    assert (again.status.name, again.progress) == ("RUNNING", 0)


def test_a_finished_operation_says_so_and_names_no_error(owner: Owner) -> None:
    finished = owner.done(owner.insert())
    assert (finished.status, finished.progress, finished.http_error_status_code) == (DONE, 100, 0)
    assert finished.end_time >= finished.start_time >= finished.insert_time
    assert finished.target_id == owner.show().id


def test_the_address_is_known_while_the_instance_is_provisioning(slow: Owner) -> None:
    slow.insert()
    shown = slow.show()
    assert shown.status == "PROVISIONING"
    assert shown.network_interfaces[0].network_i_p == slow.cloud.instances()[0].address


def test_an_instance_that_has_its_hardware_is_staging() -> None:
    with running_in_thread(cloud="gce", boot_delay="1s") as cloud, owner_of(cloud) as owner:
        owner.insert()
        owner.becomes("STAGING")
        owner.becomes("RUNNING")


def test_everything_that_was_asked_for_is_shown_and_the_rest_filled_in(owner: Owner) -> None:
    shown = owner.launch(
        labels={"team": "blue"},
        tags={"items": ["podvm"]},
        service_accounts=[{"email": "default", "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}],
        scheduling={"automatic_restart": False},
        disks=[boot_disk(disk_size_gb=20, disk_type=f"zones/{ZONE}/diskTypes/pd-ssd")],
    )
    assert shown.self_link == f"https://www.googleapis.com/compute/v1/projects/{PROJECT}/zones/{ZONE}/instances/podvm-1"
    assert shown.machine_type.endswith(f"/zones/{ZONE}/machineTypes/n2d-standard-2")
    assert (dict(shown.labels), list(shown.tags.items)) == ({"team": "blue"}, ["podvm"])
    assert shown.service_accounts[0].email == "123456789012-compute@developer.gserviceaccount.com"
    assert (shown.scheduling.automatic_restart, shown.scheduling.on_host_maintenance) == (False, "MIGRATE")
    (disk,) = shown.disks
    assert (disk.disk_size_gb, disk.architecture, disk.device_name) == (20, "X86_64", "persistent-disk-0")
    assert "SEV_SNP_CAPABLE" in [feature.type_ for feature in disk.guest_os_features]
    assert {item.key: item.value for item in shown.metadata.items} == {"user-data": "aGVsbG8="}
    assert owner.ask("Disks", "get", disk="podvm-1").users == [shown.self_link]


def test_a_spot_instance_is_stopped_for_maintenance_and_never_restarted_unless_told(owner: Owner) -> None:
    scheduling = owner.launch(scheduling={"provisioning_model": "SPOT"}).scheduling
    assert (scheduling.preemptible, scheduling.automatic_restart) == (True, False)
    assert scheduling.on_host_maintenance == "TERMINATE"


def test_the_same_request_id_is_answered_with_the_same_operation(owner: Owner) -> None:
    request_id = str(uuid.uuid4())
    first = owner.insert(request_id)
    owner.done(first)
    again = owner.insert(request_id.upper())
    assert (again.name, again.status) == (first.name, DONE)
    assert len(owner.cloud.instances()) == 1


def test_a_request_id_that_failed_answers_with_its_failure_however_much_room_there_is_now(owner: Owner) -> None:
    request_id = str(uuid.uuid4())
    owner.cloud.faults.capacity(free=0)
    failed = owner.done(owner.insert(request_id))
    owner.cloud.faults.clear()
    assert owner.insert(request_id).error == failed.error
    assert owner.names() == []


def test_a_request_that_was_refused_has_not_used_its_id(owner: Owner) -> None:
    request_id = str(uuid.uuid4())
    with refused("invalid"):
        owner.insert(request_id, labels={"Team": "blue"})
    assert not owner.done(owner.insert(request_id)).error.errors


def test_a_request_id_is_forgotten_after_its_time_and_then_the_name_is_taken(owner: Owner) -> None:
    request_id = str(uuid.uuid4())
    operation = owner.done(owner.insert(request_id))
    owner.cloud.age(operation.name, 3601)
    with refused("alreadyExists", "podvm-1' already exists", 409):
        owner.insert(request_id)


def test_a_request_id_is_for_one_call_only(owner: Owner) -> None:
    request_id = str(uuid.uuid4())
    owner.insert(request_id)
    with refused("invalid", "requestId"):
        owner.insert(request_id, name="podvm-2")
    with refused("invalid", "requestId"):
        owner.ask("Instances", "delete_unary", instance="podvm-1", request_id=request_id)


@pytest.mark.parametrize("text", ["mine", "00000000-0000-0000-0000-000000000000", "{" + str(uuid.UUID(int=7)) + "}"])
def test_a_request_id_is_a_uuid(owner: Owner, text: str) -> None:
    with refused("invalid", "requestId"):
        owner.insert(text)


def test_a_name_is_taken_once_in_a_zone_and_again_in_another(owner: Owner) -> None:
    owner.launch()
    with refused("alreadyExists", f"projects/{PROJECT}/zones/{ZONE}/instances/podvm-1", 409):
        owner.insert()
    other = "us-central1-f"
    owner.insert(zone=other, machine_type=f"zones/{other}/machineTypes/n2d-standard-2")
    assert owner.show(zone=other).zone.endswith(other)


def test_a_full_zone_fails_in_the_operation_and_the_instance_disappears(owner: Owner) -> None:
    owner.cloud.faults.capacity("n2d-standard-2", ZONE, free=1)
    owner.launch()
    operation = owner.done(owner.insert(name="podvm-2"))
    (error,) = operation.error.errors
    assert (error.code, operation.http_error_status_code) == ("ZONE_RESOURCE_POOL_EXHAUSTED", 503)
    assert f"'projects/{PROJECT}/zones/{ZONE}' does not have enough resources available" in error.message
    facts = next(each.error_info.metadatas for each in error.error_details if each.error_info.reason)
    assert (facts["vmType"], facts["zonesAvailable"]) == ("n2d-standard-2", "us-central1-b,us-central1-c,us-central1-f")
    assert (owner.names(), owner.disks()) == (["podvm-1"], ["podvm-1"])


def test_a_full_zone_is_noticed_after_a_while_until_then_the_instance_is_provisioning() -> None:
    with running_in_thread(cloud="gce", boot_delay="600ms") as cloud, owner_of(cloud) as owner:
        cloud.faults.capacity(free=0)
        operation = owner.insert()
        assert owner.show().status == "PROVISIONING"
        assert owner.done(operation).error.errors
        with refused("notFound", status=404):
            owner.show()


def test_a_shortage_of_gpus_says_so_with_details(owner: Owner) -> None:
    owner.cloud.faults.capacity("g2-standard-4", free=0)
    kind = f"zones/{ZONE}/machineTypes/g2-standard-4"
    error = owner.fails(
        machine_type=kind,
        scheduling={"on_host_maintenance": "TERMINATE"},
        disks=[boot_disk(disk_type=f"zones/{ZONE}/diskTypes/pd-balanced")],
    )
    assert error.code == "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"
    assert any(each.error_info.metadatas.get("attachment") == "nvidia-l4:1" for each in error.error_details)


def test_a_place_comes_back_when_its_instance_is_gone(owner: Owner) -> None:
    owner.cloud.faults.capacity(free=1)
    owner.launch()
    owner.done(owner.ask("Instances", "delete_unary", instance="podvm-1"))
    assert owner.launch("podvm-2").status == "RUNNING"


def test_the_quota_names_its_metric_and_limit(owner: Owner) -> None:
    owner.cloud.faults.quota(3)
    owner.launch()
    operation = owner.done(owner.insert(name="podvm-2"))
    (error,) = operation.error.errors
    assert (error.code, operation.http_error_status_code) == ("QUOTA_EXCEEDED", 403)
    assert error.message == f"Quota 'N2D_CPUS' exceeded.  Limit: 3.0 in region {REGION}."
    assert owner.names() == ["podvm-1"]


def test_a_quota_of_the_region_counts_gpus_too(owner: Owner) -> None:
    shape: dict[str, Any] = {
        "machine_type": f"zones/{ZONE}/machineTypes/a2-highgpu-2g",
        "scheduling": {"on_host_maintenance": "TERMINATE"},
    }
    for n in range(32):
        owner.insert(name=f"podvm-{n}", **shape)
    assert owner.fails(name="podvm-32", **shape).message.startswith("Quota 'NVIDIA_A100_GPUS' exceeded.  Limit: 64.0")


def test_quotas_are_shown_with_what_is_used(owner: Owner) -> None:
    owner.launch()
    quotas = {q.metric: (q.limit, q.usage) for q in owner.ask("Regions", "get").quotas}
    assert quotas["N2D_CPUS"] == (2400, 2)
    assert quotas["INSTANCES"][1] == 1
    assert quotas["DISKS_TOTAL_GB"][1] == 10
    owner.cloud.faults.quota(8)
    assert owner.ask("Regions", "get").quotas[0].limit == 8


def test_addresses_of_the_subnetwork_run_out_in_the_operation() -> None:
    with running_in_thread(cloud="gce", network="10.9.0.0/29") as cloud, owner_of(cloud) as owner:
        usable = {owner.launch(f"podvm-{n}").network_interfaces[0].network_i_p for n in range(4)}
        assert usable == {f"10.9.0.{n}" for n in (2, 3, 4, 5)}  # Google keeps two at each end
        assert owner.fails(name="podvm-9").code == "IP_SPACE_EXHAUSTED"
        owner.done(owner.ask("Instances", "delete_unary", instance="podvm-1"))
        assert owner.launch("podvm-9").network_interfaces[0].network_i_p == "10.9.0.3"


def test_an_address_that_another_has_fails_in_the_operation(owner: Owner) -> None:
    held = owner.launch().network_interfaces[0].network_i_p
    error = owner.fails(
        name="podvm-2", network_interfaces=[{"network": "global/networks/default", "network_i_p": held}]
    )
    assert error.code == "IP_IN_USE_BY_ANOTHER_RESOURCE"
    assert owner.names() == ["podvm-1"]


def test_a_failed_launch_gives_its_address_back(owner: Owner) -> None:
    owner.cloud.faults.capacity(free=0)
    owner.fails()
    owner.cloud.faults.clear()
    assert owner.launch().network_interfaces[0].network_i_p == owner.cloud.instances()[0].address


def test_an_instance_that_dies_while_it_boots_fails_its_operation_with_the_reason(owner: Owner) -> None:
    owner.cloud.faults.boot("dies", reason="INTERNAL_ERROR: the host went up in smoke")
    error = owner.fails()
    assert (error.code, error.message) == ("INTERNAL_ERROR", "the host went up in smoke")
    assert (owner.names(), owner.disks()) == ([], [])


def test_a_fresh_instance_may_be_unknown_for_a_while() -> None:
    with running_in_thread(cloud="gce", visible_after="300ms") as cloud, owner_of(cloud) as owner:
        owner.insert()
        assert owner.names() == []
        with refused("notFound", status=404):
            owner.show()
        owner.done(owner.insert(name="podvm-2"))
        assert "podvm-1" in [each.id.partition("/")[2] for each in cloud.instances()]
