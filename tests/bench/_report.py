"""What the benchmarks say in common: targets and whether they were met, quantiles, and how busy the machine was."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that may be `limit` at most."""

    what: str
    figure: float
    limit: float
    unit: str = ""

    @property
    def verdict(self) -> str:
        return "met" if self.figure <= self.limit else "MISSED"


def table(targets: Iterable[Target]) -> str:
    """One line each."""
    lines = [f"{'':66}{'figure':>8}{'at most':>10}"]
    lines += [f"{each.what:66}{each.figure:8.2f}{each.limit:10.2f} {each.unit:12}{each.verdict}" for each in targets]
    return "\n".join(lines)


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that `part` of all do not exceed: never better than what was measured."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def load() -> str:
    """How many processes wanted a core, of late."""
    last_minute, five_minutes, _ = os.getloadavg()
    return f"load {last_minute:.2f} (over 5 min: {five_minutes:.2f}) on {os.cpu_count()} cores"
