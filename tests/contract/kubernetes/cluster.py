"""What a contract test may ask of a cluster, and what both kinds of cluster share."""

import asyncio
import base64
import functools
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx2
import msgspec
import yaml
from lightkube import ApiError, AsyncClient, KubeConfig
from lightkube.models.authentication_v1 import BoundObjectReference, TokenRequestSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Namespace, Node, Pod, ServiceAccount, ServiceAccountToken

from adaptor import names
from tests.contract.kubernetes.hooks import Handler, Served, serve

CRD = Path(__file__).parents[3] / "manifests" / "peerpods" / "crds" / "peerpods.yaml"
PEERPODS = "/apis/confidentialcontainers.org/v1alpha1"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
VM = names.VM_RESOURCE
HOLD = "peerpods.io/test"  # a finalizer that no controller of ours, should one run there, takes off
Json = dict[str, Any]


class Cluster(ABC):
    """A cluster with the PeerPod CRD, and a namespace of this test's own.

    `worker` is a node with a kubelet; nodes made by `node` have none (pods bound to them stay as they are).
    """

    real: bool
    patience: float  # seconds that `until` waits by default
    pause: float  # seconds between two looks

    def __init__(self, folder: Path) -> None:
        self.namespace = ""
        self.worker = ""
        self.admin: AsyncClient
        self._folder = folder
        self._clients: list[AsyncClient] = []
        self._made: list[str] = []  # paths of what lies outside the namespaces
        self._served: list[Served] = []

    # -- clients ----------------------------------------------------------------------------------

    @abstractmethod
    def kubeconfig_of(self, token: str, namespace: str) -> Path:
        """A kubeconfig for whoever holds the token."""

    async def kubeconfig(self, service_account: str, *, namespace: str = "", pod: str = "") -> Path:
        """Of a service account (made if it is missing); bound to a pod, its token names the pod's node."""
        return self.kubeconfig_of(
            await self.token(service_account, namespace=namespace, pod=pod), namespace or self.namespace
        )

    async def client(self, service_account: str, *, namespace: str = "", pod: str = "") -> AsyncClient:
        """The same, as a lightkube client that is closed at the end."""
        path = await self.kubeconfig(service_account, namespace=namespace, pod=pod)
        client = AsyncClient(KubeConfig.from_file(path), namespace=namespace or self.namespace)
        self._clients.append(client)
        return client

    async def token(self, service_account: str, *, namespace: str = "", pod: str = "") -> str:
        namespace = namespace or self.namespace
        try:
            await self.admin.create(ServiceAccount(metadata=ObjectMeta(name=service_account, namespace=namespace)))
        except ApiError as error:
            if error.status.reason != "AlreadyExists":
                raise
        bound = BoundObjectReference(apiVersion="v1", kind="Pod", name=pod) if pod else None
        spec = TokenRequestSpec(audiences=[], boundObjectRef=bound, expirationSeconds=3600)
        request = ServiceAccountToken(metadata=ObjectMeta(), spec=spec)
        answer = await self.admin.create(request, service_account, namespace=namespace)
        assert answer.status is not None
        assert answer.status.token
        return answer.status.token

    async def grant(
        self, service_account: str, rules: Sequence[Mapping[str, Any]], *, namespace: str = "", everywhere: bool = False
    ) -> None:
        """Gives a service account these RBAC rules, in its namespace or everywhere."""
        namespace = namespace or self.namespace
        name, group = f"{service_account}-{secrets.token_hex(3)}", "rbac.authorization.k8s.io"
        kind = "ClusterRole" if everywhere else "Role"
        where = f"/apis/{group}/v1" + ("" if everywhere else f"/namespaces/{namespace}")
        head = {"apiVersion": f"{group}/v1", "metadata": {"name": name}}
        subject = {"kind": "ServiceAccount", "name": service_account, "namespace": namespace}
        ref = {"apiGroup": group, "kind": kind, "name": name}
        await self.make(f"{where}/{kind.lower()}s", head | {"kind": kind, "rules": list(rules)})
        await self.make(
            f"{where}/{kind.lower()}bindings", head | {"kind": f"{kind}Binding", "roleRef": ref, "subjects": [subject]}
        )

    # -- anything by its path ---------------------------------------------------------------------

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        client: AsyncClient | None = None,
        content_type: str = "application/json",
        **query: str,
    ) -> httpx2.Response:
        """A bare request with the client's credentials; what lightkube has no way to say."""
        http: httpx2.AsyncClient = (client or self.admin)._client._client
        data = msgspec.json.encode(body) if body is not None else None
        return await http.request(method, path, content=data, params=query, headers={"Content-Type": content_type})

    async def sure(self, method: str, path: str, body: Any = None, **more: Any) -> Json:
        """`ask` where anything but success fails the test."""
        answer = await self.ask(method, path, body, **more)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        found: Json = answer.json()
        return found

    async def make(self, path: str, obj: Mapping[str, Any]) -> Json:
        """POSTs an object; it is deleted at the end if no namespace of ours takes it along."""
        made = await self.sure("POST", path, obj)
        if "/namespaces/" not in path:
            self._made.append(f"{path}/{made['metadata']['name']}")
        return made

    def here(self, resource: str, name: str = "", *, api: str = "/api/v1", namespace: str = "") -> str:
        """The path of a resource in this test's namespace, e.g. here("peerpods", "a", api=PEERPODS)."""
        return f"{api}/namespaces/{namespace or self.namespace}/{resource}" + (f"/{name}" if name else "")

    # -- objects ----------------------------------------------------------------------------------

    def name(self, stem: str) -> str:
        """A name that no other test has, for what lies outside the namespace."""
        return f"peerpods-test-{stem}-{secrets.token_hex(4)}"

    async def new_namespace(
        self, labels: Mapping[str, str] | None = None, annotations: Mapping[str, str] | None = None
    ) -> str:
        """Another namespace, ready for pods."""
        name = self.name("ns")
        meta = ObjectMeta(name=name, labels=dict(labels or {}), annotations=dict(annotations or {}))
        await self.admin.create(Namespace(metadata=meta))
        self._made.append(f"/api/v1/namespaces/{name}")
        await self.until(lambda: self._there(self.here("serviceaccounts", "default", namespace=name)))
        return name

    async def _there(self, path: str) -> bool:
        return (await self.ask("GET", path)).status_code == 200

    def pod_object(
        self,
        name: str = "",
        *,
        requests: Mapping[str, str] | None = None,
        limits: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **spec: Any,
    ) -> Json:
        """A pod as a dict: one container "c" that would sleep; `spec` is laid over."""
        resources = {key: dict(value) for key, value in (("requests", requests), ("limits", limits)) if value}
        container = {
            "name": "c",
            "image": "docker.io/lab/busybox:1",
            "imagePullPolicy": "Never",
            "command": ["/bin/busybox", "sleep", "3600"],
            "resources": resources,
        }
        meta = {"name": name or f"pod-{secrets.token_hex(3)}", "namespace": self.namespace, **(metadata or {})}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": meta,
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 1, **spec},
        }

    async def pod(self, name: str = "", **more: Any) -> Pod:
        """Creates what `pod_object` describes."""
        return await self.admin.create(msgspec.convert(self.pod_object(name, **more), Pod))

    async def unscheduled(self, name: str = "", **more: Any) -> Pod:
        """A pod that no node will take: it stays as it is, and goes at once when deleted."""
        return await self.pod(name, nodeSelector={"peerpods.io/no-such-node": "true"}, **more)

    async def node(self, capacity: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None) -> str:
        """A ready node without a kubelet: nothing copies its capacity, so allocatable is set with it."""
        name = self.name("node")
        figures = {"cpu": "8", "memory": "16Gi", "pods": "110", **(capacity or {})}
        taint = {"key": "peerpods.io/test", "value": name, "effect": "NoSchedule"}  # strangers' pods stay away
        meta = {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}}
        await self.make(
            "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {"taints": [taint]}}
        )
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "played"}
        status = {"capacity": figures, "allocatable": figures, "conditions": [ready]}
        await self.sure("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, content_type=MERGE)
        return name

    def on(self, node: str) -> Json:
        """For `pod`: it goes to this node of `node`, if there is room."""
        toleration = {"key": "peerpods.io/test", "operator": "Exists"}
        return {"nodeSelector": {"kubernetes.io/hostname": node}, "tolerations": [toleration]}

    async def runtime_class(self, handler: str = "kata-remote", **fields: Any) -> str:
        """A RuntimeClass with a name of this test's own."""
        name = self.name("rc")
        head = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": handler}
        await self.make("/apis/node.k8s.io/v1/runtimeclasses", head | fields)
        return name

    async def peerpod(self, name: str, spec: Mapping[str, Any] | None = None, **metadata: Any) -> Json:
        body = {
            "apiVersion": "confidentialcontainers.org/v1alpha1",
            "kind": "PeerPod",
            "metadata": {"name": name, **metadata},
            "spec": dict(spec or {}),
        }
        return await self.make(self.here("peerpods", api=PEERPODS), body)

    async def config_map(self, name: str, **metadata: Any) -> Json:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": {"a": "1"}}
        return await self.make(self.here("configmaps"), body)

    # -- webhooks ---------------------------------------------------------------------------------

    async def serve(self, handler: Handler) -> Served:
        """Serves AdmissionReviews over TLS where the API server can reach it. `served.ca_bundle`, `served.url`."""
        served = await serve(handler)
        self._served.append(served)
        return served

    async def hook(
        self, served: Served, *, trial: Json | None = None, validating: bool = False, path: str = "/", **fields: Any
    ) -> str:
        """Registers it for pods of this namespace; returns once the API server calls it.

        `fields` are laid over the webhook entry; `trial` is a pod that matches (sent as dry-run until it is seen).
        """
        name, sort = self.name("hook"), "Validating" if validating else "Mutating"
        rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
        ours = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [self.namespace]}
        webhook = {
            "name": f"{name}.peerpods.io",
            "clientConfig": {"url": served.url + path, "caBundle": base64.b64encode(served.ca_bundle).decode()},
            "rules": [rule],
            "namespaceSelector": {"matchExpressions": [ours]},
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 5,
            **fields,
        }
        group = "admissionregistration.k8s.io/v1"
        await self.make(
            f"/apis/{group}/{sort.lower()}webhookconfigurations",
            {
                "apiVersion": group,
                "kind": f"{sort}WebhookConfiguration",
                "metadata": {"name": name},
                "webhooks": [webhook],
            },
        )
        pod = trial or self.pod_object("trial")

        async def called() -> bool:
            await self.ask("POST", self.here("pods"), pod, dryRun="All")
            return bool(served.reviews)

        await self.until(called)
        served.reviews.clear()
        return name

    # -- waiting ----------------------------------------------------------------------------------

    async def until(self, look: Callable[[], Awaitable[Any]], timeout: float | None = None) -> Any:
        """What `look` returns as soon as it is true; fails after `timeout` seconds."""
        limit = self.patience if timeout is None else timeout
        try:
            async with asyncio.timeout(limit):
                while not (found := await look()):
                    await asyncio.sleep(self.pause)
        except TimeoutError:
            raise AssertionError(f"still not so after {limit} s") from None
        return found

    async def gone(self, path: str, timeout: float | None = None) -> None:
        """Waits until the path is 404."""

        async def missing() -> bool:
            return (await self.ask("GET", path)).status_code == 404

        await self.until(missing, timeout)

    # -- coming and going -------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._open()
        if not await self._there(f"{_CRDS}/peerpods.confidentialcontainers.org"):
            await self.sure("POST", _CRDS, _crd())
        await self.until(lambda: self._there(f"{PEERPODS}/peerpods"))
        self.namespace = await self.new_namespace()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for path in reversed(self._made):
                if path.startswith("/api/v1/namespaces/"):
                    await self._empty(path.rpartition("/")[2])
                await self.ask("DELETE", path)
        finally:
            for served in self._served:
                await served.close()
            for client in self._clients:
                await client.close()
            await self._close()

    async def _empty(self, namespace: str) -> None:
        """Nothing of ours may hold a namespace up: finalizers off, pods without grace."""
        for resource, api in (("peerpods", PEERPODS), ("pods", "/api/v1"), ("configmaps", "/api/v1")):
            listed = await self.ask("GET", self.here(resource, api=api, namespace=namespace))
            for obj in listed.json().get("items", ()):
                path = self.here(resource, obj["metadata"]["name"], api=api, namespace=namespace)
                if obj["metadata"].get("finalizers"):
                    await self.ask("PATCH", path, {"metadata": {"finalizers": None}}, content_type=MERGE)
                if resource == "pods":
                    await self.ask("DELETE", path, gracePeriodSeconds="0")

    @abstractmethod
    async def _open(self) -> None:
        """Sets `admin` and `worker`."""

    @abstractmethod
    async def _close(self) -> None: ...


@functools.cache
def _crd() -> Json:
    read: Json = yaml.safe_load(CRD.read_text())
    return read


async def nodes_with_kubelet(client: AsyncClient) -> list[str]:
    """Ready nodes that no test has made."""
    found = []
    async for node in client.list(Node):
        assert node.metadata is not None
        name, conditions = node.metadata.name or "", (node.status.conditions if node.status else None) or ()
        ready = any(one.type == "Ready" and one.status == "True" for one in conditions)
        if ready and not name.startswith("peerpods-test-"):
            found.append(name)
    return found
