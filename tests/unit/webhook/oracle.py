"""What Kubernetes and kata make of a pod, written from their rules and not from the webhook: fractions, name by name.

Scheduler and kubelet see a pod over time: first the init containers, one after the other, each beside the sidecars that
were started before it; then all containers beside all sidecars. A pod needs the most that it needs at any moment.
"""

import math
import re
from fractions import Fraction
from typing import Any

from adaptor import names

Json = dict[str, Any]
Asked = dict[str, Fraction]

UNITS = {
    "": 1,
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    **{letter: 1000**power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", 1)},
}
WHOLE_POD = ("cpu", "memory")


def amount(text: str) -> Fraction:
    """A quantity, exactly."""
    found = re.fullmatch(r"(\d*\.?\d*)(?:[eE]([+-]?\d+)|([a-zA-Z]*))", text)
    assert found, text
    number = Fraction(found[1].rstrip(".") if found[1] else 0)
    return number * Fraction(10) ** int(found[2]) if found[2] else number * UNITS[found[3] or ""]


def moments(pod: Json, kind: str) -> list[list[Json]]:
    """The resources of the containers that run together, moment by moment."""
    spec = pod["spec"]
    sidecars: list[Json] = []
    found = []
    for each in spec.get("initContainers", []):
        if each.get("restartPolicy") == "Always":
            sidecars.append(said(each, kind))
            found.append(list(sidecars))
        else:
            found.append([*sidecars, said(each, kind)])
    found.append([*sidecars, *(said(each, kind) for each in spec["containers"])])
    return found


def said(container: Json, kind: str) -> Json:
    """Limits; or requests, each of which is the limit where it is not said: the API server's default."""
    resources = container.get("resources") or {}
    limits = resources.get("limits") or {}
    return limits if kind == "limits" else {**limits, **(resources.get("requests") or {})}


def effective(pod: Json, kind: str) -> Asked:
    """What the pod has of every resource, without its overhead."""
    names_ = {name for moment in moments(pod, kind) for each in moment for name in each}
    found = {
        name: max(
            sum((amount(each[name]) for each in moment if name in each), Fraction(0)) for moment in moments(pod, kind)
        )
        for name in names_
    }
    own = said(pod["spec"], kind)
    return found | {name: amount(own[name]) for name in WHOLE_POD if name in own}


def wanted(pod: Json, gpu_resources: frozenset[str]) -> dict[str, int]:
    """The VM that the pod needs, by its resources alone."""
    limits, requests = effective(pod, "limits"), effective(pod, "requests")

    def most(name: str) -> Fraction:
        return max(limits.get(name, Fraction(0)), requests.get(name, Fraction(0)))

    return {
        "vcpus": math.ceil(most("cpu")),
        "memory-mib": math.ceil(most("memory") / 2**20),
        "gpus": sum(math.ceil(most(name)) for name in gpu_resources),
        "scratch-gib": math.ceil(most("ephemeral-storage") / 2**30),
    }


def createvm(pod: Json, *, rounds_memory_up: bool) -> dict[str, str]:
    """The annotations that kata's shim sends of this pod: kubelet's limits of the sandbox added to the pod's own words."""
    annotations = pod["metadata"].get("annotations") or {}
    limits = effective(pod, "limits")
    quota = math.ceil(limits.get("cpu", Fraction(0)) * 1000)  # kubelet's CFS quota has thousandths
    vcpus = Fraction(annotations.get(names.DEFAULT_VCPUS) or 0) + Fraction(quota, 1000)
    mebibytes = limits.get("memory", Fraction(0)) / 2**20
    memory = int(annotations.get(names.DEFAULT_MEMORY) or 0)
    memory += math.ceil(mebibytes) if rounds_memory_up else math.floor(mebibytes)
    return {
        names.CRI_SANDBOX_NAME: "web",
        names.CRI_SANDBOX_NAMESPACE: "shop",
        names.MACHINE_TYPE: annotations.get(names.MACHINE_TYPE, ""),
        names.IMAGE: "",
        names.DEFAULT_VCPUS: str(math.ceil(vcpus)),
        names.DEFAULT_MEMORY: str(memory),
        names.INITDATA: "",
        names.DEFAULT_GPUS: annotations.get(names.DEFAULT_GPUS) or "0",
        names.DEFAULT_GPU_MODEL: annotations.get(names.DEFAULT_GPU_MODEL, ""),
    }
