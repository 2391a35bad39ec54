"""`peerpods check` and `peerpods config`: is the configuration right, will the cloud take it, and what could it say?"""

import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Final

from adaptor import names
from adaptor.cli.verbs import Verbs
from adaptor.errors import Unavailable

if TYPE_CHECKING:
    from adaptor.config import Config

_WIREGUARDS: Final = {"kernel": "the kernel's", "userspace": "wireguard-go"}


def add_parser(verbs: Verbs) -> None:
    """Declare both."""
    check = verbs.add_parser(
        "check",
        help="say what is wrong with the configuration, or what it comes to; --cloud: whether the cloud will take it",
        description="Reads the file and the environment as `peerpods adaptor` would and starts nothing. Prints every "
        "fault (exit status 1), or every setting in force and where it comes from (0). With --cloud it then asks the "
        "cloud, by dry runs and descriptions that change nothing, whether pod VMs could be launched with these "
        "settings: credentials, permissions, image, network, quotas, TEE; and, in a cluster, its API server about the "
        "rights of this node; and tries, in a namespace of its own, whether the kernel carries pods' networks. Each finding "
        "with its remedy.",
    )
    check.add_argument("--config", metavar="FILE", help=f"settings (default: {names.CONFIG_FILE} if there is one)")
    check.add_argument("--cloud", action="store_true", help="ask the cloud too; prints its findings only")
    check.add_argument("--json", action="store_true", help="with --cloud: the findings for programs")
    check.set_defaults(run=run_check)
    config = verbs.add_parser(
        "config",
        help="print a configuration to start from, every setting explained",
        description="Prints a TOML file with every setting, its meaning and its default, commented out.",
    )
    config.add_argument("--cloud", metavar="NAME", help="this cloud's settings too (default: every built-in cloud's)")
    config.set_defaults(run=run_config)


def run_check(arguments: Namespace) -> int:
    """0 when `peerpods adaptor` would accept the configuration, and the cloud its launches where it is asked."""
    from adaptor.cli import reference
    from adaptor.config import ConfigError, load

    try:
        config = load(arguments.config, os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.cloud:
        import asyncio

        from adaptor.cli import preflight  # loads the cloud's SDK

        return asyncio.run(preflight.check(config, as_json=arguments.json))
    rows = [("setting", "value", "from"), *reference.in_force(config)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for key, value, source in rows:
        print(f"{key:{widths[0]}}  {value:{widths[1]}}  {source}")
    for warning in config.warnings:
        print(f"warning: {warning}")
    if config.network.encryption == "required":
        print(_wireguard(config))
    return 0


def _wireguard(config: "Config") -> str:
    """What would encrypt pods' networks, were this machine the node."""
    from adaptor.podnet import wireguard_choice

    try:
        found = wireguard_choice.choose(config.network.wireguard, spawn=config.node.spawn_relay)
    except Unavailable as error:
        return f"warning: no WireGuard here, which network.encryption requires on every node: {error}"
    return f"WireGuard on this machine: {_WIREGUARDS[found.kind]}"


def run_config(arguments: Namespace) -> int:
    """Print the commented defaults."""
    from adaptor.cli import reference

    print(reference.toml(arguments.cloud), end="")
    return 0
