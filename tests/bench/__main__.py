"""Benchmarks: commands, not tests. What they print is of this machine at this moment; ratios are what travels."""

import argparse
import io
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from adaptor.demo import enter
from adaptor.demo.enter import NamespacesRefused
from adaptor.errors import AdaptorError
from tests.bench import (
    _calls,
    _choice,
    _crowd,
    _daemon,
    _fleet,
    _handover,
    _network,
    _relay,
    _report,
    _start,
    _tunnels,
    _webhook,
)
from tests.bench._daemon import NotReady
from tests.bench._load import Missing
from tests.bench._report import Target

_EPILOG: Final = """\
Each prints its figures, those of something that anybody can run beside them, and whether the targets are met.
Without a command all of them run, one after the other: some seven minutes.

relay, tunnels and handover need a C compiler and taskset, relay also stunnel, and it uses haproxy if it is there;
start and network need root, or a kernel that lets users have namespaces. Nothing is installed, left running or left behind. Other programs on the machine
show in the figures: the load is printed with them.

python -m tests.bench COMMAND --help says what can be set.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure peerpods on this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND")
    for title, (what, add_arguments) in _VERBS.items():
        verb = verbs.add_parser(title, help=what, description=what)
        verb.set_defaults(title=title)
        add_arguments(verb)
    given = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # some minutes pass between tables
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the load has a descriptor per tunnel
    if hasattr(given, "run"):
        return _measure({given.title: given})
    with suppress(NamespacesRefused):  # `start` says why, when its turn comes
        _enter()
    return _measure({verb: parser.parse_args([verb]) for verb in verbs.choices})


def _add_relay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, metavar="N", default=2.0, help="per measurement (%(default)s)")
    parser.add_argument("--rounds", type=int, metavar="N", default=5, help="of interleaved measurements (%(default)s)")
    parser.add_argument(
        "--connections", type=_numbers, metavar="N,N", default=(1, 16, 256), help="of the small calls (1,16,256)"
    )
    parser.set_defaults(run=lambda given: _relay.run(given.seconds, given.rounds, given.connections))


def _add_tunnels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tunnels", type=int, metavar="N", default=1000, help="how many to open (%(default)s)")
    parser.set_defaults(run=lambda given: _tunnels.run(given.tunnels))


def _add_start(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=int, metavar="N", default=2, help="of every scenario; each takes half a minute (%(default)s)"
    )
    parser.add_argument("--vms", type=int, metavar="N", default=32, help="that boot in a round (%(default)s)")

    def run(given: argparse.Namespace) -> list[Target]:
        _enter()
        return _start.run(given.rounds, given.vms)

    parser.set_defaults(run=run)


def _add_handover(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tunnels", type=int, metavar="N", default=100, help="how many to hand over (%(default)s)")
    parser.add_argument("--rounds", type=int, metavar="N", default=3, help="of hand-overs, in a row (%(default)s)")
    parser.set_defaults(run=lambda given: _handover.run(given.tunnels, given.rounds))


def _add_daemon(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, metavar="N", default=7, help="of each program, interleaved (%(default)s)")
    parser.add_argument("--cloud", choices=("aws", "azure", "gcp"), action="append", help="may be repeated (all)")
    parser.set_defaults(run=lambda given: _daemon.run(given.runs, given.cloud or ("aws", "azure", "gcp")))


def _add_calls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, metavar="N", default=100, help="of each verb (%(default)s)")
    parser.add_argument("--cloud", choices=("aws", "azure", "gcp"), action="append", help="may be repeated (all)")
    parser.set_defaults(run=lambda given: _calls.run(given.calls, given.cloud or ("aws", "azure", "gcp")))


def _add_crowd(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sandboxes", type=int, metavar="N", default=1000, help="that run (%(default)s)")
    parser.add_argument("--runs", type=int, metavar="N", default=5, help="of the adaptor on each node (%(default)s)")
    parser.set_defaults(run=lambda given: _crowd.run(given.sandboxes, given.runs))


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--offerings", type=int, metavar="N", default=1000, help="in the catalog (%(default)s)")
    parser.add_argument("--rounds", type=int, metavar="N", default=200, help="of every question (%(default)s)")
    parser.add_argument("--pods", type=int, metavar="N", default=200, help="that are started (%(default)s)")
    parser.set_defaults(run=lambda given: _choice.run(given.offerings, given.rounds, given.pods))


def _add_fleet(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=lambda given: _fleet.run())


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, metavar="N", default=2.0, help="per measurement (%(default)s)")
    parser.add_argument("--rounds", type=int, metavar="N", default=3, help="of every path (%(default)s)")
    parser.add_argument("--pods", type=int, metavar="N", default=40, help="whose networks are built (%(default)s)")

    def run(given: argparse.Namespace) -> list[Target]:
        _enter()
        return _network.run(given.seconds, given.rounds, given.pods)

    parser.set_defaults(run=run)


def _add_webhook(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, metavar="N", default=2.0, help="per measurement (%(default)s)")
    parser.add_argument("--rounds", type=int, metavar="N", default=5, help="of interleaved measurements (%(default)s)")
    parser.add_argument("--connections", type=_numbers, metavar="N,N", default=(1, 8), help="at once (1,8)")
    parser.set_defaults(run=lambda given: _webhook.run(given.seconds, given.rounds, given.connections))


_VERBS: Final[dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]]] = {
    "relay": ("CPU and latency of an agent call through relay and guest, beside stunnel and haproxy", _add_relay),
    "tunnels": ("memory and set-up cost of an idle tunnel", _add_tunnels),
    "handover": ("what shims notice when their relay is replaced, beside a restart of it", _add_handover),
    "start": ("how soon a VM that listens is noticed and its pod started, beside the incumbent's dialling", _add_start),
    "daemon": (
        "time until adaptor and relay are ready, and their memory, beside plain Python and each SDK",
        _add_daemon,
    ),
    "calls": ("CPU per call of each cloud's SDK, beside a bare HTTP exchange", _add_calls),
    "fleet": (
        "a thousand pods on fifty nodes at EC2's limits, in virtual time, with batched creates and without",
        _add_fleet,
    ),
    "crowd": ("an adaptor's memory and restart with a thousand running sandboxes", _add_crowd),
    "network": (
        "a pod's tunnel, plain and encrypted, beside the bare veth; CPU to build and to remove one",
        _add_network,
    ),
    "webhook": ("admission reviews, beside an aiohttp handler that allows everything", _add_webhook),
    "choice": ("the choice of a machine out of a thousand offerings, beside a plain sort", _add_choice),
}


def _measure(chosen: dict[str, argparse.Namespace]) -> int:
    """Run these; what cannot be run here is told and does not keep the others from it."""
    status, targets, began = 0, list[Target](), time.monotonic()
    for title, given in chosen.items():
        run: Callable[[argparse.Namespace], Sequence[Target]] = given.run
        print(f"== {title} ==")
        try:
            targets += run(given)
        except (AdaptorError, Missing, NotReady) as error:
            print(f"{title}: {error}", file=sys.stderr)
            status = 1
        print()
    if targets:
        print(f"== targets ==\n{_report.table(targets)}\n")
    print(f"{time.monotonic() - began:.0f} s; {_report.load()}")
    return status


def _enter() -> None:
    """Go on in private namespaces, from the beginning. Raises NamespacesRefused."""
    if not os.environ.get(enter.PRIVATE):
        enter.run([sys.executable, "-m", "tests.bench", *sys.argv[1:]])


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
