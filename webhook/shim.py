"""What kata's shim will tell the adaptor of a pod: its annotations, plus the pod's own limits.

Kubelet hands the limits of the whole pod to the runtime, counted as `sizes.effective` does; the shim adds them to the
pod's annotations, and rounds vCPUs up. A part of a MiB is dropped by kata 4.1.0; that is not relied on. An annotation of a size
that is empty fails in the shim, before the adaptor hears of the pod.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from adaptor import names
from adaptor.catalog import wishes
from adaptor.catalog.quantities import nano
from adaptor.catalog.select import Requirements
from adaptor.catalog.wishes import Wishes
from adaptor.errors import InvalidRequest
from webhook.sizes import CPU, MEMORY, MIB, NANO, Amounts, ceil

UNSET: Final = ("", "0")  # what an annotation says that says nothing, for the shim as for the adaptor


@dataclass(frozen=True, slots=True)
class Told:
    """The sizes in CreateVM; `memory_mib` has two values where kata's release decides."""

    vcpus: int
    memory_mib: frozenset[int]


def told(annotations: Mapping[str, str], limits: Amounts) -> Told:
    """The sum of both. Raises: InvalidRequest for an annotation that is no number."""
    memory = limits.get(MEMORY, 0)
    said = count(annotations, names.DEFAULT_MEMORY)
    return Told(
        vcpus=ceil(_vcpus(annotations) + limits.get(CPU, 0), NANO),
        memory_mib=frozenset({said + memory // MIB, said + ceil(memory, MIB)}),
    )


def vcpus(annotations: Mapping[str, str]) -> int:
    """The vCPUs of the annotation, rounded up; 0 for none. Raises: InvalidRequest."""
    return ceil(_vcpus(annotations), NANO)


def count(annotations: Mapping[str, str], key: str) -> int:
    """An annotation that must be a whole number; 0 for none. Raises: InvalidRequest."""
    text = annotations.get(key, "")
    if text == "":
        return 0
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise InvalidRequest(f'annotation {key} is "{text[:40]}": a whole number is needed, without a unit')
    return int(text)


def requirements(annotations: Mapping[str, str], limits: Amounts) -> Requirements:
    """What the adaptor will look for. Raises: InvalidRequest, naming the annotation that cannot be used."""
    wish = wished(annotations)
    said = told(annotations, limits)
    return wish.requirements(
        vcpus=said.vcpus or None,
        memory_mib=min(said.memory_mib) or None,
        gpus=count(annotations, names.DEFAULT_GPUS) or None,
        gpu_model=annotations.get(names.DEFAULT_GPU_MODEL) or None,
    )


def wished(annotations: Mapping[str, str]) -> Wishes:
    """What the machine_type annotation says. Raises: InvalidRequest."""
    return wishes.parse(annotations.get(names.MACHINE_TYPE, ""))


def empty(annotations: Mapping[str, str]) -> list[str]:
    """Sizes that are written and say nothing, not even 0."""
    return [
        key for key in (names.DEFAULT_VCPUS, names.DEFAULT_MEMORY, names.DEFAULT_GPUS) if annotations.get(key) == ""
    ]


def _vcpus(annotations: Mapping[str, str]) -> int:
    """In thousand-millionths: the shim takes fractions."""
    text = annotations.get(names.DEFAULT_VCPUS, "")
    if text == "":
        return 0
    if not text.replace(".", "", 1).isdecimal() or not text.isascii() or len(text) > 9:
        raise InvalidRequest(
            f'annotation {names.DEFAULT_VCPUS} is "{text[:40]}": a number of vCPUs is needed, without a unit'
        )
    return nano(text)
