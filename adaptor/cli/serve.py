"""`peerpods adaptor` and `peerpods relay`: the two programs of a worker node."""

import os
from argparse import Namespace

from adaptor import names
from adaptor.cli.verbs import Verbs


def add_parser(verbs: Verbs) -> None:
    """Declare both."""
    adaptor = verbs.add_parser(
        "adaptor",
        help="serve kata's shim on this node: start, watch and delete pod VMs",
        description="The control plane of a worker node. It may be stopped, upgraded or killed at any moment: running "
        "pods are the relay's, which is started when none answers.",
    )
    adaptor.add_argument("--config", metavar="FILE", help=f"settings (default: {names.CONFIG_FILE} if there is one)")
    adaptor.set_defaults(run=run_adaptor)
    relay = verbs.add_parser(
        "relay",
        help="carry the running pods' traffic; normally started by the adaptor",
        description="The data plane of a worker node. It holds every pod's agent socket and the tunnels to their VMs; "
        "stopping it ends the pods.",
    )
    relay.add_argument(
        "--socket", metavar="PATH", default=names.RELAY_SOCKET, help="where the adaptor calls (default: %(default)s)"
    )
    relay.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="the least that is written (default: %(default)s)",
    )
    relay.set_defaults(run=run_relay)


def run_adaptor(arguments: Namespace) -> int | None:
    """Until a signal ends it. Raises ConfigError before anything is touched."""
    from adaptor.config import load

    config = load(arguments.config, os.environ)  # before the daemon's imports: a fault in it is told at once

    from adaptor import daemon

    return daemon.main(config)


def run_relay(arguments: Namespace) -> int | None:
    """Until a signal ends it."""
    from adaptor.relay import process

    return process.main(arguments.socket, arguments.log_level)
