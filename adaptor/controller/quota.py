"""Lifts the quota's gate from pods for which there is room, and tells the others what they wait for.

Decided from one view of all pods: the mirror's, and what was lifted since. A new leader begins with a list of its own,
in which every lift of the last one shows.
"""

import asyncio
import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from adaptor import names
from adaptor.clock import Clock
from adaptor.config import Quota
from adaptor.controller import gates
from adaptor.controller.api import POD, Api, Object
from adaptor.controller.gates import Amount, Held, Limits, PodFacts
from adaptor.controller.mirror import Mirror
from adaptor.controller.voice import About, Voice
from adaptor.kube.errors import Absent, KubernetesError, Rejected
from adaptor.telemetry import logs, metrics
from providers.base import Provider
from providers.errors import ProviderError

# Seconds. Pods come in bursts: one decision for those of this long. And a look without any news, for turns change.
_BURST: Final = 0.2
_LOOK: Final = 30.0
# Gates lifted at once.
_AT_ONCE: Final = 16
# Seconds after which a pod is told again what it waits for, with figures of now.
_AGAIN: Final = 300.0

log = logs.get("controller.quota")


class Gatekeeper:
    """One per leader; somebody else keeps the mirrors. `namespaces` holds the annotations of those that have one."""

    def __init__(
        self,
        api: Api,
        pods: Mirror[PodFacts],
        namespaces: Mirror[str],
        settings: Quota,
        voice: Voice,
        clock: Clock,
        provider: Provider,
    ) -> None:
        self._api = api
        self._pods = pods
        self._namespaces = namespaces
        self._cluster = gates.limits(settings.cluster)
        self._each = gates.limits(settings.namespace)
        self._voice = voice
        self._clock = clock
        self._provider = provider
        self._default: Amount = {}  # of a pod that asks for no size
        self._lifting: dict[str, PodFacts] = {}  # decided, and not seen without the gate yet; by uid
        self._told: dict[str, tuple[str, float]] = {}  # uid: of what cause, and when
        self._bad: dict[str, str] = {}  # namespace: the annotation that was complained about
        self._news = asyncio.Event()
        for mirror in (pods, namespaces):
            mirror.listen(lambda _: self._news.set())

    async def run(self) -> None:
        """For ever."""
        await self._pods.synced.wait()
        await self._namespaces.synced.wait()
        while True:
            self._news.clear()
            await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._news.wait()
            await self._clock.sleep(_BURST)

    async def look(self) -> None:
        """Decide anew, and carry it out."""
        if not any(pod.gated for pod in self._pods.items.values()):
            self._lifting, self._told = {}, {}
            metrics.QUOTA_HELD.set(0)
            return
        await self._learn_default()
        pods = [gates.like_default(pod, self._default) for pod in self._pods.items.values()]
        gated = {pod.uid: pod for pod in pods if pod.gated}
        self._lifting = {uid: pod for uid, pod in self._lifting.items() if uid in gated}
        decision = gates.decide(
            pods,
            self._cluster,
            self._limits({pod.namespace for pod in pods}),
            lifted=self._lifting.keys(),
            waited={uid: self._waited(pod) for uid, pod in gated.items()},
        )
        self._lifting |= {pod.uid: pod for pod in decision.lift}
        metrics.QUOTA_HELD.set(len(decision.held))
        self._told = {uid: told for uid, told in self._told.items() if uid in decision.held}
        for uid, held in decision.held.items():
            self._tell(gated[uid], held)
        slots = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            for pod in list(self._lifting.values()):  # those of an earlier look too, whose answer was lost
                tasks.create_task(self._lift(pod, slots))

    async def _lift(self, pod: PodFacts, slots: asyncio.Semaphore) -> None:
        async with slots:
            try:
                found = await self._api.get(POD, pod.name, pod.namespace)
                operations = _without_gate(found, pod.uid)
                if operations:
                    await self._api.patch(POD, pod.name, operations, pod.namespace)
                    metrics.QUOTA_LIFTED.inc()
                    log.info("a pod may start", pod=f"{pod.namespace}/{pod.name}")
            except Absent:
                return  # the mirror shows it in a moment
            except Rejected as error:
                log.info("a gate is not lifted yet", pod=f"{pod.namespace}/{pod.name}", error=str(error))
            except KubernetesError as error:
                log.warning("a gate cannot be lifted yet", pod=f"{pod.namespace}/{pod.name}", error=str(error))

    async def _learn_default(self) -> None:
        """Once: what a pod gets that asks for nothing. While the cloud does not tell, such a pod counts as one pod."""
        if self._default or not any("vcpus" in each or "memory-gib" in each for each in self._all_limits()):
            return
        try:
            offerings = await self._provider.offerings()
        except ProviderError as error:
            log.warning("cannot find out what a pod gets that asks for no size", error=str(error))
            return
        if offerings:
            first = offerings[0]
            self._default = {"vcpus": first.vcpus, "memory-gib": first.memory_mib, "gpus": first.gpus}

    def _all_limits(self) -> Iterator[str]:
        yield from (*self._cluster, *self._each)
        yield from self._namespaces.items.values()

    def _limits(self, wanted: set[str]) -> Mapping[str, Limits]:
        found: dict[str, Limits] = {}
        for namespace in wanted:
            found[namespace] = self._each
            if (text := self._namespaces.items.get(namespace)) is None:
                self._bad.pop(namespace, None)
                continue
            try:
                found[namespace] = gates.annotated(text)
                self._bad.pop(namespace, None)
            except ValueError as error:
                self._complain(namespace, text, error)
        return found

    def _complain(self, namespace: str, text: str, error: ValueError) -> None:
        if self._bad.get(namespace) == text:
            return
        self._bad[namespace] = text
        said = f"the annotation {names.QUOTA} {error}, so [quota] namespace of the controller's settings counts. It may be like pods=10,vcpus=40,memory-gib=160,gpus=2"
        log.warning("a namespace's quota cannot be used", namespace=namespace, error=str(error))
        self._voice.say(About("v1", "Namespace", "", namespace, ""), "QuotaUnusable", said, warning=True)

    def _tell(self, pod: PodFacts, held: Held) -> None:
        cause, at = self._told.get(pod.uid, ("", 0.0))
        if cause == held.cause and self._clock.now() - at < _AGAIN:
            return
        self._told[pod.uid] = (held.cause, self._clock.now())
        self._voice.say(
            About("v1", "Pod", pod.namespace, pod.name, pod.uid), "QuotaExceeded", held.message, warning=True
        )

    def _waited(self, pod: PodFacts) -> float:
        with suppress(ValueError):
            return max(0.0, self._clock.wall() - dt.datetime.fromisoformat(pod.created).timestamp())
        return 0.0


def annotation(namespace: Object) -> str | None:
    """The quota annotation of a Namespace object."""
    found: Any = (namespace["metadata"].get("annotations") or {}).get(names.QUOTA)
    return found if isinstance(found, str) else None


def _without_gate(pod: Object, uid: str) -> list[dict[str, Any]]:
    """The patch that takes our gate from this very pod; empty where there is none."""
    standing = (pod.get("spec") or {}).get("schedulingGates") or []
    place = next((index for index, gate in enumerate(standing) if gate.get("name") == names.QUOTA), None)
    if place is None or pod["metadata"].get("uid") != uid:
        return []
    path = f"/spec/schedulingGates/{place}"
    return [
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "test", "path": f"{path}/name", "value": names.QUOTA},
        {"op": "remove", "path": path},
    ]


async def lift_all(api: Api) -> int:
    """Take the gate from every pod that has it: at the end of all this. How many. Raises: KubernetesError."""

    def gated(pod: Object) -> tuple[str, str, list[dict[str, Any]]] | None:
        metadata = pod["metadata"]
        operations = _without_gate(pod, metadata["uid"])
        return (metadata["name"], metadata["namespace"], operations) if operations else None

    _, pods = await api.list(POD, gated)
    count = 0
    for name, namespace, operations in pods:
        with suppress(Absent):
            await api.patch(POD, name, operations, namespace)
            count += 1
    return count
