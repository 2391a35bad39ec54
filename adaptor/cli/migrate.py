"""`peerpods migrate`: from upstream's chart and ConfigMap to ours."""

import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from adaptor.cli.verbs import Verbs
from adaptor.errors import InvalidRequest, Unavailable

_DESCRIPTION: Final = """\
Reads what configures upstream's cloud-api-adaptor, and prints values.yaml of our chart: what every name has become, what
has no effect here, and what needs a decision. It asks no cluster. Of a Secret it reads the names of the keys only.
"""
_EPILOG: Final = """\
example:
  kubectl -n confidential-containers-system get configmap/peer-pods-cm secret/peer-pods-secret -o yaml \\
    | peerpods migrate > values.yaml
  helm get values peerpods -n confidential-containers-system | peerpods migrate
"""


def add_parser(verbs: Verbs) -> None:
    """Declare it."""
    parser = verbs.add_parser(
        "migrate",
        help="turn an upstream ConfigMap or chart values into values of our chart",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        default=["-"],
        help="YAML: ConfigMap, Secret, values of upstream's chart, in any number and order (default: standard input)",
    )
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> None:
    """Print the values; what is to be decided also goes to stderr. Raises: InvalidRequest, Unavailable."""
    from adaptor.cli import migration

    done = migration.migrate(migration.gather([each for name in arguments.files for each in _documents(name)]))
    print(migration.text(done), end="")
    for each in done.decide:
        print(f"to decide: {each}", file=sys.stderr)


def _documents(name: str) -> Iterator[Any]:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise Unavailable("migrate reads YAML: install peerpods[kubernetes]") from error
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        yield from yaml.safe_load_all(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{name} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        # Without the lines that PyYAML quotes: they may be a Secret's.
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InvalidRequest(f"{name} is not YAML{where}") from None
