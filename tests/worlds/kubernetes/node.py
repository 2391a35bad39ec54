"""A played scheduler, and kubelets that advertise, admit, run and end pods by the rules found on a real one."""

import abc
import asyncio
import contextlib
import copy
from fractions import Fraction
from typing import Any, Final, Protocol

from tests.worlds.kubernetes import pods, quantity
from tests.worlds.kubernetes.access import User
from tests.worlds.kubernetes.refusals import Refusal
from tests.worlds.kubernetes.store import Event, Object
from tests.worlds.kubernetes.world import World

_ENDED: Final = ("Succeeded", "Failed")
_SCHEDULER: Final = User("system:kube-scheduler", ("system:masters",))
_STRATEGIC: Final = "application/strategic-merge-patch+json"


class _Loop(abc.ABC):
    """Runs `_turn` after every change of a pod or node, and every `period` seconds."""

    period = 1.0

    def __init__(self, world: World) -> None:
        self.world = world
        self._task: asyncio.Task[None] | None = None
        self._news, self._idle = asyncio.Event(), asyncio.Event()
        world.store.listeners.append(self._noticed)

    def _noticed(self, event: Event) -> None:
        if event.kind.plural in ("pods", "nodes"):
            self._news.set()

    async def start(self) -> None:
        self._news.set()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.period):
                    await self._news.wait()
            self._news.clear()
            await self._turn()
            if not self._news.is_set():
                self._idle.set()

    async def settled(self) -> None:
        """Until it has done all that there was to do."""
        self._idle.clear()
        self._news.set()
        async with asyncio.timeout(30):  # it has died of an error, which `stop` raises
            await self._idle.wait()

    @abc.abstractmethod
    async def _turn(self) -> None: ...

    def _all(self, plural: str) -> list[Object]:
        kind = self.world.kinds.at("", "v1", plural)
        assert kind is not None
        return [stored.object for stored in self.world.store.all(kind)]

    async def _status(self, obj: Object, status: Object, user: User, manager: str) -> None:
        """A strategic merge of the status; what another has deleted meanwhile is let go."""
        kind, meta = self.world.kind(obj["apiVersion"], obj["kind"]), obj["metadata"]
        with contextlib.suppress(Refusal):
            await self.world.api.direct(
                "patch", kind, meta.get("namespace", ""), meta["name"], {"status": status},
                subresource="status", content_type=_STRATEGIC, user=user, query={"fieldManager": manager},
            )  # fmt: skip


class Scheduler(_Loop):
    """Binds pods without gates to the first node that they fit."""

    async def _turn(self) -> None:
        for pod in self._all("pods"):
            spec = pod["spec"]
            ours = spec["schedulerName"] == "default-scheduler" and not spec.get("nodeName")
            if ours and not spec.get("schedulingGates") and not pod["metadata"].get("deletionTimestamp"):
                await self._place(pod)

    async def _place(self, pod: Object) -> None:
        reasons: dict[str, int] = {}
        nodes = self._all("nodes")
        for node in nodes:
            why = self._obstacle(pod, node)
            if not why:
                await self._bind(pod, node["metadata"]["name"])
                return
            reasons[why] = reasons.get(why, 0) + 1
        listed = ", ".join(f"{count} {why}" for why, count in sorted(reasons.items()))
        message = f"0/{len(nodes)} nodes are available: {listed}." if nodes else "no nodes available to schedule pods"
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        held = [one for one in pod["status"].get("conditions", ()) if one["type"] == "PodScheduled"]
        if not held or held[0].get("message") != message:
            await self._status(pod, {"conditions": [condition]}, _SCHEDULER, "kube-scheduler")

    async def _bind(self, pod: Object, node: str) -> None:
        kind, meta = self.world.kind("v1", "Pod"), pod["metadata"]
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": meta["name"]}, "target": {"name": node}}
        with contextlib.suppress(Refusal):
            await self.world.api.direct(
                "create", kind, meta["namespace"], meta["name"], body, subresource="binding", user=_SCHEDULER
            )

    def _obstacle(self, pod: Object, node: Object) -> str:
        """Why not there; empty where it fits."""
        spec, labels = node.get("spec") or {}, node["metadata"].get("labels") or {}
        if spec.get("unschedulable"):
            return "node(s) were unschedulable"
        if any(labels.get(key) != value for key, value in (pod["spec"].get("nodeSelector") or {}).items()):
            return "node(s) didn't match Pod's node affinity/selector"
        for taint in spec.get("taints") or ():
            if taint["effect"] != "PreferNoSchedule" and not any(
                _tolerates(one, taint) for one in pod["spec"].get("tolerations") or ()
            ):
                return f"node(s) had untolerated taint(s) {{{taint['key']}: {taint.get('value', '')}}}"
        room = (node.get("status") or {}).get("allocatable") or {}
        taken = quantity.add(*(asked(one) for one in self._all("pods") if _counts(one, node["metadata"]["name"])))
        for name, value in asked(pod).items():
            if quantity.parse(value) + _figure(taken, name) > _figure(room, name):
                return "Too many pods" if name == "pods" else f"Insufficient {name}"
        return ""


def asked(pod: Object) -> dict[str, str]:
    """What a pod takes of a node, its place among the pods included; what is 0 is not asked."""
    return {name: value for name, value in pods.asked(pod).items() if quantity.parse(value)} | {"pods": "1"}


def _figure(resources: dict[str, str], name: str) -> Fraction:
    return quantity.parse(resources.get(name, "0"))


def _counts(pod: Object, node: str) -> bool:
    return pod["spec"].get("nodeName") == node and pod["status"].get("phase") not in _ENDED


def _tolerates(toleration: dict[str, Any], taint: dict[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return (toleration.get("key"), toleration.get("value", "")) == (taint["key"], taint.get("value", ""))


class Devices(Protocol):
    """A device manager with one plugin's resource: `devices` by id to health, None before a Register."""

    devices: dict[str, str] | None

    @property
    def healthy(self) -> int: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class Kubelet(_Loop):
    """Of one node, which it registers. `sync_period`: seconds between two copies of capacity to allocatable (a real
    one takes up to 10); `devices` advertise `resource`."""

    def __init__(
        self,
        world: World,
        name: str,
        capacity: dict[str, str] | None = None,
        *,
        devices: Devices | None = None,
        resource: str = "kata.peerpods.io/vm",
        sync_period: float = 0.05,
    ) -> None:
        super().__init__(world)
        self.name, self.period, self.devices, self.resource = name, sync_period, devices, resource
        self.capacity = {"cpu": "8", "memory": "16Gi", "pods": "110", **(capacity or {})}
        self.user = User(f"system:node:{name}", ("system:nodes", "system:masters"))
        self._seen: set[str] = set()  # uids of pods that this kubelet has admitted
        self._had_devices = False

    async def start(self) -> None:
        kind = self.world.kind("v1", "Node")
        if self.world.get(kind, "", self.name) is None:
            labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"}
            await self.world.create(
                {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": labels}}
            )
            conditions = [self._condition("Ready", "KubeletReady")]
            figures = {"capacity": self.capacity, "allocatable": self.capacity, "conditions": conditions}
            await self._status(self._node(), figures, self.user, "kubelet")
        if self.devices is not None:
            await self.devices.start()
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        if self.devices is not None:
            await self.devices.stop()

    async def restart(self) -> None:
        """Forgets devices and whom it had admitted: every pod on the node must fit again, by what the status says."""
        await self.stop()
        self._seen.clear()
        await self.start()
        await self.settled()

    def _condition(self, type: str, reason: str) -> Object:
        return {
            "type": type,
            "status": "True",
            "reason": reason,
            "message": "played",
            "lastTransitionTime": self.world.api.core.now(),
        }

    def _node(self) -> Object:
        node = self.world.get(self.world.kind("v1", "Node"), "", self.name)
        if node is None:
            raise LookupError(f"somebody has deleted the node {self.name}")
        return node

    # -- the loop ---------------------------------------------------------------------------------

    async def _turn(self) -> None:
        if self.world.get(self.world.kind("v1", "Node"), "", self.name) is None:
            return  # somebody has deleted it
        await self._advertise()
        mine = [pod for pod in self._all("pods") if pod["spec"].get("nodeName") == self.name]
        for pod in sorted(mine, key=lambda pod: pod["metadata"]["creationTimestamp"]):
            if pod["metadata"].get("deletionTimestamp"):
                await self._end(pod)
            elif pod["metadata"]["uid"] not in self._seen and pod["status"].get("phase") not in _ENDED:
                await self._admit(pod)

    async def _advertise(self) -> None:
        """The status loop: capacity becomes allocatable; device plugins' figures are the kubelet's own."""
        node = self._node()
        status = node.get("status") or {}
        capacity = dict(status.get("capacity") or {})
        allocatable = dict(capacity)
        if self.devices is not None and (self.devices.devices is not None or self._had_devices):
            self._had_devices = True  # its checkpoint: a kubelet that starts again knows the resource, but no device
            capacity[self.resource] = str(len(self.devices.devices or ()))
            allocatable[self.resource] = str(self.devices.healthy)
        if (capacity, allocatable) == (status.get("capacity"), status.get("allocatable")):
            return
        gone = dict.fromkeys((status.get("allocatable") or {}).keys() - allocatable.keys())
        figures = {"capacity": capacity, "allocatable": allocatable | gone}
        await self._status(node, figures, self.user, "kubelet")

    # -- pods -------------------------------------------------------------------------------------

    async def _admit(self, pod: Object) -> None:
        self._seen.add(pod["metadata"]["uid"])
        lacking = self._lacking(pod)
        if lacking:
            name, wanted, used, has = lacking
            message = f"Pod was rejected: Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {has}"
            await self._status(
                pod, {"phase": "Failed", "reason": f"OutOf{name}", "message": message}, self.user, "kubelet"
            )
            return
        if pod["status"].get("phase") == "Running":
            return
        now = self.world.api.core.now()
        conditions = [self._condition(one, "") for one in ("Initialized", "ContainersReady", "Ready", "PodScheduled")]
        running = [
            {
                "name": one["name"],
                "image": one["image"],
                "imageID": one["image"],
                "ready": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for one in pod["spec"]["containers"]
        ]
        status = {
            "phase": "Running",
            "startTime": now,
            "hostIP": "127.0.0.1",
            "podIP": "10.88.0.2",
            "conditions": [
                {key: value for key, value in one.items() if key not in ("reason", "message")} for one in conditions
            ],
            "containerStatuses": running,
        }
        await self._status(pod, status, self.user, "kubelet")

    def _lacking(self, pod: Object) -> tuple[str, ...] | None:
        """The first resource that does not fit: an unknown extended one of a container is ignored, one of the overhead
        is not; what devices a container already holds, it may keep."""
        room = dict((self._node().get("status") or {}).get("allocatable") or {})
        others = [one for one in self._all("pods") if _counts(one, self.name) and self._before(one, pod)]
        if self.devices is not None:
            held = sum(
                (_figure(pods.container_requests(one["spec"]), self.resource) for one in (*others, pod)), Fraction(0)
            )
            if pod["status"].get("phase") == "Running":
                room[self.resource] = quantity.form(max(held, _figure(room, self.resource)))
        taken = quantity.add(*(self._known(one, room) for one in others))
        for name, value in self._known(pod, room).items():
            if quantity.parse(value) + _figure(taken, name) > _figure(room, name):
                return name, value, taken.get(name, "0"), room.get(name, "0")
        return None

    def _before(self, one: Object, pod: Object) -> bool:
        """Those admitted already."""
        return one["metadata"]["uid"] != pod["metadata"]["uid"] and one["metadata"]["uid"] in self._seen

    @staticmethod
    def _known(pod: Object, room: dict[str, str]) -> dict[str, str]:
        pod = copy.deepcopy(pod)
        for _, container in pods.containers(pod["spec"]):
            for figures in (container.get("resources") or {}).values():
                for name in [name for name in figures if "/" in name and name not in room]:
                    del figures[name]
        return asked(pod)

    async def _end(self, pod: Object) -> None:
        """Containers have stopped: the object may go."""
        kind, meta = self.world.kind("v1", "Pod"), pod["metadata"]
        if not meta.get("deletionGracePeriodSeconds"):
            return  # something else holds it
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        with contextlib.suppress(Refusal):
            await self.world.api.direct("delete", kind, meta["namespace"], meta["name"], options, user=self.user)

    async def die(self) -> None:
        """The machine is gone: nothing runs, and the node's controller calls it unreachable."""
        await self.stop()
        unknown = {
            "type": "Ready",
            "status": "Unknown",
            "reason": "NodeStatusUnknown",
            "message": "Kubelet stopped posting node status.",
        }
        await self._status(self._node(), {"conditions": [unknown]}, self.user, "kube-controller-manager")
