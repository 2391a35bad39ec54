"""What a pod's owner is told of its VM: the events' reasons and their texts, in one table. Pure."""

from dataclasses import dataclass
from typing import Final

from adaptor.catalog import explain
from adaptor.errors import AdaptorError, NetworkFailed
from adaptor.kube.peerpod import PeerPod
from adaptor.kube.record import seconds, stamp
from adaptor.sandbox.model import (
    Adopted,
    Bound,
    Event,
    InstanceDeleted,
    Kept,
    LaunchAccepted,
    LaunchIntended,
    Reached,
    SandboxState,
)
from adaptor.telemetry import redact
from providers.base import Offering, Tee

MESSAGE_LIMIT: Final = 1024  # characters, as the API has it


@dataclass(frozen=True, slots=True)
class Reason:
    """A kind of event: `name` is its reason in Kubernetes; `when` and `next` are for the manual."""

    name: str
    warning: bool
    when: str
    next: str


CHOSEN: Final = Reason("VMChosen", False, "a machine was picked; why this one", "nothing to do")
UNAVAILABLE: Final = Reason(
    "VMUnavailable", True, "the cloud has no room or no quota for that machine; its own words", "the next one is tried"
)
LAUNCHED: Final = Reason("VMLaunched", False, "the cloud accepted the create call", "the VM boots")
ADOPTED: Final = Reason(
    "VMAdopted", False, "the pod's next sandbox took over the VM of the attempt that kubelet gave up", "nothing to do"
)
REACHED: Final = Reason("VMReached", False, "the VM answered and proved itself", "it is given to the pod")
READY: Final = Reason("VMReady", False, "the pod's containers can be started in the VM", "nothing to do")
KEPT: Final = Reason(
    "VMKept",
    True,
    "kubelet stopped waiting for the VM",
    "the pod's next attempt goes on with it; see kubelet's runtimeRequestTimeout",
)
START_FAILED: Final = Reason(
    "VMStartFailed", True, "the start came to a bad end, and why", "what it had is deleted; kubelet tries again"
)
NETWORK_FAILED: Final = Reason(
    "PodNetworkFailed",
    True,
    "the pod's network could not be carried to its VM: nothing comes back through the tunnel, its number is taken, the "
    "node's kernel refuses, or pod or image are of a kind that cannot have it",
    "what it had is deleted; kubelet tries again; see docs/network.md",
)
LOST: Final = Reason(
    "VMLost",
    True,
    "a running pod ended without being asked to: its VM died, was taken back by the cloud or cannot be reached any more",
    "the pod fails; its controller makes another",
)
DELETED: Final = Reason("VMDeleted", False, "the cloud accepted the VM's deletion", "nothing to do")
PULL_SECRETS: Final = Reason(
    "PullSecretsUnread",
    True,
    "an image pull secret of the pod is missing, unusable or could not be read",
    "the start goes on; images that need them will not be pulled",
)

TABLE: Final = (
    CHOSEN,
    UNAVAILABLE,
    LAUNCHED,
    ADOPTED,
    REACHED,
    READY,
    KEPT,
    START_FAILED,
    NETWORK_FAILED,
    LOST,
    DELETED,
    PULL_SECRETS,
)


@dataclass(frozen=True, slots=True)
class Note:
    """An event to be: safe to show, at most MESSAGE_LIMIT characters."""

    reason: Reason
    message: str


def note(reason: Reason, text: str) -> Note:
    """With nothing secret and nothing endless in it."""
    shown = str(redact.render(text))
    return Note(reason, shown if len(shown) <= MESSAGE_LIMIT else f"{shown[: MESSAGE_LIMIT - 3]}...")


def of(event: Event, state: SandboxState, told: PeerPod) -> Note | None:
    """What `event`, which made `state`, means to the pod's owner; None: nothing. `told`: the PeerPod after it."""
    vm = f"the VM {told.instance_id}" if told.instance_id else "the VM whose create is not answered yet"
    match event:
        case LaunchAccepted():
            return note(LAUNCHED, f"{told.cloud} accepted the create of {vm} ({machine(told)}); it boots now")
        case Adopted():
            return note(ADOPTED, f"this attempt goes on with {vm} ({machine(told)}) of the pod's last one")
        case Reached():
            return note(REACHED, f"{vm} answers at {event.address}{_since(told, LaunchIntended.kind, Reached.kind)}")
        case Bound():
            return note(READY, f"{vm} ({machine(told)}) is the pod's: its containers are started in there")
        case Kept():
            until = stamp(event.until)
            return note(KEPT, f"{event.reason}; {vm} is kept until {until} for the pod's next attempt, then deleted")
        case InstanceDeleted():
            return note(DELETED, f"{told.cloud} accepted the deletion of {vm}")
    return None


def chosen(offering: Offering, why: str) -> Note:
    """Which machine is asked for now, and why."""
    price = "" if offering.price is None else f", {offering.price:.4f} USD/h"
    tee = "no TEE" if offering.tee is Tee.NONE else offering.tee.value
    return note(CHOSEN, f"{explain.place(offering)} ({tee}{price}) is asked for: {why}")


def failed(error: AdaptorError) -> Note:
    """The bad end of a start."""
    reason = NETWORK_FAILED if isinstance(error, NetworkFailed) else START_FAILED
    return note(reason, f"{error}. What it had is deleted")


def lost(told: PeerPod, reason: str) -> Note:
    """The end of a running pod that nobody asked for."""
    vm = f"the VM {told.instance_id} ({machine(told)})"
    return note(
        LOST,
        f"the pod is over, and nobody asked for that: {reason}. {vm} is deleted; a controller of the pod makes another",
    )


def machine(told: PeerPod) -> str:
    """`m6a.large in us-east-1a, on-demand, snp, 0.0864 USD/h`."""
    place = f" in {told.zone}" if told.zone else ""
    price = "" if told.price is None else f"{told.price:.4f} USD/h"
    parts = (f"{told.instance_type}{place}", told.purchase, told.tee if told.tee != "none" else "no TEE", price)
    return ", ".join(part for part in parts if part)


def _since(told: PeerPod, first: str, last: str) -> str:
    begin, end = seconds(told.times.get(first, "")), seconds(told.times.get(last, ""))
    return "" if begin is None or end is None else f", {max(0.0, end - begin):.1f} s after it was asked for"
