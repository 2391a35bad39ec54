"""`peerpods image`: the pod VM image, from its lock to a cloud's own image. Each part declares its verbs in its own file."""

import argparse
import importlib
from typing import Final

from adaptor.cli.verbs import Verbs

PARTS: Final = ("image_upload",)  # modules of this room, in the order of their verbs

_EXAMPLES: Final = """\
examples:
  peerpods image formats IMAGE --form qcow2                for a hypervisor of your own
  peerpods image upload IMAGE --cloud aws                  an AMI of it; prints its id
"""


def add_parser(verbs: Verbs) -> None:
    """Declare it."""
    image = verbs.add_parser(
        "image",
        help="build and measure the image that pod VMs boot from, and bring it to a cloud",
        description="The pod VM image: built from a lock file, byte for byte the same wherever it is built.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inner = image.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for part in PARTS:
        importlib.import_module(f"adaptor.cli.{part}").add_parsers(inner)
