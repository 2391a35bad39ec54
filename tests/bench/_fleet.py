"""How soon a thousand pods on fifty nodes are admitted by EC2, and how many calls they cost, beside the same without
batching. Time is virtual and the limits are EC2's published ones: the figures are the same on every machine.
"""

import logging
from typing import Final

from tests.bench._report import Target
from tests.sim.fleet import Batching, Figures, Single, thousand
from tests.worlds.loop import run_virtually

_ADMITTED_TARGET: Final = 30.0  # seconds
_CALLS_TARGET: Final = 2.0  # per pod, start and stop together

_PODS, _NODES = 1000, 50


def run() -> list[Target]:
    """Measure."""
    logging.getLogger("peerpods").setLevel(logging.CRITICAL + 1)
    print(f"{_PODS} pods on {_NODES} nodes; seconds of virtual time, calls per pod\n")
    print(f"{'':34}{'admitted: p50':>14}{'last':>8}{'ready':>8}{'calls: create':>15}{'admitted':>10}{'start+stop':>12}")
    shared = _row("shared creates, all at once", run_virtually(thousand(Batching)))
    _row("shared creates, within 2 s", run_virtually(thousand(Batching, spread=2.0)))
    _row("shared creates, within 10 s", run_virtually(thousand(Batching, spread=10.0)))
    _row("one call per VM, all at once", run_virtually(thousand(Single, start_timeout=1500.0)))
    return [
        Target(f"last of {_PODS} pods on {_NODES} nodes admitted", shared.last, _ADMITTED_TARGET, "s (virtual)"),
        Target("calls per pod, start and stop", shared.in_all, _CALLS_TARGET, "calls"),
    ]


def _row(title: str, figures: Figures) -> Figures:
    print(
        f"{title:34}{figures.median:14.1f}{figures.last:8.1f}{figures.ready:8.1f}"
        f"{figures.creates:15.2f}{figures.until_admitted:10.2f}{figures.in_all:12.2f}"
    )
    return figures
