"""Tables and pages about pods' VMs. Pure."""

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from adaptor.kube.seen import Happening, seconds
from adaptor.podnet.plan import Tunnel
from adaptor.report import hints, timeline
from adaptor.report.model import Subject
from adaptor.telemetry.terminal import plain

_UNITS: Final = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
_EVENTS: Final = 15  # the newest so many
_LABEL: Final = 14  # columns of a page's left side
_GOING: Final = ("created", "starting")  # phases that wait for something
_LAUNCHED: Final = ("launch-accepted", "launch-intended", "adopted")  # from the first of these on it is paid for


def age_text(seconds: float | None) -> str:
    """`3d 4h`, `2h`, `7m 12s`: two neighbouring units at most; `?` when it is not known."""
    if seconds is None:
        return "?"
    left = max(0, int(seconds))
    first = next((index for index, (_, size) in enumerate(_UNITS) if left >= size), len(_UNITS) - 1)
    words: list[str] = []
    for unit, size in _UNITS[first : first + 2]:
        if left >= size or not words:
            words.append(f"{left // size}{unit}")
        left %= size
    return " ".join(words)


def table(rows: Iterable[Sequence[str]]) -> str:
    """Columns, two spaces apart; the first row is the head."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def listing(subjects: Sequence[Subject], now: float, *, wide: bool, sessions: bool, namespaces: bool) -> str:
    """One line for each. `sessions`: with the relay's word; `namespaces`: with a column for them."""
    head = ["POD", "PHASE", "VM", "TYPE", "AGE"]
    more = ["NODE", "ZONE", "PURCHASE", "TEE", "USD/H", "ADDRESS", "REASON"]
    rows = [[*(["NAMESPACE"] if namespaces else []), *head, *(["LINK"] if sessions else []), *(more if wide else [])]]
    for each in sorted(subjects, key=lambda each: (each.peerpod.namespace, each.peerpod.pod_name)):
        known = each.peerpod
        row = [known.namespace] if namespaces else []
        row += [known.pod_name or known.sandbox[:12], known.phase, known.instance_id, known.instance_type]
        row.append(age_text(_age(each, now)))
        row += [each.session] if sessions else []
        if wide:
            price = "" if known.price is None else f"{known.price:.4f}"
            row += [
                known.node,
                known.zone,
                known.purchase,
                known.tee,
                price,
                known.address,
                " ".join(known.reason.split()),
            ]
        rows.append([plain(cell) or "-" for cell in row])
    return table(rows)


def page(subject: Subject, others: Sequence[Subject], now: float) -> str:
    """Everything about one, for people; `others` are the same pod's."""
    known, blocks = subject.peerpod, [_facts(subject, now)]
    if subject.moments:
        found = timeline.steps(subject.moments)
        began = _clock(found[0].moment.at)
        ongoing = now if known.phase in _GOING else None
        lines = [*timeline.chart(found, ongoing), timeline.verdict(found, ongoing), timeline.patience(found, now)]
        blocks.append(_block(f"Timeline, from {began} on", lines))
    conditions = [
        f"{each.type:<10} {each.status!s:<6} {each.reason:<12} {plain(each.message) * (each.message != known.reason)}".rstrip()
        for each in known.conditions
    ]
    blocks.append(_block("Conditions", conditions))
    blocks.append(_block("Events", [_event(each, now) for each in subject.events[-_EVENTS:]]))
    about = [
        f"{each.peerpod.phase}: VM {each.peerpod.instance_id or 'not known'}, sandbox {each.peerpod.sandbox[:12]}"
        for each in others
    ]
    blocks.append(_block("Other attempts of this pod (--sandbox ID shows one)", about))
    blocks.append(_block("What next", [f"- {each}" for each in hints.next_steps(subject)]))
    blocks.append(_block("Not shown", [f"- {plain(each)}" for each in subject.notes]))
    return "\n\n".join(block for block in blocks if block)


def trace(subject: Subject, now: float) -> str:
    """The start, drawn."""
    known = subject.peerpod
    vm = f", VM {known.instance_id}" if known.instance_id else ""
    kind = f" ({known.instance_type}{f' in {known.zone}' if known.zone else ''})" if known.instance_type else ""
    if not subject.moments:
        why = f": {plain(known.reason)}" if known.reason else ""
        return plain(f"{subject.title}  {known.phase or 'of unknown phase'}{vm}{kind}\n\nno times are known of it{why}")
    found = timeline.steps(subject.moments)
    ongoing = now if known.phase in _GOING else None
    lines = [
        plain(f"{subject.title}  {known.phase}{vm}{kind}"),
        f"from {_clock(found[0].moment.at)} on",
        "",
        *timeline.chart(found, ongoing),
        "",
        timeline.verdict(found, ongoing),
        timeline.patience(found, now),
    ]
    if known.reason and known.phase != "running":
        lines += ["", f"Reason: {plain(known.reason)}"]
    return "\n".join(lines)


def as_json(subject: Subject, now: float) -> dict[str, Any]:
    """One for programs; what is not known is null."""
    known = subject.peerpod
    return {
        "namespace": known.namespace,
        "pod": known.pod_name,
        "phase": known.phase,
        "node": known.node,
        "sandbox": known.sandbox,
        "cloud": known.cloud,
        "instance": known.instance_id or None,
        "instance_type": known.instance_type or None,
        "zone": known.zone or None,
        "purchase": known.purchase or None,
        "tee": known.tee or None,
        "price_per_hour": known.price,
        "cost_so_far": cost(subject, now),
        "address": known.address or None,
        "tunnel": None if subject.tunnel is None else dataclasses.asdict(subject.tunnel),
        "reason": known.reason or None,
        "age_seconds": _age(subject, now),
        "relay_session": subject.session or None,
        "times": {each.kind: _clock(each.at) for each in subject.moments},
        "conditions": [
            {"type": each.type, "status": each.status, "reason": each.reason, "message": each.message}
            for each in known.conditions
        ],
        "link": subject.link or None,
    }


def cost(subject: Subject, now: float) -> float | None:
    """USD from its launch to its deletion, or to now; None where the price or the launch is not known."""
    times = {each.kind: each.at for each in subject.moments}
    began = next((times[kind] for kind in _LAUNCHED if kind in times), None)
    if subject.peerpod.price is None or began is None or not subject.peerpod.instance_id:
        return None
    return round(max(0.0, times.get("instance-deleted", now) - began) / 3600 * subject.peerpod.price, 6)


def _facts(subject: Subject, now: float) -> str:
    known = subject.peerpod
    spent = cost(subject, now)
    price = "" if known.price is None else f"{known.price:.4f} USD/h"
    if price and spent is not None:
        price += f", {spent:.4f} USD so far"
    machine = [known.instance_type, known.zone, known.purchase, f"TEE {known.tee}" if known.tee else ""]
    rows = [
        ("Pod", subject.title),
        *subject.pod,
        (
            "Phase",
            f"{known.phase or '?'}, for {age_text(_age(subject, now, newest=True))}" * bool(known.name or known.phase),
        ),
        ("Reason", known.reason),
        ("Node", known.node),
        ("Sandbox", known.sandbox),
        ("Asked for", ", ".join(f"{key} {value}" for key, value in subject.wishes)),
        ("VM", known.instance_id or "none yet"),
        ("Cloud", known.cloud),
        ("Machine", ", ".join(part for part in machine if part)),
        ("Price", price),
        ("Address", known.address),
        ("Tunnel", _tunnel(subject.tunnel) if subject.tunnel is not None else ""),
        ("Relay", subject.session),
        ("Create token", known.token),
        ("Cloud console", subject.link),
    ]
    return "\n".join(f"{f'{key}:':<{_LABEL}} {plain(value)}" for key, value in rows if value)


def _tunnel(tunnel: Tunnel) -> str:
    numbers = ", ".join(f"{cord.interface}: {cord.vni}" for cord in tunnel.cords)
    ends = f"from {tunnel.worker} to {tunnel.peer}" if tunnel.peer else "not made yet"
    secret = "encrypted" if tunnel.encrypted else "not encrypted"
    return f"VXLAN number of {numbers}; UDP port {tunnel.port}, {ends}, {secret}"


def _block(title: str, lines: Sequence[str]) -> str:
    kept = [line for line in lines if line]
    return "\n".join([f"{title}:", *(f"  {line}" for line in kept)]) if kept else ""


def _event(event: Happening, now: float) -> str:
    age = "?" if event.at is None else age_text(now - event.at)
    times = f" (x{event.count})" if event.count > 1 else ""
    kind = "Warning" if event.warning else "Normal"
    return f"{age + ' ago':<12} {kind:<8} {event.reason:<22} {' '.join(plain(event.message).split())}{times}"


def _age(subject: Subject, now: float, *, newest: bool = False) -> float | None:
    times = [each.at for each in subject.moments]
    if not times and (created := seconds(subject.peerpod.created)) is not None:
        times = [created]
    if not times:
        return None
    return now - (max(times) if newest else min(times))


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
