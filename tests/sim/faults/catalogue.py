"""The runs that are listed, not drawn: every operation of a pod's life, the adaptor killed at every step of it.

An operation runs once undisturbed; what it wrote, asked the cloud and told the relay is then the list of moments to be
killed at: before and after each, and for the cloud also with the request under way. A bystander runs all the while.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

from tests.sim.faults.run import run
from tests.sim.faults.scenario import (
    BORDERS,
    SIDES,
    Blow,
    CallFault,
    Crash,
    NetworkFault,
    PodPlan,
    Scenario,
    Window,
    draw,
)

_BYSTANDER: Final = PodPlan("bystander", begins=0.1, lives=0.0, ending="never", boot=1.0)
# When the operation begins: the bystander runs by then.
_BEGIN: Final = 5.0
_POD: Final = PodPlan("pod", begins=_BEGIN, lives=20.0, boot=3.0)
# In the middle of the pod's life.
_MIDDLE: Final = _BEGIN + 10.0
# How long the adaptor stays away, and how late a request may arrive whose sender has died. Seconds.
_AWAY: Final = 0.5
_LATE: Final = 4.0


def _pod(**changes: object) -> Scenario:
    return Scenario("", (_BYSTANDER, dataclasses.replace(_POD, **changes)))  # type: ignore[arg-type]


def _three(*faults: CallFault | Window | Blow, patience: float = 240.0, lag: float = 0.0) -> Scenario:
    """Three pods that begin at the same moment; `patience` is the second one's."""
    whole = _with(*faults, lag=lag)
    three = (dataclasses.replace(_POD, name=name, lives=2.0) for name in ("one", "two", "three"))
    pods = [dataclasses.replace(pod, patience=patience if pod.name == "two" else 240.0) for pod in three]
    return dataclasses.replace(whole, pods=(_BYSTANDER, *pods))


def _with(*faults: CallFault | Window | Blow | NetworkFault, lag: float = 0.0, **changes: object) -> Scenario:
    return dataclasses.replace(
        _pod(**changes),
        calls=tuple(each for each in faults if isinstance(each, CallFault)),
        networks=tuple(each for each in faults if isinstance(each, NetworkFault)),
        windows=tuple(each for each in faults if isinstance(each, Window)),
        blows=tuple(each for each in faults if isinstance(each, Blow)),
        lag=lag,
    )


# The bystander's create, delete and so on come first: the pod's are number 2.
OPERATIONS: Final[dict[str, Scenario]] = {
    "start-stop": _pod(),
    "run-on": _pod(ending="never"),
    "next-offering": _with(CallFault("create", 2, "capacity"), vcpus=2, ending="never"),
    "lost-reply": _with(CallFault("create", 2, "reply lost", 3.0), lag=10.0),
    "unresolved": _with(CallFault("create", 2, "reply lost", 3.0), CallFault("create", 3, "denied"), lag=10.0),
    "late-create": _with(CallFault("create", 2, "request delayed", 15.0), lag=10.0, patience=2.0),
    "denied": _with(CallFault("create", 2, "denied")),
    "give-up": _pod(patience=2.0),
    "mute-guest": _pod(mute=1),
    "no-start": _pod(dies_between=1),
    "shim-killed": _pod(ending="shim killed"),
    "shim-killed-in-start": _with(Blow(_BEGIN + 1.5, "shim killed", 1)),
    "stop-unheard": _pod(ending="stop without hypervisor socket"),
    "stop-unanswered": _pod(ending="stop answered by nobody"),
    "delete-refused": _with(CallFault("delete", 1, "throttled"), CallFault("delete", 2, "transient")),
    "delete-in-vain": _with(CallFault("delete", 1, "accepted in vain")),
    "deletes-fail": _with(Window("deletes fail", 0.0, 60.0, "denied")),
    "disk-full": _with(Window("disk full", _BEGIN + 2.0, 30.0)),
    "vm-dies-in-boot": _with(Blow(_BEGIN + 3.4, "VM dies", 1)),
    "vm-dies": _with(Blow(_MIDDLE, "VM dies", 1)),
    "vm-deleted": _with(Blow(_MIDDLE, "VM deleted behind our back", 1)),
    "link-broken": _with(Blow(_MIDDLE, "link broken", 1, 7.0), ending="never"),
    "link-lost": _with(Blow(_MIDDLE, "link broken", 1, 150.0), ending="never"),
    "relay-killed": _with(Blow(_MIDDLE, "relay killed"), ending="never"),
    "relay-handed-over": _with(Blow(_MIDDLE, "relay handed over"), ending="never"),
    "reboot": _with(Blow(_MIDDLE, "node reboot", 0, 10.0), ending="never"),
    "reboot-in-start": _with(Blow(_BEGIN + 1.5, "node reboot", 0, 10.0), ending="never"),
    "upgrade": _with(Blow(_MIDDLE, "adaptor upgraded"), ending="never"),
    "upgrade-in-start": _with(Blow(_BEGIN + 1.5, "adaptor upgraded"), ending="never"),
    "number-taken": _with(NetworkFault("open", 2, "number taken")),
    "no-frame": _with(NetworkFault("connect", 2, "no frame"), restarts=False),
    "encrypted": dataclasses.replace(_pod(), encrypted=True),
    "together": _three(),
    "together-lost-reply": _three(CallFault("create", 2, "reply lost", 3.0), lag=10.0),
    "together-throttled": _three(CallFault("create", 2, "throttled")),
    "together-partly": _three(CallFault("create", 2, "partly filled")),
    "together-give-up": _three(patience=1.0),
    "together-leave": _three(Window("disk full", _BEGIN + 0.047, 1.0)),  # one has written down its seat by then
}
# Killed twice: the second time in what the next adaptor does about the first.
_TWICE: Final = ("start-stop", "lost-reply", "shim-killed")
_SECOND: Final = 4
# Killed at every change to the kernel: besides, and instead of all else.
_TUNNEL_TOO: Final = ("start-stop",)
_TUNNEL_ONLY: Final = ("number-taken", "no-frame", "encrypted")


def scenario_of(seed: str) -> Scenario:
    """A number is drawn; `operation`, `operation/border-n-side` and `operation/.../border-n-side` are listed."""
    if seed.isdecimal():
        return draw(int(seed))
    operation, *crashes = seed.split("/")
    return dataclasses.replace(OPERATIONS[operation], seed=seed, crashes=tuple(map(_crash, crashes)))


def listed(operation: str) -> Iterator[str]:
    """The seeds of an operation's runs."""
    yield operation
    yield from (f"{operation}/{crash}" for crash in _moments(operation, _borders(operation)))
    if operation in _TWICE:
        for first in _moments(operation, ("journal",)):
            number = _crash(first).nth
            for more in range(1, _SECOND + 1):
                yield from (f"{operation}/{first}/journal-{number + more}-{side}" for side in SIDES[:2])


def _borders(operation: str) -> Sequence[str]:
    if operation in _TUNNEL_ONLY:
        return ("network",)
    return [each for each in BORDERS if each != "network" or operation in _TUNNEL_TOO]


def _moments(operation: str, borders: Sequence[str]) -> Iterator[str]:
    for border in borders:
        sides = SIDES if border == "cloud" else SIDES[:2]
        for number in range(passed("")[border] + 1, passed(operation)[border] + 1):
            yield from (f"{border}-{number}-{side.replace(' ', '_')}" for side in sides)


@cache
def passed(operation: str) -> Counter[str]:
    """What passes each border when nobody is killed; of the bystander alone for ""."""
    scenario = scenario_of(operation) if operation else Scenario("bystander", (_BYSTANDER,))
    return run(scenario).passed


def _crash(text: str) -> Crash:
    border, number, side = text.split("-")
    return Crash(border, int(number), side.replace("_", " "), _AWAY, _LATE)
