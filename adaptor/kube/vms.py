"""How many pod VMs the scheduler may place on a node. Pure.

What scheduler and kubelet compare with the node's figure is the sum of what the pods bound to it ask for, so that sum is
what is in use. A kubelet that restarts admits every pod of its node anew, and kills those that the figure has no room
for: it must never be below what is in use. VMs that this node holds count only while the pods are not known: a VM
outlives its pod by the time of its deletion, and would keep a place open on a node that is to be emptied.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from adaptor import names

_COUNT: Final = re.compile(r"(\d+)(|k|M|e3|e6)")  # as Kubernetes writes whole numbers: 1000 comes back as 1k
_TIMES: Final = {"": 1, "k": 1000, "e3": 1000, "M": 1_000_000, "e6": 1_000_000}
_OVER: Final = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a node says of itself."""

    advertised: int | None = None  # None: the key is missing, or no number
    draining: bool = False
    owner: str = ""  # the pod of upstream's adaptor that wrote the figure, where that one runs or ran


def seen(node: Mapping[str, Any]) -> Seen:
    """Of a Node object."""
    metadata, status = node.get("metadata") or {}, node.get("status") or {}
    annotations = metadata.get("annotations") or {}
    return Seen(
        advertised=count((status.get("capacity") or {}).get(names.VM_RESOURCE)),
        draining=annotations.get(names.DRAIN, "").lower() in ("true", "1", "yes"),
        owner=annotations.get(names.UPSTREAM_OWNER, ""),
    )


def in_use(pods: Iterable[Mapping[str, Any]]) -> int:
    """What the pods bound to a node ask for together, those left out that are over."""
    return sum(requested(pod) for pod in pods if (pod.get("status") or {}).get("phase") not in _OVER)


def requested(pod: Mapping[str, Any]) -> int:
    """What one pod asks for, as scheduler and kubelet reckon: containers and sidecars together, or an init container
    with the sidecars before it where that is more; and the runtime class's overhead."""
    spec = pod.get("spec") or {}
    sidecars = most = 0
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            sidecars += _asked(container)
            most = max(most, sidecars)
        else:
            most = max(most, sidecars + _asked(container))
    together = sidecars + sum(_asked(container) for container in spec.get("containers") or ())
    return max(most, together) + (count((spec.get("overhead") or {}).get(names.VM_RESOURCE)) or 0)


def wanted(limit: int, used: int | None, now: Seen, held: int = 0) -> int | None:
    """The figure to advertise; None: nothing, it is somebody else's (`limit` < 0).

    `used`: as `in_use`, None = nobody can tell: then the figure is not lowered, nor below `held`, the node's VMs.
    """
    if limit < 0:
        return None
    target = 0 if now.draining else limit
    floor = used if used is not None else max(now.advertised or 0, held)
    return max(target, floor)


def patch(figure: int) -> dict[str, Any]:
    """As a merge patch of nodes/status. Not server-side apply: kubelet owns the field, and that would be a conflict."""
    return {"status": {"capacity": {names.VM_RESOURCE: str(figure)}}}


def count(quantity: Any) -> int | None:
    """A quantity that counts things; None where it does not."""
    found = _COUNT.fullmatch(str(quantity))
    return int(found[1]) * _TIMES[found[2]] if found else None


def _asked(container: Mapping[str, Any]) -> int:
    resources = container.get("resources") or {}
    for each in ("requests", "limits"):  # a limit alone is a request too
        if (asked := count((resources.get(each) or {}).get(names.VM_RESOURCE))) is not None:
            return asked
    return 0
