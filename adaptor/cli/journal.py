"""`peerpods journal`: what the node has written down, what a restart would make of it, and its repair (`repair`)."""

import json
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from adaptor import names
from adaptor.cli.verbs import Verbs
from adaptor.errors import InvalidRequest

if TYPE_CHECKING:
    from adaptor.config import Config
    from adaptor.sandbox.journal_file import Row

# Shown by their length: what a VM was launched with and the pod's initdata are documents, and may hold secrets.
_DOCUMENTS: Final = frozenset({"user_data", "initdata"})


def add_parser(verbs: Verbs) -> None:
    """Declare the family."""
    journal = verbs.add_parser(
        "journal",
        help="show what the node has written down about its sandboxes, or repair it",
        description="The journal holds one row per intent and result of every sandbox of this node; an idle node's is "
        "empty. docs/journal.md explains it and its repair.",
    )
    parts = journal.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = parts.add_parser("show", help="every sandbox's rows in order; also while the adaptor runs")
    _add_config(show)
    show.add_argument("--file", metavar="PATH", help="this journal, without any configuration (a copy, a broken one)")
    show.add_argument("--sandbox", metavar="ID", help="this one only; the first characters of its id are enough")
    show.add_argument("--json", action="store_true", help="as one JSON list")
    show.set_defaults(run=run_show)
    replay = parts.add_parser("replay", help="what an adaptor that started now would do; changes nothing")
    _add_config(replay)
    replay.set_defaults(run=run_replay)
    rebuild = parts.add_parser(
        "rebuild",
        help="after a damaged or lost journal: make a new one, with every running pod in it",
        description="Makes a journal out of what the relay carries and what the cloud lists for this node. Running pods "
        "keep running; VMs that belong to none are left to the sweep. The old file is kept beside the new one. The "
        "adaptor must be stopped; the relay must not.",
    )
    _add_config(rebuild)
    rebuild.add_argument("--dry-run", action="store_true", help="only say what it would come to")
    rebuild.add_argument(
        "--drop-unmatched", action="store_true", help="go on although some running pod's VM is not in the cloud's list"
    )
    rebuild.set_defaults(run=run_rebuild)


def _add_config(parser: ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help=f"settings (default: {names.CONFIG_FILE} if there is one)")


# -- show -------------------------------------------------------------------------------------------


def run_show(arguments: Namespace) -> int:
    """Print the rows. Raises Unavailable, JournalFault, InvalidRequest (no such sandbox)."""
    from adaptor.sandbox import journal_file

    path = Path(arguments.file) if arguments.file else _path(_config(arguments))
    rows = journal_file.read(path)
    if arguments.sandbox:
        rows = [row for row in rows if row.sandbox.startswith(arguments.sandbox)]
        if not rows:
            raise InvalidRequest(f"the journal {path} knows no sandbox {arguments.sandbox}")
    if arguments.json:
        print(json.dumps([_as_json(row) for row in rows], indent=2, ensure_ascii=False))
    elif rows:
        print("\n\n".join("\n".join(lines) for lines in _timelines(rows)))
    else:
        print(f"the journal {path} is empty: no sandbox lives on this node")
    return 0


def _as_json(row: "Row") -> dict[str, Any]:
    return {"seq": row.seq, "sandbox": row.sandbox, "at": _time(row.at), "event": row.kind, **_essentials(row)}


def _timelines(rows: Sequence["Row"]) -> Iterator[list[str]]:
    """One block per sandbox, the oldest first."""
    by_sandbox: dict[str, list[Row]] = {}
    for row in rows:
        by_sandbox.setdefault(row.sandbox, []).append(row)
    for sandbox, own in by_sandbox.items():
        lines, before = [f"{_pod(own)}  {_phase(own)}  sandbox {sandbox}"], own[0].at
        for row in own:
            fields = "  ".join(f"{key}={value}" for key, value in _essentials(row).items())
            lines.append(f"  {_time(row.at)}  {row.at - before:+9.3f}s  {row.kind:<17} {fields}".rstrip())
            before = row.at
        yield lines


def _essentials(row: "Row") -> dict[str, Any]:
    """A row's fields for people: nothing secret, nothing empty."""
    from adaptor.telemetry.redact import render

    shown: dict[str, Any] = {}
    for key, value in {**row.body.get("spec", {}), **row.body}.items():
        if key in ("id", "spec") or value in (None, "", [], ()):
            continue
        if key in _DOCUMENTS:
            shown[key] = f"({len(value)} characters)"
        else:  # the create call's token is no secret: it is a tag on the VM, to be found by
            shown[key] = value if key == "token" else render(value, key)
    return shown


def _pod(rows: Sequence["Row"]) -> str:
    spec = rows[0].body.get("spec", {})
    return f"{spec.get('pod_namespace', '')}/{spec['pod_name']}" if spec.get("pod_name") else "(no pod)"


def _phase(rows: Sequence["Row"]) -> str:
    from adaptor.sandbox.model import JournalFault, fold

    try:
        return fold(row.event() for row in rows).phase.value
    except JournalFault as error:
        return f"cannot be understood: {error};"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


# -- replay, rebuild --------------------------------------------------------------------------------


def run_replay(arguments: Namespace) -> int:
    """Print what recovery would do now."""
    config = _config(arguments)
    from adaptor.cli import repair

    return repair.replay(config, _path(config))


def run_rebuild(arguments: Namespace) -> int:
    """Make a new journal. Raises Conflict while an adaptor runs, Unavailable without relay or cloud."""
    config = _config(arguments)
    from adaptor.cli import repair

    return repair.rebuild(config, _path(config), dry_run=arguments.dry_run, drop_unmatched=arguments.drop_unmatched)


def _config(arguments: Namespace) -> "Config":
    from adaptor.config import load

    return load(arguments.config, os.environ)


def _path(config: "Config") -> Path:
    return Path(config.node.state_dir) / names.JOURNAL
