"""Many runs, and what they add up to."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from tests.sim.faults.catalogue import scenario_of
from tests.sim.faults.run import Verdict, run
from tests.sim.faults.scenario import BLOWS, CALL_FAULTS, ENDINGS, NETWORK_FAULTS, WINDOWS, Crash

# What must have struck in any large number of drawn runs, or they test less than they seem to.
KINDS: Final = frozenset(
    {
        *CALL_FAULTS,
        *NETWORK_FAULTS,
        *WINDOWS,
        *(set(BLOWS) - {"link broken"}),
        "link broken and resumed",
        "link broken for long",
        *(set(ENDINGS) - {"StopVM", "never"}),
        "shim dies between CreateVM and StartVM",
        "kubelet gave up during StartVM",
        "guest never answers",
        "create call shared",
        "StopVM came to nothing",
        "killed at journal: before",
        "killed at journal: after",
        "killed at cloud: before",
        "killed at cloud: in flight",
        "killed at cloud: after",
        "killed at relay: before",
        "killed at relay: after",
        "killed at network: before",
        "killed at network: after",
    }
)
_SHOWN: Final = 2  # failed runs whose whole timeline is printed


@dataclass
class Batch:
    """The sum of the runs of `seeds`."""

    runs: int = 0
    tally: Counter[str] = field(default_factory=Counter)
    courses: set[bytes] = field(default_factory=set)  # what happened, in order, times apart
    failed: list[Verdict] = field(default_factory=list)
    unstruck: list[str] = field(default_factory=list)  # runs in which no crash came, and one was sure to

    def add(self, verdict: Verdict) -> None:
        self.runs += 1
        self.tally += verdict.tally
        course = "\n".join(line[11:] for line in verdict.timeline)
        self.courses.add(blake2b(course.encode(), digest_size=16).digest())
        if verdict.violations:
            self.failed.append(verdict)
        if any(map(_sure, verdict.scenario.crashes)) and not any(
            kind.startswith("killed at") for kind in verdict.tally
        ):
            self.unstruck.append(verdict.scenario.seed)

    @property
    def missing(self) -> set[str]:
        """Kinds of faults that never struck."""
        struck = {*self.tally, *(re.sub(r"(before|after|in flight) .+$", r"\1", kind) for kind in self.tally)}
        return set(KINDS - struck)

    def report(self) -> str:
        """What failed, for people."""
        lines = [f"{len(self.failed)} of {self.runs} runs failed"]
        lines += [f"{verdict.scenario.seed}: {verdict.violations[0]}" for verdict in self.failed[:20]]
        return "\n\n".join(["\n".join(lines), *(verdict.report() for verdict in self.failed[:_SHOWN])])


def _sure(crash: Crash) -> bool:
    """Calls may be refused or given up, and then there is nothing after them."""
    return crash.border in ("journal", "network") or crash.side == "before"


def run_all(seeds: Iterable[str]) -> Batch:
    batch = Batch()
    for seed in seeds:
        batch.add(run(scenario_of(seed)))
    return batch
