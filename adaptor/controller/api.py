"""The objects of the API server that the controller touches, as plain JSON objects, and the verbs it uses on them."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from lightkube import AsyncClient
from lightkube.core.resource import ApiInfo, ResourceDef
from lightkube.generic_resource import GenericGlobalResource, GenericNamespacedResource
from lightkube.types import CascadeType, PatchType

from adaptor import names
from adaptor.kube import peerpod
from adaptor.kube.client import told

T = TypeVar("T")
Object = dict[str, Any]
Operations = Sequence[dict[str, Any]]  # a JSON patch

_VERBS: Final = ["delete", "get", "global_list", "global_watch", "list", "patch", "post", "put", "watch"]
# Objects of one answer of a list: a cluster's pods in pieces that neither side has to hold twice.
_CHUNK: Final = 500
# Seconds after which the server ends a watch; what a half-open connection hides is seen again after that.
WATCH: Final = 600


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object."""

    group: str
    version: str
    name: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`v1`, `apps/v1`."""
        return f"{self.group}/{self.version}".lstrip("/")

    def __str__(self) -> str:
        return self.name


POD: Final = Kind("", "v1", "Pod", "pods")
NODE: Final = Kind("", "v1", "Node", "nodes", namespaced=False)
NAMESPACE: Final = Kind("", "v1", "Namespace", "namespaces", namespaced=False)
SECRET: Final = Kind("", "v1", "Secret", "secrets")
CONFIG_MAP: Final = Kind("", "v1", "ConfigMap", "configmaps")
EVENT: Final = Kind("", "v1", "Event", "events")
LEASE: Final = Kind("coordination.k8s.io", "v1", "Lease", "leases")
DAEMON_SET: Final = Kind("apps", "v1", "DaemonSet", "daemonsets")
DEPLOYMENT: Final = Kind("apps", "v1", "Deployment", "deployments")
PEER_POD: Final = Kind(names.PEERPOD_GROUP, names.PEERPOD_VERSION, peerpod.KIND, names.PEERPOD_PLURAL)
_ADMISSION: Final = ("admissionregistration.k8s.io", "v1")
MUTATING: Final = Kind(*_ADMISSION, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", namespaced=False)
VALIDATING: Final = Kind(
    *_ADMISSION, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", namespaced=False
)


class Api(Protocol):
    """The API server. Raises `kube.errors` from every verb. `namespace` is empty for what has none."""

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        """Raises: Absent."""
        ...

    async def list(self, kind: Kind, keep: Callable[[Object], T | None], namespace: str = "") -> tuple[str, list[T]]:
        """(resourceVersion to watch from, what `keep` makes of each object but None); of all namespaces when none is
        given. A cluster's pods as whole objects would be hundreds of MiB: they are never held all at once."""
        ...

    def watch(self, kind: Kind, version: str) -> AsyncGenerator[tuple[str, Object], None]:
        """ADDED, MODIFIED and DELETED in all namespaces since `version`; ends at the latest after some minutes.
        Raises: Outdated when that is too long ago."""
        ...

    async def create(self, kind: Kind, made: Object) -> Object:
        """Raises: Taken."""
        ...

    async def replace(self, kind: Kind, changed: Object) -> Object:
        """Raises: Outdated when another has changed it since it was read; Absent."""
        ...

    async def patch(self, kind: Kind, name: str, operations: Operations, namespace: str = "") -> Object:
        """A JSON patch. Raises: Rejected when one of its tests fails; Absent."""
        ...

    async def delete(self, kind: Kind, name: str, namespace: str = "", *, foreground: bool = False) -> None:
        """`foreground`: the object stays until what it owns is gone. Raises: Absent."""
        ...


class ServerApi:
    """`Api` over lightkube."""

    def __init__(self, client: AsyncClient) -> None:
        self._client: Any = client  # its overloads tell global from namespaced kinds, which is data here

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        with told(f"read the {kind} {_path(name, namespace)}"):
            return _plain(await self._client.get(_CLASSES[kind], name, **_in(kind, namespace)))

    async def list(self, kind: Kind, keep: Callable[[Object], T | None], namespace: str = "") -> tuple[str, list[T]]:
        with told(f"list {kind.plural}"):
            asked = self._client.list(_CLASSES[kind], chunk_size=_CHUNK, **_in(kind, namespace or "*"))
            found = [kept async for each in asked if (kept := keep(_plain(each))) is not None]
            return str(asked.resourceVersion), found

    async def watch(self, kind: Kind, version: str) -> AsyncGenerator[tuple[str, Object], None]:
        asked = self._client.watch(_CLASSES[kind], resource_version=version, server_timeout=WATCH, **_in(kind, "*"))
        with told(f"watch {kind.plural}"):
            async for event, found in asked:
                yield str(event), _plain(found)

    async def create(self, kind: Kind, made: Object) -> Object:
        metadata = made["metadata"]
        with told(f"create the {kind} {_path(metadata['name'], metadata.get('namespace', ''))}"):
            return _plain(await self._client.create(_CLASSES[kind](made), **_in(kind, metadata.get("namespace", ""))))

    async def replace(self, kind: Kind, changed: Object) -> Object:
        metadata = changed["metadata"]
        with told(f"write the {kind} {_path(metadata['name'], metadata.get('namespace', ''))}"):
            where = _in(kind, metadata.get("namespace", ""))
            return _plain(await self._client.replace(_CLASSES[kind](changed), **where))

    async def patch(self, kind: Kind, name: str, operations: Operations, namespace: str = "") -> Object:
        with told(f"change the {kind} {_path(name, namespace)}"):
            where = _in(kind, namespace)
            patched = await self._client.patch(
                _CLASSES[kind], name, list(operations), patch_type=PatchType.JSON, **where
            )
            return _plain(patched)

    async def delete(self, kind: Kind, name: str, namespace: str = "", *, foreground: bool = False) -> None:
        cascade = CascadeType.FOREGROUND if foreground else CascadeType.BACKGROUND
        with told(f"delete the {kind} {_path(name, namespace)}"):
            await self._client.delete(_CLASSES[kind], name, cascade=cascade, **_in(kind, namespace))


def pointer(*parts: str | int) -> str:
    """A JSON pointer: `/metadata/annotations/kata.peerpods.io~1size`."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def _in(kind: Kind, namespace: str) -> dict[str, str]:
    return {"namespace": namespace} if kind.namespaced else {}


def _path(name: str, namespace: str) -> str:
    return f"{namespace}/{name}".lstrip("/")


def _plain(found: Any) -> Object:
    return dict(found)


def _class(kind: Kind) -> Any:
    # Not lightkube's typed models: objects are read by pure functions over JSON, as PeerPods are, and what a newer
    # server adds must come back as it was when an object is replaced.
    base = GenericNamespacedResource if kind.namespaced else GenericGlobalResource
    info = ApiInfo(resource=ResourceDef(kind.group, kind.version, kind.name), plural=kind.plural, verbs=_VERBS)
    return type(kind.name, (base,), {"_api_info": info})


_CLASSES: Final = {
    kind: _class(kind)
    for kind in (
        POD,
        NODE,
        NAMESPACE,
        SECRET,
        CONFIG_MAP,
        EVENT,
        LEASE,
        DAEMON_SET,
        DEPLOYMENT,
        PEER_POD,
        MUTATING,
        VALIDATING,
    )
}
