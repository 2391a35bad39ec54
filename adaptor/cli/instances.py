"""`peerpods instances`: the machines that pods may get, which one a pod would get and why, and how many are left."""

import os
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from typing import Final

from adaptor import names
from adaptor.cli.verbs import Verbs

_DESCRIPTION: Final = """\
Asks the cloud what it offers, and shows what the adaptor makes of it: nothing is launched. What a running adaptor leaves
out for some minutes, because the cloud had none left, is not known here.
"""
_EXAMPLES: Final = """\
examples:
  peerpods instances list
  peerpods instances choose                                what a pod without wishes gets
  peerpods instances choose --cpu 4 --memory 8Gi --tee snp --explain
  peerpods instances choose --gpu 1 --gpu-model L4 --spot preferred --max-price 1.20
  peerpods instances choose --type 'm6a.*,c6a.*;zone=us-east-1a'    as the machine_type annotation has it
  peerpods instances quota --json

docs/instances.md says how a machine is chosen. Exit status: 0; 1 when nothing fits, or the cloud cannot be asked; 2 for
wrong arguments or configuration.
"""
# Options of `choose` that are wishes, and the key of each.
_WISHES: Final = {
    "tee": "none | sev | snp | tdx (default: the default machine's)",
    "zone": "zones, by commas",
    "spot": "never | allowed | preferred | only",
    "max-price": "USD per hour; machines whose price is unknown are then refused",
    "gpu-model": "L4, A100, ...",
    "family": "m6a, DCas_v5, n2d-standard, ...",
    "arch": "x86_64 | arm64 (default: the default machine's)",
}


def add_parser(verbs: Verbs) -> None:
    """Declare the verb and its own."""
    parser = verbs.add_parser(
        "instances",
        help="list the machines that pods may get, and explain which one a pod gets",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=lambda _: parser.error("say list, choose or quota"))
    own = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add(own, "list", "what the cloud offers, and what [selection] forbids of it")
    choose = _add(own, "choose", "what a pod would get, the first choice first")
    choose.add_argument("--type", metavar="TYPES", default="", help="as the machine_type annotation has it")
    choose.add_argument("--cpu", metavar="QUANTITY", help="4, 1500m")
    choose.add_argument("--memory", metavar="QUANTITY", help="8Gi, 512Mi")
    choose.add_argument("--gpu", metavar="COUNT", type=int, help="how many")
    for key, meaning in _WISHES.items():
        choose.add_argument(f"--{key}", metavar=key.rpartition("-")[2].upper(), help=meaning)
    choose.add_argument("--explain", action="store_true", help="also every machine that is ruled out, and why")
    _add(own, "quota", "what the account may still launch")


def _add(own: Verbs, verb: str, help: str) -> ArgumentParser:
    parser = own.add_parser(verb, help=help, description=f"Print {help}.")
    parser.add_argument("--config", metavar="FILE", help=f"settings (default: {names.CONFIG_FILE} if there is one)")
    parser.add_argument("--json", action="store_true", help="for programs; prices are USD per hour, null is unknown")
    parser.set_defaults(run=run, verb=verb)
    return parser


def run(arguments: Namespace) -> int:
    """Ask, print. Raises: ConfigError, InvalidRequest (nothing fits, or a wish is wrong), Unavailable."""
    import asyncio

    from adaptor.catalog import quantities, wishes
    from adaptor.config import load
    from adaptor.errors import InvalidRequest

    wanted = None
    if arguments.verb == "choose":  # before the heavy imports: what is wrong with the arguments is told at once
        said = ((key, getattr(arguments, key.replace("-", "_"))) for key in _WISHES)
        text = ";".join([arguments.type, *(f"{key}={value}" for key, value in said if value is not None)])
        if arguments.gpu is not None and not 0 <= arguments.gpu <= 1000:
            raise InvalidRequest(f"--gpu {arguments.gpu}: a number of GPUs is needed")
        wanted = wishes.parse(text).requirements(
            quantities.vcpus(arguments.cpu) if arguments.cpu is not None else None,
            quantities.mebibytes(arguments.memory) if arguments.memory is not None else None,
            arguments.gpu or None,
        )
    config = load(arguments.config, os.environ)

    from adaptor.cli import machines

    if arguments.verb == "quota":
        return asyncio.run(machines.quota(config, as_json=arguments.json))
    if wanted is None:
        return asyncio.run(machines.show(config, as_json=arguments.json))
    return asyncio.run(machines.choose(config, wanted, explain=arguments.explain, as_json=arguments.json))
