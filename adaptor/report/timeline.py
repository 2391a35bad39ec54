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

CREATED, STARTED, BOUND, FAILED = "created", "start-requested", "bound", "failed"
# Kind: (what has happened, what the time before it went into, what to look at when that was long)
_WORDS: Final[dict[str, tuple[str, str, str]]] = {
    CREATED: ("CreateVM: the agent socket listens", "", ""),
    STARTED: ("StartVM", "the shim, between CreateVM and StartVM", "the node's load; containerd's log"),
    "launch-intended": (
        "a machine is chosen",
        "waiting for a turn, asking what the cloud offers",
        "limits.creates_at_once and the cloud's API limits: `peerpods logs POD`",
    ),
    "launch-accepted": (
        "the cloud accepts the VM",
        "the cloud's answer to the create call",
        "throttling and retries: `peerpods logs POD`",
    ),
    "launch-refused": (
        "the cloud refuses; the next machine is tried",
        "the cloud's answer",
        "`peerpods instances list`",
    ),
    "adopted": ("the VM of the pod's last attempt is taken over", "waiting for a VM", ""),
    "reached": (
        "the guest answers",
        "the VM's boot, until its guest answered",
        "the image and the machine type: `peerpods console POD` shows the boot",
    ),
    BOUND: ("the VM is the pod's, its agent answers", "the guest's own services", "the guest: `peerpods console POD`"),
    "kept": ("kubelet gave up; the VM is kept for the pod's next attempt", "waiting for the VM", ""),
    "given-away": ("the pod's next sandbox has the VM", "waiting for the pod's next attempt", ""),
    FAILED: ("the start failed", "waiting for the VM", "`peerpods describe POD` says why"),
    "stop-decided": ("it is being taken down", "", ""),
    "instance-deleted": ("the cloud accepts the VM's deletion", "the cloud's answer to the delete call", ""),
}
_START: Final = frozenset(_WORDS) - {CREATED, "stop-decided", "instance-deleted", "given-away"}


@dataclass(frozen=True, slots=True)
class Step:
    """One moment and the time that led to it."""

    moment: Moment
    offset: float  # seconds since the first
    took: float  # seconds since the one before

    @property
    def words(self) -> str:
        known = _WORDS.get(self.moment.kind, (self.moment.kind, "", ""))[0]
        return plain(f"{known}: {self.moment.detail}" if self.moment.detail else known)


def steps(moments: Sequence[Moment]) -> list[Step]:
    """One for each, in the order of their times."""
    ordered = sorted(moments, key=lambda each: each.at)
    before = [ordered[0], *ordered] if ordered else []
    return [Step(each, each.at - ordered[0].at, each.at - last.at) for last, each in zip(before, ordered, strict=False)]


def slowest(found: Sequence[Step]) -> Step | None:
    """The step of the start that took longest; None before there is one."""
    return max((each for each in found if each.moment.kind in _START), key=lambda each: each.took, default=None)


def chart(found: Sequence[Step], now: float | None = None) -> list[str]:
    """A line for each step: when, how long, and a bar where that lies. `now`: it still goes on."""
    if not found:
        return ["nothing has happened yet"]
    first, last = found[0].moment.at, found[-1]
    # What comes after the start would press it into one column.
    ends = [each for each in found if each.moment.kind in _START] or [last]
    until = max(ends[-1].offset, 0.001) if now is None else max(now - first, 0.001)
    slow = slowest(found)
    rows = [("AT", "TOOK", "", "")]
    for each in found:
        bar = _bar(each.offset - each.took, each.offset, until) if each.offset <= until else ""
        mark = "  <- slowest" if each is slow and len(found) > 2 else ""
        rows.append((f"+{each.offset:.3f}s", f"{each.took:.3f}s" if each.offset else "", bar, each.words + mark))
    if now is not None:
        waits = now - last.moment.at
        rows.append((f"+{until:.3f}s", f"{waits:.3f}s", _bar(last.offset, until, until), "... now"))
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{at:>{wide[0]}}  {took:>{wide[1]}}  {bar:<{_WIDTH}}  {words}".rstrip() for at, took, bar, words in rows]


def verdict(found: Sequence[Step]) -> str:
    """The slow step in words, and what to look at; empty where there is none."""
    slow = slowest(found)
    if slow is None or slow.took <= 0:
        return ""
    _, what, look = _WORDS[slow.moment.kind]
    whole = sum(each.took for each in found if each.moment.kind in _START)
    share = f", {slow.took / whole:.0%} of the start" if whole else ""
    return f"Slowest: {what} ({slow.took:.1f} s{share})" + (f". Look at {look}" if look and slow.took > 1 else "")


def patience(found: Sequence[Step], now: float) -> str:
    """Where kubelet's four minutes stand; empty where nothing has begun."""
    if not found:
        return ""
    began = found[0].moment.at
    ended = next((each for each in found if each.moment.kind in (BOUND, "kept", FAILED, "stop-decided")), None)
    if ended is None:
        left = PATIENCE - (now - began)
        return f"{_LIMIT}: {left:.0f} s are left" if left > 0 else f"{_LIMIT}: over since {-left:.0f} s"
    words = {BOUND: "the start took", "kept": "given up after"}.get(ended.moment.kind, "the start ended after")
    return f"{_LIMIT}: {words} {ended.offset:.1f} s"


def _bar(begin: float, end: float, whole: float) -> str:
    left = min(round(begin / whole * _WIDTH), _WIDTH - 1)
    right = max(min(round(end / whole * _WIDTH), _WIDTH), left + 1)
    return " " * left + "#" * (right - left)
