"""A pod's VM as people look at it, wherever it was looked up. Pure."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from adaptor.errors import InvalidRequest
from adaptor.kube.peerpod import PeerPod
from adaptor.kube.seen import Happening, seconds
from adaptor.podnet.plan import Tunnel
from adaptor.telemetry.terminal import plain

_ALIVE = (
    "running",
    "starting",
    "kept",
    "created",
    "failed",
    "stopping",
    "gone",
    "",
)  # who is meant, of a pod's several


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened to a sandbox; `kind` as the journal's events have it, and `failed`."""

    kind: str
    at: float  # seconds since the epoch
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """One sandbox: its PeerPod, and what else is known where it was looked up."""

    peerpod: PeerPod
    moments: tuple[Moment, ...] = ()  # in order
    session: str = ""  # the relay's word; on the node only
    tunnel: Tunnel | None = None  # likewise
    wishes: tuple[tuple[str, str], ...] = ()  # what the pod asked for
    pod: tuple[tuple[str, str], ...] = ()  # what Kubernetes says of the Pod
    events: tuple[Happening, ...] = ()  # oldest first
    link: str = ""  # the VM's page at the cloud
    notes: tuple[str, ...] = ()  # what could not be looked up, and why

    @property
    def title(self) -> str:
        """`namespace/name`, or the sandbox's id where there is no pod."""
        known = self.peerpod
        return plain(f"{known.namespace}/{known.pod_name}" if known.pod_name else known.sandbox or known.name)


def moments_of(peerpod: PeerPod) -> tuple[Moment, ...]:
    """The status's times, in order; a time that is none is left out."""
    found = [Moment(kind, at) for kind, text in peerpod.times.items() if (at := seconds(text)) is not None]
    return tuple(sorted(found, key=lambda each: each.at))


def wanted(name: str, namespace: str) -> tuple[str, str]:
    """(namespace, pod) of what a person typed: `web`, `shop/web`, `pod/web`."""
    first, slash, rest = name.partition("/")
    if slash and first in ("pod", "pods", "po"):
        return namespace, rest
    return (first, rest) if slash else (namespace, name)


def of_pod(subjects: Sequence[Subject], namespace: str, name: str, sandbox: str = "") -> list[Subject]:
    """Those of the pod, or of the sandbox whose id begins so; whoever is meant comes first. `namespace` empty: any."""
    found = [
        each
        for each in subjects
        if (each.peerpod.pod_name == name and namespace in ("", each.peerpod.namespace))
        or (len(name) >= 4 and each.peerpod.sandbox.startswith(name))
    ]
    found = [each for each in found if each.peerpod.sandbox.startswith(sandbox)]
    pods = {(each.peerpod.namespace, each.peerpod.pod_name) for each in found}
    if len(pods) > 1:
        names = ", ".join(sorted(each.title for each in found))
        raise InvalidRequest(f"{name!r} could be any of {names}: say which, as NAMESPACE/POD or with -n")
    return sorted(found, key=_rank)


def near(name: str, known: Sequence[str]) -> str:
    """`; did you mean a, b?` for what looks like it, else nothing."""
    short = {each.rpartition("/")[2]: each for each in known}
    found = [short[each] for each in difflib.get_close_matches(name.rpartition("/")[2], list(short), 3, 0.6)]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _rank(subject: Subject) -> tuple[int, float]:
    phase = subject.peerpod.phase
    newest = max((each.at for each in subject.moments), default=0.0)
    return (_ALIVE.index(phase) if phase in _ALIVE else len(_ALIVE), -newest)
