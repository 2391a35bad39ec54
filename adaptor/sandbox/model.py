"""What a sandbox is: the shim's wish, the events that happened to it, and the state they fold into.

Events are the journal's rows. Their JSON form is a contract with every later version of this program: fields are
added with a default, never renamed. An event of an unknown kind, or one that cannot follow, is JournalFault.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, ClassVar, Final, get_args

from adaptor.errors import AdaptorError
from adaptor.podnet.plan import Cord, Tunnel
from adaptor.volumes.records import DirectVolume


class JournalFault(AdaptorError):
    """Journal rows that this version cannot make sense of."""


class Phase(StrEnum):
    """Where in its life a sandbox stands; `lifecycle` holds the edges."""

    CREATED = "created"  # the agent socket listens; nothing billable exists
    STARTING = "starting"  # a VM is wanted, launched, reached or being bound
    KEPT = "kept"  # StartVM's caller went away; the VM waits for the pod's next sandbox
    RUNNING = "running"  # agent calls flow
    STOPPING = "stopping"  # everything is being taken down; there is no way back
    GONE = "gone"  # nothing is left; the journal forgets it


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What CreateVM asked for. None = the pod did not say."""

    id: str
    pod_name: str
    pod_namespace: str
    netns: str
    instance_type: str | None = None
    image: str | None = None
    vcpus: int | None = None
    memory_mib: int | None = None
    gpus: int | None = None
    gpu_model: str | None = None
    initdata: str | None = None  # plain TOML
    pod_uid: str = ""  # empty where nobody told
    wishes: str = ""  # what the machine_type annotation says besides types: "tee=snp;spot=allowed"
    volumes: tuple[DirectVolume, ...] = ()  # in this order; found on the node
    volumes_unknown: bool = False  # the node has direct volumes, and nobody told which pod this is

    def asks_for_the_same(self, other: "SandboxSpec") -> bool:
        """Whether the shim sent the same. What was found on the node beside that may be gone at a repeat."""
        found = {"pod_uid": "", "volumes": (), "volumes_unknown": False}
        return replace(self, **found) == replace(other, **found)  # type: ignore[arg-type]

    @property
    def pod(self) -> str:
        """`namespace/name`, as people write it; the sandbox id for a sandbox without a pod."""
        return f"{self.pod_namespace}/{self.pod_name}" if self.pod_name else self.id


@dataclass(frozen=True, slots=True)
class Created:
    """CreateVM was accepted; written before the agent socket is bound."""

    kind: ClassVar = "created"
    spec: SandboxSpec


@dataclass(frozen=True, slots=True)
class StartRequested:
    """StartVM was accepted; the choice of a machine begins."""

    kind: ClassVar = "start-requested"
    adopt_grace: float = 0.0  # seconds that its VM is kept should the caller go away


@dataclass(frozen=True, slots=True)
class LaunchIntended:
    """The create call with this token is about to be made: from here on a VM may exist."""

    kind: ClassVar = "launch-intended"
    token: str  # the provider's idempotency token, also a tag on the VM
    name: str
    instance_type: str
    zone: str
    user_data: str  # base64; a repeat must be byte for byte the same
    launch_token: str  # base64; what the guest proves it holds. Empty with an upstream guest
    sandbox: str = ""  # whose id the VM's tags carry: the first one's, also after an adoption; empty = this one's
    at: float = 0.0  # seconds since the epoch; a VM this young may be unknown to parts of the cloud
    tee: str = ""  # as providers.base.Tee; empty: as configured
    purchase: str = ""  # as providers.base.Purchase; empty: on demand
    root_volume_gib: int | None = None
    scratch_gib: int = 0
    volumes: tuple[str, ...] = ()  # the cloud's ids of the pod's disks; "id:ro" where read-only
    labels: tuple[str, ...] = ()  # the pod's that become tags, "key=value"; as they were then
    price: float | None = None  # USD per hour, as known then


@dataclass(frozen=True, slots=True)
class LaunchAccepted:
    """The cloud answered the create call."""

    kind: ClassVar = "launch-accepted"
    instance_id: str
    addresses: tuple[str, ...] = ()  # those the cloud told with its answer


@dataclass(frozen=True, slots=True)
class LaunchRefused:
    """The cloud refused the create call for good: no VM exists for its token."""

    kind: ClassVar = "launch-refused"
    reason: str


@dataclass(frozen=True, slots=True)
class Reached:
    """The VM answered and proved itself; its certificate is pinned from here on."""

    kind: ClassVar = "reached"
    address: str
    certificate_sha256: str  # hex


@dataclass(frozen=True, slots=True)
class NetworkIntended:
    """The worker's end of the pod's tunnel is about to be made so; a later one takes an earlier one's place."""

    kind: ClassVar = "network-intended"
    tunnel: Tunnel


@dataclass(frozen=True, slots=True)
class Bound:
    """The VM is this pod's and its agent answers."""

    kind: ClassVar = "bound"


@dataclass(frozen=True, slots=True)
class Kept:
    """StartVM's caller went away; the launch waits for the pod's next sandbox."""

    kind: ClassVar = "kept"
    reason: str
    until: float  # seconds since the epoch: an adaptor that restarts meanwhile must not begin to count anew


@dataclass(frozen=True, slots=True)
class GivenAway:
    """The launch is another sandbox's; always written together with that one's Adopted."""

    kind: ClassVar = "given-away"
    to: str  # sandbox id


@dataclass(frozen=True, slots=True)
class Adopted:
    """The launch of the pod's last sandbox, as far as it had come, is this one's now."""

    kind: ClassVar = "adopted"
    source: str  # sandbox id
    launch: LaunchIntended
    instance_id: str = ""  # empty: its create is unresolved
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StopDecided:
    """Everything is to be taken down, and why."""

    kind: ClassVar = "stop-decided"
    reason: str


@dataclass(frozen=True, slots=True)
class InstanceDeleted:
    """The cloud accepted the VM's deletion. Until it says that the VM is gone, the sandbox stays in the journal."""

    kind: ClassVar = "instance-deleted"


Event = (
    Created
    | StartRequested
    | LaunchIntended
    | LaunchAccepted
    | LaunchRefused
    | Reached
    | NetworkIntended
    | Bound
    | Kept
    | GivenAway
    | Adopted
    | StopDecided
    | InstanceDeleted
)

_KINDS: Final[dict[str, type[Event]]] = {cls.kind: cls for cls in get_args(Event)}


@dataclass(frozen=True, slots=True)
class SandboxState:
    """The fold of a sandbox's events."""

    spec: SandboxSpec
    phase: Phase = Phase.CREATED
    launches: int = 0  # create calls intended so far: each gets its own token
    launch: LaunchIntended | None = None  # the newest that may have a VM
    instance_id: str = ""  # empty while `launch` is unresolved
    addresses: tuple[str, ...] = ()  # where the VM may be reached
    address: str = ""  # where it was
    certificate_sha256: str = ""
    network: Tunnel | None = None  # of a sandbox of an older version: none was made
    adopt_grace: float = 0.0  # seconds, as promised by the last StartRequested
    kept_until: float = 0.0  # seconds since the epoch; only in phase KEPT
    deletion_accepted: bool = False
    stop_reason: str = ""

    @property
    def launch_unresolved(self) -> bool:
        """A create was sent and its answer never written down: the cloud must be asked."""
        return self.launch is not None and not self.instance_id


def fold(events: Iterable[Event]) -> SandboxState:
    """The state after `events`; raises JournalFault when they cannot have happened in this order."""
    state: SandboxState | None = None
    for event in events:
        state = apply(state, event)
    if state is None:
        raise JournalFault("no events")
    return state


def apply(state: SandboxState | None, event: Event) -> SandboxState:
    """`state` after one more event; raises JournalFault when it cannot follow."""
    if state is None:
        if isinstance(event, Created):
            return SandboxState(event.spec)
        raise JournalFault(f"{event.kind} before created")
    match (state.phase, event):
        case (Phase.CREATED | Phase.KEPT, StartRequested()):
            return replace(state, phase=Phase.STARTING, adopt_grace=event.adopt_grace, kept_until=0.0)
        case (Phase.STARTING, LaunchIntended()) if state.launch is None:
            return replace(state, launches=state.launches + 1, launch=event)
        case (Phase.STARTING | Phase.STOPPING, LaunchAccepted()) if state.launch_unresolved:
            return replace(state, instance_id=event.instance_id, addresses=event.addresses)
        case (Phase.STARTING | Phase.STOPPING, LaunchRefused()) if state.launch_unresolved:
            return replace(state, launch=None)
        case (Phase.STARTING, Reached()) if state.instance_id:
            return replace(state, address=event.address, certificate_sha256=event.certificate_sha256)
        case (Phase.STARTING, NetworkIntended()):
            return replace(state, network=event.tunnel)
        case (Phase.STARTING, Bound()) if state.address:
            return replace(state, phase=Phase.RUNNING)
        case (Phase.STARTING, Kept()) if state.launch is not None:
            return replace(state, phase=Phase.KEPT, kept_until=event.until)
        case (Phase.KEPT, GivenAway()):
            reason = f"its VM went to the pod's next sandbox, {event.to}"
            return replace(state, phase=Phase.STOPPING, launch=None, instance_id="", addresses=(), stop_reason=reason)
        case (Phase.STARTING, Adopted()) if state.launch is None:
            return replace(state, launch=event.launch, instance_id=event.instance_id, addresses=event.addresses)
        case (Phase.CREATED | Phase.STARTING | Phase.KEPT | Phase.RUNNING, StopDecided()):
            return replace(state, phase=Phase.STOPPING, stop_reason=event.reason)
        case (Phase.STOPPING, InstanceDeleted()):
            return replace(state, deletion_accepted=True)
    raise JournalFault(f"{event.kind} cannot follow in phase {state.phase}")


def to_json(event: Event) -> dict[str, Any]:
    """The event's fields, ready for json.dumps; its kind travels beside it."""
    return dataclasses.asdict(event)


def from_json(kind: str, body: dict[str, Any]) -> Event:
    """The event that `to_json` gave.

    Raises: JournalFault for a kind or field of a newer version.
    """
    cls = _KINDS.get(kind)
    if cls is None:
        raise JournalFault(f"unknown event {kind!r}: written by a newer version of peerpods")
    try:
        if cls is Created:
            return Created(_spec(body["spec"]))
        values = _tupled(body)
        if cls is Adopted:
            values["launch"] = LaunchIntended(**_tupled(body["launch"]))
        if cls is NetworkIntended:
            values["tunnel"] = _tunnel(body["tunnel"])
        return cls(**values)
    except (TypeError, KeyError) as error:
        raise JournalFault(f"event {kind!r} has fields this version does not know: {error}") from error


def _spec(body: dict[str, Any]) -> SandboxSpec:
    volumes = tuple(DirectVolume(**each) for each in body.get("volumes", ()))
    return SandboxSpec(**{**body, "volumes": volumes})


def _tunnel(body: dict[str, Any]) -> Tunnel:
    cords = tuple(Cord(**each) for each in body["cords"])
    return Tunnel(**{**body, "cords": cords})


def _tupled(body: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in body.items()}
