"""Virtual machines: made, looked at, taken down, with the real SDK."""

from tests.unit.simcloud.arm.arm_client import GROUP, Account, eventually, refused


def test_a_vm_runs_and_goes_with_all_that_came_with_it(account: Account) -> None:
    vm = account.launch(userData="aGVsbG8=")
    assert (vm.provisioning_state, vm.hardware_profile.vm_size) == ("Succeeded", "Standard_DC2as_v5")
    assert account.power() == "PowerState/running"
    assert account.names() == ["vm"]
    assert len(account.disks()) == 1
    account.delete()
    eventually(lambda: not account.names())
    assert (account.nics(), account.disks()) == ([], [])
    with refused("ResourceNotFound", "virtualMachines/vm", status=404):
        account.show()
    account.compute.virtual_machines.begin_delete(GROUP, "vm").result()
