"""What a lost journal must have said: running pods, out of what the relay carries and what the cloud lists.

    session JOINED or RESUMING + VM at its address, else with its sandbox's tag ──► the events of a running sandbox

Only running pods are made whole. A start or stop that was under way is left to its caller, who tries again, and to the
sweep, which deletes VMs that nobody owns.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from adaptor.relay.client import Session
from adaptor.sandbox.model import (
    Bound,
    Created,
    Event,
    JournalFault,
    LaunchAccepted,
    LaunchIntended,
    Phase,
    Reached,
    SandboxSpec,
    StartRequested,
    fold,
)
from adaptor.sandbox.recovery import LIVING
from providers import tags
from providers.base import Instance, InstanceState

_NOTHING: Final[Mapping[str, Sequence[Event]]] = {}


def running(sessions: Sequence[Session]) -> list[Session]:
    """Those whose pod runs."""
    return [session for session in sessions if session.state in LIVING]


def rebuild(
    sessions: Sequence[Session], instances: Collection[Instance], salvaged: Mapping[str, Sequence[Event]] = _NOTHING
) -> list[tuple[str, list[Event]]]:
    """(sandbox, its events) of every running pod whose VM is among `instances`, which are this node's.

    `salvaged` is what could still be read of the old journal: believed where it agrees, so that a pod keeps what
    neither relay nor cloud knows of it (its network namespace, what it asked for).
    """
    pairs = ((session, _vm(session, instances)) for session in running(sessions))
    return [
        (session.sandbox_id, _events(session, instance, salvaged.get(session.sandbox_id, ())))
        for session, instance in pairs
        if instance is not None
    ]


def _vm(session: Session, instances: Collection[Instance]) -> Instance | None:
    """By address first: a VM that a second sandbox of its pod has adopted carries the first one's tag."""
    host = session.address.rpartition(":")[0].strip("[]")
    alive = [instance for instance in instances if instance.state in (InstanceState.PENDING, InstanceState.RUNNING)]
    for instance in alive:
        if host in instance.addresses:
            return instance
    tagged = [instance for instance in alive if instance.tags.get(tags.SANDBOX) == session.sandbox_id]
    return tagged[0] if len(tagged) == 1 else None  # of two, nobody can tell which


def _events(session: Session, instance: Instance, salvaged: Sequence[Event]) -> list[Event]:
    try:
        state = fold(salvaged)
    except JournalFault:
        state = None
    if state is not None and state.phase is Phase.RUNNING and state.instance_id == instance.id:
        return list(salvaged)
    tag = instance.tags.get
    spec = SandboxSpec(
        id=session.sandbox_id,
        pod_name=tag(tags.POD_NAME, ""),
        pod_namespace=tag(tags.POD_NAMESPACE, ""),
        netns="",
    )
    return [
        Created(state.spec if state is not None else spec),
        StartRequested(),
        LaunchIntended(
            token=tag(tags.TOKEN, ""),
            name=instance.name,
            instance_type=instance.instance_type,
            zone=instance.zone,
            user_data="",  # for a repeat of the create call, and this one has been answered
            launch_token="",
        ),
        LaunchAccepted(instance.id, instance.addresses),
        Reached(session.address, session.certificate_sha256.hex()),
        Bound(),
    ]
