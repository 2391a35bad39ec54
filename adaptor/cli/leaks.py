"""What `peerpods gc` does and prints; apart from its declaration, for it loads a cloud's SDK."""

import json
import socket
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adaptor import daemon, names
from adaptor.clock import RealClock
from adaptor.config import Config
from adaptor.errors import Unavailable
from adaptor.relay.client import RelayClient
from adaptor.report.text import age_text, table
from adaptor.sandbox import journal_file
from adaptor.sandbox.sweep import Known, Standing, Verdict, leaked
from adaptor.sandbox.sweeper import FIRST_SEEN, Removal, Sightings, Sweeper
from providers import tags
from providers.base import Ownership, SupportsSweep
from providers.errors import ProviderError

_FAILED: Final = 1  # exit statuses; `peerpods gc --help` explains them
_LEFT: Final = 3

_LISTED: Final = (Standing.LEAKED, Standing.YOUNG, Standing.FOREIGN)  # the others are counted


@dataclass(frozen=True, slots=True)
class Asked:
    """The command's options."""

    remove: bool
    all_nodes: bool
    as_json: bool


async def collect(config: Config, asked: Asked) -> int:
    """Look, remove if asked, print; the exit status. Raises: Unavailable, JournalFault."""
    owner = daemon.ownership(config, make=False)

    async def known() -> Known:
        states = journal_file.read_states(Path(config.node.state_dir) / names.JOURNAL)
        return Known(owner, states, await _sessions(config.node.relay_socket))

    await known()  # first: without a journal nothing can be called leaked, and the cloud need not be asked
    sightings = Sightings(Path(config.node.state_dir) / FIRST_SEEN)
    provider = await daemon.open_provider(config, owner)
    try:
        if not isinstance(provider, SupportsSweep):
            raise Unavailable(f"the {provider.name} provider cannot list what it made")
        sweeper = Sweeper(provider, known, sightings, RealClock(), config.sweep.grace)
        verdicts = await sweeper.look()
        removals = [await sweeper.remove(each) for each in await sweeper.confirmed(verdicts)] if asked.remove else []
    except ProviderError as error:
        raise Unavailable(str(error)) from error
    finally:
        await provider.aclose()
    print(_report(verdicts, removals, owner, asked))
    if sightings.problem:
        print(f"peerpods: {sightings.problem}: what has no creation time stays too young", file=sys.stderr)
    if any(removal.outcome == "failed" for removal in removals):
        return _FAILED
    return _LEFT if leaked(verdicts) and not asked.remove else 0


async def _sessions(socket_path: str) -> dict[str, str]:
    """Of the relay that runs. Where none listens there are none; one that does not answer is Unavailable."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(socket_path)
        except (FileNotFoundError, ConnectionRefusedError):
            return {}
        except OSError as error:
            raise Unavailable(f"the relay cannot be asked for its sessions: {socket_path}: {error.strerror}") from error
    return {session.sandbox_id: session.address for session in await RelayClient(socket_path).sessions()}


def _report(verdicts: Sequence[Verdict], removals: Sequence[Removal], owner: Ownership, asked: Asked) -> str:
    outcomes = {removal.verdict.resource.id: removal for removal in removals}
    shown = [each for each in verdicts if asked.all_nodes or each.standing is not Standing.FOREIGN]
    if asked.as_json:
        resources = [_json(each, outcomes.get(each.resource.id)) for each in shown]
        return json.dumps({"cluster": owner.cluster, "node": owner.node, "resources": resources}, indent=2)
    listed = sorted(
        (each for each in shown if each.standing in _LISTED),
        key=lambda each: (_LISTED.index(each.standing), each.resource.kind, each.resource.id),
    )
    table = f"{_table(listed, outcomes)}\n\n" if listed else ""
    count = Counter(each.standing for each in shown)
    said = ", ".join(f"{count[standing]} {standing}" for standing in Standing if count[standing])
    advice = "" if asked.remove or not count[Standing.LEAKED] else "; --yes removes what has leaked"
    return f"{table}cluster {owner.cluster}, node {owner.node}: {said or 'nothing in the cloud'}{advice}"


def _table(listed: Sequence[Verdict], outcomes: Mapping[str, Removal]) -> str:
    rows = [("KIND", "ID", "NODE", "AGE", "WHAT IT IS", "VERDICT", "WHY")]
    for each in listed:
        removal = outcomes.get(each.resource.id)
        verdict = removal.outcome if removal else each.standing.value
        why = removal.note if removal and removal.note else each.reason
        resource, node = each.resource, each.resource.tags.get(tags.NODE, "-")
        rows.append((resource.kind.value, resource.id, node, age_text(each.age), resource.facts, verdict, why))
    return table(rows)


def _json(verdict: Verdict, removal: Removal | None) -> dict[str, Any]:
    resource = verdict.resource
    return {
        "kind": resource.kind.value,
        "id": resource.id,
        "name": resource.name,
        "node": resource.tags.get(tags.NODE, ""),
        "age_seconds": None if verdict.age is None else round(verdict.age),
        "attached_to": resource.attached_to,
        "facts": resource.facts,
        "verdict": verdict.standing.value,
        "reason": verdict.reason,
        **({"outcome": removal.outcome, "note": removal.note} if removal else {}),
    }
