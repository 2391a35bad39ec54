"""`peerpods webhook`: the admission webhook of a cluster."""

import os
from argparse import Namespace

from adaptor import names
from adaptor.cli.verbs import Verbs
from adaptor.errors import Unavailable


def add_parser(verbs: Verbs) -> None:
    """Declare it."""
    webhook = verbs.add_parser(
        "webhook",
        help="serve the API server's admission reviews: size pods' VMs, refuse what could never start",
        description="The admission webhook of a cluster. It calls nobody and keeps nothing: run as many as you like. "
        "docs/webhook.md says what becomes of a pod.",
    )
    webhook.add_argument("--config", metavar="FILE", help=f"settings (default: {names.CONFIG_FILE} if there is one)")
    webhook.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Until a signal ends it. Raises ConfigError before anything is touched, Unavailable when it cannot serve."""
    from adaptor.config import load

    config = load(arguments.config, os.environ, needs_cloud=False)

    try:
        from webhook import server
    except ModuleNotFoundError as error:
        raise Unavailable(f"the webhook needs {error.name}: pip install 'peerpods[kubernetes]'") from error
    return server.main(config)
