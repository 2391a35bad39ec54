"""Virtual machines: made once, looked at, switched off and on, and taken down with what goes with them."""

import asyncio
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.mgmt.compute.aio import ComputeManagementClient
from azure.mgmt.network.aio import NetworkManagementClient

from providers.simcloud.testing import running, running_in_thread
from tests.unit.simcloud.arm.arm_client import GROUP, Account, Bearer, NoCredential, arm, clients, eventually, refused


def failure(poller: Any) -> HttpResponseError:
    with pytest.raises(HttpResponseError) as caught:
        poller.result()
    return caught.value


# -- from birth to death --------------------------------------------------------------------------


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


async def test_the_asyncio_clients_work_too() -> None:
    async with running(cloud="arm") as cloud:
        bearer = Bearer(arm(cloud).issuer.token("https://management.azure.com"))
        common: dict[str, Any] = {
            "subscription_id": cloud.facts["subscription"], "base_url": cloud.endpoint_url,
            "authentication_policy": bearer, "retry_total": 0, "polling_interval": 0.02,
        }  # fmt: skip
        async with (
            ComputeManagementClient(NoCredential(), **common) as compute,
            NetworkManagementClient(NoCredential(), **common) as network,
        ):
            it = Account(cloud, compute, network, bearer)
            nic = await (await network.network_interfaces.begin_create_or_update(GROUP, "n", it.nic_body())).result()
            made = await compute.virtual_machines.begin_create_or_update(GROUP, "vm", it.request(nic.id))
            assert (await made.result()).provisioning_state == "Succeeded"
            assert [each.name async for each in compute.virtual_machines.list(GROUP)] == ["vm"]
            await (await compute.virtual_machines.begin_delete(GROUP, "vm")).result()
            assert [each.name async for each in network.network_interfaces.list(GROUP)] == []


def test_what_is_secret_is_not_shown_and_defaults_are(account: Account) -> None:
    account.launch(osProfile={"customData": "aGVsbG8="}, userData="dXNlcg==")
    vm = account.show()
    assert (vm.user_data, vm.os_profile.custom_data) == (None, None)
    assert account.compute.virtual_machines.get(GROUP, "vm", expand="userData").user_data == "dXNlcg=="
    assert vm.os_profile.computer_name == "vm"
    assert vm.storage_profile.os_disk.disk_size_gb == 8
    assert vm.storage_profile.os_disk.managed_disk.id.endswith("/disks/" + account.disks()[0])
    assert vm.time_created is not None
    assert vm.vm_id


def test_creation_is_an_operation_that_ends_later() -> None:
    with running_in_thread(cloud="arm", boot_delay="150ms") as cloud, clients(cloud) as account:
        poller = account.put("vm", account.request(account.nic()))
        assert poller.result().provisioning_state == "Creating"
        assert account.power() == "PowerState/starting"
        eventually(lambda: account.show().provisioning_state == "Succeeded")
        assert account.power() == "PowerState/running"


def test_with_an_agent_azure_waits_for_its_word_though_the_vm_runs() -> None:
    with running_in_thread(cloud="arm", agent_delay="300ms") as cloud, clients(cloud) as account:
        with_agent = {"osProfile": {"linuxConfiguration": {"provisionVMAgent": True}}}
        account.put("slow", account.request(account.nic("a"), **with_agent)).result()
        account.put("quick", account.request(account.nic("b"))).result()
        eventually(lambda: account.show("quick").provisioning_state == "Succeeded")
        assert account.power("slow") == "PowerState/running"
        assert account.show("slow").provisioning_state == "Creating"
        eventually(lambda: account.show("slow").provisioning_state == "Succeeded")
        view = account.compute.virtual_machines.instance_view(GROUP, "slow")
        assert view.vm_agent.statuses[0].display_status == "Ready"


def test_deletion_takes_its_time_and_nothing_else_is_possible_meanwhile() -> None:
    with running_in_thread(cloud="arm", shutdown_delay="250ms") as cloud, clients(cloud) as account:
        account.launch()
        poller = account.compute.virtual_machines.begin_delete(GROUP, "vm")
        assert account.show().provisioning_state == "Deleting"
        with refused("OperationNotAllowed", "marked for deletion", status=409):
            account.put("vm", account.request(account.cloud.facts["subnet"]))
        poller.result()
        assert account.names() == []


def test_deleting_what_is_being_made_cancels_its_creation() -> None:
    with running_in_thread(cloud="arm", boot_delay="1s", shutdown_delay="50ms") as cloud, clients(cloud) as account:
        body = account.request(account.nic())
        poller = account.compute.virtual_machines.begin_create_or_update(GROUP, "vm", body, polling_interval=0.05)
        account.delete()
        assert "preempted" in str(failure(poller))
        eventually(lambda: account.nics() == [])


# -- once only ------------------------------------------------------------------------------------


def test_the_same_put_again_makes_nothing_new(account: Account) -> None:
    body = account.request(account.nic())
    first = account.put("vm", body).result()
    again = account.put("vm", body).result()
    assert (again.vm_id, account.names(), len(account.disks())) == (first.vm_id, ["vm"], 1)
    assert len(account.cloud.instances()) == 1


@pytest.mark.parametrize(
    ("change", "target"),
    [
        ({"root": {"zones": ["1"]}}, "zones"),
        ({"storageProfile": {"imageReference": {"id": "podvm-cvm"}}}, "imageReference"),
        ({"osProfile": {"adminUsername": "other"}}, "osProfile.adminUsername"),
        ({"osProfile": {"customData": "aGVsbG8="}}, "customData"),
        ({"osProfile": {"computerName": "other"}}, "osProfile.computerName"),
        ({"priority": "Spot", "evictionPolicy": "Delete"}, "priority"),
        ({"securityProfile": {"securityType": "TrustedLaunch"}}, "securityProfile.securityType"),
        ({"storageProfile": {"osDisk": {"name": "other"}}}, "osDisk.name"),
    ],
)
def test_what_is_fixed_cannot_be_changed(account: Account, change: dict[str, Any], target: str) -> None:
    nic = account.nic()
    account.put("vm", account.request(nic)).result()
    if "storageProfile" in change and "imageReference" in change["storageProfile"]:
        other = account.cloud.facts["image"].replace("/images/podvm/", "/images/podvm-cvm/")
        change = {"storageProfile": {"imageReference": {"id": other}}}
    with refused("PropertyChangeNotAllowed", f"'{target}' is not allowed", status=409, target=target):
        account.put("vm", account.request(nic, **change))


def test_tags_and_user_data_may_change(account: Account) -> None:
    nic = account.nic()
    before = account.put("vm", account.request(nic)).result()
    changed = account.put("vm", account.request(nic, userData="bmV3", root={"tags": {"a": "b"}})).result()
    assert (changed.tags, changed.vm_id) == ({"a": "b"}, before.vm_id)
    assert account.compute.virtual_machines.get(GROUP, "vm", expand="userData").user_data == "bmV3"
    patched = account.compute.virtual_machines.begin_update(GROUP, "vm", {"tags": {"c": "d"}}).result()
    assert patched.tags == {"c": "d"}


def test_etags_guard_against_meeting_somebody_elses(account: Account) -> None:
    body = account.request(account.nic())
    only_new = {"etag": "*", "match_condition": MatchConditions.IfMissing}
    account.put("vm", body, **only_new)
    with refused("PreconditionFailed", "If-None-Match", status=412):
        account.put("vm", body, **only_new)
    known = account.show().etag
    account.put("vm", body, etag=known, match_condition=MatchConditions.IfNotModified)
    with refused("PreconditionFailed", "If-Match", status=412):
        account.put("vm", body, etag=known, match_condition=MatchConditions.IfNotModified)
    with refused("PreconditionFailed", "does not exist", status=412):
        account.put("other", body, etag="*", match_condition=MatchConditions.IfPresent)


# -- what goes with it ----------------------------------------------------------------------------


def test_what_is_not_marked_stays_and_is_free(account: Account) -> None:
    body = account.request(account.nic(), storageProfile={"osDisk": {"deleteOption": "Detach", "name": "root"}})
    body["properties"]["networkProfile"]["networkInterfaces"][0].pop("properties")
    account.put("vm", body).result()
    assert account.network.network_interfaces.get(GROUP, "nic").virtual_machine.id.endswith("/vm")
    assert account.compute.disks.get(GROUP, "root").managed_by.endswith("/vm")
    account.delete()
    eventually(lambda: not account.names())
    assert account.network.network_interfaces.get(GROUP, "nic").virtual_machine is None
    assert account.compute.disks.get(GROUP, "root").disk_state == "Unattached"
    account.network.network_interfaces.begin_delete(GROUP, "nic").result()
    account.compute.disks.begin_delete(GROUP, "root").result()
    assert (account.nics(), account.disks()) == ([], [])


def test_an_interface_described_in_the_vm_is_made_and_goes_with_it(account: Account) -> None:
    configuration = {
        "name": "front",
        "properties": {
            "deleteOption": "Delete",
            "ipConfigurations": [
                {
                    "name": "one",
                    "properties": {
                        "subnet": {"id": account.cloud.facts["subnet"]},
                        "publicIPAddressConfiguration": {"name": "ip", "properties": {"deleteOption": "Delete"}},
                    },
                }
            ],
        },
    }
    profile = {"networkApiVersion": "2022-11-01", "networkInterfaceConfigurations": [configuration]}
    body = account.request(networkProfile={**profile, "networkInterfaces": None})
    vm = account.put("vm", body).result()
    (nic,) = account.nics()
    assert nic.startswith("front-")
    assert vm.network_profile.network_interfaces[0].id.endswith(nic)
    assert len(list(account.network.public_ip_addresses.list(GROUP))) == 1
    account.delete()
    eventually(lambda: not account.names())
    assert (account.nics(), list(account.network.public_ip_addresses.list(GROUP))) == ([], [])


def test_a_public_address_goes_with_an_interface_that_says_so(account: Account) -> None:
    address = {"location": "eastus", "sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"}}
    for name in ("goes", "stays"):
        made = account.network.public_ip_addresses.begin_create_or_update(GROUP, name, address).result()
        reference = {"id": made.id, "properties": {"deleteOption": "Delete"} if name == "goes" else None}
        public = {key: value for key, value in reference.items() if value}
        account.nic(f"{name}-nic", **account.nic_body(publicIPAddress=public))
        nic = account.network.network_interfaces.get(GROUP, f"{name}-nic").id
        account.put(name, account.request(nic)).result()
        account.delete(name)
    eventually(lambda: not account.names())
    assert [each.name for each in account.network.public_ip_addresses.list(GROUP)] == ["stays"]


# -- on and off -----------------------------------------------------------------------------------


def test_a_vm_is_switched_off_and_on(account: Account) -> None:
    account.launch()
    machines = account.compute.virtual_machines
    machines.begin_power_off(GROUP, "vm").result()
    assert account.power() == "PowerState/stopped"
    with refused("OperationNotAllowed", "not running", status=409):
        machines.begin_restart(GROUP, "vm")
    machines.begin_start(GROUP, "vm").result()
    assert account.power() == "PowerState/running"
    machines.begin_restart(GROUP, "vm").result()
    machines.begin_deallocate(GROUP, "vm").result()
    assert account.power() == "PowerState/deallocated"
    assert account.show().provisioning_state == "Succeeded"


def test_a_failing_host_stops_a_vm_and_it_can_be_started_again(account: Account) -> None:
    account.launch()
    account.cloud.faults.kill("vm", "the host is on fire")
    eventually(lambda: account.power() == "PowerState/stopped")
    assert account.cloud.instances()[0].reason == "the host is on fire"
    account.compute.virtual_machines.begin_start(GROUP, "vm").result()
    assert account.power() == "PowerState/running"
    with pytest.raises(KeyError):
        account.cloud.faults.kill("nobody")


@pytest.mark.parametrize("policy", ["Delete", "Deallocate"])
def test_an_evicted_spot_vm_goes_or_is_deallocated_by_its_policy(account: Account, policy: str) -> None:
    account.launch(priority="Spot", evictionPolicy=policy)
    account.compute.virtual_machines.simulate_eviction(GROUP, "vm")
    if policy == "Delete":
        eventually(lambda: not account.names())
        assert account.nics() == []
    else:
        eventually(lambda: account.power() == "PowerState/deallocated")


def test_lists_come_in_pages_and_by_location(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("providers.simcloud.arm.listing.page.__kwdefaults__", {"size": 2})
    for number in range(5):
        account.put(f"vm{number}", account.request(account.nic(f"n{number}"))).result()
    assert account.names() == [f"vm{number}" for number in range(5)]
    assert account.cloud.calls.count("VirtualMachines.List") == 3
    assert len(list(account.compute.virtual_machines.list_all())) == 5
    assert len(list(account.compute.virtual_machines.list_by_location("eastus"))) == 5
    statuses = next(iter(account.compute.virtual_machines.list_all(status_only="true"))).instance_view.statuses
    assert "PowerState/running" in [each.code for each in statuses]


def test_age_makes_a_vm_older(account: Account) -> None:
    before = account.launch().time_created
    account.cloud.age("vm", 3600)
    assert (before - account.show().time_created).total_seconds() == pytest.approx(3600)
    with pytest.raises(KeyError):
        account.cloud.age("nobody", 1)


def test_instances_are_shown_with_what_people_want_to_know(account: Account) -> None:
    account.launch(root={"tags": {"a": "b"}, "zones": ["2"]})
    (instance,) = account.cloud.instances()
    assert (instance.state, instance.instance_type, instance.zone) == ("running", "Standard_DC2as_v5", "2")
    assert (dict(instance.tags), instance.id.endswith("/virtualMachines/vm")) == ({"a": "b"}, True)
    assert (
        instance.address
        == account.network.network_interfaces.get(GROUP, "vm-nic").ip_configurations[0].private_ip_address
    )
    account.delete()
    eventually(lambda: account.cloud.instances()[0].state == "terminated")


def test_many_at_once_each_get_their_own_address(account: Account) -> None:
    async def launch_all() -> None:
        def one(number: int) -> None:
            account.put(f"vm{number}", account.request(account.nic(f"n{number}"))).result()

        await asyncio.gather(*(asyncio.to_thread(one, number) for number in range(8)))

    asyncio.run(launch_all())
    assert len({instance.address for instance in account.cloud.instances()}) == 8
