"""Many tunnels at once, and an adaptor that ends anywhere: the worker is left as it was."""

import asyncio
import dataclasses
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from adaptor.podnet.hosts import HostNetworks
from adaptor.podnet.plan import Tunnel
from tests.podnet.world import World, changed, dump

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root: adaptor.demo.enter"),
]

VM: Final = "10.0.0.2"
PODS: Final = 200
POINTS: Final = 100
WORKERS: Final = 4
SEED: Final = 20_261


def test_two_hundred_pods_at_once_leave_nothing_behind(world: World) -> None:
    paths = [world.pod(10_000 + number) for number in range(PODS)]
    before = [world.worker.do(dump), *(world.inside(path, dump) for path in paths)]

    async def storm() -> tuple[set[int], int]:
        networks = HostNetworks()
        numbers: set[int] = set()
        most = 0

        async def life(path: str) -> None:
            nonlocal most
            tunnel = await networks.reached(await networks.intend(path), VM)
            numbers.update(cord.vni for cord in tunnel.cords)
            await networks.open(tunnel)
            await networks.connect(tunnel, 30.0)
            most = max(most, len(numbers))
            await networks.remove(tunnel)

        async with asyncio.TaskGroup() as group:
            for path in paths:
                group.create_task(life(path))
        await networks.aclose()
        return numbers, most

    with world.answering():
        numbers, most = world.run(storm)
    assert len(numbers) == PODS
    assert most > PODS // 2  # they were there at the same time
    after = [world.worker.do(dump), *(world.inside(path, dump) for path in paths)]
    for old, new in zip(before, after, strict=True):
        assert changed(old, new) == {}


def test_an_adaptor_that_is_killed_anywhere_leaves_what_its_journal_can_undo() -> None:
    """Several workers at a time: a device's removal is mostly waiting."""
    with ThreadPoolExecutor(WORKERS) as threads:
        runs = [threads.submit(_killed, SEED + number, POINTS // WORKERS) for number in range(WORKERS)]
    assert sum(run.result() for run in runs) > POINTS // 2


def _killed(seed: int, points: int) -> int:
    """How often there was something to be undone."""
    world = World()
    pods = [world.pod(1), world.pod(2)]

    async def intended() -> list[Tunnel]:
        networks = HostNetworks()
        found = [await networks.reached(await networks.intend(pod), VM) for pod in pods]
        await networks.aclose()
        return found

    async def recovered() -> None:
        networks = HostNetworks()
        for tunnel in tunnels:
            await networks.remove(tunnel)
        await networks.aclose()

    tunnels = world.run(intended)
    before = [world.everything(pod) for pod in pods]
    told = [dataclasses.asdict(tunnel) for tunnel in tunnels]
    command = [sys.executable, "-m", "tests.podnet._victim"]
    victim = world.worker.do(
        lambda: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    assert victim.stdin is not None
    assert victim.stdout is not None

    def run(kill: int) -> str:
        print(json.dumps({"tunnels": told, "kill": kill}), file=victim.stdin, flush=True)
        return victim.stdout.readline().strip()  # type: ignore[union-attr]

    with victim, world.answering():
        most = int(run(-1))
        half_done = 0
        for point in random.Random(seed).sample(range(most), points):
            assert run(point) == "killed"
            half_done += any(changed(old, world.everything(pod)) for old, pod in zip(before, pods, strict=True))
            world.run(recovered)
            for old, pod in zip(before, pods, strict=True):
                assert world.left(old, pod) == {}, f"killed at {point} of {most}"
        victim.stdin.close()
    world.close()
    return half_done
