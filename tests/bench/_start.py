"""How soon a VM that has booted is noticed, and its pod's StartVM answered; beside the incumbent's way to dial.

    simcloud ─ boots ─► guest (_guest.py: says when it listens)
                          ▲ ▲
       adaptor ─► relay ──┘ └── _incumbent.py: to the same guests from the same moment, TCP only

Every process is the real one, and all figures are differences of one machine's clock.
"""

import asyncio
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.bench import _pods
from tests.bench._pods import Scenario, Start
from tests.bench._report import Target, load, quantile

_TARGET: Final = 0.5  # seconds from listening to noticed, at p99
_PARTS: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}

SCENARIOS: Final = (
    Scenario("silent 1-25 s, refuses for 0.1 s, listens", "13s±12s"),
    Scenario("silent 1-25 s, listens", "13s±12s", silent=True),
    Scenario("silent 1-3 s, refuses for 0-8 s, listens", "2s±1s", pause=8.0),
)
_ROWS: Final[dict[str, Callable[[Start], float]]] = {
    "noticed: TCP is connected": lambda start: start.noticed,
    "noticed by the incumbent's dialling": lambda start: start.incumbent,
    "Hello is done": lambda start: start.greeted,
    "StartVM is answered": lambda start: start.answered,
    "the same without the stand-in agent's own start": lambda start: start.answered - start.agent,
    "Bind takes, without the same": lambda start: start.bind - start.agent,
    "the stand-in agent's own start (not in production)": lambda start: start.agent,
}


def run(rounds: int, vms: int) -> list[Target]:
    """Print the tables. Must be in private namespaces."""
    print(f"{rounds} rounds of {vms} VMs each, Linux {platform.release()}; {load()}")
    print("silent: packets vanish, as in a VPC before a VM's network is up; figures: seconds after the guest listens")
    print("the incumbent: one dial at the kernel's pace of SYNs; after a refusal pauses of 0.1 s, doubling to 5 s\n")
    seen: dict[str, list[Start]] = {}
    for scenario in SCENARIOS:
        starts: list[Start] = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(prefix="bench", dir="/run") as directory:
                before, more = asyncio.run(_pods.play(scenario, vms, Path(directory)))
            starts += more
        _print(f"a VM is {scenario.name}", starts)
        print(f"  a connect as soon as its address is known: {before}\n")
        seen[scenario.name] = starts
    everything = [start for starts in seen.values() for start in starts]
    _print("all of them", everything)
    return [_target(name, starts) for name, starts in {**seen, "all": everything}.items()]


def _print(title: str, starts: Sequence[Start]) -> None:
    print(f"{title} ({len(starts)} VMs)")
    print(f"{'':52}{''.join(f'{part:>8}' for part in _PARTS)}")
    for name, of in _ROWS.items():
        values = [of(start) for start in starts]
        print(f"  {name:50}{''.join(f'{quantile(values, part):8.3f}' for part in _PARTS.values())}")


def _target(name: str, starts: Sequence[Start]) -> Target:
    return Target(f"start, noticed at p99: {name}", quantile([s.noticed for s in starts], _PARTS["p99"]), _TARGET, "s")
