"""How a start went: what took how long, what took longest, and where kubelet's patience stands. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from adaptor.report.model import Moment
from adaptor.telemetry.terminal import plain

# Kubelet waits twice its runtimeRequestTimeout (2 minutes unless configured) for a pod's sandbox. Seconds.
PATIENCE: Final = 240.0
_LIMIT: Final = "Kubelet's 4 minutes (twice its runtimeRequestTimeout, from about CreateVM on)"
_WIDTH: Final = 40  # characters of the chart

# Seconds: a step of a start that takes longer is worth a look. Confidential VMs boot in about 25.
_LONG: Final = 30.0
_DETAIL: Final = 60  # characters

CREATED, STARTED, BOUND, FAILED, STOPPED = "created", "start-requested", "bound", "failed", "stop-decided"


@dataclass(frozen=True, slots=True)
class Kind:
    """What has happened; what the time before it went into, and what after it is waited for; where to look then."""

    words: str
    before: str = ""
    after: str = ""
    look: str = ""


_TURN, _CREATE, _BOOT = "waiting for a turn, asking what the cloud offers", "the cloud's create call", "the VM's boot"
_SERVICES: Final = "the guest's own services, and a frame through the pod's tunnel"
_KINDS: Final[dict[str, Kind]] = {
    CREATED: Kind("CreateVM: the agent socket listens", "", "the shim's StartVM"),
    STARTED: Kind("StartVM", "the shim, between CreateVM and StartVM", _TURN, "the node's load, containerd's log"),
    "launch-intended": Kind("a machine is chosen", _TURN, _CREATE, "limits.creates_at_once, the log"),
    "launch-accepted": Kind("the cloud accepts the VM", _CREATE, _BOOT, "the log: is the cloud throttling?"),
    "launch-refused": Kind("the cloud refuses, the next machine is tried", _CREATE, _TURN, "the log"),
    "adopted": Kind("the VM of the pod's last attempt is taken over", _TURN, _BOOT),
    "reached": Kind("the guest answers", _BOOT, _SERVICES, "`peerpods console`: image, machine type"),
    "network-intended": Kind(
        "the pod's tunnel is made", "telling the pod's tunnel where its VM is", _SERVICES, "the log"
    ),
    BOUND: Kind("the VM is the pod's, its agent answers", _SERVICES, "", "`peerpods console`"),
    "kept": Kind("kubelet gave up, the VM is kept for the pod's next attempt", "the VM, until kubelet gave up"),
    "given-away": Kind("the pod's next sandbox has the VM", "the pod's next attempt"),
    FAILED: Kind("the start failed", "the attempt that failed", "", "the reason"),
    STOPPED: Kind("it is being taken down", "the attempt that failed", "", "the reason"),
    "instance-deleted": Kind("the cloud accepts the VM's deletion", "the cloud's delete call"),
}
_START: Final = frozenset(_KINDS) - {CREATED, STOPPED, "instance-deleted", "given-away"}


@dataclass(frozen=True, slots=True)
class Step:
    """One moment and the time that led to it."""

    moment: Moment
    offset: float  # seconds since the first
    took: float  # seconds since the one before

    @property
    def words(self) -> str:
        known = _KINDS[self.moment.kind].words if self.moment.kind in _KINDS else self.moment.kind
        detail = self.moment.detail
        if not detail or self.moment.kind == STOPPED:  # why it ended is told elsewhere
            return plain(known)
        return plain(f"{known}: {detail if len(detail) <= _DETAIL else detail[: _DETAIL - 1] + '…'}")


def steps(moments: Sequence[Moment]) -> list[Step]:
    """One for each, in the order of their times."""
    ordered = sorted(moments, key=lambda each: each.at)
    before = [ordered[0], *ordered] if ordered else []
    return [Step(each, each.at - ordered[0].at, each.at - last.at) for last, each in zip(before, ordered, strict=False)]


def start(found: Sequence[Step]) -> list[Step]:
    """Those of the start: all up to its good or bad end, but the first."""
    kinds = {each.moment.kind for each in found}
    ends = _START if kinds & {BOUND, FAILED, "kept"} else _START | {STOPPED}
    return [each for each in found if each.moment.kind in ends]


def chart(found: Sequence[Step], now: float | None = None) -> list[str]:
    """A line for each step: when, how long, and a bar where that lies. `now`: it still goes on."""
    if not found:
        return ["nothing has happened yet"]
    last, own = found[-1], start(found) or [found[-1]]
    # What comes after the start would press it into one column.
    until = max(own[-1].offset if now is None else now - found[0].moment.at, 0.001)
    rows = [("AT", "TOOK", "", "")]
    for each in found:
        bar = _bar(each.offset - each.took, each.offset, until) if each.offset <= until else ""
        rows.append((f"+{each.offset:.3f}s", f"{each.took:.3f}s" if each.offset else "", bar, each.words))
    if now is not None:
        waits = until - last.offset
        rows.append((f"+{until:.3f}s", f"{waits:.3f}s", _bar(last.offset, until, until), f"now: {_awaited(last)}"))
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{at:>{wide[0]}}  {took:>{wide[1]}}  {bar:<{_WIDTH}}  {words}".rstrip() for at, took, bar, words in rows]


def verdict(found: Sequence[Step], now: float | None = None) -> str:
    """The slow part of the start in words, and where to look; empty where there is none."""
    before = dict(zip(found[1:], found, strict=False))
    parts = []
    for each in start(found):
        kind = _KINDS[each.moment.kind]
        failed = each.moment.kind in (FAILED, STOPPED) and each in before
        what = f"{_awaited(before[each]) or kind.before}, in vain" if failed else kind.before
        parts.append((each.took, what, kind.look))
    if now is not None and found:
        look = next((kind.look for kind in _KINDS.values() if kind.before == _awaited(found[-1])), "")
        parts.append((now - found[-1].moment.at, _awaited(found[-1]), look))
    whole = sum(took for took, _, _ in parts)
    took, what, look = max(parts, default=(0.0, "", ""))
    if took <= 0:
        return ""
    return f"Slowest: {what}, {took:.1f} s ({took / whole:.0%})" + (
        f". Look at {look}" if look and took > _LONG else ""
    )


def patience(found: Sequence[Step], now: float) -> str:
    """Where kubelet's four minutes stand; empty where nothing has begun."""
    if not found:
        return ""
    ended = next((each for each in found if each.moment.kind in (BOUND, "kept", FAILED, STOPPED)), None)
    if ended is None:
        left = PATIENCE - (now - found[0].moment.at)
        return f"{_LIMIT}: {left:.0f} s are left" if left > 0 else f"{_LIMIT}: over since {-left:.0f} s"
    words = {BOUND: "the start took", "kept": "given up after"}.get(ended.moment.kind, "the start ended after")
    return f"{_LIMIT}: {words} {ended.offset:.1f} s"


def _awaited(last: Step) -> str:
    return _KINDS[last.moment.kind].after if last.moment.kind in _KINDS else ""


def _bar(begin: float, end: float, whole: float) -> str:
    left = min(round(begin / whole * _WIDTH), _WIDTH - 1)
    right = max(min(round(end / whole * _WIDTH), _WIDTH), left + 1)
    return " " * left + "#" * (right - left)
