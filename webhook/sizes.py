"""How large a pod's VM must be, by Kubernetes' own rules for what a pod asks for.

Containers add up. An init container runs alone, beside the sidecars that were started before it; the larger of the two
counts. What the pod says as a whole (spec.resources) comes before both. Its overhead is the worker's, not the VM's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from adaptor.catalog.quantities import nano
from adaptor.catalog.wishes import MOST_MIB, MOST_VCPUS
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
_MOST: Final = {"vcpus": MOST_VCPUS, "memory-mib": MOST_MIB, "gpus": 1000, "scratch-gib": 65_536}

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


def wanted(pod: Pod, gpu_resources: frozenset[str]) -> Size:
    """The VM that the pod's resources ask for. Raises: InvalidRequest, naming the container and the amount."""
    counted = SHARED | gpu_resources
    limits = effective(pod, counted, limits_of)
    requests = effective(pod, counted, requests_of)

    def most(resource: str) -> int:
        return max(limits.get(resource, 0), requests.get(resource, 0))

    size = Size(
        vcpus=ceil(most(CPU), NANO),
        memory_mib=ceil(most(MEMORY), MIB),
        gpus=sum(ceil(most(resource), NANO) for resource in gpu_resources),
        scratch_gib=ceil(most(STORAGE), GIB),
    )
    for what, amount, limit in (
        ("CPU", size.vcpus, MOST_VCPUS),
        ("memory in MiB", size.memory_mib, MOST_MIB),
        ("GPUs", size.gpus, _MOST["gpus"]),
        ("ephemeral storage in GiB", size.scratch_gib, _MOST["scratch-gib"]),
    ):
        if amount > limit:
            raise InvalidRequest(f"the pod's containers ask for {amount} of {what}, more than any machine has: {limit}")
    return size


def effective(pod: Pod, counted: frozenset[str], of: "Of") -> Amounts:
    """What the pod as a whole has of the `counted` resources, as scheduler and kubelet add it up."""
    running: Amounts = {}
    for each in pod.containers:
        _add(running, of(each, counted))
    if pod.inits:
        peak: Amounts = {}
        started: Amounts = {}
        for each in pod.inits:
            own = of(each, counted)
            if each.sidecar:
                _add(running, own)
                _add(started, own)
                own = started
            else:
                _add(own, started)
            _raise(peak, own)
        _raise(running, peak)
    if pod.own is not None:
        running.update(of(pod.own, counted & WHOLE_POD))
    return running


def limits_of(container: Container, counted: frozenset[str]) -> Amounts:
    """Those of one container. Raises: InvalidRequest."""
    return _amounts(container, "limits", container.limits, counted)


def requests_of(container: Container, counted: frozenset[str]) -> Amounts:
    """Those of one container; where it says none, the limit is the request, as the API server has it."""
    found = limits_of(container, counted)
    found.update(_amounts(container, "requests", container.requests, counted))
    return found


Of = Callable[[Container, frozenset[str]], Amounts]


def ceil(amount: int, unit: int) -> int:
    """Whole units, rounded up."""
    return -(-amount // unit)


def _amounts(container: Container, kind: str, said: Mapping[str, object], counted: frozenset[str]) -> Amounts:
    try:
        return {
            resource: nano(amount if isinstance(amount, str) else _number(amount))
            for resource, amount in said.items()
            if resource in counted
        }
    except InvalidRequest as error:
        whose = f'container "{container.name[:63]}"' if container.path.count("/") > 1 else "the pod"
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
