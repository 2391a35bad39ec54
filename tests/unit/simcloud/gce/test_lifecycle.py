"""Instances over time: stopping, starting, deleting, failing hosts, and changes that carry fingerprints."""

import uuid

import pytest

from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.ec2_client import eventually
from tests.unit.simcloud.gce.owner import PROJECT, ZONE, Owner, boot_disk, owner_of, refused


def test_a_deletion_takes_its_time_and_the_instance_is_listed_meanwhile() -> None:
    with running_in_thread(cloud="gce", shutdown_delay="500ms") as cloud, owner_of(cloud) as owner:
        owner.launch()
        operation = owner.ask("Instances", "delete_unary", instance="podvm-1")
        assert owner.show().status == "STOPPING"
        assert owner.names() == ["podvm-1"]
        with refused("alreadyExists", status=409):
            owner.insert()
        assert not owner.done(operation).error.errors
        with refused("notFound", f"projects/{PROJECT}/zones/{ZONE}/instances/podvm-1' was not found", 404):
            owner.show()


def test_what_went_with_the_instance_is_gone_and_the_rest_is_free(owner: Owner) -> None:
    owner.disk("data")
    owner.launch(disks=[boot_disk(), {"source": f"zones/{ZONE}/disks/data"}])
    owner.done(owner.ask("Instances", "delete_unary", instance="podvm-1"))
    assert owner.disks() == ["data"]
    assert not owner.ask("Disks", "get", disk="data").users


def test_deleting_what_is_not_there_is_not_found_but_a_repeat_is_answered(owner: Owner) -> None:
    owner.launch()
    request_id = str(uuid.uuid4())
    first = owner.ask("Instances", "delete_unary", instance="podvm-1", request_id=request_id)
    owner.done(first)
    assert owner.ask("Instances", "delete_unary", instance="podvm-1", request_id=request_id).name == first.name
    with refused("notFound", status=404):
        owner.ask("Instances", "delete_unary", instance="podvm-1")


def test_deleting_twice_is_two_operations_that_end_together(slow: Owner) -> None:
    slow.insert()
    first, second = (slow.ask("Instances", "delete_unary", instance="podvm-1") for _ in range(2))
    assert first.name != second.name
    assert {slow.ask("ZoneOperations", "get", operation=o.name).status.name for o in (first, second)} == {"RUNNING"}


def test_an_instance_deleted_before_it_ran_fails_its_insert() -> None:
    with running_in_thread(cloud="gce", boot_delay="1h") as cloud, owner_of(cloud) as owner:
        operation = owner.insert()
        owner.done(owner.ask("Instances", "delete_unary", instance="podvm-1"))
        failed = owner.done(operation)
        assert (failed.http_error_status_code, failed.http_error_message) == (409, "CONFLICT")
        assert failed.error.errors


def test_a_protected_instance_is_not_deleted(owner: Owner) -> None:
    owner.launch(deletion_protection=True)
    with refused("invalidResourceUsage", "protected against deletion"):
        owner.ask("Instances", "delete_unary", instance="podvm-1")
    owner.done(owner.ask("Instances", "set_deletion_protection_unary", resource="podvm-1", deletion_protection=False))
    owner.done(owner.ask("Instances", "delete_unary", instance="podvm-1"))


def test_a_stopped_instance_is_terminated_keeps_its_address_and_starts_again(owner: Owner) -> None:
    before = owner.launch()
    owner.done(owner.ask("Instances", "stop_unary", instance="podvm-1"))
    stopped = owner.show()
    assert stopped.status == "TERMINATED"
    assert stopped.network_interfaces[0].network_i_p == before.network_interfaces[0].network_i_p
    assert stopped.last_stop_timestamp
    owner.done(owner.ask("Instances", "start_unary", instance="podvm-1"))
    assert owner.show().status == "RUNNING"


def test_an_instance_on_its_way_is_not_ready_for_other_orders() -> None:
    with running_in_thread(cloud="gce", shutdown_delay="1h") as cloud, owner_of(cloud) as owner:
        owner.launch()
        owner.ask("Instances", "stop_unary", instance="podvm-1")
        with refused("resourceNotReady", "is not ready"):
            owner.ask("Instances", "start_unary", instance="podvm-1")


def test_an_instance_that_has_not_come_up_yet_is_not_ready_to_be_stopped(slow: Owner) -> None:
    slow.insert()
    with refused("resourceNotReady", "is not ready"):
        slow.ask("Instances", "stop_unary", instance="podvm-1")


def test_a_start_that_comes_to_nothing_fails(owner: Owner) -> None:
    owner.launch(scheduling={"automatic_restart": False})
    owner.done(owner.ask("Instances", "stop_unary", instance="podvm-1"))
    owner.cloud.faults.boot("dies", reason="the host went up in smoke")
    failed = owner.done(owner.ask("Instances", "start_unary", instance="podvm-1"))
    assert [(e.code, e.message) for e in failed.error.errors] == [("INTERNAL_ERROR", "the host went up in smoke")]
    assert owner.show().status == "TERMINATED"


def test_a_start_finds_out_that_there_is_no_room(owner: Owner) -> None:
    owner.launch(scheduling={"automatic_restart": False})
    owner.cloud.faults.kill("podvm-1")
    owner.becomes("TERMINATED")
    owner.cloud.faults.capacity(free=0)
    failed = owner.done(owner.ask("Instances", "start_unary", instance="podvm-1"))
    assert failed.error.errors[0].code == "ZONE_RESOURCE_POOL_EXHAUSTED"


def test_a_failed_host_leaves_the_instance_terminated_when_it_is_not_to_be_restarted(owner: Owner) -> None:
    owner.launch(scheduling={"automatic_restart": False})
    owner.cloud.faults.kill("podvm-1", "the host failed")
    owner.becomes("TERMINATED")
    (view,) = owner.cloud.instances()
    assert (view.state, view.reason) == ("terminated", "the host failed")
    owner.done(owner.ask("Instances", "start_unary", instance="podvm-1"))
    assert owner.show().status == "RUNNING"


def test_a_failed_host_starts_the_instance_again_unless_told_not_to() -> None:
    with running_in_thread(cloud="gce") as cloud, owner_of(cloud) as owner:
        owner.launch()
        cloud.faults.kill(f"{ZONE}/podvm-1")
        eventually(lambda: [o for o in owner.ask("ZoneOperations", "list") if o.operation_type == "automaticRestart"])
        owner.becomes("RUNNING")


def test_a_spot_instance_that_is_taken_back_is_deleted_when_that_was_asked_for(owner: Owner) -> None:
    owner.launch(scheduling={"provisioning_model": "SPOT", "instance_termination_action": "DELETE"})
    owner.cloud.faults.kill("podvm-1", "preempted")
    eventually(lambda: owner.names() == [])
    assert owner.disks() == []
    assert owner.cloud.instances()[0].reason == "preempted"


def test_killing_what_is_not_there_is_a_key_error(owner: Owner) -> None:
    with pytest.raises(KeyError):
        owner.cloud.faults.kill("podvm-9")


def test_labels_are_changed_by_whoever_has_seen_them(owner: Owner) -> None:
    seen = owner.launch(labels={"team": "blue"}).label_fingerprint
    change = {"labels": {"team": "red"}, "label_fingerprint": seen}
    owner.ask("Instances", "set_labels_unary", instance="podvm-1", instances_set_labels_request_resource=change)
    assert dict(owner.show().labels) == {"team": "red"}
    with refused("conditionNotMet", "Labels fingerprint either invalid or resource labels have changed", 412):
        owner.ask("Instances", "set_labels_unary", instance="podvm-1", instances_set_labels_request_resource=change)


def test_metadata_and_network_tags_are_changed_by_whoever_has_seen_them(owner: Owner) -> None:
    seen = owner.launch()
    items = [{"key": "user-data", "value": "bmV3"}]
    change = {"items": items, "fingerprint": seen.metadata.fingerprint}
    owner.ask("Instances", "set_metadata_unary", instance="podvm-1", metadata_resource=change)
    assert owner.show().metadata.items[0].value == "bmV3"
    with refused("conditionNotMet", "metadata fingerprint", 412):
        owner.ask("Instances", "set_metadata_unary", instance="podvm-1", metadata_resource=change)
    tags = {"items": ["a"], "fingerprint": seen.tags.fingerprint}
    owner.ask("Instances", "set_tags_unary", instance="podvm-1", tags_resource=tags)
    with refused("conditionNotMet", "tags fingerprint", 412):
        owner.ask("Instances", "set_tags_unary", instance="podvm-1", tags_resource=tags)


def test_an_operation_waited_for_is_answered(owner: Owner) -> None:
    operation = owner.insert()
    assert owner.ask("ZoneOperations", "wait", operation=operation.name).name == operation.name
    with refused("notFound", "operation-1", 404):
        owner.ask("ZoneOperations", "get", operation="operation-1")
    with refused("notFound", operation.name, 404):
        owner.ask("ZoneOperations", "get", operation=operation.name, zone="us-central1-f")


def test_an_instance_can_be_made_older(owner: Owner) -> None:
    before = owner.launch().creation_timestamp
    owner.cloud.age(f"{ZONE}/podvm-1", 86400)
    assert owner.show().creation_timestamp < before
    with pytest.raises(KeyError):
        owner.cloud.age("podvm-9", 1)
