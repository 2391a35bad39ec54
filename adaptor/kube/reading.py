"""What people look up in the cluster: PeerPods, Pods, Events, the adaptors' logs and settings. Only reads."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from lightkube import ALL_NS, AsyncClient
from lightkube.resources import core_v1

from adaptor.kube import peerpod, seen
from adaptor.kube.client import PeerPod as Resource
from adaptor.kube.client import told
from adaptor.kube.errors import Absent
from adaptor.kube.peerpod import PeerPod

_PAGE: Final = 500  # objects of a list at a time
_COMPONENT: Final = "app.kubernetes.io/component"
SETTINGS: Final = "peerpods-config"  # ConfigMap, as the chart names it
_SETTINGS_KEY: Final = "peerpods.toml"


class Reader:
    """`system` is the namespace of the cluster's own parts of this program. Raises KubernetesError and its kinds."""

    def __init__(self, client: AsyncClient, system: str) -> None:
        self._client = client
        self._system = system

    @property
    def namespace(self) -> str:
        """The context's own."""
        return self._client.namespace or "default"

    async def peerpods(self, namespace: str | None) -> list[PeerPod]:
        """Those of a namespace; None: of all."""
        where = f"in the namespace {namespace}" if namespace else "in all namespaces"
        with told(f"list the PeerPods {where}"):
            listing = self._client.list(Resource, namespace=namespace or ALL_NS, chunk_size=_PAGE)
            return [peerpod.from_object(each) async for each in listing]

    async def pod(self, namespace: str, name: str) -> seen.Pod | None:
        """A Pod; None: there is none."""
        try:
            with told(f"read the Pod {namespace}/{name}"):
                return seen.pod((await self._client.get(core_v1.Pod, name, namespace=namespace)).to_dict())
        except Absent:
            return None

    async def pods(self, namespace: str) -> list[str]:
        """The names of a namespace's Pods."""
        with told(f"list the Pods in the namespace {namespace}"):
            listing = self._client.list(core_v1.Pod, namespace=namespace, chunk_size=_PAGE)
            return [each.metadata.name or "" async for each in listing if each.metadata]

    async def events(self, namespace: str, name: str, uid: str = "") -> tuple[seen.Happening, ...]:
        """Those about a Pod, oldest first."""
        fields: Any = {"involvedObject.kind": "Pod", "involvedObject.name": name}
        with told(f"list the events of the Pod {namespace}/{name}"):
            listing = self._client.list(core_v1.Event, namespace=namespace, fields=fields, chunk_size=_PAGE)
            return seen.happenings([each.to_dict() async for each in listing], name, uid)

    async def adaptors(self, node: str) -> Sequence[str]:
        """The names of the adaptor's Pods on a node: one, or two while it is being replaced."""
        with told(f"list the adaptor's Pods in the namespace {self._system}"):
            listing = self._client.list(
                core_v1.Pod, namespace=self._system, labels={_COMPONENT: "adaptor"}, fields={"spec.nodeName": node}
            )
            return [each.metadata.name or "" async for each in listing if each.metadata]

    async def log(self, pod: str, *, follow: bool, since: int | None, tail: int | None) -> AsyncIterator[str]:
        """The lines of an adaptor's log, without their ends."""
        doing = f"read the log of the Pod {self._system}/{pod}"
        with told(doing):
            if follow:  # a refusal of the stream itself cannot be read
                async for _ in self._client.log(pod, namespace=self._system, container="adaptor", tail_lines=1):
                    pass
            lines = self._client.log(
                pod,
                namespace=self._system,
                container="adaptor",
                follow=follow,
                since=since,
                tail_lines=tail,
                newlines=False,
            )
            async for line in lines:
                yield line

    async def run(self, pod: str, command: Sequence[str], patience: float) -> tuple[int, str, str]:
        """A command in an adaptor's Pod: its exit status, output and errors."""
        with told(f"run a command in the Pod {self._system}/{pod}"):
            done = await self._client.exec(
                pod,
                namespace=self._system,
                container="adaptor",
                command=list(command),
                stdout=True,
                stderr=True,
                timeout=patience,
            )
            return done.exit_code, str(done.stdout or ""), str(done.stderr or "")

    async def settings(self) -> str:
        """The TOML that the cluster's parts run with; empty where it is not in a ConfigMap of the chart's name."""
        try:
            with told(f"read the ConfigMap {self._system}/{SETTINGS}"):
                found = await self._client.get(core_v1.ConfigMap, SETTINGS, namespace=self._system)
        except Absent:
            return ""
        return str((found.data or {}).get(_SETTINGS_KEY, ""))
