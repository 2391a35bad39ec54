"""The preflight, with the real SDK against simcloud; and the parts of it that decide."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from providers.azure import arm, openings, permissions
from providers.azure.provider import AzureProvider
from providers.base import Finding, Grade, SupportsPreflight
from tests.contract import azure_world
from tests.contract.azure_world import AzureWorld


@pytest.fixture
async def world() -> AsyncIterator[AzureWorld]:
    async with azure_world.world() as made:
        yield made


async def findings(world: AzureWorld, **settings: Any) -> Sequence[Finding]:
    provider = world.opened(replace(world.config, **settings), world.owner)
    assert isinstance(provider, AzureProvider)
    assert isinstance(provider, SupportsPreflight)
    return await provider.preflight(15150, 4789)


def faults(found: Sequence[Finding]) -> list[Finding]:
    assert all(bool(each.fix) is (each.grade is not Grade.OK) for each in found), found
    return [each for each in found if each.grade is Grade.FAULT]


async def test_where_launches_would_succeed_nothing_is_wrong_and_nothing_is_changed(world: AzureWorld) -> None:
    found = await findings(world)
    assert [each for each in found if each.grade is not Grade.OK] == []
    subjects = " ".join(each.subject for each in found)
    for subject in (
        "credentials",
        "resource group",
        "permissions",
        "image",
        "subnet",
        "security group",
        "size",
        "quota",
    ):
        assert subject in subjects
    changing = ("Create", "Update", "Delete", "Start", "Power", "Deallocate")
    assert not [call for call in world.cloud.calls if any(word in call for word in changing)]


async def test_a_missing_action_is_named_with_where_it_is_missing(world: AzureWorld) -> None:
    for action in ("Microsoft.Compute/virtualMachines/write", permissions.JOIN_SUBNET):
        world.cloud.faults.deny(action)
    wrong = faults(await findings(world))
    assert {each.subject for each in wrong} == {
        "permission Microsoft.Compute/virtualMachines/write",
        f"permission {permissions.JOIN_SUBNET}",
    }
    assert all("role" in each.fix for each in wrong)


async def test_without_credentials_nothing_else_is_asked(world: AzureWorld) -> None:
    world.cloud.faults.next(action="ResourceGroups.Get", error="InvalidAuthenticationToken")
    (only,) = await findings(world)
    assert (only.subject, only.grade) == ("credentials", Grade.FAULT)
    assert "AZURE_CLIENT_SECRET" in only.fix


async def test_a_resource_group_that_does_not_exist_is_named(world: AzureWorld) -> None:
    (only,) = await findings(world, resource_group="nowhere")
    assert only.grade is Grade.FAULT
    assert "nowhere" in only.message


async def test_an_image_that_does_not_exist_is_a_fault(world: AzureWorld) -> None:
    (wrong,) = faults(await findings(world, image=world.config.image.replace("podvm", "other")))
    assert wrong.subject.startswith("image ")


async def test_an_image_of_another_architecture_is_a_fault(world: AzureWorld) -> None:
    (wrong,) = faults(await findings(world, image=world.cloud.facts["arm_image"]))
    assert "arm64" in wrong.message


async def test_an_image_that_cannot_be_confidential_is_a_fault(world: AzureWorld) -> None:
    settings = {"confidential": True, "instance_type": "Standard_DC2as_v5", "instance_types": ()}
    assert faults(await findings(world, **settings)) == []
    managed = f"{world.config.group_id}/providers/Microsoft.Compute/images/podvm-managed"
    (wrong,) = faults(await findings(world, image=managed, **settings))
    assert "SecurityType" in wrong.fix


async def test_a_subnet_with_few_addresses_is_a_warning(world: AzureWorld) -> None:
    found = await findings(world, subnet_id=world.config.subnet_id.replace("/pods", "/tiny"), security_group_id=None)
    (few,) = [each for each in found if each.subject == "subnet tiny"]
    assert (few.grade, few.message) == (Grade.WARNING, "3 of 3 addresses are free")


async def test_a_size_that_is_not_confidential_is_a_fault(world: AzureWorld) -> None:
    wrong = faults(await findings(world, confidential=True))
    assert any("no confidential VM" in each.message for each in wrong)


async def test_a_used_up_quota_is_a_fault_with_the_limits_name(world: AzureWorld) -> None:
    world.cloud.faults.quota(1)
    wrong = faults(await findings(world))
    assert {each.subject for each in wrong} == {"quota cores", "quota standardDSv5Family"}
    assert all("higher limit" in each.fix for each in wrong)


async def test_what_may_not_be_read_is_a_warning_that_says_so(world: AzureWorld) -> None:
    world.cloud.faults.next(action="NetworkSecurityGroups.Get", error="AuthorizationFailed")
    found = await findings(world)
    assert faults(found) == []
    (told,) = [each for each in found if each.grade is Grade.WARNING]
    assert "could not be looked at" in told.message


# -- rules of a security group ----------------------------------------------------------------------------


def rule(priority: int, access: str, source: str = "*", port: str = "*", **more: Any) -> dict[str, Any]:
    properties = {
        "priority": priority,
        "access": access,
        "direction": "Inbound",
        "protocol": "*",
        "sourceAddressPrefix": source,
        "destinationPortRange": port,
        **more,
    }
    return {"properties": properties}


DEFAULTS = [rule(65000, "Allow", "VirtualNetwork"), rule(65500, "Deny")]


@pytest.mark.parametrize(
    ("rules", "grade", "told"),
    [
        ([], Grade.OK, "open to the virtual network"),
        ([rule(100, "Deny")], Grade.FAULT, "priority 100"),
        ([rule(100, "Deny", port="22")], Grade.OK, "open"),
        ([rule(100, "Deny", port="15000-15999")], Grade.FAULT, "priority 100"),
        ([rule(100, "Deny", protocol="Udp")], Grade.OK, "open"),
        ([rule(100, "Deny", direction="Outbound")], Grade.OK, "open"),
        ([rule(200, "Deny"), rule(100, "Allow", port="15150")], Grade.OK, "open"),
        ([rule(200, "Deny"), rule(100, "Allow", "10.1.0.0/16")], Grade.WARNING, "10.1.0.0/16"),
        ([rule(100, "Deny", "203.0.113.0/24")], Grade.OK, "open"),
        (
            [
                rule(
                    100, "Deny", "", "", sourceAddressPrefixes=["VirtualNetwork"], destinationPortRanges=["80", "15150"]
                )
            ],
            Grade.FAULT,
            "priority 100",
        ),
    ],
)
def test_the_first_rule_that_decides_on_the_port_counts(rules: list[Any], grade: Grade, told: str) -> None:
    found = openings.look("group", [*DEFAULTS, *rules], 15150, "TCP")
    assert found.grade is grade
    assert told in found.message


def test_without_any_rule_the_port_is_closed() -> None:
    assert openings.look("group", [], 4789, "UDP").grade is Grade.FAULT


# -- roles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roles", "lacking"),
    [
        ([{"actions": ["*"]}], False),
        ([{"actions": ["Microsoft.Compute/*"]}], False),
        ([{"actions": ["microsoft.compute/virtualmachines/WRITE"]}], False),
        ([{"actions": ["*/read"]}], True),
        ([{"actions": ["*"], "notActions": ["Microsoft.Compute/*/write"]}], True),
        ([{"actions": ["*"], "notActions": ["*/write"]}, {"actions": ["Microsoft.Compute/virtualMachines/*"]}], False),
        ([{"actions": ["Microsoft.Compute/virtualMachines"]}], True),
        ([], True),
    ],
)
def test_a_role_grants_what_its_patterns_say(roles: list[Any], lacking: bool) -> None:
    action = "Microsoft.Compute/virtualMachines/write"
    assert permissions.missing([action], roles) == ([action] if lacking else [])


async def test_only_what_the_settings_use_is_needed(world: AzureWorld) -> None:
    plain = set(permissions.needed(replace(world.config, security_group_id=None)))
    more = set(permissions.needed(replace(world.config, public_ip=True)))
    assert more - plain == {
        "Microsoft.Network/networkSecurityGroups/join/action",
        *(f"Microsoft.Network/publicIPAddresses/{verb}" for verb in ("read", "write", "delete", "join/action")),
    }


def test_limits_that_are_told_are_those_that_are_kept() -> None:
    headers = {
        "x-ms-ratelimit-remaining-subscription-writes": "199",
        "x-ms-ratelimit-remaining-resource": f"{arm.PUT_VM};7, Microsoft.Compute/Other;3,{arm.LIST_VMS};x",
    }
    assert dict(arm.remaining(headers)) == {arm.WRITE: 199.0, arm.PUT_VM: 7.0}
