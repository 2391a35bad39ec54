"""Which of the cloud's resources belong to nodes that are gone, and to nobody else. Pure: `sandbox.sweep` for a cluster.

not of this cluster, or of no node, or of a node that exists ──► FOREIGN  that node sees to it
of a node gone for less than the grace                       ──► YOUNG
named by a PeerPod that holds it, or its pod still exists     ──► OWNED
else as `sweep` judges for a node that knows of no sandbox: HELD, YOUNG or LEAKED
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adaptor import names
from adaptor.kube.peerpod import PeerPod
from adaptor.sandbox import sweep
from adaptor.sandbox.sweep import Known, Standing, Verdict
from providers import tags
from providers.base import Ownership, Resource


@dataclass(frozen=True, slots=True)
class Claims:
    """What the cluster knows, read after the resources were."""

    cluster: str
    gone: Mapping[str, float]  # of the nodes that do not exist any more: seconds for which that has been seen
    strange: frozenset[str]  # nodes that do not exist, and were never seen to
    node_grace: float
    peerpods: Sequence[PeerPod]
    pods: frozenset[tuple[str, str, str]]  # (node, namespace, name) of every pod of ours


def judge(
    resources: Sequence[Resource], claims: Claims, *, now: float, grace: float, first_seen: Mapping[str, float]
) -> list[Verdict]:
    """As `sweep.judge`."""
    return [_judge(each, claims, now, grace, first_seen) for each in resources]


def _judge(resource: Resource, claims: Claims, now: float, grace: float, first_seen: Mapping[str, float]) -> Verdict:
    node = resource.tags.get(tags.NODE, "")
    known = Known(Ownership(claims.cluster, node), {}, {})
    (verdict,) = sweep.judge([resource], known, now=now, grace=grace, first_seen=first_seen)
    if verdict.standing is Standing.FOREIGN:
        return verdict
    if node in claims.strange:
        return replace(verdict, standing=Standing.FOREIGN, reason=f"this cluster was never seen to have node {node}")
    if node not in claims.gone:
        return replace(verdict, standing=Standing.FOREIGN, reason=f"left to node {node}")
    if verdict.standing is not Standing.LEAKED:
        return verdict
    if owner := _owner(resource, claims, node):
        return replace(verdict, standing=Standing.OWNED, reason=owner)
    if (since := claims.gone[node]) < claims.node_grace:
        reason = f"node {node} is gone for {since:.0f} s; counts from {claims.node_grace:.0f} s on"
        return replace(verdict, standing=Standing.YOUNG, reason=reason)
    return replace(verdict, reason=f"node {node} is gone, and no PeerPod names it")


def _owner(resource: Resource, claims: Claims, node: str) -> str:
    token = resource.tags.get(tags.TOKEN)
    for each in claims.peerpods:
        if names.PEERPOD_FINALIZER not in each.finalizers:
            continue
        if resource.id == each.instance_id or (token and token == each.token):
            return f"PeerPod {each.namespace}/{each.name} names it"
    namespace, name = (resource.tags.get(key, "") for key in (tags.POD_NAMESPACE, tags.POD_NAME))
    return f"its pod {namespace}/{name} still exists" if name and (node, namespace, name) in claims.pods else ""
