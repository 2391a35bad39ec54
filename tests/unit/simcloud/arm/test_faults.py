"""Faults reach the caller as Azure's own: single calls, full zones, quotas, VMs that fail later."""

import time
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ServiceResponseError

from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.arm.arm_client import GROUP, Account, clients, eventually, refused

SIZE = "Standard_DC2as_v5"


def fails(account: Account, name: str = "vm", **changes: Any) -> Any:
    """The error of a creation that is accepted, and fails later."""
    body = account.request(account.nic(f"{name}-nic"), **changes)
    poller = account.compute.virtual_machines.begin_create_or_update(GROUP, name, body, polling_interval=0.02)
    with pytest.raises(HttpResponseError) as caught:
        poller.result()
    return caught.value.error


# -- single calls ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("SkuNotAvailable", 409),
        ("AllocationFailed", 409),
        ("OperationNotAllowed", 409),
        ("AuthorizationFailed", 403),
        ("ExpiredAuthenticationToken", 401),
        ("TooManyRequests", 429),
        ("InternalServerError", 500),
        ("ServiceUnavailable", 503),
        ("Strange.Novelty", 400),
    ],
)
def test_an_error_comes_with_its_own_http_status_and_nothing_is_done(account: Account, code: str, status: int) -> None:
    nic = account.nic()
    account.cloud.faults.next(action="VirtualMachines.CreateOrUpdate", error=code)
    with refused(code, status=status):
        account.put("vm", account.request(nic))
    assert account.names() == []
    account.put("vm", account.request(nic))


def test_a_refusal_may_say_how_long_to_wait(account: Account) -> None:
    account.cloud.faults.next(action="VirtualMachines.Get", error="TooManyRequests", retry_after=7)
    with refused("TooManyRequests", status=429) as caught:
        account.show()
    assert caught.value.response.headers["Retry-After"] == "7"


def test_a_lost_reply_leaves_the_deed_done(account: Account) -> None:
    body = account.request(account.nic())
    account.cloud.faults.next(action="VirtualMachines.CreateOrUpdate", lose_reply=True)
    with pytest.raises(ServiceResponseError):
        account.put("vm", body)
    assert account.names() == ["vm"]
    assert account.put("vm", body).result().name == "vm"
    assert len(account.cloud.instances()) == 1


def test_calls_lists_every_action_refused_ones_too(account: Account) -> None:
    account.nic()
    with refused("ResourceNotFound", status=404):
        account.show()
    first, *rest = account.cloud.calls
    assert (first, rest[-1]) == ("NetworkInterfaces.CreateOrUpdate", "VirtualMachines.Get")
    assert "NetworkOperations.Get" in rest


# -- a world that lacks things --------------------------------------------------------------------


def test_a_size_that_nobody_ever_had_there_is_refused_at_once(account: Account) -> None:
    nic = account.nic()
    account.cloud.faults.capacity(SIZE, "1", free=0)
    with refused("SkuNotAvailable", "Capacity Restrictions: Standard_DC2as_v5' is currently not available", status=409):
        account.put("vm", account.request(nic, root={"zones": ["1"]}))
    account.put("vm", account.request(nic, root={"zones": ["2"]}))


@pytest.mark.parametrize(("zones", "code"), [(["1"], "ZonalAllocationFailed"), ([], "AllocationFailed")])
def test_when_the_last_place_is_taken_an_allocation_fails_later(account: Account, zones: list[str], code: str) -> None:
    account.cloud.faults.capacity(SIZE, zones[0] if zones else "*", free=1)
    account.launch("first", root={"zones": zones})
    error = fails(account, root={"zones": zones})
    assert (error.code, "sufficient capacity for the requested VM size" in error.message) == (code, True)
    assert account.show().provisioning_state == "Failed"
    statuses = account.compute.virtual_machines.instance_view(GROUP, "vm").statuses
    assert [each.code for each in statuses] == [f"ProvisioningState/failed/{code}"]
    account.delete("first")
    eventually(lambda: account.names() == ["vm"])
    account.launch("second", root={"zones": zones})


def test_a_vm_that_found_no_place_can_be_tried_with_another_size(account: Account) -> None:
    account.cloud.faults.capacity(SIZE, free=1)
    account.launch("first")
    fails(account)
    nic = account.network.network_interfaces.get(GROUP, "vm-nic").id
    body = account.request(nic, hardwareProfile={"vmSize": "Standard_DC4as_v5"})
    made = account.compute.virtual_machines.begin_create_or_update(GROUP, "vm", body, polling_interval=0.02).result()
    assert (made.provisioning_state, made.hardware_profile.vm_size) == ("Succeeded", "Standard_DC4as_v5")
    assert len(account.disks()) == 2


def test_a_failed_vm_is_deleted_with_all_that_came_with_it(account: Account) -> None:
    account.cloud.faults.boot("dies")
    assert fails(account).code == "InternalExecutionError"
    account.delete()
    eventually(lambda: not account.names())
    assert (account.nics(), account.disks()) == ([], [])


def test_a_vm_fails_for_the_reason_that_is_given(account: Account) -> None:
    account.cloud.faults.boot("dies", reason="OSProvisioningTimedOut: OS Provisioning did not finish")
    error = fails(account)
    assert (error.code, error.message) == ("OSProvisioningTimedOut", "OS Provisioning did not finish")


def test_after_a_failed_launch_its_interface_is_kept_for_that_vm(account: Account) -> None:
    nic = account.nic()
    account.cloud.faults.capacity(SIZE, free=0)
    with refused("SkuNotAvailable", status=409):
        account.put("vm", account.request(nic))
    with refused("NicReservedForAnotherVm", "Reserved VM"):
        account.network.network_interfaces.begin_delete(GROUP, "nic", polling=False)
    other = {"hardwareProfile": {"vmSize": "Standard_DC4as_v5"}}
    with refused("NicReservedForAnotherVm", "180 seconds"):
        account.put("other", account.request(nic, **other))
    account.cloud.age(nic, 180)
    account.put("other", account.request(nic, **other))


def test_an_interface_that_was_kept_is_free_once_its_vm_has_lived(account: Account) -> None:
    nic = account.nic()
    account.cloud.faults.capacity(SIZE, free=0)
    with refused("SkuNotAvailable", status=409):
        account.put("vm", account.request(nic))
    body = account.request(nic, hardwareProfile={"vmSize": "Standard_DC4as_v5"})
    body["properties"]["networkProfile"]["networkInterfaces"][0].pop("properties")
    account.put("vm", body)
    account.delete()
    eventually(lambda: not account.names())
    account.network.network_interfaces.begin_delete(GROUP, "nic").result()
    assert account.nics() == []


def test_trying_anew_leaves_no_interface_of_the_first_try(account: Account) -> None:
    place = {"name": "one", "properties": {"subnet": {"id": account.cloud.facts["subnet"]}}}
    inline = [{"name": "front", "properties": {"deleteOption": "Delete", "ipConfigurations": [place]}}]
    profile = {"networkInterfaces": None, "networkApiVersion": "2022-11-01", "networkInterfaceConfigurations": inline}
    body = account.request(networkProfile=profile)
    account.cloud.faults.boot("dies")
    account.put("vm", body)
    eventually(lambda: account.show().provisioning_state == "Failed")
    account.put("vm", body)
    eventually(lambda: account.show().provisioning_state == "Succeeded")
    assert len(account.nics()) == 1


def test_a_quota_of_a_family_counts_what_is_allocated(account: Account) -> None:
    account.cloud.faults.quota(vcpus=4)
    account.launch("one")
    account.launch("two")
    nic = account.nic()
    words = (
        "exceeding approved standardDCASv5Family Cores quota. Additional details - Deployment Model: Resource Manager,"
        " Location: eastus, Current Limit: 4, Current Usage: 4, Additional Required: 2, (Minimum) New Limit Required: 6"
    )
    with refused("OperationNotAllowed", words, status=409):
        account.put("vm", account.request(nic))
    spot = {"priority": "Spot", "evictionPolicy": "Delete"}
    account.put("spot", account.request(account.nic("s"), **spot))
    with refused("OperationNotAllowed", "approved LowPriorityCores quota", status=409):
        account.put("vm", account.request(nic, **spot, hardwareProfile={"vmSize": "Standard_DC4as_v5"}))
    account.compute.virtual_machines.begin_deallocate(GROUP, "one").result()
    account.put("vm", account.request(nic))


def test_the_regions_quota_is_over_all_families(account: Account) -> None:
    account.cloud.faults.quota(vcpus=4)
    account.launch("one", hardwareProfile={"vmSize": "Standard_DC4as_v5"})
    with refused("OperationNotAllowed", "approved Total Regional Cores quota", status=409):
        account.put("vm", account.plain(account.nic()))


def test_usages_show_limits_and_what_is_used(account: Account) -> None:
    account.cloud.faults.quota(vcpus=10)
    account.launch()
    used = {each.name.value: (each.current_value, each.limit) for each in account.compute.usage.list("eastus")}
    assert (used["standardDCASv5Family"], used["cores"], used["lowPriorityCores"]) == ((2, 10), (2, 10), (0, 10))
    assert used["virtualMachines"][0] == 1


def test_a_failure_comes_after_the_time_that_a_launch_takes() -> None:
    with running_in_thread(cloud="arm", boot_delay="200ms") as cloud, clients(cloud) as account:
        cloud.faults.capacity(SIZE, free=1)
        account.put("first", account.request(account.nic("a")))
        body, began = account.request(account.nic("b")), time.monotonic()
        assert account.put("vm", body).result().provisioning_state == "Creating"
        eventually(lambda: account.show().provisioning_state == "Failed")
        assert time.monotonic() - began >= 0.2


def test_a_vm_whose_boot_failed_can_be_put_again(account: Account) -> None:
    account.cloud.faults.boot("dies")
    fails(account)
    before = account.show().etag
    nic = account.network.network_interfaces.get(GROUP, "vm-nic").id
    again = account.compute.virtual_machines.begin_create_or_update(
        GROUP, "vm", account.request(nic), polling_interval=0.02
    )
    assert again.result().provisioning_state == "Succeeded"
    assert account.show().etag != before
    assert len(account.disks()) == 1


def test_a_new_vm_may_not_be_shown_yet() -> None:
    with running_in_thread(cloud="arm", visible_after="200ms") as cloud, clients(cloud) as account:
        account.put("vm", account.request(account.nic()))
        assert account.names() == []
        with refused("ResourceNotFound", status=404):
            account.show()
        eventually(lambda: account.names() == ["vm"])
        assert account.show().name == "vm"


def test_an_interface_that_outlives_a_failed_vm_is_kept_too(account: Account) -> None:
    account.cloud.faults.capacity(SIZE, free=1)
    account.launch("first")
    body = account.request(account.nic())
    body["properties"]["networkProfile"]["networkInterfaces"][0].pop("properties")
    account.put("vm", body)
    eventually(lambda: account.show().provisioning_state == "Failed")
    account.delete()
    with refused("NicReservedForAnotherVm", "virtualMachines/vm"):
        account.network.network_interfaces.begin_delete(GROUP, "nic", polling=False)
