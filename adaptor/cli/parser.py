"""The command line as a whole: which verbs there are, and what becomes of their errors."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import adaptor
from adaptor.errors import AdaptorError

FAMILIES: Final = (
    "demo",
    "serve",
    "relay",
    "wireguard",
    "controller",
    "webhook",
    "check",
    "pods",
    "instances",
    "journal",
    "gc",
    "migrate",
    "image",
    "simcloud",
)  # as a stranger should read them

_DESCRIPTION: Final = (
    "Run each confidential pod of a Kubernetes node inside its own confidential VM at a cloud provider."
)
_EPILOG: Final = """\
examples:
  peerpods demo                             see a pod VM come and go, without a cloud account
  peerpods config --cloud aws > my.toml     a configuration to fill in
  peerpods check --config my.toml           is it right?
  peerpods check --config my.toml --cloud   would the cloud launch with it? Nothing is made
  peerpods instances list --config my.toml  which machines pods may get, and their prices
  peerpods adaptor --config my.toml         serve this node

`peerpods COMMAND --help` says more about one command.
"""

_FAILED: Final = 1  # the verb could not do it
_UNUSABLE: Final = 2  # wrong arguments (argparse's own status) or a wrong configuration: trying again will not help
_INTERRUPTED: Final = 130  # as a shell reports SIGINT


def build() -> argparse.ArgumentParser:
    """The parser with every verb."""
    parser = argparse.ArgumentParser(
        prog="peerpods",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"peerpods {adaptor.__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND")
    for family in FAMILIES:
        importlib.import_module(f"adaptor.cli.{family}").add_parser(verbs)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Do what `arguments` say; errors of ours become one message on stderr. Returns the exit status."""
    parser = build()
    chosen = parser.parse_args(arguments)
    if not hasattr(chosen, "run"):
        parser.print_help(sys.stderr)
        return _UNUSABLE
    try:
        status = int(chosen.run(chosen) or 0)
        sys.stdout.flush()  # here, where a reader that has gone is handled
    except AdaptorError as error:
        print(f"peerpods: {error}", file=sys.stderr)
        return _status(error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # `peerpods config | head`: whoever read has enough, and Python must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    return status


def _status(error: AdaptorError) -> int:
    from adaptor.config import ConfigError

    return _UNUSABLE if isinstance(error, ConfigError) else _FAILED
