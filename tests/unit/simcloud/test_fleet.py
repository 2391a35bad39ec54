"""One life per instance: what happens when orders, ends and cancellations meet."""

import asyncio
import signal
from collections.abc import Iterator
from ipaddress import IPv4Interface
from typing import NoReturn

import pytest
from aiohttp import web

from providers.simcloud.faults import Fate, Faults
from providers.simcloud.fleet import Cause, Fleet, Life, State
from providers.simcloud.machines.base import Machine, Run
from providers.simcloud.options import Options, SimcloudError

RESTARTS = -signal.SIGHUP


class PlayedRun:
    """A boot whose end the test decides."""

    def __init__(self, host: "PlayedHost") -> None:
        self.host = host
        self.exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.cable: list[bool] = []  # taken out, put back in

    async def wait(self) -> int:
        return await asyncio.shield(self.exit)

    async def plug(self, *, connected: bool) -> None:
        self.cable.append(connected)

    async def end(self) -> None:
        await self.host.may_end.wait()  # ending takes as long as the test says
        self.host.up.discard(self)


class PlayedHost:
    """Boots without machines; `up` are those that have not ended."""

    network = "172.31.0.0/16"
    worker_address = ""

    def __init__(self) -> None:
        self.boots: list[PlayedRun] = []
        self.up: set[PlayedRun] = set()
        self.fates: list[Fate] = []
        self.broken = ""
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def boot(self, machine: Machine, fate: Fate) -> Run:
        if self.broken:
            raise SimcloudError(self.broken)
        run = PlayedRun(self)
        self.fates.append(fate)
        self.boots.append(run)
        self.up.add(run)
        return run

    async def aclose(self) -> None:
        assert not self.up


class World:
    def __init__(self, **options: object) -> None:
        self.host = PlayedHost()
        self.faults = Faults()
        self.seen: list[State] = []
        self.fleet = Fleet(self.host, self.faults, Options.of(**options), self._note)

    def _note(self, life: Life) -> None:
        self.seen.append(life.state)

    def launch(self, *, stops_itself: bool = True) -> Life:
        number = len(self.fleet.lives)
        address = IPv4Interface(f"172.31.0.{number + 5}/20")
        return self.fleet.launch(Machine(f"i-{number}", "host", address, "02:00:00:00:00:01", answer, stops_itself))

    async def settle(self) -> None:
        """Let everything happen that needs no more than the loop."""
        for _ in range(20):
            await asyncio.sleep(0)


async def answer(request: web.BaseRequest) -> NoReturn:
    raise AssertionError("nobody asks for metadata here")


@pytest.fixture
async def world() -> World:
    return World()


async def test_an_instance_runs_one_program_until_it_is_terminated(world: World) -> None:
    life = world.launch()
    await world.settle()
    assert (life.state, len(world.host.up)) == (State.RUNNING, 1)
    world.fleet.terminate(life.machine.id)
    assert life.state is State.SHUTTING_DOWN
    await world.settle()
    assert (life.state, life.cause, world.host.up) == (State.TERMINATED, Cause.ASKED, set())
    assert world.seen == [State.PENDING, State.RUNNING, State.SHUTTING_DOWN, State.TERMINATED]


async def test_terminated_means_that_its_program_is_gone(world: World) -> None:
    life = world.launch()
    await world.settle()
    world.host.may_end.clear()
    world.fleet.stop(life.machine.id)
    await world.settle()
    world.fleet.terminate(life.machine.id)  # while it is still stopping
    await world.settle()
    assert life.state is State.SHUTTING_DOWN
    world.host.may_end.set()
    await world.settle()
    assert (life.state, world.host.up) == (State.TERMINATED, set())


@pytest.mark.parametrize(("stops_itself", "final"), [(True, State.STOPPED), (False, State.TERMINATED)])
async def test_a_program_that_ends_takes_its_instance_down(world: World, stops_itself: bool, final: State) -> None:
    life = world.launch(stops_itself=stops_itself)
    await world.settle()
    world.host.boots[0].exit.set_result(0)
    await world.settle()
    assert (life.state, life.cause, world.host.up) == (final, Cause.ITSELF, set())


async def test_a_restart_from_inside_begins_the_program_anew_and_no_state_shows_it(world: World) -> None:
    life = world.launch()
    await world.settle()
    world.host.boots[0].exit.set_result(RESTARTS)
    await world.settle()
    assert (life.state, len(world.host.boots), len(world.host.up)) == (State.RUNNING, 2, 1)
    assert world.seen == [State.PENDING, State.RUNNING]


async def test_a_reboot_ends_the_old_program_before_the_new_one_begins(world: World) -> None:
    life = world.launch()
    await world.settle()
    world.host.may_end.clear()
    world.fleet.reboot(life.machine.id)
    await world.settle()
    assert len(world.host.boots) == 1
    world.host.may_end.set()
    await world.settle()
    assert (life.state, len(world.host.boots), len(world.host.up)) == (State.RUNNING, 2, 1)


async def test_a_stopped_instance_starts_with_a_new_boot(world: World) -> None:
    life = world.launch()
    await world.settle()
    world.fleet.stop(life.machine.id)
    await world.settle()
    world.fleet.start(life.machine.id)
    await world.settle()
    assert (life.state, life.cause, len(world.host.up)) == (State.RUNNING, Cause.NONE, 1)


async def test_terminating_a_pending_instance_boots_nothing() -> None:
    world = World(boot_delay=60)
    life = world.launch()
    await world.settle()
    world.fleet.terminate(life.machine.id)
    await world.settle()
    assert (life.state, world.host.boots) == (State.TERMINATED, [])


async def test_an_instance_that_dies_booting_never_runs_and_says_why(world: World) -> None:
    world.faults.boot("dies", reason="Client.VolumeLimitExceeded: Volume limit exceeded")
    life = world.launch()
    await world.settle()
    assert (life.state, life.cause, life.reason) == (
        State.TERMINATED,
        Cause.HOST,
        "Client.VolumeLimitExceeded: Volume limit exceeded",
    )
    assert State.RUNNING not in world.seen


async def test_fates_are_for_the_next_instances_only(world: World) -> None:
    world.faults.boot("deaf", times=2)
    for _ in range(3):
        world.launch()
    await world.settle()
    assert world.host.fates == [Fate.DEAF, Fate.DEAF, Fate.LIVES]
    await world.fleet.aclose()


async def test_a_host_that_cannot_boot_it_ends_the_instance_with_its_reason(world: World) -> None:
    world.host.broken = "no namespaces left"
    life = world.launch()
    await world.settle()
    assert (life.state, life.cause, life.reason) == (State.TERMINATED, Cause.HOST, "no namespaces left")


async def test_a_fault_of_simcloud_itself_ends_the_instance_and_is_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    life = world.launch()
    await world.settle()
    world.host.boots[0].exit.set_exception(RuntimeError("a bug"))
    await world.settle()
    assert (life.state, life.cause) == (State.TERMINATED, Cause.HOST)
    assert "a bug" in caplog.text


async def test_a_killed_instance_is_terminated_by_its_host(world: World) -> None:
    life = world.launch()
    await world.settle()
    world.faults.kill(life.machine.id)
    await world.settle()
    assert (life.state, life.cause, world.host.up) == (State.TERMINATED, Cause.HOST, set())


async def test_a_cut_takes_the_cable_out_and_puts_it_back_in(world: World) -> None:
    life = world.launch()
    await world.settle()
    world.faults.cut(life.machine.id, 0.01)
    await world.settle()
    assert world.host.boots[0].cable == [False]
    await asyncio.sleep(0.05)
    await world.settle()
    assert world.host.boots[0].cable == [False, True]
    with pytest.raises(KeyError):
        world.faults.cut("i-none", 1)


async def test_closing_ends_every_program_whatever_state_it_is_in(world: World) -> None:
    lives = [world.launch() for _ in range(4)]
    await world.settle()
    world.fleet.stop(lives[0].machine.id)
    world.fleet.terminate(lives[1].machine.id)
    world.fleet.reboot(lives[2].machine.id)
    await world.fleet.aclose()
    await world.host.aclose()


def draws(seed: int | None) -> Iterator[float]:
    fleet = World(seed=seed, boot_delay=60).fleet
    for number in range(3):
        address = IPv4Interface("172.31.0.5/20")
        yield fleet.launch(Machine(f"i-{number}", "host", address, "02:00:00:00:00:01", answer)).rng.random()


async def test_a_seed_gives_each_instance_the_same_luck_again() -> None:
    assert list(draws(1)) == list(draws(1))
    assert len({*draws(1), *draws(2), *draws(None), *draws(None)}) == 12
