"""What Kubernetes' own objects say to whoever looks at a pod's VM. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Shape = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Happening:
    """One event."""

    at: float | None  # seconds since the epoch, the newest of its kind
    warning: bool
    reason: str
    message: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Pod:
    """A Pod, as far as it matters here. Empty = not told."""

    namespace: str
    name: str
    uid: str = ""
    node: str = ""
    runtime_class: str = ""
    state: str = ""  # "Pending: ContainerCreating"
    unscheduled: str = ""  # why it has no node
    gates: tuple[str, ...] = ()
    deleting: bool = False
    annotations: tuple[tuple[str, str], ...] = ()


def pod(found: Shape) -> Pod:
    """The value of a Pod object."""
    metadata, spec, status = (found.get(part) or {} for part in ("metadata", "spec", "status"))
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    return Pod(
        namespace=metadata.get("namespace", ""),
        name=metadata.get("name", ""),
        uid=metadata.get("uid", ""),
        node=spec.get("nodeName") or "",
        runtime_class=spec.get("runtimeClassName") or "",
        state=_state(status, deleting=bool(metadata.get("deletionTimestamp"))),
        unscheduled=scheduled.get("message") or "" if scheduled.get("status") == "False" else "",
        gates=tuple(each.get("name", "") for each in spec.get("schedulingGates") or ()),
        deleting=bool(metadata.get("deletionTimestamp")),
        annotations=tuple(sorted((metadata.get("annotations") or {}).items())),
    )


def happenings(found: Iterable[Shape], name: str, uid: str = "") -> tuple[Happening, ...]:
    """The events that are about the Pod of this name, and of this uid where one is given, oldest first."""
    mine = []
    for each in found:
        about = each.get("involvedObject") or {}
        if about.get("kind") == "Pod" and about.get("name") == name and uid in ("", about.get("uid", "")):
            version = str((each.get("metadata") or {}).get("resourceVersion") or "")
            mine.append((_happening(each), int(version) if version.isdecimal() else 0))
    # Most of their times are whole seconds: within one, as they were written.
    return tuple(happening for happening, _ in sorted(mine, key=lambda each: (each[0].at or 0.0, each[1])))


def seconds(text: Any) -> float | None:
    """RFC 3339, or what a client made of it, as seconds since the epoch; None for what is no time."""
    if isinstance(text, datetime):
        return text.timestamp()
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found.timestamp() if found.tzinfo else None


def _happening(found: Shape) -> Happening:
    series = found.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        found.get("lastTimestamp"),
        found.get("eventTime"),
        found.get("firstTimestamp"),
        (found.get("metadata") or {}).get("creationTimestamp"),
    )
    return Happening(
        at=next((at for text in times if (at := seconds(text)) is not None), None),
        warning=found.get("type") == "Warning",
        reason=found.get("reason") or "",
        message=found.get("message") or "",
        count=int(series.get("count") or found.get("count") or 1),
    )


def _state(status: Shape, *, deleting: bool) -> str:
    waiting = [
        reason
        for each in status.get("containerStatuses") or ()
        if (reason := ((each.get("state") or {}).get("waiting") or {}).get("reason"))
    ]
    why = status.get("reason") or next(iter(waiting), "")
    text = f"{status.get('phase') or '?'}: {why}" if why else status.get("phase") or "?"
    return f"{text}, being deleted" if deleting else text
