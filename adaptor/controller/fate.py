"""What becomes of a PeerPod, and whether the machine it names is its own. Pure.

deleted, or its pod is gone?  no ─► LEAVE
its node lives?              yes ─► LEAVE to its adaptor; REPORT when that takes too long
dead for less than the grace ─────► LEAVE, look again
another cloud's ──────────────────► REPORT
else ─────────────────────────────► FINISH: delete the VM, then drop our finalizer
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from adaptor import names
from adaptor.kube.peerpod import PeerPod
from providers import tags
from providers.base import Instance

# Seconds that a node's adaptor may take over the PeerPod of a pod that is gone. Deleting a VM takes a minute or two,
# and an adaptor tries for as long as a cloud is away: this is about somebody having to look.
STUCK: Final = 1800.0
_LONGEST_LOOK: Final = 60.0  # seconds between looks at what waits for a grace to end

OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"
_UPSTREAM_VM: Final = "podvm-"  # podvm-<pod>-<8 characters of the sandbox's id>, cut to the length a cloud allows


class Verb(StrEnum):
    """What to do with it."""

    LEAVE = "leave"
    FINISH = "finish"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Fate:
    """`again`: seconds until it should be looked at anew; None: when it changes."""

    verb: Verb
    reason: str = ""
    again: float | None = None


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """As much of a Node as matters here."""

    ready: bool  # its kubelet reports
    out_of_service: bool = False  # an admin says that it will not come back


@dataclass(frozen=True, slots=True)
class Dead:
    """A node without a living adaptor, and for how long it has been seen so; seconds."""

    why: str
    since: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside the PeerPod itself."""

    cloud: str  # the configured one
    pod_exists: bool  # the pod whose VM this is
    dead: Dead | None  # its node; None: alive
    grace: float  # seconds that a node must have been dead
    wanted_gone_for: float = 0.0  # seconds for which the PeerPod has been seen without its pod, or deleted


def node_facts(node: Mapping[str, Any]) -> NodeFacts:
    """Of a Node object. One without a Ready condition has not reported yet: not ready."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    taints = (node.get("spec") or {}).get("taints") or ()
    return NodeFacts(
        ready=any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions),
        out_of_service=any(each.get("key") == OUT_OF_SERVICE for each in taints),
    )


class Absences:
    """Since when each node has been seen gone or unready; monotonic seconds, this process's own."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def look(self, node: str, facts: NodeFacts | None, now: float) -> Dead | None:
        """None: it lives. `facts` is None where there is no such Node; an empty `node` has no adaptor of ours."""
        if not node:
            return Dead("no adaptor of this program made it", float("inf"))
        if facts is not None and facts.out_of_service:
            return Dead(f"node {node} is out of service", float("inf"))
        if facts is not None and facts.ready:
            self._since.pop(node, None)
            return None
        since = now - self._since.setdefault(node, now)
        return Dead(f"node {node} {'is gone' if facts is None else 'does not report'}", since)


def decide(peerpod: PeerPod, facts: Facts) -> Fate:
    """What to do with it now."""
    if names.PEERPOD_FINALIZER not in peerpod.finalizers:
        return Fate(Verb.LEAVE, "it holds no machine")
    if not unwanted(peerpod, pod_exists=facts.pod_exists):
        return Fate(Verb.LEAVE, "its pod exists")
    why = "it is being deleted" if peerpod.deleting else "its pod is gone"
    if facts.dead is None:
        if facts.wanted_gone_for < STUCK:
            return Fate(Verb.LEAVE, f"node {peerpod.node} finishes it", STUCK - facts.wanted_gone_for)
        late = f"{why}, and the adaptor of node {peerpod.node} has not finished it for {STUCK / 60:.0f} minutes: does it run? Its log tells why"
        return Fate(Verb.REPORT, late, STUCK)
    if facts.dead.since < facts.grace:
        left = facts.grace - facts.dead.since
        return Fate(Verb.LEAVE, f"{facts.dead.why}; it may come back", min(left, _LONGEST_LOOK))
    if peerpod.cloud and peerpod.cloud != facts.cloud:
        said = f"{why}, and its VM {peerpod.instance_id or ''} is at {peerpod.cloud}, which is not the cloud configured here ({facts.cloud})"
        return Fate(
            Verb.REPORT, f"{said}: delete the VM there, then remove the finalizer {names.PEERPOD_FINALIZER}", STUCK
        )
    return Fate(Verb.FINISH, f"{why}; {facts.dead.why}")


def unwanted(peerpod: PeerPod, *, pod_exists: bool) -> bool:
    """Whether nobody wants its VM any more. With owners Kubernetes' garbage collector decides: it deletes the PeerPod
    when they are gone. Without (`--cascade=orphan` takes them away) it is for us to see whether the pod is."""
    return bool(peerpod.deleting) or not (peerpod.owners or pod_exists)


def is_shared(peerpod: PeerPod, others: Iterable[PeerPod]) -> bool:
    """Whether the machine is another's too that nobody has asked to go: a pod's next sandbox takes over the machine of
    the last one, and its PeerPod with it."""
    return any(
        not each.deleting
        and names.PEERPOD_FINALIZER in each.finalizers
        and (each.namespace, each.name) != (peerpod.namespace, peerpod.name)
        and each.namespace == peerpod.namespace
        and bool(
            (peerpod.instance_id and each.instance_id == peerpod.instance_id)
            or (peerpod.token and each.token == peerpod.token)
        )
        for each in others
    )


def objection(peerpod: PeerPod, instance: Instance, cluster: str) -> str:
    """Why this machine must not be deleted for this PeerPod; empty: it may. Who may write PeerPods in one namespace
    must not be able to delete another's machines, or what is none of ours, by naming them."""
    marks = instance.tags
    if tags.CLUSTER in marks:
        if marks[tags.CLUSTER] != cluster:
            return f"{instance.id} is another cluster's ({marks[tags.CLUSTER]})"
        namespace = marks.get(tags.POD_NAMESPACE)
        if namespace is not None and namespace != peerpod.namespace:
            return f"{instance.id} is of a pod in namespace {namespace}"
        if namespace is None and marks.get(tags.TOKEN) != peerpod.token:
            return f"{instance.id} tells no namespace, and was not launched with this PeerPod's token"
        return ""
    stem = instance.name.rpartition("-")[0]
    pod = peerpod.pod_name or peerpod.name.rpartition("-resource-")[0]
    if not peerpod.node and len(stem) > len(_UPSTREAM_VM) and f"{_UPSTREAM_VM}{pod}".startswith(stem):
        return ""  # cloud-api-adaptor's, which tags nothing
    return f"{instance.id} ({instance.name or 'without a name'}) has neither this cluster's tag nor the name of this pod's VM"
