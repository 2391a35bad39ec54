"""What a starting adaptor finds, and what it does about it: a plan as data, printed before it is carried out.

journal (states) x relay sessions x instances ──plan──► Adopt | Keep | TearDown | CloseSession ──► registry.recover

The cloud's word counts only where it is positive: a VM that it calls stopped or gone has ended. What is missing from
its answer may be too new, or the answer late; `patrol` looks again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptor.relay.client import Session, SessionState
from adaptor.sandbox.adoption import keepable
from adaptor.sandbox.model import Phase, SandboxState
from providers import tags
from providers.base import Instance, InstanceState, Seat

# What a running sandbox's session may be: RESUMING waits for its VM, and the relay gives it up in its own time.
LIVING = frozenset({SessionState.JOINED, SessionState.RESUMING})


@dataclass(frozen=True, slots=True)
class Adopt:
    """It lives: serve its next call."""

    state: SandboxState

    def fields(self) -> dict[str, Any]:
        return {"action": "adopt", **_who(self.state), "phase": self.state.phase}


@dataclass(frozen=True, slots=True)
class Keep:
    """Its start was cut off before its VM became the pod's: the pod's next sandbox may have it."""

    state: SandboxState
    reason: str
    until: float  # seconds since the epoch

    def fields(self) -> dict[str, Any]:
        return {"action": "keep", **_who(self.state), "reason": self.reason, "until": self.until}


@dataclass(frozen=True, slots=True)
class TearDown:
    """It cannot live on: delete what it had."""

    state: SandboxState
    reason: str

    def fields(self) -> dict[str, Any]:
        return {"action": "tear down", **_who(self.state), "reason": self.reason}


@dataclass(frozen=True, slots=True)
class CloseSession:
    """The relay holds a session that no journal row explains."""

    sandbox_id: str

    def fields(self) -> dict[str, Any]:
        return {"action": "close session", "sandbox": self.sandbox_id, "reason": "not in the journal"}


Action = Adopt | Keep | TearDown | CloseSession
Plan = Sequence[Action]


def plan(
    states: Mapping[str, SandboxState],
    sessions: Sequence[Session],
    instances: Mapping[str, Instance] | None,
    now: float,
) -> Plan:
    """One action for every sandbox that journal or relay knows, in the journal's order.

    `instances`: by id, what the cloud has of this node and says of the VMs in `states`; None: it could not be asked.
    `now`: seconds since the epoch.
    """
    by_id = {session.sandbox_id: session for session in sessions}
    actions: list[Action] = [
        _judge(state, by_id.get(sandbox_id), _instance(state, instances or {}), now)
        for sandbox_id, state in states.items()
    ]
    actions += [CloseSession(sandbox_id) for sandbox_id in by_id if sandbox_id not in states]
    return actions


def ended(running: Mapping[str, SandboxState], sessions: Sequence[Session]) -> Sequence[TearDown]:
    """Of sandboxes that were running before `sessions` was read: those that ended without StopVM (a killed shim, a
    dead VM or relay)."""
    judged = (action for action in plan(running, sessions, None, 0.0) if isinstance(action, TearDown))
    return [action for action in judged if action.state.phase is Phase.RUNNING]


def unseated(instances: Iterable[Instance], states: Mapping[str, SandboxState]) -> list[Instance]:
    """Of instances listed before `states` was read: those of a shared create call that no sandbox holds the seat of.
    Whoever was to have one left before that was written down, and so did the adaptor that would have deleted it."""
    held = {state.launch.token for state in states.values() if state.launch is not None}
    held_ids = {state.instance_id for state in states.values()}
    return [
        each
        for each in instances
        if Seat.parse(token := each.tags.get(tags.TOKEN, "")) and token not in held and each.id not in held_ids
    ]


def death(instance: Instance) -> str | None:
    """How a VM ended, with the cloud's reason; None for one that lives."""
    match instance.state:
        case InstanceState.STOPPED:
            how = "stopped"
        case InstanceState.GONE:
            how = "terminated"
        case _:
            return None
    return f"the VM {instance.id} was {how}: {instance.reason or 'the cloud gives no reason'}"


def _judge(state: SandboxState, session: Session | None, instance: Instance | None, now: float) -> Action:
    if state.phase is Phase.STOPPING:
        return TearDown(state, state.stop_reason)
    if instance is not None and (reason := death(instance)):
        return TearDown(state, reason)
    if state.phase is Phase.STARTING:
        reason = "the adaptor ended while the VM was starting, and StartVM's connection with it"
        return Keep(state, reason, now + state.adopt_grace) if keepable(state) else TearDown(state, reason)
    if state.phase is Phase.KEPT:
        if now < state.kept_until:
            return Keep(state, "it waits for the pod's next attempt", state.kept_until)
        return TearDown(state, "the pod was not tried again in time")
    if session is None:
        return TearDown(state, "the relay that held its connections is gone")
    if state.phase is Phase.RUNNING and session.state not in LIVING:
        return TearDown(state, f"it ended without StopVM: {session.reason or session.state.name.lower()}")
    return Adopt(state)


def _instance(state: SandboxState, instances: Mapping[str, Instance]) -> Instance | None:
    """The sandbox's VM; one whose create was never answered is found by the token in its tags."""
    if state.instance_id or state.launch is None:
        return instances.get(state.instance_id)
    token = state.launch.token
    return next((each for each in instances.values() if each.tags.get(tags.TOKEN) == token), None)


def _who(state: SandboxState) -> dict[str, Any]:
    who = {"sandbox": state.spec.id, "pod": state.spec.pod}
    return {**who, "instance": state.instance_id} if state.instance_id else who
