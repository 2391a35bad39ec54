"""What one run consists of, as plain values: pods with their lives, and what goes wrong when.

`draw(seed)` makes one of them out of nothing but its seed; `systematic` lists others by hand.
"""

import random
from dataclasses import dataclass, replace
from typing import Final

# -- how a pod's sandbox ends, and what else its shim and kubelet may do ---------------------------
ENDINGS: Final = (
    "StopVM",  # the ordinary one
    "shim killed",  # no StopVM follows
    "stop without hypervisor socket",  # the adaptor is down just then: the shim dials once
    "stop answered by nobody",  # the adaptor dies during StopVM
    "never",  # it runs to the end of the run, and must
)
# -- what happens to one cloud call ----------------------------------------------------------------
CALL_FAULTS: Final = (
    "reply lost",  # the deed is done, the answer an error
    "request lost",
    "duplicated",  # the deed is done again later
    "request delayed",
    "reply delayed",
    "throttled",
    "transient",
    "capacity",  # creates only
    "partly filled",  # creates only: of a call for several machines one is made
    "denied",
    "accepted in vain",  # deletes only: the answer is good, and nothing is done
)
# -- what happens to one change of the pod's tunnel ------------------------------------------------
NETWORK_FAULTS: Final = (
    "refused",  # by the kernel: any call
    "number taken",  # by another program, when the tunnel is opened
    "no frame",  # comes back from the VM, when the tunnel is tried
)
# -- what lasts for a while ------------------------------------------------------------------------
WINDOWS: Final = ("deletes fail", "describes fail", "throttled throughout", "cloud unreachable", "disk full")
# -- what happens at a moment ----------------------------------------------------------------------
BLOWS: Final = (
    "adaptor killed",
    "adaptor upgraded",  # SIGTERM, drained, started again
    "node reboot",
    "relay killed",
    "relay handed over",
    "link broken",
    "VM dies",
    "VM deleted behind our back",
    "shim killed",
)
# -- where the adaptor may be killed ---------------------------------------------------------------
BORDERS: Final = ("journal", "cloud", "relay", "network")
SIDES: Final = ("before", "after", "in flight")  # in flight: the request arrives when its sender is dead; cloud only


@dataclass(frozen=True, slots=True)
class PodPlan:
    """A pod of one node. Times are virtual seconds."""

    name: str
    begins: float
    lives: float  # from Ready to its ending
    ending: str = "StopVM"
    patience: float = 240.0  # kubelet's, for one RunPodSandbox; then it kills the shim
    boot: float = 8.0  # until a VM's guest listens
    mute: int = 0  # that many of its first VMs never answer
    dies_between: int = 0  # that many of its first shims die after CreateVM and before StartVM
    restarts: bool = True  # kubelet makes a new sandbox for one that died by itself
    vcpus: int | None = None  # a size with two offerings, or the default with one


@dataclass(frozen=True, slots=True)
class CallFault:
    """The `nth` call of a cloud's verb goes wrong."""

    verb: str
    nth: int
    kind: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class NetworkFault:
    """The `nth` call of a verb of the tunnels' goes wrong."""

    verb: str
    nth: int
    kind: str


@dataclass(frozen=True, slots=True)
class Window:
    """`kind` for some time."""

    kind: str
    start: float
    seconds: float
    error: str = "transient"  # | throttled | denied: what deletes or describes are answered


@dataclass(frozen=True, slots=True)
class Blow:
    """`kind` at a moment; `pod` is an index, `seconds` how long it lasts or the adaptor stays away."""

    at: float
    kind: str
    pod: int = 0
    seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Crash:
    """kill -9 at the `nth` time that something passes this border, counted over the whole run."""

    border: str
    nth: int
    side: str
    away: float = 1.0  # until the next adaptor starts
    late: float = 0.0  # in flight: when the request still arrives


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run."""

    seed: str
    pods: tuple[PodPlan, ...]
    calls: tuple[CallFault, ...] = ()
    windows: tuple[Window, ...] = ()
    blows: tuple[Blow, ...] = ()
    crashes: tuple[Crash, ...] = ()
    lag: float = 0.0  # until a new VM shows up in list and get
    networks: tuple[NetworkFault, ...] = ()
    encrypted: bool = False

    @property
    def chance(self) -> str:
        """What latencies and the adaptor's own dice come from: the same for all runs of one operation."""
        return self.seed.partition("/")[0]

    def lines(self) -> list[str]:
        """The plan, for people."""
        parts = (*self.pods, *self.calls, *self.networks, *self.windows, *self.blows, *self.crashes)
        told = ", pods' networks encrypted" if self.encrypted else ""
        return [f"seed {self.seed}, new VMs unseen for {self.lag:g} s{told}", *(f"  {part}" for part in parts)]


# Pods begin, and faults are struck, in the first minutes; kubelets try again until all is well or time is up.
_STAGE: Final = 120.0
# What the adaptor is built for: a VM shows up within a minute of its create (watch.UNSEEN), a late request and a slow
# cloud together. Seconds.
_LATEST: Final = 20.0
_LAGS: Final = (0.0, 0.0, 2.0, 10.0, 30.0)
_ONLY: Final = {"capacity": "create", "partly filled": "create", "accepted in vain": "delete"}
_VERBS: Final = ("create", "create", "delete", "delete", "list", "get", "offerings")


def draw(seed: int) -> Scenario:
    """The scenario of a seed: the same one in every process and every version of Python."""
    rng = random.Random(seed)
    pods = tuple(_pod(rng, number) for number in range(rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6))))
    drawn = Scenario(
        seed=str(seed),
        pods=pods,
        calls=tuple(_call_fault(rng) for _ in range(rng.choice((0, 0, 1, 2, 3)))),
        windows=tuple(_window(rng) for _ in range(rng.choice((0, 0, 0, 1, 2)))),
        blows=tuple(sorted((_blow(rng, len(pods)) for _ in range(rng.choice((0, 1, 1, 2, 3)))), key=lambda b: b.at)),
        crashes=tuple(_crash(rng, len(pods)) for _ in range(rng.choice((0, 1, 1, 1, 2)))),
        lag=rng.choice(_LAGS),
        networks=tuple(_network_fault(rng) for _ in range(rng.choice((0, 0, 0, 1, 2)))),
        encrypted=rng.random() < 0.3,
    )
    return replace(drawn, pods=_together(rng, pods)) if rng.random() < 0.5 else drawn


def _together(rng: random.Random, pods: tuple[PodPlan, ...]) -> tuple[PodPlan, ...]:
    """All begin within a tenth of a second, and wish for the same."""
    first = pods[0]
    return tuple(replace(pod, begins=round(first.begins + _time(rng, 0, 0.1), 2), vcpus=first.vcpus) for pod in pods)


def _pod(rng: random.Random, number: int) -> PodPlan:
    return PodPlan(
        name=f"pod{number}",
        begins=_time(rng, 0, _STAGE / 2),
        lives=_time(rng, 0, _STAGE),
        ending=rng.choice((*ENDINGS, "never")),
        patience=rng.choice((240.0, 240.0, 240.0, _time(rng, 0.2, 12.0))),
        boot=_time(rng, 1, 15),
        mute=rng.choice((0, 0, 0, 0, 0, 0, 0, 1)),
        dies_between=rng.choice((0, 0, 0, 0, 0, 0, 1)),
        restarts=rng.random() < 0.7,
        vcpus=rng.choice((None, 2)),
    )


def _call_fault(rng: random.Random) -> CallFault:
    verb = rng.choice(_VERBS)
    kinds = [kind for kind in CALL_FAULTS if _ONLY.get(kind, verb) == verb]
    return CallFault(verb, rng.choice((1, 1, 2, 2, 3, 4, 5)), rng.choice(kinds), _time(rng, 0.1, _LATEST))


def _network_fault(rng: random.Random) -> NetworkFault:
    kind = rng.choice(NETWORK_FAULTS)
    only = {"number taken": "open", "no frame": "connect"}
    verb = only.get(kind) or rng.choice(("intend", "reached", "open", "connect", "remove", "remove"))
    return NetworkFault(verb, rng.choice((1, 1, 2, 2, 3, 4)), kind)


def _window(rng: random.Random) -> Window:
    kind = rng.choice(WINDOWS)
    return Window(
        kind, _time(rng, 0, _STAGE), _time(rng, 1, 90), rng.choice(("transient", "transient", "throttled", "denied"))
    )


def _blow(rng: random.Random, pods: int) -> Blow:
    kind = rng.choice(BLOWS)
    longest = 180.0 if kind == "link broken" else 30.0  # some longer than the link's grace
    return Blow(_time(rng, 0, _STAGE * 1.5), kind, rng.randrange(pods), _time(rng, 0.1, longest))


def _crash(rng: random.Random, pods: int) -> Crash:
    border = rng.choice(BORDERS)
    side = rng.choice(SIDES if border == "cloud" else SIDES[:2])
    return Crash(border, rng.randrange(1, 8 * pods + 1), side, _time(rng, 0, 20), _time(rng, 0, _LATEST))


def _time(rng: random.Random, low: float, high: float) -> float:
    return round(rng.uniform(low, high), 2)
