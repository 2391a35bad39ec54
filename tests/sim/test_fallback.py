"""A start that finds one offering exhausted goes on to the next, and tells of all it tried; a node in virtual time."""

import asyncio
import logging
from typing import Any

import pytest

from adaptor.catalog.select import LAST_RESORT
from adaptor.catalog.unavailable import CAPACITY_TTL
from adaptor.errors import InvalidRequest, NoCapacity, StartFailed
from adaptor.sandbox.registry import Registry
from providers.base import LaunchSpec, Offering, Purchase, Tee
from providers.errors import Capacity, Denied, InvalidSpec, NotFound, ProviderError
from tests.worlds.node import Node, spec

OD, SPOT = Purchase.ON_DEMAND, Purchase.SPOT
TYPES = {"m6a.large": 0.09, "m7a.large": 0.11, "c6a.xlarge": 0.15}
OFFERINGS = tuple(
    Offering(kind, 2, 8192, zone=zone, purchase=purchase, tee=Tee.SNP, price=price if purchase is OD else price / 3)
    for kind, price in TYPES.items()
    for purchase in (OD, SPOT)
    for zone in ("a", "b", "c")
)


@pytest.fixture
def node(node: Node) -> Node:
    node.cloud.offered = OFFERINGS
    return node


async def launch(registry: Registry, node: Node, name: str = "web", **wishes: Any) -> LaunchSpec:
    """Start a pod; what its VM was launched with."""
    pod = spec(name, **wishes)
    await registry.create(pod)
    await registry.start(pod.id)
    (mine,) = [each for each in node.cloud.specs.values() if each.name.endswith(f"-{pod.id[:8]}")]
    return mine


def told(mine: LaunchSpec) -> tuple[str, str, Purchase]:
    return mine.instance_type, mine.zone, mine.purchase


def full(node: Node, *zones: str, kind: str = "m6a.large", purchase: Purchase = OD) -> None:
    node.cloud.room |= {(kind, zone, purchase): 0 for zone in zones}


async def test_what_was_chosen_is_what_is_launched(node: Node) -> None:
    async with node.adaptor() as registry:
        mine = await launch(registry, node, instance_type="m7a.*", wishes="zone=b;spot=only;root-gib=40;scratch-gib=7")
    assert told(mine) == ("m7a.large", "b", SPOT)
    assert (mine.tee, mine.root_volume_gib, mine.scratch_gib) == (Tee.SNP, 40, 7)


async def test_a_full_zone_gives_way_to_the_next_and_then_the_next_type(node: Node) -> None:
    full(node, "a", "b", "c")
    full(node, "a", kind="m7a.large")
    async with node.adaptor() as registry:
        assert told(await launch(registry, node)) == ("m7a.large", "b", OD)
    assert node.cloud.calls["create"] == 5


async def test_a_quota_counts_for_every_zone_at_once(node: Node) -> None:
    node.cloud.limits["m6a.large"] = 0
    async with node.adaptor() as registry:
        assert told(await launch(registry, node)) == ("m7a.large", "a", OD)
    assert node.cloud.calls["create"] == 2


async def test_spot_falls_back_to_on_demand(node: Node) -> None:
    full(node, "a", "b", "c", purchase=SPOT)
    async with node.adaptor() as registry:
        mine = await launch(registry, node, instance_type="m6a.large", wishes="spot=preferred")
    assert told(mine) == ("m6a.large", "a", OD)


async def test_the_next_pod_does_not_ask_for_what_was_just_refused(node: Node) -> None:
    full(node, "a", "b")
    async with node.adaptor() as registry:
        assert told(await launch(registry, node, "one")) == ("m6a.large", "c", OD)
        assert node.cloud.calls["create"] == 3
        assert told(await launch(registry, node, "two")) == ("m6a.large", "c", OD)
        assert node.cloud.calls["create"] == 4
        node.cloud.room.clear()
        await node.clock.sleep(CAPACITY_TTL)
        assert told(await launch(registry, node, "three")) == ("m6a.large", "a", OD), "there is room again"


async def test_a_herd_that_chose_before_the_first_refusal_does_not_ask_one_by_one(node: Node) -> None:
    full(node, "a", "b")
    async with node.adaptor() as registry:
        mine = await asyncio.gather(*(launch(registry, node, f"p{number:03}") for number in range(100)))
    assert {told(each) for each in mine} == {("m6a.large", "c", OD)}
    assert node.cloud.calls["create"] <= 100 + 2 * 16, "at most those whose call was under way already"


async def test_where_all_is_marked_a_few_are_asked_for_all_the_same(node: Node) -> None:
    for kind in TYPES:
        full(node, "a", "b", "c", kind=kind)
    async with node.adaptor() as registry:
        with pytest.raises(NoCapacity):
            await launch(registry, node, "one")
        asked = node.cloud.calls["create"]
        assert asked == 9
        with pytest.raises(NoCapacity, match="Not asked again so soon"):
            await launch(registry, node, "two")
        assert node.cloud.calls["create"] == asked + LAST_RESORT
        node.cloud.room.clear()
        assert told(await launch(registry, node, "three"))[0] in TYPES, "a pod does not fail on memory alone"


async def test_the_error_tells_every_try_and_stays_short(node: Node) -> None:
    for kind in TYPES:
        full(node, "a", "b", "c", kind=kind)
    node.cloud.unsold.add(("c6a.xlarge", "c"))
    async with node.adaptor() as registry:
        with pytest.raises(NoCapacity) as caught:
            await launch(registry, node)
    said = str(caught.value)
    assert said.startswith(
        "memory has no room for this pod's VM. Tried 9 offerings: m6a.large in a, b, c: no m6a.large left in a "
        "(InsufficientInstanceCapacity); "
    )
    assert "c6a.xlarge in a, b: no c6a.xlarge left in a" in said
    assert "c6a.xlarge in c: c6a.xlarge is not sold in c (Unsupported)" in said
    assert len(said) < 850


async def test_a_success_after_failures_is_logged_with_them(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    full(node, "a")
    with caplog.at_level(logging.INFO, "peerpods"):
        async with node.adaptor() as registry:
            await launch(registry, node)
    (line,) = [str(record.msg) for record in caplog.records if "launched after others had failed" in str(record.msg)]
    assert "m6a.large in b" in line
    assert "m6a.large in a: no m6a.large left in a" in line


@pytest.mark.parametrize("final", [Denied("not allowed"), InvalidSpec("bad image"), NotFound("no such subnet")])
async def test_what_another_machine_would_not_mend_ends_the_start(node: Node, final: ProviderError) -> None:
    node.cloud.refuse["create"] += [Capacity("full"), final]
    async with node.adaptor() as registry:
        with pytest.raises(StartFailed, match="refused the VM"):
            await launch(registry, node)
        await node.gone(registry)
    assert node.cloud.calls["create"] == 2


async def test_a_start_does_not_go_on_trying_when_its_time_is_over(node: Node) -> None:
    for kind in TYPES:
        full(node, "a", "b", "c", kind=kind)
    node.cloud.call_seconds = 80.0
    async with node.adaptor() as registry:
        with pytest.raises(NoCapacity, match=r"Tried 3 offerings.*The time for this start is over"):
            await launch(registry, node)
    assert node.cloud.calls["create"] == 3


@pytest.mark.parametrize(
    ("wishes", "text"),
    [
        ({"vcpus": 999}, r"no instance type found for the given vcpus \(999\)"),
        ({"instance_type": "x9.huge"}, r'requested instance type \("x9.huge"\) is not part of supported'),
        ({"wishes": "max-price=0.01"}, r"max-price \(.*0.15 USD/h of at most 0.01"),
        ({"wishes": "zone=mars"}, "not in mars, where the pod asks to be"),
        ({"wishes": "tee=tdx"}, "TEE snp, not tdx"),
    ],
)
async def test_a_wish_that_nothing_meets_costs_nothing(node: Node, wishes: dict[str, Any], text: str) -> None:
    async with node.adaptor() as registry:
        with pytest.raises(InvalidRequest, match=text):
            await launch(registry, node, **wishes)
        await node.gone(registry)
    assert node.cloud.calls["create"] == 0
