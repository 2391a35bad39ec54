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
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import _pods
from tests.bench._pods import Scenario, Start
from tests.bench._report import Target, load, quantile

_TARGET: Final = 0.5  # seconds from listening to noticed, at p99
_PARTS: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}

SCENARIOS: Final = (
    Scenario("boots for 1-25 s, then refuses TCP until its guest's Python is up", "13s±12s"),
    Scenario("boots for 1-25 s, and no packet comes back until its guest listens", "13s±12s", silent=True),
    Scenario("boots for 1-3 s, then refuses TCP for up to 8 s", "2s±1s", pause=8.0),
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
    print(f"seconds after the guest listens; rounds: {rounds}; {load()}; Linux {platform.release()}\n")
    everything: list[Start] = []
    for scenario in SCENARIOS:
        starts: list[Start] = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(prefix="bench", dir="/run") as directory:
                before, seen = asyncio.run(_pods.play(scenario, vms, Path(directory)))
            starts += seen
        _print(f"a VM {scenario.name}", starts)
        print(f"    a connect as soon as the address is known: {before}\n")
        everything += starts
    _print("all of them", everything)
    return [Target("start: a listening guest is noticed, p99", _p99(everything), _TARGET, "s")]


def _print(title: str, starts: Sequence[Start]) -> None:
    print(f"{title} ({len(starts)} VMs)")
    print(f"{'':52}{''.join(f'{part:>8}' for part in _PARTS)}")
    for name, of in _ROWS.items():
        values = [of(start) for start in starts]
        print(f"  {name:50}{''.join(f'{quantile(values, part):8.3f}' for part in _PARTS.values())}")
    verdict = Target("", _p99(starts), _TARGET).verdict
    print(f"    target: noticed within {_TARGET:g} s at p99: {verdict}")


def _p99(starts: Sequence[Start]) -> float:
    return quantile([start.noticed for start in starts], _PARTS["p99"])
