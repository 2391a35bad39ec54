"""A pod's image pull secrets, read with no more rights than [kubernetes].pull_secrets allows, as one auth.json.

    own    the adaptor's service account: what the pod lists, then what its service account lists
    node   this node's kubelet: what the pod lists, as kubelet itself does (admission copies a service account's list
           into pods that have none); the API server shows it only secrets of pods bound to this node
    off    nothing is read

SECURITY.md says what each of them can read once a node is taken.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lightkube import AsyncClient
from lightkube.resources.core_v1 import Pod, Secret, ServiceAccount

from adaptor.clock import Clock
from adaptor.config import Kubernetes
from adaptor.errors import Unavailable
from adaptor.kube import client as api
from adaptor.kube import place
from adaptor.kube.errors import Absent, Forbidden, KubernetesError, Rejected
from adaptor.kube.registry_auth import PullSecret, merge
from adaptor.telemetry import logs

# Tries of one read, and seconds between them: a VM is bound once, and gets no secrets later. The pod waits meanwhile.
_TRIES: Final = 3
_PAUSE: Final = 1.0

log = logs.get("secrets")


class PullSecrets:
    """`client`: the adaptor's own, for pull_secrets = own."""

    def __init__(self, settings: Kubernetes, client: AsyncClient, clock: Clock) -> None:
        self._mode = settings.pull_secrets
        self._own = client
        self._kubelet = KubeletClient(settings.kubelet_kubeconfig)
        self._clock = clock

    async def auth(
        self, namespace: str, pod_name: str, pod_uid: str = "", service_account: str = ""
    ) -> tuple[bytes, list[str]]:
        """(auth.json, notes): empty bytes where the pod has none. A secret that is missing or unusable is a note for
        the pod's owner, never a failure, as with kubelet. `service_account`: empty = the pod's. Never raises."""
        if self._mode == "off":
            return b"", []
        try:
            client = self._own if self._mode == "own" else await self._kubelet.get()
            listed, notes = await self._listed(client, namespace, pod_name, pod_uid, service_account)
        except Unavailable as error:
            return b"", [f"the pod's image pull secrets are not known: {error}"]
        found = await asyncio.gather(*(self._secret(client, namespace, name) for name in listed))
        auth, unusable = merge(each for each in found if isinstance(each, PullSecret))
        notes += [each for each in found if isinstance(each, str)] + unusable
        log.info("image pull secrets read", pod=f"{namespace}/{pod_name}", count=len(listed), size=len(auth))
        return auth, notes

    async def aclose(self) -> None:
        """Let go of what was opened here."""
        await self._kubelet.aclose()

    async def _listed(
        self, client: AsyncClient, namespace: str, pod_name: str, pod_uid: str, service_account: str
    ) -> tuple[list[str], list[str]]:
        """The secrets' names in the order of their precedence, and notes. Raises KubernetesError for the pod."""
        pod = await self._get(client, Pod, namespace, pod_name)
        if pod_uid and pod.metadata.uid != pod_uid:
            raise Absent(f"the pod {namespace}/{pod_name} is another one by now")
        listed = _names(pod.spec.imagePullSecrets)
        account = service_account or pod.spec.serviceAccountName or "default"
        if self._mode != "own":
            return listed, []
        try:
            found = await self._get(client, ServiceAccount, namespace, account)
        except KubernetesError as error:
            return listed, [f"the image pull secrets of the service account {account} are not known: {error}"]
        return [*listed, *(name for name in _names(found.imagePullSecrets) if name not in listed)], []

    async def _secret(self, client: AsyncClient, namespace: str, name: str) -> PullSecret | str:
        """The secret, or why there is none."""
        try:
            found = await self._get(client, Secret, namespace, name)
        except Absent:
            return f"the image pull secret {name} does not exist in {namespace}"
        except KubernetesError as error:
            return f"the image pull secret {name} is not known: {error}"
        return PullSecret(name, found.type or "", found.data or {})

    async def _get(self, client: AsyncClient, kind: Any, namespace: str, name: str) -> Any:
        for left in reversed(range(_TRIES)):
            try:
                with api.told(f"read the {kind.__name__} {namespace}/{name}"):
                    return await client.get(kind, name, namespace=namespace)
            except (Absent, Forbidden, Rejected):
                raise
            except KubernetesError:
                if not left:
                    raise
                await self._clock.sleep(_PAUSE)
        raise AssertionError("the last try returns or raises")


class KubeletClient:
    """A client with this node's kubelet's own credentials. Kubelet renews its certificate in place: whenever a file
    has changed, a new client is opened."""

    def __init__(self, kubeconfig: str) -> None:
        self._kubeconfig = kubeconfig
        self._clients: list[AsyncClient] = []  # the one in use, and the one before it, whose calls may be under way
        self._opened_with: Sequence[Any] = ()

    async def get(self) -> AsyncClient:
        """Raises: Unavailable, saying what is missing."""
        if not self._clients or self._looked() != self._opened_with:
            self._clients.insert(0, api.connect(place.Place(kubeconfig=self._kubeconfig)))
            self._opened_with = self._looked()
            await self._close(2)
        return self._clients[0]

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._close(0)

    async def _close(self, left: int) -> None:
        while len(self._clients) > left:
            await self._clients.pop().close()

    def _looked(self) -> Sequence[Any]:
        """The kubeconfig's file, and those that the open client's certificate came from."""
        user = self._clients[0].config.user if self._clients else None
        named = (user.client_cert, user.client_key) if user is not None else ()
        base = Path(self._kubeconfig).parent
        return [_identity(base / each) for each in (self._kubeconfig, *named) if each]


def _names(references: Any) -> list[str]:
    """In order, each once; the API lets entries without a name pass."""
    return list(dict.fromkeys(each.name for each in references or () if each.name))


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Of the file behind links, as kubelet's current certificate is one."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
