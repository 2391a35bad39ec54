"""Limits on running vCPUs: which one a type counts against, and what is used of it."""

import pytest

from providers.aws import quota
from providers.base import Purchase
from providers.errors import Denied
from tests.contract.aws_world import AwsWorld
from tests.unit.providers.aws.conftest import Opened

STANDARD, STANDARD_SPOT = "L-1216C47A", "L-34B43A08"


@pytest.mark.parametrize(
    ("name", "on_demand", "spot"),
    [
        ("m6a.large", STANDARD, STANDARD_SPOT),
        ("im4gn.large", STANDARD, STANDARD_SPOT),
        ("inf2.xlarge", "L-1945791B", "L-B5D1601B"),
        ("i4i.large", STANDARD, STANDARD_SPOT),
        ("g5.xlarge", "L-DB2E81BA", "L-3819A6DF"),
        ("vt1.3xlarge", "L-DB2E81BA", "L-3819A6DF"),
        ("p4d.24xlarge", "L-417A185B", "L-7212CCBC"),
        ("p5.48xlarge", "L-417A185B", "L-C4BD4855"),
        ("trn1.2xlarge", "L-2C3B7624", "L-6B0D517C"),
        ("t3.small", STANDARD, STANDARD_SPOT),
        ("dl1.24xlarge", "L-6E869C2A", "L-85EED4F7"),
        ("d3.xlarge", STANDARD, STANDARD_SPOT),
        ("x2idn.16xlarge", "L-7295265B", "L-E3A00192"),
        ("u-6tb1.metal", "L-43DA4232", ""),
        ("hpc6a.48xlarge", "L-F7808C92", ""),
        ("mac2.metal", "", ""),
    ],
)
def test_a_type_counts_against_the_limit_of_its_family(name: str, on_demand: str, spot: str) -> None:
    assert (quota.code(name, Purchase.ON_DEMAND), quota.code(name, Purchase.SPOT)) == (on_demand, spot)


async def test_limits_are_told_with_what_runs_in_the_whole_account(world: AwsWorld, opened: Opened) -> None:
    world.cloud.faults.quota(32)
    provider = opened(spot=True)
    await provider.create(world.spec(), "token-1")
    await provider.create(world.spec(purchase=Purchase.SPOT), "token-2")
    subnet = world.config.subnet_ids[0]
    request = {"ImageId": world.config.image, "InstanceType": "m6a.xlarge", "SubnetId": subnet}
    await world.ask("run_instances", MinCount=1, MaxCount=1, **request)  # somebody else's
    found = {each.name.rpartition("(")[2].strip(")"): each for each in await provider.quota()}
    assert set(found) == {STANDARD, STANDARD_SPOT, "L-DB2E81BA", "L-3819A6DF"}
    assert (found[STANDARD].limit, found[STANDARD].used, found[STANDARD].unit) == (32.0, 6.0, "vCPU")
    assert found[STANDARD].types == ("m6a.large", "m7g.large")
    assert found[STANDARD_SPOT].used == 2.0
    assert found["L-DB2E81BA"].types == ("g5.xlarge",)
    assert "Running On-Demand Standard" in found[STANDARD].name


async def test_a_limit_that_was_never_changed_is_amazons_default(world: AwsWorld, opened: Opened) -> None:
    found = await opened(instance_types=("p4d.24xlarge",)).quota()
    assert "L-417A185B" in " ".join(each.name for each in found)
    assert "GetAWSDefaultServiceQuota" in world.cloud.calls


async def test_a_missing_permission_is_named(world: AwsWorld, opened: Opened) -> None:
    world.cloud.faults.next(action="GetServiceQuota", error="AccessDeniedException")
    with pytest.raises(Denied, match="servicequotas:GetServiceQuota"):
        await opened(instance_types=()).quota()
