"""Fills the generated parts of ARCHITECTURE.md, docs/links.md and docs/kubernetes-events.md from the code's own tables.

    python -m tests.architecture          says whether the pages are true
    python -m tests.architecture --write  makes them so (`make docs`)

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from adaptor.errors import CODE_OF, AdaptorError, code_name
from adaptor.kube import reasons
from adaptor.podnet import plan
from adaptor.relay import reissue, rewrite, states
from adaptor.sandbox import lifecycle, model, steps
from podvm_images.guest import rewrite as guest_rewrite

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = (ROOT / "ARCHITECTURE.md", ROOT / "docs/links.md", ROOT / "docs/kubernetes-events.md")
_PART: Final = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def phases() -> str:
    """The phases of a sandbox and the events between them, found by trying every event in every state."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {model.Phase.CREATED}: {model.Created.kind}"]
    lines += [f"    {old} --> {new}: {kind}" for old, kind, new in sorted(_phase_edges()) if old != new]
    lines += [f"    {model.Phase.STOPPING} --> [*]: every undo done, journal forgets", "```"]
    return "\n".join(lines)


def _phase_edges() -> Iterator[tuple[str, str, str]]:
    spec = model.SandboxSpec("id", "pod", "ns", "/netns")
    events: list[model.Event] = [
        model.StartRequested(),
        model.LaunchIntended("t", "n", "type", "", "", ""),
        model.LaunchAccepted("i-1"),
        model.LaunchRefused("no"),
        model.Reached("10.0.0.1", "00"),
        model.NetworkIntended(plan.Tunnel("/netns", 4789, ())),
        model.Bound(),
        model.Kept("x", 1.0),
        model.GivenAway("id"),
        model.Adopted("id", model.LaunchIntended("t", "n", "type", "", "", ""), "i-1"),
        model.StopDecided("x"),
        model.InstanceDeleted(),
    ]
    seen: set[model.SandboxState] = set()
    todo = [model.fold([model.Created(spec)])]
    edges: set[tuple[str, str, str]] = set()
    while todo:
        state = todo.pop()
        if state in seen or state.launches > 2:
            continue
        seen.add(state)
        for event in events:
            try:
                after = model.apply(state, event)
            except model.JournalFault:
                continue
            edges.add((state.phase, event.kind, after.phase))
            todo.append(after)
    yield from edges


def calls() -> str:
    """What each call means in each phase, and why."""
    rows = ["| phase | call | answer | why |", "|---|---|---|---|"]
    rows += [
        f"| {phase} | {call.value} | {edge.answer.value} | {edge.why} |"
        for (phase, call), edge in sorted(
            lifecycle.TABLE.items(), key=lambda row: (list(model.Phase).index(row[0][0]),)
        )
    ]
    return "\n".join(rows)


def chain() -> str:
    """The steps of a start with their inverses."""
    rows = ["| step | do | undo |", "|---|---|---|"]
    rows += [f"| {step.name} | {_doc(step.do)} | {_doc(step.undo)} |" for step in steps.CHAIN]
    return "\n".join(rows)


def statuses() -> str:
    """How each error travels."""
    rows = ["| error | ttrpc status | meaning |", "|---|---|---|"]
    rows += [f"| {cls.__name__} | {code_name(code)} | {_doc(cls)} |" for cls, code in CODE_OF.items()]
    return "\n".join(rows)


def sessions() -> str:
    """The states of a relay session and what leads from one to the next."""
    edges = [f"    {old.name} --> {new.name}: {event.name.lower()}" for (old, event), new in states.TRANSITIONS.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", "    [*] --> LISTENING: open", *edges, "```"])


def rewrites() -> str:
    """The agent calls that are not passed on as they come."""
    rows = ["| at | service | method | what is changed |", "|---|---|---|---|"]
    for end, table in (("worker", rewrite.TABLE), ("VM", guest_rewrite.TABLE)):
        rows += [
            f"| {end} | {service} | {method} | {_doc(change[0])} |"
            for (service, method), changes in table.items()
            for change in changes
        ]
    return "\n".join(rows)


def reissues() -> str:
    """What becomes of each call under way when the link to a stock guest breaks: methods of one case in one row."""
    methods: dict[reissue.Case, list[str]] = {}
    for (_, method), case in reissue.TABLE.items():
        methods.setdefault(case, []).append(method)
    rows = ["| call | then | why |", "|---|---|---|"]
    rows += [
        f"| {', '.join(names)} | {_doc(case.repeats).rstrip('.')} | {case.why} |" for case, names in methods.items()
    ]
    rows += [f"| any other | {_doc(reissue.UNKNOWN.repeats).rstrip('.')} | {reissue.UNKNOWN.why} |"]
    return "\n".join(rows)


def events() -> str:
    """What a pod's owner is told."""
    rows = ["| reason | type | when | what next |", "|---|---|---|---|"]
    rows += [
        f"| {each.name} | {'Warning' if each.warning else 'Normal'} | {each.when} | {each.next} |"
        for each in reasons.TABLE
    ]
    return "\n".join(rows)


def contracts() -> str:
    """Who may import whom, as the tests enforce it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return "\n".join(f"- {contract['name']}" for contract in settings["contracts"])


def _doc(thing: Callable[..., object] | type[AdaptorError]) -> str:
    return " ".join((thing.__doc__ or "").split("\n\n")[0].split())


PARTS: Final[dict[str, Callable[[], str]]] = {
    "phases": phases,
    "calls": calls,
    "chain": chain,
    "statuses": statuses,
    "sessions": sessions,
    "rewrites": rewrites,
    "reissues": reissues,
    "contracts": contracts,
    "events": events,
}


def rendered(page: str) -> str:
    """`page` with every generated part made anew; raises KeyError for a part nobody generates."""
    return _PART.sub(lambda part: f"{part[1]}{PARTS[part['name']]()}\n{part[3]}", page)


def main() -> int:
    """0 if the pages are, or now are, true."""
    stale = [page for page in PAGES if rendered(page.read_text()) != page.read_text()]
    for page in stale:
        if "--write" in sys.argv:
            page.write_text(rendered(page.read_text()))
        else:
            print(f"{page.name} is not what the code says: run `make docs`", file=sys.stderr)
    return int(bool(stale) and "--write" not in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
