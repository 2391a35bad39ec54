"""`peerpods adaptor`: the control plane of a worker node."""

import os
from argparse import Namespace

from adaptor import names
from adaptor.cli.verbs import Verbs


def add_parser(verbs: Verbs) -> None:
    """Declare it."""
    adaptor = verbs.add_parser(
        "adaptor",
        help="serve kata's shim on this node: start, watch and delete pod VMs",
        description="The control plane of a worker node. It may be stopped, upgraded or killed at any moment: running "
        "pods are the relay's, which is started when none answers.",
    )
    adaptor.add_argument("--config", metavar="FILE", help=f"settings (default: {names.CONFIG_FILE} if there is one)")
    adaptor.set_defaults(run=run)


def run(arguments: Namespace) -> int | None:
    """Until a signal ends it. Raises ConfigError before anything is touched."""
    from adaptor.config import load

    config = load(arguments.config, os.environ)  # before the daemon's imports: a fault in it is told at once

    from adaptor import daemon

    return daemon.main(config)
