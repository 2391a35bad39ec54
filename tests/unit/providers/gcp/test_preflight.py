"""The preflight against a project that has everything, and against one that lacks something."""

from dataclasses import replace
from typing import Any

import pytest

from providers.base import Finding, Grade
from providers.gcp.provider import GcpProvider
from tests.contract.gcp_world import GcpWorld


async def findings(world: GcpWorld, **changes: Any) -> dict[str, Finding]:
    provider = world.opened(replace(world.config, **{"machine_types": (), **changes}), world.owner)
    assert isinstance(provider, GcpProvider)
    found = await provider.preflight(15150, 4789)
    assert all(each.fix for each in found if each.grade is not Grade.OK)
    return {each.subject: each for each in found}


def wrong(found: dict[str, Finding]) -> dict[str, Grade]:
    return {subject: each.grade for subject, each in found.items() if each.grade is not Grade.OK}


async def test_a_project_that_has_everything_passes(world: GcpWorld) -> None:
    found = await findings(world, confidential=True)
    assert not [each for each in found.values() if each.grade is Grade.FAULT]
    assert {"credentials", "permissions", "machine type n2d-standard-2"} <= set(found)
    assert any(subject.startswith("quota N2D_CPUS") for subject in found)
    assert any("TCP 15150" in subject for subject in found)
    assert any("UDP 4789" in subject for subject in found)


async def test_nothing_is_made_or_changed(world: GcpWorld) -> None:
    await findings(world)
    changing = ("insert", "delete", "set", "attach", "start", "stop")
    assert not [call for call in world.cloud.calls if call.partition(".")[2].startswith(changing)]


async def test_a_missing_permission_is_named(world: GcpWorld) -> None:
    world.cloud.faults.deny("compute.instances.create")
    world.cloud.faults.deny("compute.addresses.list")
    assert wrong(await findings(world)) == {
        "permission compute.instances.create": Grade.FAULT,
        "permission compute.addresses.list": Grade.WARNING,
    }


async def test_what_may_not_be_read_is_a_warning_that_says_so(world: GcpWorld) -> None:
    world.cloud.faults.deny("compute.firewalls.list")
    found = await findings(world)
    (firewall,) = [each for subject, each in found.items() if subject.startswith("firewall")]
    assert firewall.grade is Grade.WARNING
    assert "could not be looked at" in firewall.message


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"image": "no-such-image"}, "image no-such-image"),
        ({"subnetwork": "no-such-subnet"}, "subnetwork projects/peerpods-simcloud/regions/us-central1/subnetworks"),
        ({"image": "projects/debian-cloud/global/images/debian-10-buster-v20240515"}, "image projects/debian-cloud"),
        ({"machine_type": "t2a-standard-2"}, "image projects/peerpods-simcloud"),
    ],
)
async def test_a_wrong_setting_is_a_fault(world: GcpWorld, changes: dict[str, Any], subject: str) -> None:
    confidential = changes.get("machine_type") is None
    found = wrong(await findings(world, confidential=confidential, **changes))
    assert [grade for name, grade in found.items() if name.startswith(subject)] == [Grade.FAULT]


async def test_credentials_that_are_refused_end_it_there(world: GcpWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/key.json")
    found = await findings(world, endpoint_url=None)
    assert wrong(found) == {"credentials": Grade.FAULT}
    assert "/nonexistent/key.json" in found["credentials"].message


async def test_quota_is_the_regions_for_the_configured_families(world: GcpWorld) -> None:
    assert isinstance(world.provider, GcpProvider)
    limits = {each.name: each for each in await world.provider.quota()}
    assert limits["N2D_CPUS"].types == ("n2d-standard-2",)
    assert limits["N2D_CPUS"].limit > 0
    await world.provider.create(world.spec(), "token-1")
    again = {each.name: each for each in await world.provider.quota()}
    assert (again["N2D_CPUS"].used or 0) == (limits["N2D_CPUS"].used or 0) + 2
