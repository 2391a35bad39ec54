"""Which of the cloud's resources nobody owns any more: a verdict for each, with its reason. `sweeper` acts on them.

    not of this cluster, or of another node ──► FOREIGN   left to that node
    held by something                       ──► HELD      goes with what holds it, or is judged once it is free
    a sandbox's, or a live session's        ──► OWNED
    younger than the grace                  ──► YOUNG
    else                                    ──► LEAKED

Some resources have no creation time: they are as old as this node's first sight of them. (A time in a tag would have
to be part of every create, byte for byte the same when it is repeated, for the sake of things that hardly ever leak.)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from adaptor.sandbox.model import SandboxState
from providers import tags
from providers.base import Ownership, Resource, ResourceKind

# An instance takes with it what it holds; the others are free by then, or wait for the next look.
_ORDER: Final = (ResourceKind.INSTANCE, ResourceKind.ADDRESS, ResourceKind.INTERFACE, ResourceKind.DISK)


class Standing(StrEnum):
    """What became of a resource in judgement."""

    OWNED = "owned"
    HELD = "attached"
    YOUNG = "too young"
    FOREIGN = "another node's"
    LEAKED = "leaked"


@dataclass(frozen=True, slots=True)
class Known:
    """All that this node knows of itself, read after the resources were: what a create made before then is in it."""

    owner: Ownership
    states: Mapping[str, SandboxState]  # by sandbox id, every one in the journal
    sessions: Mapping[str, str]  # the relay's: sandbox id -> its VM's host:port, empty before it was reached


@dataclass(frozen=True, slots=True)
class Verdict:
    """`age` in seconds; None: not known yet."""

    resource: Resource
    standing: Standing
    reason: str
    age: float | None


def judge(
    resources: Sequence[Resource], known: Known, *, now: float, grace: float, first_seen: Mapping[str, float]
) -> list[Verdict]:
    """One verdict for each resource, in their order.

    `now` and `first_seen` (by resource id) are seconds since the epoch, `grace` is how old a resource must be.
    """
    return [_judge(each, known, now, grace, first_seen) for each in resources]


def sighted(resources: Iterable[Resource], now: float, first_seen: Mapping[str, float]) -> dict[str, float]:
    """`first_seen` after this look: of resources that do not tell their age, and not of those that are gone."""
    return {each.id: min(now, first_seen.get(each.id, now)) for each in resources if each.created_at is None}


def leaked(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Those to remove, in the order to remove them in."""
    found = [verdict for verdict in verdicts if verdict.standing is Standing.LEAKED]
    return sorted(found, key=lambda verdict: _ORDER.index(verdict.resource.kind))


def _judge(resource: Resource, known: Known, now: float, grace: float, first_seen: Mapping[str, float]) -> Verdict:
    since = first_seen.get(resource.id) if resource.created_at is None else resource.created_at
    age = None if since is None else now - since
    standing, reason = (
        _foreign(resource, known.owner)
        or _held(resource)
        or _owned(resource, known)
        or _young(resource, age, grace)
        or (Standing.LEAKED, _why(resource, known))
    )
    return Verdict(resource, standing, reason, age)


_Found = tuple[Standing, str] | None


def _foreign(resource: Resource, owner: Ownership) -> _Found:
    if resource.tags.get(tags.CLUSTER) != owner.cluster:
        return Standing.FOREIGN, f"its tag {tags.CLUSTER} is not {owner.cluster}"
    node = resource.tags.get(tags.NODE, "")
    if not node:
        return Standing.FOREIGN, f"it has no tag {tags.NODE}: nobody can tell whose it is"
    return None if node == owner.node else (Standing.FOREIGN, f"left to node {node}")


def _held(resource: Resource) -> _Found:
    holder = resource.attached_to
    return (Standing.HELD, f"attached to {holder}: goes with it, or is looked at when it is free") if holder else None


def _owned(resource: Resource, known: Known) -> _Found:
    token = resource.tags.get(tags.TOKEN)
    for state in known.states.values():
        who = f"sandbox {state.spec.id[:12]} ({state.spec.pod}), {state.phase}"
        if resource.id == state.instance_id:
            return Standing.OWNED, who
        if token and state.launch is not None and token == state.launch.token:
            answer = "; its create is not answered yet" if state.launch_unresolved else ""
            return Standing.OWNED, f"made for {who}{answer}"
    return _in_session(resource, known)


def _in_session(resource: Resource, known: Known) -> _Found:
    """A journal can be lost, and the pods whose sessions the relay has live on."""
    for sandbox, address in known.sessions.items():
        of_sandbox = sandbox not in known.states and resource.tags.get(tags.SANDBOX) == sandbox
        if of_sandbox or (address and _host(address) in resource.addresses):
            return Standing.OWNED, f"the relay has a session of sandbox {sandbox[:12]} with it"
    return None


def _host(address: str) -> str:
    """`10.0.0.1` of `10.0.0.1:15150`, `fd00::1` of `[fd00::1]:15150`."""
    return address.rpartition(":")[0].strip("[]")


def _young(resource: Resource, age: float | None, grace: float) -> _Found:
    if age is not None and age >= grace:
        return None
    since = "made" if resource.created_at is not None else "first seen"
    when = "just now" if age is None or age < 1 else f"{age:.0f} s ago"
    return Standing.YOUNG, f"{since} {when}; counts from {grace:.0f} s on"


def _why(resource: Resource, known: Known) -> str:
    sandbox = resource.tags.get(tags.SANDBOX)
    if not sandbox:
        return "no sandbox of this node has it"
    pod = "/".join(resource.tags.get(key, "") for key in (tags.POD_NAMESPACE, tags.POD_NAME)).strip("/")
    named = f"sandbox {sandbox[:12]}{pod and f' ({pod})'}"
    return f"{named} has another VM" if sandbox in known.states else f"{named} is gone"
