"""Pods: the defaults they get, what of them is refused, and what may change later. Pure."""

import copy
from collections.abc import Iterator
from typing import Any, Final

from tests.worlds.kubernetes import metadata, quantity
from tests.worlds.kubernetes.store import Object

Faults = Iterator[tuple[str, str]]

NATIVE: Final = frozenset({"cpu", "memory", "ephemeral-storage", "storage"})
_ENUMS: Final = {
    "restartPolicy": ("Always", "OnFailure", "Never"),
    "dnsPolicy": ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"),
}
_TOLERATED: Final = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def containers(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Init containers and containers with their paths."""
    for part in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(part) or ()):
            yield f"spec.{part}[{index}]", container


def default(pod: Object) -> None:
    spec = pod.setdefault("spec", {})
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("securityContext", {})
    spec.setdefault("enableServiceLinks", True)
    if "serviceAccountName" in spec:
        spec["serviceAccount"] = spec["serviceAccountName"]
    for _, container in containers(spec):
        image = container.get("image", "")
        latest = image.endswith(":latest") or ":" not in image.rpartition("/")[2]
        container.setdefault("imagePullPolicy", "Always" if latest and "@" not in image else "IfNotPresent")
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        for port in container.get("ports") or ():
            port.setdefault("protocol", "TCP")
        resources = container.setdefault("resources", {})
        for name, limit in (resources.get("limits") or {}).items():
            resources.setdefault("requests", {}).setdefault(name, limit)
    if limits := (spec.get("resources") or {}).get("limits"):
        _default_pod_requests(spec, limits)


def _default_pod_requests(spec: dict[str, Any], limits: dict[str, str]) -> None:
    """Of pod-level resources: from the containers' sum where all of them ask, else from the limit."""
    requests = spec["resources"].setdefault("requests", {})
    summed = container_requests(spec)
    for name, limit in limits.items():
        requests.setdefault(name, summed.get(name, limit))


def container_requests(spec: dict[str, Any], what: str = "requests") -> dict[str, str]:
    """Kubernetes' effective sum: sidecars and containers together, or the largest init container beside the sidecars
    that were started before it."""
    sidecars: dict[str, str] = {}
    most: dict[str, str] = {}
    for init in spec.get("initContainers") or ():
        wanted = (init.get("resources") or {}).get(what) or {}
        if init.get("restartPolicy") == "Always":
            sidecars = quantity.add(sidecars, wanted)
            most = quantity.larger(most, sidecars)
        else:
            most = quantity.larger(most, quantity.add(sidecars, wanted))
    running = [(container.get("resources") or {}).get(what) or {} for container in spec.get("containers") or ()]
    return quantity.larger(quantity.add(sidecars, *running), most)


def asked(pod: Object, what: str = "requests") -> dict[str, str]:
    """What the scheduler and quotas count: the containers' or the pod's own figures, and overhead."""
    spec = pod["spec"]
    total = container_requests(spec, what) | ((spec.get("resources") or {}).get(what) or {})
    overhead = spec.get("overhead") or {}
    if what == "limits":  # overhead is added to limits that are set
        overhead = {name: value for name, value in overhead.items() if name in total}
    return quantity.add(total, overhead)


def quality(pod: Object) -> str:
    """The QoS class."""
    spec = pod["spec"]
    sets = [container.get("resources") or {} for _, container in containers(spec)]
    if spec.get("resources"):
        sets = [spec["resources"]]
    named = [
        {
            key: {n: v for n, v in (one.get(key) or {}).items() if n in ("cpu", "memory") and quantity.parse(v)}
            for key in ("requests", "limits")
        }
        for one in sets
    ]
    if not any(one["requests"] or one["limits"] for one in named):
        return "BestEffort"
    guaranteed = all(len(one["limits"]) == 2 and one["requests"] == one["limits"] for one in named)
    return "Guaranteed" if guaranteed else "Burstable"


def prepare(pod: Object, now: str) -> None:
    """A pod as it is first stored."""
    pod["status"] = {"phase": "Pending", "qosClass": quality(pod)}
    if pod["spec"].get("schedulingGates"):
        pod["status"]["conditions"] = [
            {
                "type": "PodScheduled",
                "status": "False",
                "lastProbeTime": None,
                "lastTransitionTime": now,
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }
        ]
    tolerations = pod["spec"].setdefault("tolerations", [])
    for key in _TOLERATED:
        if not any(one.get("key") in (key, None) and one.get("effect") in ("NoExecute", None) for one in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    pod["spec"].setdefault("priority", 0)
    pod["spec"].setdefault("preemptionPolicy", "PreemptLowerPriority")


# -- what is refused ------------------------------------------------------------------------------


def faults(pod: Object) -> Faults:
    spec = pod.get("spec") or {}
    for key, allowed in _ENUMS.items():
        if spec.get(key) not in allowed:
            listed = ", ".join(f'"{one}"' for one in sorted(allowed))
            yield f"spec.{key}", f'Unsupported value: "{spec.get(key)}": supported values: {listed}'
    if not spec.get("containers"):
        yield "spec.containers", "Required value"
    names: set[str] = set()
    for path, container in containers(spec):
        yield from _container_faults(path, container, names)
    for name in (spec.get("resources") or {}).get("requests") or {}:
        if name not in ("cpu", "memory") and not name.startswith("hugepages-"):
            yield f"spec.resources.requests[{name}]", f'Unsupported value: "{name}": supported values: "cpu", "memory"'
    yield from resource_faults("spec.resources", spec.get("resources") or {})
    yield from _pod_level_faults(spec)
    gates: set[str] = set()
    for index, gate in enumerate(spec.get("schedulingGates") or ()):
        if not metadata.is_qualified(gate["name"]):
            yield f"spec.schedulingGates[{index}].name", f'Invalid value: "{gate["name"]}"'
        if gate["name"] in gates:
            yield f"spec.schedulingGates[{index}].name", f'Duplicate value: "{gate["name"]}"'
        gates.add(gate["name"])
    if gates and spec.get("nodeName"):
        yield "spec.nodeName", "Forbidden: cannot be set until all schedulingGates have been cleared"


def _container_faults(path: str, container: dict[str, Any], names: set[str]) -> Faults:
    name = container.get("name", "")
    if not metadata.is_label(name):
        yield (
            f"{path}.name",
            f"Invalid value: \"{name}\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
        )
    if name in names:
        yield f"{path}.name", f'Duplicate value: "{name}"'
    names.add(name)
    if not container.get("image"):
        yield f"{path}.image", "Required value"
    yield from resource_faults(f"{path}.resources", container.get("resources") or {})


def resource_faults(path: str, resources: dict[str, Any]) -> Faults:
    """Of a container or a pod: known names, whole extended ones, requests within limits."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for what, given in (("limits", limits), ("requests", requests)):
        for name, value in given.items():
            where = f"{path}.{what}[{name}]"
            if not metadata.is_qualified(name) or (
                "/" not in name and name not in NATIVE and not name.startswith("hugepages-")
            ):
                yield where, f'Invalid value: "{name}": must be a standard resource type or fully qualified'
            if (amount := quantity.parse(value)) < 0:
                yield where, f'Invalid value: "{value}": must be greater than or equal to 0'
            elif "/" in name and amount.denominator != 1:
                yield where, f'Invalid value: "{value}": must be an integer'
    for name, value in requests.items():
        if name in limits and quantity.parse(value) > quantity.parse(limits[name]):
            yield (
                f"{path}.requests",
                f'Invalid value: "{value}": must be less than or equal to {name} limit of {limits[name]}',
            )
        elif "/" in name and name not in limits:
            yield f"{path}.limits", "Required value: Limit must be set for non overcommitable resources"
        elif "/" in name and quantity.parse(value) != quantity.parse(limits[name]):
            yield f"{path}.requests", f'Invalid value: "{value}": must be equal to {name} limit of {limits[name]}'


def _pod_level_faults(spec: dict[str, Any]) -> Faults:
    """The containers together must fit the pod's own figures, and each container its limits."""
    whole = spec.get("resources") or {}
    for name, value in (whole.get("requests") or {}).items():
        summed = container_requests(spec).get(name, "0")
        if quantity.parse(summed) > quantity.parse(value):
            yield (
                f"spec.resources.requests[{name}]",
                f'Invalid value: "{value}": must be greater than or equal to aggregate container requests of {summed}',
            )
    for name, value in (whole.get("limits") or {}).items():
        for index, container in enumerate(spec.get("containers") or ()):
            limit = ((container.get("resources") or {}).get("limits") or {}).get(name, "0")
            if quantity.parse(limit) > quantity.parse(value):
                yield (
                    f"spec.resources.containers[{index}][{name}].limits",
                    f'Invalid value: "{limit}": must be less than or equal to pod limits of {value}',
                )


# -- what may change ------------------------------------------------------------------------------


def forbidden_changes(pod: Object, old: Object) -> Faults:
    """Of a stored pod only images, deadlines, grace, more tolerations and fewer gates may change."""
    before, after = copy.deepcopy(old["spec"]), copy.deepcopy(pod["spec"])
    was, now = ([gate["name"] for gate in spec.pop("schedulingGates", None) or ()] for spec in (before, after))
    if added := [gate for gate in now if gate not in was]:
        yield "spec.schedulingGates", f"Forbidden: only deletion is allowed, but found new scheduling gate '{added[0]}'"
    if [one for one in before.get("tolerations", []) if one not in after.get("tolerations", [])]:
        yield "spec.tolerations", "Forbidden: existing toleration can not be modified except its tolerationSeconds"
    for spec in (before, after):
        spec.pop("tolerations", None)
        spec.pop("activeDeadlineSeconds", None)
        if was:  # a gated pod may be narrowed to fewer nodes
            spec.pop("nodeSelector", None)
            spec.pop("affinity", None)
        for _, container in containers(spec):
            container.pop("image", None)
    before.pop("terminationGracePeriodSeconds", None)
    after.pop("terminationGracePeriodSeconds", None)
    if before != after:
        yield (
            "spec",
            "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        )


def resized(pod: Object, old: Object) -> Object:
    """What an in-place resize takes of a pod: the resources of its containers."""
    result = copy.deepcopy(old)
    wanted = {container.get("name"): container for _, container in containers(pod["spec"])}
    for _, container in containers(result["spec"]):
        if container["name"] in wanted:
            container["resources"] = copy.deepcopy(wanted[container["name"]].get("resources") or {})
    return result


def resize_faults(pod: Object, old: Object) -> Faults:
    """CPU and memory only, and never into another QoS class."""
    for (_, now), (_, was) in zip(containers(pod["spec"]), containers(old["spec"]), strict=True):
        for what in ("requests", "limits"):
            new, before = ((one["resources"].get(what) or {}).items() for one in (now, was))
            if {name for name, _ in new ^ before} - {"cpu", "memory"}:
                yield "spec", "Forbidden: only cpu and memory resources are mutable"
                return
    if quality(pod) != old["status"]["qosClass"]:
        yield (
            "spec",
            f'Invalid value: "{old["status"]["qosClass"]}": Pod QOS Class may not change as a result of resizing',
        )
