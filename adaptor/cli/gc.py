"""`peerpods gc`: what of this node's resources in the cloud has leaked, and away with it."""

import os
from argparse import Namespace, RawDescriptionHelpFormatter
from typing import Final

from adaptor import names
from adaptor.cli.verbs import Verbs

_DESCRIPTION: Final = """\
Lists what this node has in the cloud (instances, network interfaces, addresses, disks) and nobody owns any more: no
sandbox of the journal, no session of the relay. Only what carries this cluster's and this node's tags, is attached to
nothing and is older than [sweep].grace can be removed. A running adaptor does the same every [sweep].interval.
"""
_EPILOG: Final = """\
exit status:
  0  nothing has leaked, or all of it has been removed
  1  the cloud, the journal or the relay could not be asked, or something could not be removed
  2  wrong arguments or configuration
  3  something has leaked and was left (no --yes)
"""


def add_parser(verbs: Verbs) -> None:
    """Declare it."""
    parser = verbs.add_parser(
        "gc",
        help="list, and remove with --yes, what this node leaked in the cloud",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help=f"settings (default: {names.CONFIG_FILE} if there is one)")
    deed = parser.add_mutually_exclusive_group()
    deed.add_argument("--dry-run", action="store_true", help="only list what --yes would remove (the default)")
    deed.add_argument("--yes", action="store_true", help="remove what has leaked")
    parser.add_argument(
        "--all-nodes",
        action="store_true",
        help="list the cluster's other nodes' resources too; never removed from here",
    )
    parser.add_argument("--json", action="store_true", help="every resource with its verdict, for programs")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Look, and remove if asked. Raises: ConfigError, Unavailable, JournalFault."""
    import asyncio

    from adaptor.config import load

    config = load(arguments.config, os.environ)  # before the heavy imports: a fault in it is told at once

    from adaptor.cli import leaks

    asked = leaks.Asked(remove=arguments.yes, all_nodes=arguments.all_nodes, as_json=arguments.json)
    return asyncio.run(leaks.collect(config, asked))
