"""python -m tests.sim.faults SEED...: replay runs, timeline and all."""

import sys

from tests.sim.faults.catalogue import scenario_of
from tests.sim.faults.run import run


def main(seeds: list[str]) -> int:
    if not seeds or any(seed.startswith("-") for seed in seeds):
        print("usage: python -m tests.sim.faults SEED...   (a number, or a name like start/journal-3-before)")
        return 2
    failed = 0
    for seed in seeds:
        verdict = run(scenario_of(seed))
        print(verdict.report())
        print("SOUND" if not verdict.violations else f"{len(verdict.violations)} VIOLATIONS")
        failed += bool(verdict.violations)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
