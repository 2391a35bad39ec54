"""Network interfaces and public addresses."""

from typing import Any

import pytest

from tests.unit.simcloud.arm.arm_client import GROUP, Account, refused


def address(account: Account, name: str = "nic") -> str:
    return str(account.network.network_interfaces.get(GROUP, name).ip_configurations[0].private_ip_address)


def public(account: Account, **changes: Any) -> Any:
    body = {"location": "eastus", "sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"}}
    return account.network.public_ip_addresses.begin_create_or_update(GROUP, "ip", {**body, **changes}).result()


def test_an_interface_has_the_lowest_free_address_at_once_and_keeps_it(account: Account) -> None:
    account.nic("a")
    made = account.network.network_interfaces.begin_create_or_update(GROUP, "b", account.nic_body(), polling=False)
    assert made.result().ip_configurations[0].private_ip_address.endswith(".0.5")  # beyond the first four, and a
    account.nic("b", tags={"x": "y"})
    assert address(account, "b").endswith(".0.5")
    account.network.network_interfaces.begin_delete(GROUP, "a").result()
    account.nic("c")
    assert address(account, "c").endswith(".0.4")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"subnet": {"id": "nowhere"}}, "LinkedInvalidPropertyId", "subnet.id"),
        ({"subnet": {"id": "{subnet}x"}}, "InvalidResourceReference", "was not found"),
        ({"privateIPAllocationMethod": "Static"}, "PrivateIPAddressMissing", "has no address"),
        ({"privateIPAllocationMethod": "Static", "privateIPAddress": "10.9.9.9"}, "PrivateIPAddressNotInSubnet", "range"),
        ({"privateIPAllocationMethod": "Static", "privateIPAddress": "172.31.0.1"}, "PrivateIPAddressInReservedRange", ""),
        ({"privateIPAllocationMethod": "Static", "privateIPAddress": "172.31.0.4"}, "PrivateIPAddressIsAllocated", ""),
        ({"privateIPAllocationMethod": "Static", "privateIPAddress": "one"}, "InvalidIPAddressFormat", "'one'"),
        ({"privateIPAllocationMethod": "Sometimes"}, "InvalidRequestFormat", ""),
        ({"publicIPAddress": {"id": "/nowhere"}}, "InvalidResourceReference", "/nowhere"),
    ],
)  # fmt: skip
def test_an_interface_that_azure_would_refuse(lasting: Account, changes: Any, code: str, words: str) -> None:
    if "subnet" in changes:
        changes = {"subnet": {"id": changes["subnet"]["id"].format(subnet=lasting.cloud.facts["subnet"])}}
    with refused(code, words):
        lasting.nic("other", **lasting.nic_body(**changes))
    assert lasting.nics() == ["nic"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"location": "westus2"}, "LocationNotAvailableForResourceType"),
        ({"location": None}, "LocationRequired"),
        ({"tags": {"a%": "b"}}, "InvalidTagNameCharacters"),
        ({"properties": {"ipConfigurations": []}}, "IpConfigurationsRequired"),
    ],
)
def test_what_is_wrong_with_the_interface_itself(lasting: Account, change: Any, code: str) -> None:
    with refused(code):
        lasting.nic("other", **change)


def test_a_full_subnet_refuses_until_an_address_is_free(account: Account) -> None:
    tiny = {"subnet": {"id": account.cloud.facts["subnet"].rpartition("/")[0] + "/tiny"}}
    for number in range(3):
        account.nic(f"n{number}", **account.nic_body(**tiny))
    with refused("SubnetIsFull", "does not have enough capacity for 1 IP addresses"):
        account.nic("one-more", **account.nic_body(**tiny))
    account.network.network_interfaces.begin_delete(GROUP, "n1").result()
    account.nic("one-more", **account.nic_body(**tiny))


def test_a_subnet_shows_who_is_in_it(account: Account) -> None:
    nic = account.nic()
    subnet = account.network.subnets.get(GROUP, "peerpods", "pods")
    assert [each.id for each in subnet.ip_configurations] == [f"{nic}/ipConfigurations/one"]
    assert subnet.address_prefix == "172.31.0.0/20"
    (network,) = account.network.virtual_networks.list(GROUP)
    assert [each.name for each in network.subnets] == ["pods", "tiny"]
    with refused("ParentResourceNotFound", status=404):
        account.network.subnets.get(GROUP, "other", "pods")


def test_a_security_groups_rules_are_shown_and_can_be_made(account: Account) -> None:
    rule = {
        "protocol": "Tcp", "direction": "Inbound", "access": "Deny", "priority": 100, "sourceAddressPrefix": "*",
        "sourcePortRange": "*", "destinationAddressPrefix": "*", "destinationPortRange": "15150",
    }  # fmt: skip
    account.network.security_rules.begin_create_or_update(GROUP, "peerpods", "no", {"properties": rule}).result()
    group = account.network.network_security_groups.get(GROUP, "peerpods")
    assert [(each.name, each.priority) for each in group.security_rules] == [("no", 100)]
    assert {each.name for each in group.default_security_rules} >= {"AllowVnetInbound", "DenyAllInbound"}
    account.network.security_rules.begin_delete(GROUP, "peerpods", "no").result()
    assert account.network.network_security_groups.get(GROUP, "peerpods").security_rules == []


def test_a_public_address_is_one_interfaces_and_not_deleted_meanwhile(account: Account) -> None:
    made = public(account)
    account.nic("a", **account.nic_body(publicIPAddress={"id": made.id}))
    assert public(account).ip_configuration.id.endswith("/a/ipConfigurations/one")
    with refused("PublicIPAddressInUse", "already allocated"):
        account.nic("b", **account.nic_body(publicIPAddress={"id": made.id}))
    with refused("PublicIPAddressCannotBeDeleted", "still allocated"):
        account.network.public_ip_addresses.begin_delete(GROUP, "ip", polling=False)
    account.network.network_interfaces.begin_delete(GROUP, "a").result()
    account.network.public_ip_addresses.begin_delete(GROUP, "ip").result()
    assert list(account.network.public_ip_addresses.list(GROUP)) == []


def test_only_static_standard_addresses_are_sold(lasting: Account) -> None:
    with refused("BasicSkuPublicIpDeprecated"):
        public(lasting, sku={"name": "Basic"})
    with refused("PublicIPAndAllocationMethodNotSupported"):
        public(lasting, properties={"publicIPAllocationMethod": "Dynamic"})


def test_tags_of_an_interface_change_alone(account: Account) -> None:
    account.nic()
    assert account.network.network_interfaces.update_tags(GROUP, "nic", {"tags": {"a": "b"}}).tags == {"a": "b"}


def test_deleting_what_is_not_there_is_success(lasting: Account) -> None:
    lasting.network.network_interfaces.begin_delete(GROUP, "nothing").result()
    lasting.network.public_ip_addresses.begin_delete(GROUP, "nothing").result()
