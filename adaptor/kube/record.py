"""What a sandbox's PeerPod must say, and what to send so that it does. Pure.

begun ─► after, once for each event of the sandbox ─► the PeerPod as it must be
as it must be x as the API server has it ─► changes, status_changes: merge patches; empty: nothing to do

A state and what was told before make what must be told next, so that one forgotten event does not show for ever.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from adaptor import names
from adaptor.kube import peerpod
from adaptor.kube.peerpod import Condition, PeerPod
from adaptor.sandbox.model import (
    Event,
    GivenAway,
    LaunchIntended,
    LaunchRefused,
    NetworkIntended,
    Phase,
    SandboxSpec,
    SandboxState,
)
from providers.base import Purchase

FAILED: Final = "failed"  # a phase of PeerPods only: the start has failed, and what it had is being taken down

# Characters of a reason: what fits an event is enough for a status.
_REASON_LIMIT: Final = 1024
_NO_VM: Final[dict[str, Any]] = {
    "instance_id": "",
    "token": "",
    "instance_type": "",
    "zone": "",
    "purchase": "",
    "tee": "",
    "price": None,
    "address": "",
}


def belongs(spec: SandboxSpec) -> bool:
    """Whether there is a pod to have a PeerPod for: `ctr run` and the like have none."""
    return bool(spec.pod_name and spec.pod_namespace)


def begun(spec: SandboxSpec, cloud: str, node: str) -> PeerPod:
    """Of a sandbox of which nothing more is known."""
    return PeerPod(
        name=peerpod.name_of(spec.pod_name, spec.id),
        namespace=spec.pod_namespace,
        cloud=cloud,
        node=node,
        sandbox=spec.id,
        pod_name=spec.pod_name,
    )


def after(told: PeerPod, state: SandboxState, event: Event | None, at: float) -> PeerPod:
    """`told`, once `event` has made `state` of its sandbox; None: it is so since longer than anybody here knows.

    `at`: seconds since the epoch.
    """
    times = dict(told.times)
    if event is not None and not _early(event, state):
        times.pop(event.kind, None)
        times[event.kind] = stamp(at, milliseconds=True)
    failed = told.phase == FAILED and state.phase in (Phase.STARTING, Phase.STOPPING)
    wanted = replace(
        told,
        **_vm(told, state, event),
        phase=FAILED if failed else state.phase.value,
        reason=told.reason if failed else _cut(state.stop_reason),
        times=times,
    )
    return replace(wanted, conditions=_conditions(wanted, state, event, at))


def _early(event: Event, state: SandboxState) -> bool:
    """A tunnel is numbered at the very beginning, and made once the VM is reached: the second time is worth telling."""
    return isinstance(event, NetworkIntended) and not state.address


def failed(told: PeerPod, state: SandboxState, reason: str, at: float) -> PeerPod:
    """`told`, once the start has come to a bad end."""
    times = {**told.times, FAILED: stamp(at, milliseconds=True)}
    wanted = replace(told, phase=FAILED, reason=_cut(reason), times=times)
    return replace(wanted, conditions=_conditions(wanted, state, None, at))


def resumed(found: PeerPod, wanted: PeerPod) -> PeerPod:
    """What an adaptor that starts anew wants of a PeerPod that the last one wrote: its memory (times, why it failed,
    since when) is in there. A launch given away is only there, too."""
    since = {each.type: each for each in found.conditions}
    conditions = tuple(
        replace(each, since=since[each.type].since)
        if each.type in since and since[each.type].status is each.status and since[each.type].since
        else each
        for each in wanted.conditions
    )
    kept: dict[str, Any] = {}
    if not wanted.token and wanted.phase == Phase.STOPPING:
        kept = {name: getattr(found, name) for name in _NO_VM}
    if found.phase == FAILED and wanted.phase == Phase.STOPPING:
        kept |= {"phase": FAILED, "reason": found.reason}
    return replace(wanted, times={**found.times, **wanted.times}, conditions=conditions, **kept)


def changes(found: PeerPod, wanted: PeerPod, *, own: bool) -> dict[str, Any]:
    """The merge patch that makes the object's spec right, and what holds it: our finalizer, and its owner where it has
    none and may be `own`ed. Neither can be given to what is being deleted."""
    patch: dict[str, Any] = {}
    if spec := difference(peerpod.spec(found), peerpod.spec(wanted)):
        patch["spec"] = spec
    metadata: dict[str, Any] = {}
    if not found.deleting and names.PEERPOD_FINALIZER not in found.finalizers:
        metadata["finalizers"] = [*found.finalizers, names.PEERPOD_FINALIZER]
    if not found.deleting and own and wanted.pod_uid and not found.owners:
        metadata["ownerReferences"] = peerpod.to_object(wanted)["metadata"]["ownerReferences"]
    if metadata:  # lists are replaced as a whole: nobody may have written another one meanwhile
        patch["metadata"] = {**metadata, "resourceVersion": found.resource_version}
    return patch


def status_changes(found: PeerPod, wanted: PeerPod) -> dict[str, Any]:
    """The merge patch for the status."""
    status = difference(peerpod.status(found), peerpod.status(wanted))
    return {"status": status} if status else {}


def release(found: PeerPod) -> dict[str, Any]:
    """The merge patch that lets go of the object; empty: nothing of ours holds it."""
    if names.PEERPOD_FINALIZER not in found.finalizers:
        return {}
    left = [each for each in found.finalizers if each != names.PEERPOD_FINALIZER]
    return {"metadata": {"finalizers": left, "resourceVersion": found.resource_version}}


def names_vm(found: PeerPod | None, wanted: PeerPod) -> bool:
    """Whether whoever reads the object finds the VM that `wanted` has."""
    return found is not None and (found.token == wanted.token or bool(found.instance_id == wanted.instance_id != ""))


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch (RFC 7386) that makes `wanted` of `found`; empty where they are equal."""
    patch: dict[str, Any] = {}
    for key in [*wanted, *(key for key in found if key not in wanted)]:
        old, new = found.get(key), wanted.get(key)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            patch[key] = difference(old, new)
        else:
            patch[key] = new
    return patch


def stamp(at: float, *, milliseconds: bool = False) -> str:
    """Seconds since the epoch as RFC 3339."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds" if milliseconds else "seconds")
    return text.replace("+00:00", "Z")


def seconds(text: str) -> float | None:
    """The time that RFC 3339's `text` says, since the epoch; None where it says none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _vm(told: PeerPod, state: SandboxState, event: Event | None) -> dict[str, Any]:
    """What the sandbox has, or is about to have. One given away is named until the next sandbox's PeerPod does so."""
    if state.launch is None:
        return dict(_NO_VM) if isinstance(event, LaunchRefused) else {}
    return {**_machine(state.launch), "instance_id": state.instance_id, "address": state.address}


def _machine(launch: LaunchIntended) -> dict[str, Any]:
    return {
        "token": launch.token,
        "instance_type": launch.instance_type,
        "zone": launch.zone,
        "purchase": launch.purchase or Purchase.ON_DEMAND.value,
        "tee": launch.tee,
        "price": launch.price,
    }


def _conditions(told: PeerPod, state: SandboxState, event: Event | None, at: float) -> tuple[Condition, ...]:
    given = isinstance(event, GivenAway) or (state.launch is None and bool(told.token))
    current = (
        _launched(told, state, event, given=given),
        Condition(
            "Reached",
            bool(told.address) and not given,
            *(("Answered", told.address) if told.address else ("NotYet", "")),
        ),
        Condition("Ready", told.phase == Phase.RUNNING, _ready(told), told.reason),
    )
    before = {each.type: each for each in told.conditions}
    return tuple(
        replace(each, since=old.since)
        if (old := before.get(each.type)) and old.status is each.status
        else replace(each, since=stamp(at))
        for each in current
    )


def _launched(told: PeerPod, state: SandboxState, event: Event | None, *, given: bool) -> Condition:
    if given:
        return Condition("Launched", False, "GivenAway", _cut(state.stop_reason))
    if state.deletion_accepted:
        return Condition("Launched", False, "Deleted", f"the cloud accepted the deletion of {told.instance_id}")
    if told.instance_id:
        return Condition("Launched", True, "Accepted", told.instance_id)
    if isinstance(event, LaunchRefused):
        return Condition("Launched", False, "Refused", _cut(event.reason))
    return Condition("Launched", False, "Asked" if told.token else "NotAsked")


def _ready(told: PeerPod) -> str:
    return "Bound" if told.phase == Phase.RUNNING else (told.phase or Phase.CREATED.value).capitalize()


def _cut(text: str) -> str:
    return text if len(text) <= _REASON_LIMIT else f"{text[: _REASON_LIMIT - 3]}..."
