"""Looks and removals: what is read when, what is asked twice, and what an error stops."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from adaptor.errors import Unavailable
from adaptor.sandbox import sweeper as module
from adaptor.sandbox.model import SandboxSpec, SandboxState
from adaptor.sandbox.sweep import Known, Standing
from adaptor.sandbox.sweeper import Sightings, Sweeper
from providers import tags
from providers.base import Resource, ResourceKind
from providers.errors import Denied, InvalidSpec, Throttled, Transient
from tests.worlds.clock import VirtualClock
from tests.worlds.leaks import OWNER, Leaks

DISK = Resource(ResourceKind.DISK, "vol-1", tags=tags.ownership(OWNER), created_at=0.0)
ADDRESS = Resource(ResourceKind.ADDRESS, "eip-1", tags=tags.ownership(OWNER))
SANDBOX = SandboxState(SandboxSpec("a" * 64, "web", "shop", "/run/netns/x"), instance_id="vol-1")


class Node:
    """A sweeper over a cloud in memory; `states` is the journal, `trouble` what reading it raises."""

    def __init__(self, directory: Path) -> None:
        self.cloud = Leaks()
        self.clock = VirtualClock()
        self.states: dict[str, SandboxState] = {}
        self.trouble: Exception | None = None
        self.file = directory / "first-seen.json"
        self.sweeper = self.restarted()

    def restarted(self) -> Sweeper:
        return Sweeper(self.cloud, self._known, Sightings(self.file), self.clock, 900.0)

    async def _known(self) -> Known:
        if self.trouble:
            raise self.trouble
        return Known(OWNER, dict(self.states), {})


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_sweep_removes_what_has_leaked_and_nothing_else(node: Node) -> None:
    kept = replace(DISK, id="vol-2", attached_to="i-1")
    node.cloud.put(DISK, kept, replace(DISK, id="vol-3", tags={}))
    before = value("peerpods_swept_resources_total", kind="disk", outcome="removed")
    await node.sweeper.sweep(delete=True)
    assert node.cloud.removed == ["vol-1"]
    assert value("peerpods_swept_resources_total", kind="disk", outcome="removed") == before + 1
    assert value("peerpods_leaked_resources", kind="disk") == 0


async def test_a_sweep_that_shall_not_delete_counts_only(node: Node) -> None:
    node.cloud.put(DISK, replace(DISK, id="vol-2"))
    await node.sweeper.sweep(delete=False)
    assert node.cloud.removed == []
    assert value("peerpods_leaked_resources", kind="disk") == 2
    assert value("peerpods_leaked_resources", kind="address") == 0


async def test_what_a_create_makes_during_the_list_is_known_by_the_time_it_is_judged(node: Node) -> None:
    node.cloud.put(DISK)
    node.cloud.after_list = lambda: node.states.update({SANDBOX.spec.id: SANDBOX})
    (verdict,) = await node.sweeper.look()
    assert verdict.standing is Standing.OWNED


async def test_what_was_leaked_at_the_first_look_only_is_left(node: Node) -> None:
    node.cloud.put(DISK)
    looks = 0

    def own_at_the_second() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            node.states[SANDBOX.spec.id] = SANDBOX

    node.cloud.after_list = own_at_the_second
    await node.sweeper.sweep(delete=True)
    assert (looks, node.cloud.removed) == (2, [])


async def test_a_second_look_comes_only_after_a_find_and_some_seconds(node: Node) -> None:
    await node.sweeper.sweep(delete=True)
    assert node.cloud.calls["resources"] == 1
    node.cloud.put(DISK)
    began = node.clock.now()
    await node.sweeper.sweep(delete=True)
    assert node.cloud.calls["resources"] == 3
    assert node.clock.now() - began >= module._DOUBT


async def test_what_became_owned_after_the_second_look_is_spared(node: Node) -> None:
    node.cloud.put(DISK)
    (confirmed,) = await node.sweeper.confirmed(await node.sweeper.look())
    node.states[SANDBOX.spec.id] = SANDBOX
    removal = await node.sweeper.remove(confirmed)
    assert (removal.outcome, node.cloud.removed) == ("spared", [])
    assert "shop/web" in removal.note


async def test_only_what_was_judged_leaked_can_be_removed(node: Node) -> None:
    node.cloud.put(DISK)
    node.states[SANDBOX.spec.id] = SANDBOX
    (owned,) = await node.sweeper.look()
    node.states.clear()
    assert (await node.sweeper.remove(owned)).outcome == "spared"
    assert await node.sweeper.confirmed([owned]) == []


@pytest.mark.parametrize("trouble", [Unavailable("the relay does not answer"), Unavailable("no journal")])
async def test_nothing_is_leaked_while_the_journal_or_relay_cannot_be_read(node: Node, trouble: Exception) -> None:
    node.cloud.put(DISK)
    node.trouble = trouble
    errors = value("peerpods_sweeps_total", outcome="error")
    await node.sweeper.sweep(delete=True)
    assert node.cloud.removed == []
    assert value("peerpods_sweeps_total", outcome="error") == errors + 1
    with pytest.raises(Unavailable):
        await node.sweeper.look()


async def test_a_journal_that_goes_away_before_the_removal_stops_it(node: Node) -> None:
    node.cloud.put(DISK)
    (confirmed,) = await node.sweeper.confirmed(await node.sweeper.look())
    node.trouble = Unavailable("the journal cannot be read")
    removal = await node.sweeper.remove(confirmed)
    assert (removal.outcome, removal.note, node.cloud.removed) == ("failed", "the journal cannot be read", [])


async def test_one_that_cannot_be_removed_holds_up_no_other_and_stays_counted(node: Node) -> None:
    node.cloud.put(DISK, replace(DISK, id="vol-2"))
    node.cloud.refuse["remove"].append(InvalidSpec("vol-1 is attached to i-1"))
    await node.sweeper.sweep(delete=True)
    assert node.cloud.removed == ["vol-2"]
    assert value("peerpods_leaked_resources", kind="disk") == 1
    await node.sweeper.sweep(delete=True)
    assert node.cloud.removed == ["vol-2", "vol-1"]


async def test_throttling_is_waited_for(node: Node) -> None:
    node.cloud.put(DISK)
    (confirmed,) = await node.sweeper.confirmed(await node.sweeper.look())
    node.cloud.refuse["remove"].extend([Throttled("slow down", retry_after=7.0), Throttled("slow down")])
    began = node.clock.now()
    assert (await node.sweeper.remove(confirmed)).outcome == "removed"
    assert 7.0 <= node.clock.now() - began <= 9.0


async def test_endless_throttling_is_given_up(node: Node) -> None:
    node.cloud.put(DISK)
    (confirmed,) = await node.sweeper.confirmed(await node.sweeper.look())
    node.cloud.refuse["remove"].extend([Throttled("slow down")] * 99)
    assert (await node.sweeper.remove(confirmed)).outcome == "failed"
    assert node.cloud.calls["remove"] == module._TRIES


# -- resources that do not tell their age ---------------------------------------------------------


async def test_one_without_a_creation_time_counts_once_it_was_seen_for_the_grace(node: Node) -> None:
    node.cloud.put(ADDRESS)
    await node.sweeper.sweep(delete=True)
    await node.clock.sleep(899.0)
    await node.sweeper.sweep(delete=True)
    assert node.cloud.removed == []
    await node.clock.sleep(1.0)
    await node.sweeper.sweep(delete=True)
    assert node.cloud.removed == ["eip-1"]


async def test_a_restart_does_not_begin_the_grace_anew(node: Node) -> None:
    node.cloud.put(ADDRESS)
    await node.sweeper.look()
    await node.clock.sleep(900.0)
    await node.restarted().sweep(delete=True)
    assert node.cloud.removed == ["eip-1"]


async def test_what_went_away_and_came_back_is_young_again(node: Node) -> None:
    node.cloud.put(ADDRESS)
    await node.sweeper.look()
    await node.clock.sleep(900.0)
    node.cloud.held.clear()
    await node.sweeper.look()
    assert json.loads(node.file.read_text()) == {}
    node.cloud.put(ADDRESS)
    assert [each.standing for each in await node.sweeper.look()] == [Standing.YOUNG]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"eip-1": "long ago"}', '{"eip-1": null}', "\x00"])
async def test_a_damaged_memory_makes_things_younger_never_older(node: Node, damage: str) -> None:
    node.file.write_text(damage)
    node.cloud.put(ADDRESS)
    assert [each.standing for each in await node.sweeper.look()] == [Standing.YOUNG]
    assert json.loads(node.file.read_text()) == {"eip-1": node.clock.wall()}


async def test_a_memory_that_cannot_be_written_is_told_and_ages_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path / "missing")
    node.cloud.put(ADDRESS, DISK)
    await node.sweeper.look()
    await node.clock.sleep(9000.0)
    verdicts = await node.sweeper.look()
    assert [each.standing for each in verdicts] == [Standing.YOUNG, Standing.LEAKED]
    assert "first-seen.json cannot be written: No such file or directory" in node.sweeper._sightings.problem


# -- from time to time ----------------------------------------------------------------------------


async def looks_of(node: Node, interval: float, seconds: float) -> list[float]:
    """When, from the start, the list was asked for."""
    times: list[float] = []
    began = node.clock.now()
    node.cloud.after_list = lambda: times.append(node.clock.now() - began)
    running = asyncio.create_task(node.sweeper.run(interval, delete=True))
    await node.clock.sleep(seconds)
    running.cancel()
    return times


async def test_the_first_look_waits_for_recovery_and_the_others_keep_the_interval(node: Node) -> None:
    first, *others = await looks_of(node, 600.0, 20_000.0)
    assert 60.0 <= first <= 600.0
    gaps = [later - earlier for earlier, later in zip([first, *others], others, strict=False)]
    assert len(gaps) > 20
    assert all(540.0 <= gap <= 660.0 for gap in gaps)
    assert len({round(gap) for gap in gaps}) > 5, "looks are spread"


async def test_looking_goes_on_after_errors_of_every_kind(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.cloud.put(DISK)
    node.cloud.refuse["resources"].extend([Denied("not allowed"), Throttled("slow down"), Transient("no answer")])
    node.trouble = RuntimeError("a bug")
    running = asyncio.create_task(node.sweeper.run(600.0, delete=True))
    await node.clock.sleep(5 * 660.0)
    assert node.cloud.removed == []
    node.trouble = None
    await node.clock.sleep(1320.0)
    running.cancel()
    assert node.cloud.removed == ["vol-1"]
