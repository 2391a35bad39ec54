"""python -m tests.sim.faults [--log] SEED...: replay runs, timeline and all; --log: with what the adaptor logged."""

import sys

from tests.sim.faults.catalogue import scenario_of
from tests.sim.faults.run import run


def main(seeds: list[str]) -> int:
    log = "--log" in seeds
    seeds = [seed for seed in seeds if seed != "--log"]
    if not seeds:
        print("usage: python -m tests.sim.faults [--log] SEED...   (a number, or a name as the tests print it)")
        return 2
    failed = 0
    for seed in seeds:
        verdict = run(scenario_of(seed), log=log)
        print(verdict.report())
        print("SOUND" if not verdict.violations else f"{len(verdict.violations)} VIOLATIONS")
        failed += bool(verdict.violations)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
