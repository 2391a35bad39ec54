"""`peerpods relay`: the data plane of a worker node."""

from argparse import Namespace

from adaptor import names
from adaptor.cli.verbs import Verbs


def add_parser(verbs: Verbs) -> None:
    """Declare it."""
    relay = verbs.add_parser(
        "relay",
        help="carry the running pods' traffic; normally started by the adaptor",
        description="The data plane of a worker node. It holds every pod's agent socket and the tunnels to their VMs; "
        "stopping it ends the pods. To replace it, start the new one with --takeover: the running one hands its pods "
        "over and ends.",
    )
    relay.add_argument(
        "--socket", metavar="PATH", default=names.RELAY_SOCKET, help="where the adaptor calls (default: %(default)s)"
    )
    relay.add_argument(
        "--takeover",
        action="store_true",
        help="take over from the relay that serves there, pods and all; without one, just serve",
    )
    relay.add_argument(
        "--serving-file",
        metavar="PATH",
        help="for the main process of a pod: this file exists while the sessions are this relay's; once a successor has "
        "them, wait for the pod's end instead of ending, or kubelet would start this one again",
    )
    relay.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="the least that is written (default: %(default)s)",
    )
    relay.set_defaults(run=run)


def run(arguments: Namespace) -> int | None:
    """Until a signal ends it, or a successor takes over."""
    from adaptor.relay import process

    return process.main(
        arguments.socket, arguments.log_level, takeover=arguments.takeover, serving_file=arguments.serving_file
    )
