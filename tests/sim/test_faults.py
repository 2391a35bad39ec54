"""Nothing is lost: whole nodes in virtual time with everything going wrong, thousands of runs, each from its seed.

A failure prints its seed, what was violated and the timeline; `python -m tests.sim.faults SEED` replays it.
PEERPODS_NIGHTLY=1 draws 50,000 runs, new ones every day.
"""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, get_args

import pytest

from adaptor.sandbox.model import Event
from tests.sim.faults.batch import Batch, run_all
from tests.sim.faults.catalogue import OPERATIONS, listed, passed, scenario_of
from tests.sim.faults.run import run

NIGHTLY: Final = os.environ.get("PEERPODS_NIGHTLY") == "1"
DRAWN: Final = 50_000 if NIGHTLY else 1_000
SHARDS: Final = 50 if NIGHTLY else 5
# The same runs every time, so that nobody's change fails by chance; others every night.
FIRST: Final = int(time.time() // 86_400) * DRAWN if NIGHTLY else 0
DISTINCT: Final = 50_000 if NIGHTLY else 2_000


def check(batch: Batch) -> None:
    if batch.failed:
        pytest.fail(batch.report(), pytrace=False)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_nothing_is_lost_doubled_or_forgotten_whatever_goes_wrong(shard: int) -> None:
    batch = run_all(map(str, range(FIRST + shard, FIRST + DRAWN, SHARDS)))
    assert not batch.missing, "faults that never struck: the harness tests less than it says"
    assert len(batch.courses) > 0.9 * batch.runs
    check(batch)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_at_every_step_of_every_operation_nothing_is_lost(operation: str) -> None:
    batch = run_all(listed(operation))
    assert not batch.unstruck
    assert len(batch.courses) > 0.8 * batch.runs
    check(batch)


def test_every_kind_of_row_and_call_is_a_step_of_some_operation() -> None:
    whole = {step for operation in OPERATIONS for step in passed(operation)}
    steps = {f"{step.partition(' ')[0]} {part}" for step in whole for part in step.partition(" ")[2].split("+")}
    kinds = {f"journal {event.kind}" for event in get_args(Event)}
    calls = {f"cloud {verb}" for verb in ("create", "get", "list", "delete", "offerings")}
    calls |= {f"relay {verb}" for verb in ("open", "dial", "bind", "close", "list")}
    changes = {f"network {what}" for what in ("device", "element", "peer", "redirect")}
    changes |= {f"network no {what}" for what in ("device", "element", "peer", "redirect")}
    assert {*kinds, *calls, *changes, "journal forget"} <= steps


def test_the_runs_are_many_and_distinct() -> None:
    seeds = [*map(str, range(FIRST, FIRST + DRAWN)), *(seed for operation in OPERATIONS for seed in listed(operation))]
    assert len({dataclasses.replace(scenario_of(seed), seed="") for seed in seeds}) >= DISTINCT


@pytest.mark.parametrize("seed", ["4", "lost-reply/cloud-9-in_flight"])
def test_a_seed_gives_the_same_run_in_every_process(seed: str) -> None:
    command = [sys.executable, "-m", "tests.sim.faults", seed]
    root = Path(__file__).parents[2]
    replays = {
        subprocess.run(
            command, cwd=root, env={**os.environ, "PYTHONHASHSEED": str(salt)}, capture_output=True, check=False
        ).stdout
        for salt in (1, 2)
    }
    assert len(replays) == 1
    assert run(scenario_of(seed)).report() in replays.pop().decode()
