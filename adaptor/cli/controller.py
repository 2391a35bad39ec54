"""`peerpods controller`: what one process does for the whole cluster."""

import os
from argparse import ArgumentTypeError, Namespace
from typing import Any, Final

from adaptor import names
from adaptor.cli.verbs import Verbs

_DESCRIPTION: Final = """\
Finishes PeerPods of nodes that are gone, removes what those left in the cloud, keeps the webhook's certificates, and
lifts the quota's gate from pods for which there is room. Of several, the one with the lease acts.
"""
_STOPPABLE: Final = ("daemonset", "deployment")
_SECONDS: Final = 540.0  # less than the ten minutes that the chart gives its hook


def add_parser(verbs: Verbs) -> None:
    """Declare it."""
    parser = verbs.add_parser(
        "controller",
        help="serve a whole cluster: dead nodes' VMs, quotas, the webhook's certificates",
        description=_DESCRIPTION,
    )
    parser.add_argument("--config", metavar="FILE", help=f"settings (default: {names.CONFIG_FILE} if there is one)")
    parser.add_argument(
        "--uninstall",
        action="store_true",
        help="release every PeerPod (its VM is deleted), lift every gate, delete what the controller made, and end",
    )
    parser.add_argument(
        "--stop",
        metavar="KIND/NAME",
        type=_workload,
        action="append",
        default=[],
        help="with --uninstall: first delete this DaemonSet or Deployment and wait for its pods: daemonset/peerpods-adaptor",
    )
    parser.add_argument(
        "--seconds", type=float, default=_SECONDS, help=f"with --uninstall: how long to try ({_SECONDS:.0f})"
    )
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Until a signal, or until all is released. Raises: ConfigError before anything is touched; AdaptorError."""
    from adaptor.config import load

    config = load(arguments.config, os.environ)  # before the heavy imports: a fault in it is told at once

    from adaptor.errors import Unavailable

    try:
        from adaptor.controller import process, uninstall
    except ModuleNotFoundError as error:
        raise Unavailable(f"the controller needs {error.name}: install peerpods[kubernetes]") from error
    if not arguments.uninstall:
        return process.main(config)
    stop = [(uninstall.STOPPABLE[kind], name) for kind, name in arguments.stop]
    return process.uninstall(config, stop, arguments.seconds)


def _workload(text: str) -> tuple[Any, str]:
    kind, _, name = text.partition("/")
    if kind not in _STOPPABLE or not name:
        raise ArgumentTypeError(f"{text!r} is not {' or '.join(f'{each}/NAME' for each in _STOPPABLE)}")
    return kind, name
