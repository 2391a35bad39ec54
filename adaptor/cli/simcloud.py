"""`peerpods simcloud`: a cloud on loopback to try things on, and faults for one that runs."""

import argparse
import json
import logging
import shlex
import sys
from typing import Any, Final

from adaptor.cli.verbs import Verbs
from adaptor.errors import AdaptorError

_DESCRIPTION: Final = """\
A cloud on loopback that the real SDKs talk to: EC2's API, made as strict as the real one, and instances that really
boot, as network namespaces with a metadata service of their own. Nothing leaves this machine, nothing costs anything,
and all of it is gone when this command ends.
"""
_FAULTS: Final = """\
faults, at the start with --fault, or later with `peerpods simcloud fault URL FAULT`:
  next action=RunInstances error=RequestLimitExceeded times=3   refuse calls; also http_status=, garbage=true
  next action=RunInstances lose_reply=true                      the deed is done, its answer never comes
  next delay=2s                                                 a slow call; delay_reply= is after the deed
  deny permission=compute.instances.create                      the caller's role lacks it (not on ec2)
  capacity instance_type=m6a.large zone=us-east-1a free=2       two more, then InsufficientInstanceCapacity
  quota vcpus=32                                                then VcpuLimitExceeded
  boot fate=dies times=2                                        how instances start: dies, deaf, unreachable
  kill instance=i-...                                           a host fails
  cut instance=i-... seconds=10s                                its network cable is out for a while
  clear                                                         all is well again
"""
_EXAMPLES: Final = f"""\
examples:
  peerpods simcloud                                   the API alone; needs no privileges
  sudo peerpods simcloud --instances namespace        instances boot, reachable at their 172.31.x.y
  peerpods simcloud --print-env > env.sh &            then: . ./env.sh; aws ec2 describe-instances
  peerpods simcloud --boot-delay 8s±3s --fault 'capacity instance_type=m6a.large free=0'

{_FAULTS}"""
_RAW: Final = argparse.RawDescriptionHelpFormatter
_ANSWER_TIMEOUT: Final = 10.0  # seconds; a simulated cloud answers from memory


def add_parser(subparsers: Verbs) -> None:
    """Declare it."""
    parser = subparsers.add_parser(
        "simcloud",
        help="run a simulated cloud on loopback, for trying things out and for tests",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=_RAW,
    )
    parser.set_defaults(run=run)
    _add_network(parser)
    _add_behaviour(parser)
    verbs = parser.add_subparsers(title="for a simulated cloud that runs already", metavar="fault")
    fault = verbs.add_parser("fault", help="make something go wrong in it", epilog=_FAULTS, formatter_class=_RAW)
    fault.add_argument("url", metavar="URL", help="where it listens: http://127.0.0.1:PORT")
    fault.add_argument("fault", nargs="+", metavar="FAULT", help="what goes wrong; see below")
    fault.set_defaults(run=_send_fault)


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="port 0: any that is free (default: %(default)s)"
    )
    parser.add_argument(
        "--instances",
        choices=("api-only", "namespace"),
        default="api-only",
        help="api-only: they exist in the API; namespace: they boot (root, or a user namespace; default: %(default)s)",
    )
    parser.add_argument(
        "--program",
        default="",
        metavar="COMMAND",
        help="what an instance runs (default: the peerpods guest with its stand-in agent)",
    )
    parser.add_argument(
        "--cloud", choices=("ec2", "arm", "gce"), default="ec2", help="whose API it plays (default: %(default)s)"
    )
    parser.add_argument("--region", default="", help="which region (default: us-east-1, eastus or us-central1)")
    parser.add_argument(
        "--network", default="", metavar="CIDR", help="its default VPC (default: 172.31.0.0/16, or the next free /16)"
    )
    parser.add_argument(
        "--print-env", action="store_true", help="only export lines for a shell on stdout; all else on stderr"
    )
    parser.add_argument("--verbose", "-v", action="store_true", help="a line for every call and change of state")


def _add_behaviour(parser: argparse.ArgumentParser) -> None:
    for name, meaning in (
        ("boot-delay", "from launch to running: 8s, or 8s±3s for a spread"),
        ("os-delay", "from running to the first instruction of its program"),
        ("agent-delay", "from running until Azure counts a VM with an agent as made"),
        ("shutdown-delay", "from terminate to terminated"),
        ("visible-after", "how long Describe* does not know a new instance yet"),
    ):
        parser.add_argument(f"--{name}", default="0s", metavar="TIME", help=f"{meaning} (default: %(default)s)")
    parser.add_argument(
        "--rate-limits",
        default="on",
        metavar="on|off|FACTOR",
        help="EC2's API limits, or so many times them (default: on)",
    )
    parser.add_argument(
        "--terminated-token",
        choices=("error", "reservation"),
        default="error",
        help="what RunInstances answers to the token of a terminated instance (default: %(default)s)",
    )
    parser.add_argument(
        "--fault", action="append", default=[], dest="faults", metavar="FAULT", help="may be repeated; see below"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="draw the same delays every time")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; 0 when everything has been taken down."""
    from providers.simcloud import wishes
    from providers.simcloud.options import Options, SimcloudError

    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    try:
        options = Options.of(**_options(arguments))
        faults = [wishes.checked(text) for text in arguments.faults]

        from providers.simcloud import program  # takes a second to load: not for a typing error

        program.main(options, faults, only_environment=arguments.print_env)
    except (SimcloudError, ValueError) as error:
        raise AdaptorError(f"simcloud: {error}") from error
    return 0


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    host, _, port = arguments.listen.rpartition(":")
    if not port.isdecimal():
        raise ValueError(f"--listen {arguments.listen!r} is not of the form HOST:PORT")
    limits = {"on": "1", "off": None}.get(arguments.rate_limits, arguments.rate_limits)
    return {
        "cloud": arguments.cloud,
        "host": host or "127.0.0.1",
        "port": int(port),
        "instances": arguments.instances,
        "program": shlex.split(arguments.program),
        "region": arguments.region,
        "network": arguments.network,
        "boot_delay": arguments.boot_delay,
        "os_delay": arguments.os_delay,
        "agent_delay": arguments.agent_delay,
        "shutdown_delay": arguments.shutdown_delay,
        "visible_after": arguments.visible_after,
        "rate_limits": None if limits is None else float(limits),
        "token_after_termination": arguments.terminated_token,
        "seed": arguments.seed,
    }


def _send_fault(arguments: argparse.Namespace) -> int:
    """Cause one fault in a cloud that runs, and show what is still to come."""
    import urllib.error
    import urllib.request

    from providers.simcloud import wishes

    # One word is a quoted text (`'boot fate=dies'`), several have been split by the shell already.
    text = arguments.fault[0] if len(arguments.fault) == 1 else shlex.join(arguments.fault)
    url = arguments.url.rstrip("/") + "/_simcloud/faults"
    try:
        verb, values = wishes.parse(text)
        request = urllib.request.Request(url, json.dumps({verb: values}).encode())  # noqa: S310 - the user's own URL
        with urllib.request.urlopen(request, timeout=_ANSWER_TIMEOUT) as answer:  # noqa: S310
            print(json.dumps(json.load(answer), indent=2))
    except urllib.error.HTTPError as error:
        with error:
            raise AdaptorError(f"simcloud at {arguments.url}: {json.load(error)['error']}") from error
    except OSError as error:
        raise AdaptorError(f"no simcloud answers at {arguments.url}: {error}") from error
    except ValueError as error:
        raise AdaptorError(f"simcloud: {error}") from error
    return 0
