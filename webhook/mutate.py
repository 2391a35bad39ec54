"""What becomes of a pod whose machine is elsewhere, as JSON patch operations. Pure, and the same again over again.

The size of its VM is decided once, and written down in the marker; whatever happens to the pod's resources later, by a
LimitRange or by another webhook, the VM stays as large. kata tells the adaptor the annotations plus the pod's limits:
in `strip` mode there are no limits left and the annotations hold the whole; in `zero` mode they hold what the limits
leave over. Where no annotation makes the sum right (a size that the pod's owner wrote, beside limits; a part of a MiB),
a wish in machine_type overrides it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from adaptor import names
from adaptor.catalog import wishes
from adaptor.config_network import Network
from webhook import shim, sizes
from webhook.pods import Container, Pod, rows
from webhook.sizes import CPU, MEMORY, MIB, NANO, SHARED, WHOLE_POD, Amounts, Asked, Size

ZERO: Final = "zero"
STRIP: Final = "strip"
_SCRATCH: Final = "scratch-gib"
_WARNED: Final = 3  # names in one warning: the API server cuts at 256 characters

_UNSIZED: Final = Size()
_NETWORK: Final = Network()

Operation = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rules:
    """The webhook's settings that decide about a pod."""

    mode: str = ZERO
    gpu_resources: frozenset[str] = frozenset()
    vm_resource: str = names.VM_RESOURCE
    quota: bool = False  # hold new pods at a scheduling gate
    network: Network = _NETWORK  # the nodes'


@dataclass(frozen=True, slots=True)
class Mutation:
    """The patch, in order; what kubectl is to tell the pod's owner; the VM's size."""

    operations: list[Operation]
    warnings: list[str] = field(default_factory=list)
    size: Size = _UNSIZED


def mutate(pod: Pod, rules: Rules) -> Mutation:
    """Raises: InvalidRequest for wishes, sizes and amounts that cannot be used, saying which and what can."""
    if not pod.containers:
        return Mutation([])  # the API server refuses it
    resources, warnings = _resources(pod, rules)
    asked = sizes.asked(pod, rules.gpu_resources)
    left = asked.limits if rules.mode == ZERO else {}
    marked = Size.parse(pod.annotations.get(names.SIZED, ""))
    if marked is None:
        annotations, size = _first(pod, asked, rules, left)
        if not (size.vcpus or size.memory_mib or size.gpus or wishes.parse(annotations[names.MACHINE_TYPE]).types):
            warnings.append("the pod asks for no CPU, memory or GPU: its VM is of the default instance type")
    else:
        annotations, size = dict(pod.annotations), marked
        if left.get(CPU, 0) > size.vcpus * NANO or left.get(MEMORY, 0) > size.memory_mib * MIB:
            warnings.append(
                f"the pod's limits have grown since its VM was sized ({size.marker()}): what was added later, by "
                "another webhook perhaps, has to share that"
            )
    _settle(annotations, size, left, again=marked is not None)
    operations = [*_annotated(pod, annotations), *resources]
    if rules.quota and marked is None:
        operations += _gated(pod)
    return Mutation(operations, warnings, size)


def _first(pod: Pod, whole: Asked, rules: Rules, left: Amounts) -> tuple[dict[str, str], Size]:
    """The annotations with the pod's own wishes and what it lacks of a size, and the size that was decided."""
    annotations = dict(pod.annotations)
    text = wishes.from_annotations(annotations, annotations.get(names.MACHINE_TYPE, ""))
    wish = wishes.parse(text)
    asked = sizes.wanted(whole, rules.gpu_resources)
    gpus = shim.count(annotations, names.DEFAULT_GPUS) or asked.gpus
    if wish.gpu_model or annotations.get(names.DEFAULT_GPU_MODEL):
        gpus = gpus or 1  # a model is asked for with at least one of it
    size = Size(
        vcpus=_chosen(wish.vcpus, shim.vcpus(annotations), asked.vcpus),
        memory_mib=_chosen(wish.memory_mib, shim.count(annotations, names.DEFAULT_MEMORY), asked.memory_mib),
        gpus=gpus,
        scratch_gib=wish.scratch_gib if _SCRATCH in text else asked.scratch_gib,
    )
    if size.scratch_gib and _SCRATCH not in text:
        text = _with_wish(text, _SCRATCH, size.scratch_gib)
    for key, amount in (
        (names.DEFAULT_VCPUS, size.vcpus - sizes.ceil(left.get(CPU, 0), NANO)),
        (names.DEFAULT_MEMORY, size.memory_mib - sizes.ceil(left.get(MEMORY, 0), MIB)),
        (names.DEFAULT_GPUS, size.gpus),
    ):
        said = annotations.get(key, "0")
        if (amount > 0 and said in shim.UNSET) or said == "":  # an empty number is what the shim chokes on
            annotations[key] = str(max(amount, 0))
    return annotations | {names.MACHINE_TYPE: text}, size


def _chosen(wish: int | None, annotation: int, asked: int) -> int:
    """The pod's owner before its resources; among the owner's words the more particular."""
    return wish if wish is not None else annotation or asked


def _settle(annotations: dict[str, str], size: Size, left: Amounts, *, again: bool) -> None:
    """See to it that the adaptor will come to this size and to no other."""
    text = annotations.get(names.MACHINE_TYPE, "")
    wish = wishes.parse(text)
    told = shim.told(annotations, left)
    vcpus = frozenset({told.vcpus}) if wish.vcpus is None else frozenset({wish.vcpus})
    memory = told.memory_mib if wish.memory_mib is None else frozenset({wish.memory_mib})
    if vcpus != {size.vcpus}:
        text = _with_wish(text, "vcpus", size.vcpus)
    if memory != {size.memory_mib}:
        text = _with_wish(text, "memory-mib", size.memory_mib)
    if text:
        annotations[names.MACHINE_TYPE] = text
    else:
        annotations.pop(names.MACHINE_TYPE, None)
    if again and shim.count(annotations, names.DEFAULT_GPUS) != size.gpus:
        annotations[names.DEFAULT_GPUS] = str(size.gpus)
    annotations[names.SIZED] = size.marker()


def _with_wish(text: str, key: str, amount: int) -> str:
    types, rest = wishes.split(text)
    kept = [part for part in rest.split(";") if part.strip() and part.partition("=")[0].strip() != key]
    return ";".join([types, *kept, f"{key}={amount}"])


def _annotated(pod: Pod, annotations: Mapping[str, str]) -> Iterator[Operation]:
    if not pod.annotations:
        yield _add("/metadata/annotations", annotations)
        return
    for key, value in annotations.items():
        if pod.annotations.get(key) != value:
            yield _add(f"/metadata/annotations/{_escaped(key)}", value)


def _resources(pod: Pod, rules: Rules) -> tuple[list[Operation], list[str]]:
    """Every container's resources as they are to be, the pod's as a whole, and what is lost by it."""
    counted = _counts_already(pod, rules.vm_resource)
    lost: set[str] = set()
    claims = False
    operations = []
    for index, each in enumerate(pod.every()):
        after = _kept(each, SHARED, rules.mode, zeroed=SHARED)
        if index == 0 and not counted:
            for kind in ("limits", "requests"):
                after[kind] = {**after.get(kind, {}), rules.vm_resource: "1"}
        if after != each.resources:
            operations.append(_add(f"{each.path}/resources", after))
        lost.update(each.limits, each.requests)
        claims = claims or bool(each.resources.get("claims"))
    if pod.own is not None:
        after = _kept(pod.own, WHOLE_POD, rules.mode, zeroed=WHOLE_POD)
        lost.update(pod.own.limits, pod.own.requests)
        if not after.get("limits"):
            operations.append({"op": "remove", "path": "/spec/resources"})
        elif after != pod.own.resources:
            operations.append(_add("/spec/resources", after))
    return operations, list(_losses(lost - SHARED - rules.gpu_resources - {rules.vm_resource}, claims=claims))


def _kept(each: Container, kept: frozenset[str], mode: str, zeroed: frozenset[str]) -> dict[str, Any]:
    """Requests are said to be 0, and not left out: a LimitRange and the API server itself would fill them in."""
    if mode == STRIP:
        return {}
    limits = {resource: amount for resource, amount in each.limits.items() if resource in kept}
    requests = dict.fromkeys(sorted(zeroed), "0")
    return {"limits": limits, "requests": requests} if limits else {"requests": requests}


def _losses(lost: set[str], *, claims: bool) -> Iterator[str]:
    if lost:
        shown = ", ".join(sorted(lost)[:_WARNED]) + (", ..." if len(lost) > _WARNED else "")
        yield f"{shown}: taken off the pod's containers, for a worker's devices and huge pages do not reach its VM"
    if claims:
        yield "resource claims: taken off the pod's containers, for a worker's devices do not reach its VM"


def _counts_already(pod: Pod, vm_resource: str) -> bool:
    """Whether the runtime class's overhead asks for the VM, as it may where there is no webhook."""
    overhead = pod.spec.get("overhead")
    return isinstance(overhead, dict) and vm_resource in overhead


def _gated(pod: Pod) -> Iterator[Operation]:
    """A gate that the controller lifts. A pod that is bound to a node already may have none."""
    gates = rows(pod.spec, "schedulingGates", "object.spec")
    gate = {"name": names.QUOTA}
    if gate in gates or pod.spec.get("nodeName"):
        return
    yield _add("/spec/schedulingGates/-", gate) if gates else _add("/spec/schedulingGates", [gate])


def _add(path: str, value: Any) -> Operation:
    """Also where there is something already: that is replaced."""
    return {"op": "add", "path": path, "value": value}


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
