"""`peerpods simcloud`: a cloud on loopback for trying things out, and faults for one that runs."""

import argparse
import asyncio
import json
import logging
import shlex
import signal
import sys
import urllib.error
import urllib.request
from typing import Any, Final

_DESCRIPTION: Final = """\
A cloud on loopback that the real SDKs talk to: EC2's API, made as strict as the real one, and instances that really
boot, as network namespaces with their own metadata service. Nothing leaves this machine, nothing costs, and all of it
is gone when this command ends.
"""
_EXAMPLES: Final = """\
examples:
  peerpods simcloud                                     the API alone; needs no privileges
  sudo peerpods simcloud --instances namespace          instances boot; reach them at their 172.31.x.y
  peerpods simcloud --print-env > env.sh &              then: . ./env.sh; aws ec2 describe-instances
  peerpods simcloud --boot-delay 8s±3s --rate-limits 1  as slow and as strict as the real one
  peerpods simcloud --fault 'capacity instance_type=m6a.large zone=us-east-1a free=0'

faults, at the start with --fault or later with `peerpods simcloud fault URL FAULT`:
  next action=RunInstances error=RequestLimitExceeded times=3     refuse calls; also http_status=, garbage=true
  next action=RunInstances lose_reply=true                        the deed is done, the answer never comes
  next delay=2s | next delay_reply=2s                             slow calls
  capacity instance_type=m6a.large zone=us-east-1a free=2         two more, then InsufficientInstanceCapacity
  quota vcpus=32                                                  then VcpuLimitExceeded
  boot fate=dies|deaf|unreachable times=2 [reason=...]            how the next instances start
  kill instance=i-...                                             a host failure
  clear                                                           everything works again
"""
_FAULT_ENDPOINT: Final = "/_simcloud/faults"
_ANSWER_TIMEOUT: Final = 10.0  # seconds; the cloud answers from memory


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the `peerpods` command."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "simcloud", help="run a simulated cloud", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=raw
    )
    parser.set_defaults(run=run)
    _add_options(parser)
    verbs = parser.add_subparsers(metavar="[fault ...]", title="verbs")
    fault = verbs.add_parser("fault", help="make something go wrong in a simulated cloud that runs", epilog=_EXAMPLES,
                             formatter_class=raw)  # fmt: skip
    fault.add_argument("url", help="where it listens: http://127.0.0.1:PORT")
    fault.add_argument("fault", nargs="+", help="what goes wrong, see below")
    fault.set_defaults(run=_send_fault)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--listen",
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="where; port 0: any free one (default: %(default)s)",
    )
    add(
        "--instances",
        choices=("api-only", "namespace"),
        default="api-only",
        help="api-only: instances exist in the API; namespace: they boot (needs root, or a user namespace)",
    )
    add(
        "--program",
        metavar="COMMAND",
        default="",
        help="what an instance runs (default: the peerpods guest with its development agent)",
    )
    add("--region", default="us-east-1", help="which region it is (default: %(default)s)")
    add(
        "--network",
        default="",
        metavar="CIDR",
        help="the default VPC's /16 (default: 172.31.0.0/16, or the next that is free here)",
    )
    add(
        "--boot-delay",
        default="0s",
        metavar="TIME",
        help="from launch to running: 8s, or 8s±3s for a spread (default: %(default)s)",
    )
    add("--os-delay", default="0s", metavar="TIME", help="from running to its program's start (default: %(default)s)")
    add("--shutdown-delay", default="0s", metavar="TIME", help="from terminate to terminated (default: %(default)s)")
    add(
        "--visible-after",
        default="0s",
        metavar="TIME",
        help="how long a new instance is unknown to Describe* (default: %(default)s)",
    )
    add(
        "--rate-limits",
        default="on",
        metavar="on|off|FACTOR",
        help="EC2's API limits, or a multiple of them (default: %(default)s)",
    )
    add(
        "--terminated-token",
        choices=("reservation", "error"),
        default="reservation",
        help="what a ClientToken answers whose instance has been terminated (default: %(default)s)",
    )
    add(
        "--fault",
        action="append",
        default=[],
        metavar="FAULT",
        help="something that goes wrong; may be repeated, see below",
    )
    add("--seed", type=int, help="draw the same delays each time")
    add("--print-env", action="store_true", help="print only export lines for a shell, everything else to stderr")
    add("--verbose", "-v", action="store_true", help="a line for every API call and every change of state")
