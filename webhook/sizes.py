"""How large a pod's VM must be, by Kubernetes' own rules for what a pod asks for.

Containers add up. An init container runs alone, beside the sidecars that were started before it; the larger of the two
counts. What the pod says as a whole (spec.resources) comes before both. Its overhead is the worker's, not the VM's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from adaptor.catalog.quantities import MOST_MIB, MOST_VCPUS, nano
from adaptor.catalog.wishes import LARGEST_DISK
from adaptor.errors import InvalidRequest
from webhook.pods import Container, Pod

CPU: Final = "cpu"
MEMORY: Final = "memory"
STORAGE: Final = "ephemeral-storage"
# What a worker shares out by requests and holds to by limits; everything else is a thing that it has or has not.
SHARED: Final = frozenset({CPU, MEMORY, STORAGE})
WHOLE_POD: Final = frozenset({CPU, MEMORY})  # of spec.resources; hugepages besides, which a VM has none of

NANO: Final = 10**9
MIB: Final = NANO << 20
GIB: Final = NANO << 30
_MOST: Final = {"vcpus": MOST_VCPUS, "memory-mib": MOST_MIB, "gpus": 1000, "scratch-gib": LARGEST_DISK}

Amounts = dict[str, int]  # resource -> thousand-millionths of its unit


@dataclass(frozen=True, slots=True)
class Size:
    """A VM's; 0 = the pod does not say."""

    vcpus: int = 0
    memory_mib: int = 0
    gpus: int = 0
    scratch_gib: int = 0

    def marker(self) -> str:
        """As the pod's annotation holds it."""
        more = "".join(f",{key}={n}" for key, n in (("gpus", self.gpus), ("scratch-gib", self.scratch_gib)) if n)
        return f"vcpus={self.vcpus},memory-mib={self.memory_mib}{more}"

    @classmethod
    def parse(cls, marker: str) -> Self | None:
        """What a marker says; None for one that nobody here has written."""
        said: dict[str, int] = {}
        for part in marker.split(","):
            key, equals, number = part.partition("=")
            if not equals or key in said or not _is_amount(number) or int(number) > _MOST.get(key, -1):
                return None
            said[key] = int(number)
        return cls(**{key.replace("-", "_"): number for key, number in said.items()})


@dataclass(frozen=True, slots=True)
class Asked:
    """What the pod as a whole asks for, as scheduler and kubelet add it up. Where a container says no request, its limit
    is the request, as the API server has it.
    """

    limits: Amounts
    requests: Amounts

    def most(self, resource: str) -> int:
        """The larger of the two."""
        return max(self.limits.get(resource, 0), self.requests.get(resource, 0))


def asked(pod: Pod, gpu_resources: frozenset[str] = frozenset()) -> Asked:
    """Raises: InvalidRequest, naming the container and the amount."""
    counted = SHARED | gpu_resources
    limits: Amounts = {}
    requests: Amounts = {}
    for each in pod.containers:
        own = _own(each, counted)
        _add(limits, own.limits)
        _add(requests, own.requests)
    if pod.inits:
        owns = [(each.sidecar, _own(each, counted)) for each in pod.inits]
        _before(limits, [(sidecar, own.limits) for sidecar, own in owns])
        _before(requests, [(sidecar, own.requests) for sidecar, own in owns])
    if pod.own is not None:
        own = _own(pod.own, WHOLE_POD)
        limits.update(own.limits)
        requests.update(own.requests)
    return Asked(limits, requests)


def _before(running: Amounts, inits: list[tuple[bool, Amounts]]) -> None:
    """Add the sidecars to what runs, and raise it to what is needed before it does."""
    peak: Amounts = {}
    started: Amounts = {}
    for sidecar, own in inits:
        if sidecar:
            _add(running, own)
            _add(started, own)
        else:
            alone = dict(own)
            _add(alone, started)
            _raise(peak, alone)
    _raise(running, peak)


def wanted(said: Asked, gpu_resources: frozenset[str]) -> Size:
    """The VM that these ask for. Raises: InvalidRequest."""
    size = Size(
        vcpus=ceil(said.most(CPU), NANO),
        memory_mib=ceil(said.most(MEMORY), MIB),
        gpus=sum(ceil(said.most(resource), NANO) for resource in gpu_resources),
        scratch_gib=ceil(said.most(STORAGE), GIB),
    )
    for key, amount in (
        ("vcpus", size.vcpus),
        ("memory-mib", size.memory_mib),
        ("gpus", size.gpus),
        ("scratch-gib", size.scratch_gib),
    ):
        if amount > _MOST[key]:
            raise InvalidRequest(
                f"the pod's containers ask for {key} = {amount}: no machine has more than {_MOST[key]}"
            )
    return size


def ceil(amount: int, unit: int) -> int:
    """Whole units, rounded up."""
    return -(-amount // unit)


def _own(container: Container, counted: frozenset[str]) -> Asked:
    limits = _amounts(container, "limits", container.limits, counted) if container.limits else {}
    requests = _amounts(container, "requests", container.requests, counted) if container.requests else {}
    return Asked(limits, {**limits, **requests})


def _amounts(container: Container, kind: str, said: Mapping[str, object], counted: frozenset[str]) -> Amounts:
    try:
        return {
            resource: nano(amount if isinstance(amount, str) else _number(amount))
            for resource, amount in said.items()
            if resource in counted
        }
    except InvalidRequest as error:
        whose = "the pod" if container.path == "/spec" else f'container "{container.name[:63]}"'
        raise InvalidRequest(f"{kind} of {whose}: {error}") from None


def _number(amount: object) -> str:
    """A quantity that is no text in JSON: numbers are allowed too."""
    return repr(amount) if isinstance(amount, (int, float)) and not isinstance(amount, bool) else "(no text)"


def _is_amount(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 12


def _add(total: Amounts, amounts: Mapping[str, int]) -> None:
    for resource, amount in amounts.items():
        total[resource] = total.get(resource, 0) + amount


def _raise(most: Amounts, amounts: Mapping[str, int]) -> None:
    for resource, amount in amounts.items():
        if amount > most.get(resource, -1):
            most[resource] = amount
