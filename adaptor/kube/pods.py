"""What Kubernetes says of the pods whose sandboxes are made here: one read for each, started at CreateVM."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from lightkube import AsyncClient
from lightkube.resources.core_v1 import Pod

from adaptor.clock import Clock
from adaptor.kube.client import told
from adaptor.kube.errors import Absent, Forbidden, KubernetesError
from adaptor.sandbox.model import SandboxSpec
from adaptor.telemetry import logs

# On a static pod's mirror: the uid that kubelet and the runtime know it by.
_MIRROR: Final = "kubernetes.io/config.mirror"
# Seconds by which the API server's clock may be ahead of ours.
_SKEW: Final = 60.0
# Seconds between tries.
_PAUSES: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

log = logs.get("kube.pods")


@dataclass(frozen=True, slots=True)
class PodFacts:
    """`uid`: the object's, which owners are named by; empty: nobody can tell."""

    uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


UNKNOWN: Final = PodFacts()


def facts(pod: Pod, spec: SandboxSpec, node: str, made: float) -> PodFacts:
    """What the pod of that name says, if it is this sandbox's: a StatefulSet's next pod has the same name.

    `node`: this one. `made`: when the sandbox was, in seconds since the epoch.
    """
    metadata = pod.metadata
    if metadata is None or not metadata.uid:
        return UNKNOWN
    if spec.pod_uid:
        same = spec.pod_uid in (metadata.uid, (metadata.annotations or {}).get(_MIRROR))
    else:
        born = metadata.creationTimestamp.timestamp() if metadata.creationTimestamp else 0.0
        same = bool(pod.spec and pod.spec.nodeName == node) and born <= made + _SKEW
    return PodFacts(metadata.uid, dict(metadata.labels or {})) if same else UNKNOWN


class Pods:
    """A task per sandbox until the pod was read."""

    def __init__(self, client: AsyncClient, node: str, clock: Clock) -> None:
        self._client = client
        self._node = node
        self._clock = clock
        self._reads: dict[str, asyncio.Task[PodFacts]] = {}

    def read(self, spec: SandboxSpec, made: float | None = None) -> "asyncio.Task[PodFacts]":
        """The read of this sandbox's pod, begun by the first who asks; it raises nothing. `made`: as for `facts`."""
        task = self._reads.get(spec.id)
        if task is None:
            task = self._reads[spec.id] = asyncio.create_task(
                self._read(spec, self._clock.wall() if made is None else made), name="read-pod"
            )
        return task

    def known(self, sandbox: str) -> PodFacts:
        """What was read by now."""
        task = self._reads.get(sandbox)
        return task.result() if task is not None and task.done() and not task.cancelled() else UNKNOWN

    def forget(self, sandbox: str) -> None:
        if task := self._reads.pop(sandbox, None):
            task.cancel()

    async def aclose(self) -> None:
        tasks = list(self._reads.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, spec: SandboxSpec, made: float) -> PodFacts:
        for pause in (*_PAUSES, None):
            try:
                with told(f"read the pod {spec.pod}"):
                    pod = await self._client.get(Pod, spec.pod_name, namespace=spec.pod_namespace)
                    return facts(pod, spec, self._node, made)
            except Absent:
                return UNKNOWN
            except KubernetesError as error:
                if pause is None or isinstance(error, Forbidden):
                    log.warning(
                        "a pod is not known here: its PeerPod will have no owner", pod=spec.pod, error=str(error)
                    )
                    return UNKNOWN
                await self._clock.sleep(pause)
        return UNKNOWN
