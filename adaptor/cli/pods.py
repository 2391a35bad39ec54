"""`peerpods ps`, `describe`, `trace`, `logs` and `console`: pods' VMs as people look at them."""

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from typing import Final

from adaptor.cli.verbs import Verbs

_WHERE: Final = """\
Looks at the cluster of the kubeconfig, as kubectl finds it. Where there is none, or with --local, at this node's journal
and relay, which takes no Kubernetes. Nothing is changed.
"""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_parser(verbs: Verbs) -> None:
    """Declare the family."""
    ps = _verb(verbs, "ps", "list pods' VMs: phase, VM, machine, age, price", run_ps)
    ps.add_argument("-o", "--output", choices=("wide", "json"), help="more columns; or everything, for programs")
    ps.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces")
    ps.add_argument("--node", metavar="NAME", help="of this node only")
    describe = _verb(verbs, "describe", "everything about one pod's VM, and what to do next", run_describe, pod=True)
    describe.add_argument("-o", "--output", choices=("json",), help="for programs")
    _verb(verbs, "trace", "how a pod's start went, step by step, and what took longest", run_trace, pod=True)
    logs = _verb(verbs, "logs", "what the adaptor has logged about a pod", run_logs, pod=True)
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    logs.add_argument("--since", metavar="AGE", type=_age, help="not what is older: 90s, 15m, 2h")
    logs.add_argument("--file", metavar="PATH", help="this log of an adaptor; -: standard input")
    console = _verb(verbs, "console", "what a pod's VM has printed, also one that failed", run_console, pod=True)
    console.add_argument("--kept", action="store_true", help="what was kept when it failed; asks no cloud")
    console.add_argument("--tail", metavar="LINES", type=int, help="the last lines only")
    console.add_argument("--raw", action="store_true", help="with the guest's own escape sequences: they can do anything "
                         "to your terminal")  # fmt: skip


def run_ps(arguments: Namespace) -> int:
    """Print the list. Raises: Unavailable, ConfigError, JournalFault."""
    import asyncio

    from adaptor.cli import looking

    return asyncio.run(looking.ps(arguments))


def run_describe(arguments: Namespace) -> int:
    """Print the page. Raises: as `run_ps`; InvalidRequest, where there is nothing about that pod."""
    import asyncio

    from adaptor.cli import looking

    return asyncio.run(looking.describe(arguments))


def run_trace(arguments: Namespace) -> int:
    """Print the chart. Raises: as `run_describe`."""
    import asyncio

    from adaptor.cli import looking

    return asyncio.run(looking.trace(arguments))


def run_logs(arguments: Namespace) -> int:
    """Print the lines. Raises: as `run_describe`."""
    import asyncio

    from adaptor.cli import listening

    return asyncio.run(listening.logs(arguments))


def run_console(arguments: Namespace) -> int:
    """Print it. Raises: as `run_describe`."""
    import asyncio

    from adaptor.cli import listening

    return asyncio.run(listening.console(arguments))


def _verb(verbs: Verbs, name: str, help: str, run: object, *, pod: bool = False) -> ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.\n\n{_WHERE}",
        formatter_class=RawDescriptionHelpFormatter,
    )
    if pod:
        parser.add_argument(
            "pod", metavar="POD", help="a pod, as POD or NAMESPACE/POD; or the beginning of a sandbox's id"
        )
        parser.add_argument("--sandbox", metavar="ID", default="", help="of the pod's sandboxes the one that begins so")
    parser.add_argument("-n", "--namespace", metavar="NAME", help="(default: the context's; on the node: any)")
    parser.add_argument("--kubeconfig", metavar="FILE", help="(default: KUBECONFIG, then ~/.kube/config)")
    parser.add_argument("--context", metavar="NAME", help="of the kubeconfig (default: its current one)")
    parser.add_argument("--local", action="store_true", help="this node's journal and relay, not the cluster")
    parser.add_argument(
        "--config", metavar="FILE", help="a node's settings; without --kubeconfig or --context: look there"
    )
    parser.add_argument(
        "--system-namespace", metavar="NAME", default="peerpods", help="where the adaptors are (default: %(default)s)"
    )
    parser.set_defaults(run=run)
    return parser


def _age(text: str) -> int:
    found = re.fullmatch(r"(\d+)([smhd]?)", text)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is no age: 90s, 15m, 2h")
    return int(found[1]) * _UNITS[found[2] or "s"]
