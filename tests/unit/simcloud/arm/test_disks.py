"""Managed disks, free and attached."""

from typing import Any

import pytest

from tests.unit.simcloud.arm.arm_client import GROUP, Account, eventually, refused


def make(account: Account, name: str = "data", **changes: Any) -> Any:
    body = {
        "location": "eastus",
        "sku": {"name": "Premium_LRS"},
        "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 4},
    }
    return account.compute.disks.begin_create_or_update(GROUP, name, {**body, **changes}).result()


def holding(disk: str, lun: int = 3, **more: Any) -> dict[str, Any]:
    return {
        "storageProfile": {"dataDisks": [{"lun": lun, "createOption": "Attach", "managedDisk": {"id": disk}, **more}]}
    }


def test_a_pods_disk_is_attached_by_its_lun_and_outlives_the_vm(account: Account) -> None:
    disk = make(account)
    assert (disk.disk_state, disk.provisioning_state) == ("Unattached", "Succeeded")
    vm = account.put("vm", account.request(account.nic(), **holding(disk.id))).result()
    assert [(each.lun, each.name) for each in vm.storage_profile.data_disks] == [(3, "data")]
    attached = account.compute.disks.get(GROUP, "data")
    assert (attached.disk_state, attached.managed_by) == ("Attached", vm.id)
    with refused("OperationNotAllowed", "is attached to VM", status=409):
        account.compute.disks.begin_delete(GROUP, "data", polling=False)
    account.delete()
    eventually(lambda: not account.names())
    assert account.compute.disks.get(GROUP, "data").disk_state == "Unattached"
    account.compute.disks.begin_delete(GROUP, "data").result()
    assert account.disks() == []


def test_a_disk_is_one_vms_only_unless_it_is_shared(account: Account) -> None:
    alone = make(account)
    shared = make(
        account, "shared", properties={"creationData": {"createOption": "Empty"}, "diskSizeGB": 4, "maxShares": 2}
    )
    account.put("one", account.request(account.nic("a"), **holding(alone.id)))
    with refused("ConflictingUserInput", "already owned by VM", status=409):
        account.put("two", account.request(account.nic("b"), **holding(alone.id)))
    for name in ("three", "four"):
        account.put(name, account.request(account.nic(name), **holding(shared.id))).result()
    assert len(account.compute.disks.get(GROUP, "shared").managed_by_extended) == 2
    with refused("ConflictingUserInput", status=409):
        account.put("five", account.request(account.nic("e"), **holding(shared.id)))


@pytest.mark.parametrize(
    ("disk", "vm", "fits"),
    [([], [], True), (["1"], ["1"], True), (["1"], ["2"], False), (["1"], [], False), ([], ["1"], False)],
)
def test_a_disk_fits_the_vms_of_its_zone(account: Account, disk: list[str], vm: list[str], fits: bool) -> None:
    made = make(account, zones=disk)
    body = account.request(account.nic(), root={"zones": vm}, **holding(made.id))
    if fits:
        account.put("vm", body)
        return
    with refused("BadRequest", "it is not in the same zone as the VM"):
        account.put("vm", body)


def test_a_zone_redundant_disk_fits_everywhere(account: Account) -> None:
    made = make(account, sku={"name": "Premium_ZRS"})
    account.put("vm", account.request(account.nic(), root={"zones": ["2"]}, **holding(made.id)))


def test_a_disk_made_with_the_vm_goes_when_it_is_marked(account: Account) -> None:
    empty = {"createOption": "Empty", "diskSizeGB": 4}
    disks = [{"lun": 0, "name": "goes", "deleteOption": "Delete", **empty}, {"lun": 1, "name": "stays", **empty}]
    account.put("vm", account.request(account.nic(), storageProfile={"dataDisks": disks})).result()
    assert {"goes", "stays"} < set(account.disks())
    account.delete()
    eventually(lambda: account.disks() == ["stays"])


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"properties": {"creationData": {"createOption": "Empty"}}}, "InvalidParameter", "diskSizeGB"),
        ({"properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 40000}}, "InvalidParameter", "32767"),
        ({"properties": {"creationData": {"createOption": "Import"}}}, "InvalidParameter", "createOption"),
        ({"properties": {"diskSizeGB": 4}}, "InvalidParameter", "creationData"),
        ({"zones": ["7"]}, "AvailabilityZoneNotSupported", "'7'"),
        ({"zones": ["1", "2"]}, "InvalidParameter", "one zone"),
        ({"sku": {"name": "Golden"}}, "InvalidParameter", "Allowed values"),
        ({"location": "mars"}, "LocationNotAvailableForResourceType", "mars"),
    ],
)
def test_a_disk_that_azure_would_refuse(lasting: Account, change: Any, code: str, words: str) -> None:
    with refused(code, words):
        make(lasting, **change)
    assert lasting.disks() == []


def test_a_disk_grows_and_never_shrinks_nor_moves(account: Account) -> None:
    make(account)
    assert (
        account.compute.disks.begin_update(GROUP, "data", {"properties": {"diskSizeGB": 8}}).result().disk_size_gb == 8
    )
    with refused("ResizeDiskError", "Shrinking"):
        account.compute.disks.begin_update(GROUP, "data", {"properties": {"diskSizeGB": 4}})
    with refused("PropertyChangeNotAllowed", "'zones'", status=409):
        make(account, zones=["1"], properties={"creationData": {"createOption": "Empty"}, "diskSizeGB": 8})


def test_disks_are_attached_to_a_vm_that_runs_and_detached_again(account: Account) -> None:
    one, two = make(account, "one"), make(account, "two")
    nic = account.nic()
    account.put("vm", account.request(nic, **holding(one.id))).result()
    machines = account.compute.virtual_machines
    order = {"dataDisksToAttach": [{"diskId": two.id}], "dataDisksToDetach": [{"diskId": one.id}]}
    told = machines.begin_attach_detach_data_disks(GROUP, "vm", order).result()
    assert [(each.lun, each.name) for each in told.data_disks] == [(0, "two")]
    assert [account.compute.disks.get(GROUP, name).disk_state for name in ("one", "two")] == ["Unattached", "Attached"]
    vm = account.put("vm", account.request(nic, **holding(one.id))).result()  # a PUT's list is all that it has
    assert [each.name for each in vm.storage_profile.data_disks] == ["one"]
    assert [account.compute.disks.get(GROUP, name).disk_state for name in ("one", "two")] == ["Attached", "Unattached"]
    account.put("vm", account.request(nic)).result()  # and one without a list leaves them
    assert account.compute.disks.get(GROUP, "one").disk_state == "Attached"
    with refused("NotFound", "is not attached", status=404):
        machines.begin_attach_detach_data_disks(GROUP, "vm", {"dataDisksToDetach": [{"diskId": two.id}]})
    account.put("other", account.request(account.nic("other"), **holding(two.id))).result()
    with refused("ConflictingUserInput", "already owned by VM", status=409):
        machines.begin_attach_detach_data_disks(GROUP, "vm", {"dataDisksToAttach": [{"diskId": two.id}]})


def test_interfaces_are_not_changed_under_a_vm(account: Account) -> None:
    account.put("vm", account.request(account.nic())).result()
    with refused("AddingOrDeletingNetworkInterfacesOnARunningVirtualMachineNotSupported", status=409):
        account.put("vm", account.request(account.nic("other")))
