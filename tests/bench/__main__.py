"""Benchmarks: commands, not tests. What they print is of this machine at this moment; ratios are what travels.

python -m tests.bench relay    [--seconds N] [--rounds N] [--connections 1,16,256]
python -m tests.bench tunnels  [--tunnels N]
"""

import argparse
import resource
import sys

from tests.bench import _relay, _tunnels
from tests.bench._load import Missing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure peerpods on this machine.")
    verbs = parser.add_subparsers(required=True)
    relay = verbs.add_parser(
        "relay", help="cost of an agent call through relay and guest, beside stunnel's and haproxy's"
    )
    relay.add_argument("--seconds", type=float, default=2.0, help="per measurement (%(default)s)")
    relay.add_argument("--rounds", type=int, default=5, help="of interleaved measurements (%(default)s)")
    relay.add_argument("--connections", type=_numbers, default=(1, 16, 256), help="of the small calls (1,16,256)")
    relay.set_defaults(run=lambda given: _relay.run(given.seconds, given.rounds, given.connections))
    tunnels = verbs.add_parser("tunnels", help="memory and set-up cost of an idle tunnel")
    tunnels.add_argument("--tunnels", type=int, default=1000, help="how many to open (%(default)s)")
    tunnels.set_defaults(run=lambda given: _tunnels.run(given.tunnels))
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the load has a descriptor per tunnel
    try:
        given.run(given)
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
