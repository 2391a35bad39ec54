"""What a starting adaptor finds, and what it does about it: a plan as data, printed before it is carried out.

journal (states) x relay sessions ──plan──► Adopt | TearDown | CloseSession ──► registry.recover
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptor.relay.client import Session, SessionState
from adaptor.sandbox.model import Phase, SandboxState


@dataclass(frozen=True, slots=True)
class Adopt:
    """It lives: serve its next call."""

    state: SandboxState

    def fields(self) -> dict[str, Any]:
        return {"action": "adopt", "sandbox": self.state.spec.id, "pod": self.state.spec.pod, "phase": self.state.phase}


@dataclass(frozen=True, slots=True)
class TearDown:
    """It cannot live on: delete what it had."""

    state: SandboxState
    reason: str

    def fields(self) -> dict[str, Any]:
        return {"action": "tear down", "sandbox": self.state.spec.id, "pod": self.state.spec.pod, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class CloseSession:
    """The relay holds a session that no journal row explains."""

    sandbox_id: str

    def fields(self) -> dict[str, Any]:
        return {"action": "close session", "sandbox": self.sandbox_id, "reason": "not in the journal"}


Plan = Sequence[Adopt | TearDown | CloseSession]


def plan(states: Mapping[str, SandboxState], sessions: Sequence[Session]) -> Plan:
    """One action for every sandbox that journal or relay knows, in the journal's order."""
    by_id = {session.sandbox_id: session for session in sessions}
    actions: list[Adopt | TearDown | CloseSession] = [
        _judge(state, by_id.get(sandbox_id)) for sandbox_id, state in states.items()
    ]
    actions += [CloseSession(sandbox_id) for sandbox_id in by_id if sandbox_id not in states]
    return actions


def ended(running: Mapping[str, SandboxState], sessions: Sequence[Session]) -> Sequence[TearDown]:
    """Of sandboxes that were running before `sessions` was read: those that ended without StopVM (a killed shim, a
    dead VM or relay)."""
    judged = (action for action in plan(running, sessions) if isinstance(action, TearDown))
    return [action for action in judged if action.state.phase is Phase.RUNNING]


def _judge(state: SandboxState, session: Session | None) -> Adopt | TearDown:
    if state.phase is Phase.STOPPING:
        return TearDown(state, state.stop_reason)
    if state.phase is Phase.STARTING:
        return TearDown(state, "the adaptor ended while the VM was starting, and StartVM's connection with it")
    if session is None:
        return TearDown(state, "the relay that held its connections is gone")
    if state.phase is Phase.RUNNING and session.state is not SessionState.JOINED:
        return TearDown(state, f"it ended without StopVM: {session.reason or session.state.name.lower()}")
    return Adopt(state)
