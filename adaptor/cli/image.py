"""`peerpods image`: the pod VM image, from its lock to a cloud's own image. Each part declares its verbs in its own file."""

import argparse
import importlib
from typing import Final

from adaptor.cli.verbs import Verbs

PARTS: Final = ("image_build", "image_measure", "image_upload")  # modules of this room, in the order of their verbs

_EXAMPLES: Final = """\
examples:
  peerpods image build                                     a debug image, with the development agent, for trying things out
  peerpods image build --release --kata-agent ./kata-agent --kata-agent-sha256 HASH --kata-agent-version 3.20.0
  peerpods image measure podvm.raw                         what a TPM will say of it
  peerpods image verify podvm.raw measurements.json        is it the one that was published?
  peerpods image upload IMAGE --cloud aws                  an AMI of it; prints its id
  peerpods image formats IMAGE --form qcow2                for a hypervisor of your own
  peerpods image lock                                      pin today's packages anew
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
