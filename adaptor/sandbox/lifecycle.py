"""What a call means for a sandbox in each phase: the one table, and the question every caller asks of it."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from adaptor.sandbox.model import Phase, SandboxState


class Call(Enum):
    """What can be asked of a sandbox."""

    CREATE = "CreateVM"  # by the shim, with the same spec as before
    START = "StartVM"
    STOP = "StopVM"
    CALLER_GONE = "StartVM's caller went away"
    START_FAILED = "the start failed"
    ADOPT = "the pod's next sandbox asks for its VM"
    GRACE_OVER = "its time to wait is over"


class Answer(Enum):
    """What the driver does about it."""

    BEGIN_START = "launch a VM, reach it, bind it"
    JOIN_START = "wait for the start under way"
    KEEP = "keep its VM for the pod's next sandbox; where it cannot be adopted, take everything down"
    GIVE = "hand its VM over, take the rest down"
    BEGIN_STOP = "take everything down"
    JOIN_STOP = "wait for the teardown under way"
    DONE = "nothing to do: it is so already"
    IGNORE = "too late to matter"
    REFUSE = "contradicts what is under way"


@dataclass(frozen=True, slots=True)
class Edge:
    """One row of the table: the answer, and why it is that one."""

    answer: Answer
    why: str


TABLE: Final[dict[tuple[Phase, Call], Edge]] = {
    (Phase.CREATED, Call.CREATE): Edge(Answer.DONE, "the shim may repeat CreateVM; the socket listens already"),
    (Phase.STARTING, Call.CREATE): Edge(Answer.DONE, "as above; a `shim delete` does so late"),
    (Phase.KEPT, Call.CREATE): Edge(Answer.DONE, "as above"),
    (Phase.RUNNING, Call.CREATE): Edge(Answer.DONE, "as above"),
    (Phase.STOPPING, Call.CREATE): Edge(Answer.REFUSE, "the same id cannot live twice; kubelet makes a new one"),
    (Phase.CREATED, Call.START): Edge(Answer.BEGIN_START, "from here on money is spent"),
    (Phase.STARTING, Call.START): Edge(Answer.JOIN_START, "one VM, however often it is asked for"),
    (Phase.KEPT, Call.START): Edge(Answer.BEGIN_START, "it goes on with the VM that it has"),
    (Phase.RUNNING, Call.START): Edge(Answer.DONE, "the answer was lost, the VM was not"),
    (Phase.STOPPING, Call.START): Edge(Answer.REFUSE, "what is being deleted cannot start"),
    (Phase.CREATED, Call.STOP): Edge(Answer.BEGIN_STOP, "only the socket to remove"),
    (Phase.STARTING, Call.STOP): Edge(Answer.BEGIN_STOP, "pre-empts the start at its next step"),
    (Phase.KEPT, Call.STOP): Edge(Answer.BEGIN_STOP, "its shim lives after all, and wants it gone"),
    (Phase.RUNNING, Call.STOP): Edge(Answer.BEGIN_STOP, "the ordinary end"),
    (Phase.STOPPING, Call.STOP): Edge(Answer.JOIN_STOP, "rollback and StopVM may meet"),
    (Phase.STARTING, Call.CALLER_GONE): Edge(
        Answer.KEEP, "kubelet gave up and nobody will call StopVM, but the pod is tried again: that pays no second boot"
    ),
    (Phase.KEPT, Call.CALLER_GONE): Edge(Answer.IGNORE, "it is kept for that reason already"),
    (Phase.RUNNING, Call.CALLER_GONE): Edge(Answer.IGNORE, "the start had ended; the shim decides what follows"),
    (Phase.STOPPING, Call.CALLER_GONE): Edge(Answer.IGNORE, "already on its way out"),
    (Phase.STARTING, Call.START_FAILED): Edge(Answer.BEGIN_STOP, "a failed start leaves nothing behind"),
    (Phase.KEPT, Call.START_FAILED): Edge(Answer.BEGIN_STOP, "as above: what failed once is given to nobody"),
    (Phase.RUNNING, Call.START_FAILED): Edge(Answer.BEGIN_STOP, "as above: the last step's answer came too late"),
    (Phase.STOPPING, Call.START_FAILED): Edge(Answer.IGNORE, "it failed because it was being stopped"),
    (Phase.STARTING, Call.ADOPT): Edge(Answer.REFUSE, "its own StartVM waits for the VM"),
    (Phase.KEPT, Call.ADOPT): Edge(Answer.GIVE, "what it was kept for; the VM is nobody's until it is bound"),
    (Phase.RUNNING, Call.ADOPT): Edge(Answer.REFUSE, "a VM is bound once"),
    (Phase.STOPPING, Call.ADOPT): Edge(Answer.REFUSE, "the VM is being deleted, or another sandbox has it"),
    (Phase.CREATED, Call.GRACE_OVER): Edge(Answer.BEGIN_STOP, "its shim died before StartVM; nothing else says so"),
    (Phase.STARTING, Call.GRACE_OVER): Edge(Answer.IGNORE, "its StartVM came meanwhile"),
    (Phase.KEPT, Call.GRACE_OVER): Edge(Answer.BEGIN_STOP, "the pod was given up: nobody pays for its VM any longer"),
    (Phase.RUNNING, Call.GRACE_OVER): Edge(Answer.IGNORE, "its StartVM came meanwhile"),
    (Phase.STOPPING, Call.GRACE_OVER): Edge(Answer.IGNORE, "already on its way out"),
}


def decide(state: SandboxState, call: Call) -> Edge:
    """The row for this call now.

    GONE has none: its driver has ended and the registry no longer knows it. Nor has CREATED any for the calls that
    only a start can cause. Asking for those is a bug (KeyError).
    """
    return TABLE[state.phase, call]
