"""Which of the pods that wait at the quota's gate may go on, and what the others wait for. Pure.

A pod goes when there is room for it in its namespace's limits and in the cluster's. Who is asked first:

- the namespace that uses the smallest part of the cluster (of whichever limit it uses most of), so that one that
  creates a thousand pods at once does not keep the next one waiting;
- within a namespace the oldest pod.

A pod for which there is no room now lets the others pass. So that a large one is not passed for ever, every second ten
minutes of its waiting are its turn, one pod of a namespace at a time: it is asked before the others, and what becomes
free is kept for it. Nobody else is held up for ever either. One that is larger than the limit itself is told so, and
keeps nothing.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final

from adaptor import names
from adaptor.config_forms import QUOTA_KEYS, quota

# Seconds: half of the period in which a waiting pod has its turn. Several cold starts long, and a short wait for those
# that are held up by it.
TURN: Final = 600.0

_MIB: Final = {"memory-gib": 1024}  # limits are told in GiB, sizes in MiB
_UNITS: Final = {"pods": "pods", "vcpus": "vCPUs", "memory-gib": "MiB of memory", "gpus": "GPUs"}
_ENDED: Final = ("Succeeded", "Failed")

Limits = Mapping[str, int]  # by QUOTA_KEYS; memory in MiB
Amount = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PodFacts:
    """As much of a pod as matters here."""

    namespace: str
    name: str
    uid: str
    node: str = ""
    created: str = ""  # RFC 3339: sorts as time does
    amount: Amount = field(default_factory=dict)
    ours: bool = True  # of one of the runtime classes
    gated: bool = False
    ended: bool = False  # its VM is gone
    deleting: bool = False

    @property
    def waits(self) -> bool:
        """Whether it is at the gate, and wants to go on."""
        return self.ours and self.gated and not self.ended and not self.deleting

    @property
    def counts(self) -> bool:
        """Whether it takes room: it has a VM, or may have one at any moment."""
        return self.ours and not self.gated and not self.ended


@dataclass(frozen=True, slots=True)
class Held:
    """Why a pod waits. `cause` stays the same while the figures in `message` change."""

    cause: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """`lift` in this order; `held` by uid."""

    lift: tuple[PodFacts, ...]
    held: Mapping[str, Held]


def pod_facts(pod: Mapping[str, Any], runtime_classes: Collection[str]) -> PodFacts | None:
    """Of a Pod object; None for one that has nothing to do with us."""
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    ours = spec.get("runtimeClassName") in runtime_classes
    gated = any(each.get("name") == names.QUOTA for each in spec.get("schedulingGates") or ())
    if not ours and not gated:
        return None
    marker = (metadata.get("annotations") or {}).get(names.SIZED)
    return PodFacts(
        namespace=metadata.get("namespace") or "",
        name=metadata["name"],
        uid=metadata.get("uid") or "",
        node=spec.get("nodeName") or "",
        created=metadata.get("creationTimestamp") or "",
        amount={"pods": 1, **size(marker or "")},
        ours=ours,
        gated=gated,
        ended=(pod.get("status") or {}).get("phase") in _ENDED,
        deleting=bool(metadata.get("deletionTimestamp")),
    )


def size(marker: str) -> Amount:
    """What the marker says, in a limit's keys; nothing where it is none."""
    found: dict[str, int] = {}
    for part in filter(None, (each.strip() for each in marker.split(","))):
        key, _, value = part.partition("=")
        if not value.isdecimal() or len(value) > 12:
            return {}
        found[key.strip()] = int(value)
    if not found:
        return {}
    return {"vcpus": found.get("vcpus", 0), "memory-gib": found.get("memory-mib", 0), "gpus": found.get("gpus", 0)}


def like_default(pod: PodFacts, default: Amount) -> PodFacts:
    """`pod`, where it asks for no size with that of the machine that it gets then."""
    if pod.amount.get("vcpus") or pod.amount.get("memory-gib"):
        return pod
    return replace(pod, amount={**default, **{key: value for key, value in pod.amount.items() if value}})


def limits(pairs: Iterable[tuple[str, int]]) -> Limits:
    """Those of a setting."""
    return {key: value * _MIB.get(key, 1) for key, value in pairs}


def annotated(value: str) -> Limits:
    """Those of a namespace's annotation. Raises ValueError saying what is wrong with it."""
    with suppress(TypeError):
        return limits(quota.parse(value))
    raise ValueError("is no list of limits")


def decide(
    pods: Collection[PodFacts],
    cluster: Limits,
    namespaces: Mapping[str, Limits],
    *,
    lifted: Collection[str],
    waited: Mapping[str, float],
) -> Decision:
    """`namespaces` are those with limits; `lifted` are the uids of pods whose gate was lifted since `pods` were read;
    `waited` says for how many seconds each gated pod has waited, by uid."""
    room = _Room(cluster, namespaces)
    for pod in pods:
        if pod.counts or (pod.uid in lifted and pod.ours and not pod.ended):
            room.use(pod)
    lift = [pod for pod in sorted(pods, key=_age) if _is_none_of_ours(pod) and pod.uid not in lifted]
    held: dict[str, Held] = {}
    waiting = sorted((pod for pod in pods if pod.waits and pod.uid not in lifted), key=_age)
    turns = _turns(waiting, room, waited)
    for pod in chain(turns.values(), _fairly([pod for pod in waiting if pod.uid not in turns], room)):
        lacks = room.lacking(pod)
        if not lacks:
            room.use(pod)
            lift.append(pod)
            continue
        held[pod.uid] = room.explain(pod, *lacks[0])
        if pod.uid in turns:
            room.keep(pod, {scope for scope, _ in lacks})
    return Decision(tuple(lift), held)


def _turns(waiting: Sequence[PodFacts], room: "_Room", waited: Mapping[str, float]) -> dict[str, PodFacts]:
    """By uid: of each namespace the oldest whose turn it is: with more, who has waited longest would have all there is."""
    found: dict[str, PodFacts] = {}
    for pod in waiting:
        if waited.get(pod.uid, 0.0) % (2 * TURN) >= TURN and room.could_ever(pod):
            found.setdefault(pod.namespace, pod)
    return {pod.uid: pod for pod in found.values()}


def _fairly(pods: Sequence[PodFacts], room: "_Room") -> Iterator[PodFacts]:
    """`room` may change from one to the next."""
    waiting: dict[str, deque[PodFacts]] = {}
    for pod in pods:
        waiting.setdefault(pod.namespace, deque()).append(pod)
    while waiting:
        namespace = min(waiting, key=lambda each: (room.share(each), _age(waiting[each][0])))
        yield waiting[namespace].popleft()
        if not waiting[namespace]:
            del waiting[namespace]


def _is_none_of_ours(pod: PodFacts) -> bool:
    """It has our gate, and nothing of ours for which it could wait."""
    return pod.gated and not pod.deleting and not pod.ours


def _age(pod: PodFacts) -> tuple[str, str, str]:
    return pod.created, pod.namespace, pod.name


class _Room:
    """What is used and kept, by scope: "" is the cluster, else a namespace."""

    def __init__(self, cluster: Limits, namespaces: Mapping[str, Limits]) -> None:
        self._limits = {**namespaces, "": cluster}
        self._used: dict[str, dict[str, int]] = {}
        self._kept: dict[str, Amount] = {}

    def use(self, pod: PodFacts) -> None:
        for scope in ("", pod.namespace):
            used = self._used.setdefault(scope, dict.fromkeys(QUOTA_KEYS, 0))
            for key, value in pod.amount.items():
                used[key] += value

    def keep(self, pod: PodFacts, scopes: Collection[str]) -> None:
        """What becomes free in these scopes is the pod's: of the first that asks in each."""
        for scope in scopes:
            self._kept.setdefault(scope, pod.amount)

    def lacking(self, pod: PodFacts) -> list[tuple[str, str]]:
        """(scope, key) of each limit that it would pass, the namespace's first."""
        return [
            (scope, key)
            for scope in (pod.namespace, "")
            for key, limit in self._limits.get(scope, {}).items()
            if self._taken(scope, key) + self._kept.get(scope, {}).get(key, 0) + pod.amount.get(key, 0) > limit
            and (pod.amount.get(key, 0) or key == "pods")
        ]

    def could_ever(self, pod: PodFacts) -> bool:
        return all(
            pod.amount.get(key, 0) <= limit
            for scope in (pod.namespace, "")
            for key, limit in self._limits.get(scope, {}).items()
        )

    def share(self, namespace: str) -> float:
        """The largest part of any of the cluster's limits that the namespace uses."""
        parts = (self._taken(namespace, key) / max(limit, 1) for key, limit in self._limits[""].items())
        return max(parts, default=0.0)

    def explain(self, pod: PodFacts, scope: str, key: str) -> Held:
        limit, needs, unit = self._limits[scope][key], pod.amount.get(key, 0), _UNITS[key]
        whose = f"namespace {scope}" if scope else "the cluster"
        raised = (
            f"the namespace's annotation {names.QUOTA} or [quota] namespace" if scope else "[quota] cluster"
        ) + " in the controller's settings"
        if needs > limit:
            said = f"this pod needs {needs} {unit}, and {whose} may have {limit} in all: it can never start, unless {raised} allows more"
            return Held(f"never {scope} {key}", said)
        kept = self._kept.get(scope, {}).get(key, 0)
        turn = f" and {kept} are kept for a pod that has waited longer" if kept else ""
        said = (
            f"waits for room: {whose} may have {limit} {unit}, its pods have {self._taken(scope, key)}{turn}, this one needs {needs}. "
            f"It starts by itself when pods of {whose} have ended, or when {raised} allows more"
        )
        return Held(f"{scope} {key}", said)

    def _taken(self, scope: str, key: str) -> int:
        return self._used.get(scope, {}).get(key, 0)
