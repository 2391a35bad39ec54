"""The controller's duties against an API server: over lightkube, with the rights that the chart gives it.

What it sees is narrowed to the test's own namespace: on a real cluster others' PeerPods are none of its business.
"""

import asyncio
import base64
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from adaptor import names
from adaptor.clock import RealClock
from adaptor.config import Controller, Quota
from adaptor.config import Kubernetes as Settings
from adaptor.config_prices import Prices
from adaptor.controller import api as kinds
from adaptor.controller import fate, finisher, gates, uninstall
from adaptor.controller.api import NAMESPACE, NODE, PEER_POD, POD, Kind, Object, ServerApi
from adaptor.controller.certificates import Certificates
from adaptor.controller.election import Election
from adaptor.controller.finisher import Finisher
from adaptor.controller.machines import Machines
from adaptor.controller.mirror import Mirror
from adaptor.controller.offers import Offers
from adaptor.controller.quota import Gatekeeper, annotation
from adaptor.controller.rotation import Pace
from adaptor.controller.uninstall import Uninstall
from adaptor.controller.voice import Events
from adaptor.kube import peerpod
from adaptor.kube.client import open_client
from adaptor.kube.errors import Absent, Outdated, Rejected, Taken
from providers import tags
from providers.base import Instance, InstanceState
from tests.contract.kubernetes.cluster import PEERPODS, Cluster, Json
from tests.worlds.cloud import Cloud
from tests.worlds.kubernetes.faults import Fault
from tests.worlds.kubernetes.world import World

T = TypeVar("T")
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
EVERYWHERE: list[Json] = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "patch"]},
    {"apiGroups": [""], "resources": ["nodes", "namespaces"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    {
        "apiGroups": ["confidentialcontainers.org"],
        "resources": ["peerpods"],
        "verbs": ["get", "list", "watch", "patch", "delete"],
    },
    {
        "apiGroups": ["admissionregistration.k8s.io"],
        "resources": ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
        "verbs": ["get", "patch"],
    },
]
AT_HOME: list[Json] = [
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "get", "update", "delete"]},
    {"apiGroups": [""], "resources": ["configmaps", "secrets"], "verbs": ["create", "get", "update", "delete"]},
    {"apiGroups": ["apps"], "resources": ["daemonsets", "deployments"], "verbs": ["get", "delete"]},
]


class OfOneNamespace(ServerApi):
    """`namespace` is all there is of what has one."""

    namespace = ""

    async def list(self, kind: Kind, keep: Callable[[Object], T | None], namespace: str = "") -> tuple[str, list[T]]:
        return await super().list(kind, keep, namespace or (self.namespace if kind.namespaced else ""))

    async def watch(self, kind: Kind, version: str) -> AsyncGenerator[tuple[str, Object], None]:
        async for event, found in super().watch(kind, version):
            if not kind.namespaced or found["metadata"]["namespace"] == self.namespace:
                yield event, found


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[OfOneNamespace]:
    await cluster.grant("controller", EVERYWHERE, everywhere=True)
    await cluster.grant("controller", AT_HOME)
    path = await cluster.kubeconfig("controller")
    client = open_client(Settings(enabled="on", kubeconfig=str(path)))
    assert client is not None
    made = OfOneNamespace(client)
    made.namespace = cluster.namespace
    yield made
    await client.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine in memory is gone at once: nobody needs to wait for the next look."""
    monkeypatch.setattr(finisher, "_DELETING", 0.2)
    monkeypatch.setattr(uninstall, "_ROUND", 0.2)


@asynccontextmanager
async def running(*duties: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each.run()) for each in duties]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def cloud_with(*instances: Instance) -> Cloud:
    cloud = Cloud(RealClock())
    cloud.call_seconds = 0.0
    cloud.instances.update({each.id: each for each in instances})
    return cloud


@asynccontextmanager
async def finishing(api: ServerApi, cloud: Cloud, grace: float) -> AsyncIterator[None]:
    clock = RealClock()
    peerpods = Mirror(api, PEER_POD, peerpod.from_object, clock)
    nodes = Mirror(api, NODE, fate.node_facts, clock)
    events = Events(api, clock)
    duty = Finisher(api, Machines(cloud, None, "cluster-a", clock), peerpods, nodes, events, clock, grace)
    async with running(peerpods, nodes, events, duty):
        yield


def vm(cluster: Cluster, id: str = "i-1") -> Instance:
    return Instance(id, InstanceState.RUNNING, tags={tags.CLUSTER: "cluster-a", tags.POD_NAMESPACE: cluster.namespace})


async def with_peerpod(cluster: Cluster, *, finalizers: tuple[str, ...] = (), **spec: str) -> Json:
    """A pod, and the PeerPod of its VM, on a node that does not exist."""
    pod = await cluster.unscheduled("web")
    assert pod.metadata is not None
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": pod.metadata.uid, "controller": True}
    told = {"cloudProvider": "memory", "instanceID": "i-1", "nodeName": "peerpods-test-gone", "podName": "web"}
    return await cluster.peerpod(
        "web-abc",
        {**told, "podUID": str(pod.metadata.uid), **spec},
        finalizers=[*finalizers, names.PEERPOD_FINALIZER],
        ownerReferences=[{**owner, "blockOwnerDeletion": False}],
    )


# -- the API server as the controller sees it -----------------------------------------------------


async def test_errors_are_of_their_kind_through_every_verb(cluster: Cluster, api: ServerApi) -> None:
    made = {"metadata": {"name": "lease", "namespace": cluster.namespace}, "spec": {"holderIdentity": "a"}}
    lease = kinds.LEASE
    with pytest.raises(Absent):
        await api.get(kinds.LEASE, "lease", cluster.namespace)
    first = await api.create(kinds.LEASE, {"apiVersion": lease.api_version, "kind": "Lease", **made})
    with pytest.raises(Taken):
        await api.create(kinds.LEASE, {"apiVersion": lease.api_version, "kind": "Lease", **made})
    second = await api.replace(kinds.LEASE, {**first, "spec": {"holderIdentity": "b"}})
    with pytest.raises(Outdated):
        await api.replace(kinds.LEASE, {**first, "spec": {"holderIdentity": "c"}})
    assert (await api.get(kinds.LEASE, "lease", cluster.namespace))["spec"] == second["spec"]
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": cluster.namespace}}
    await api.create(kinds.CONFIG_MAP, config)
    pod = await cluster.unscheduled("web")
    assert pod.metadata is not None
    with pytest.raises(Rejected):
        await api.patch(POD, "web", [{"op": "test", "path": "/metadata/uid", "value": "x"}], cluster.namespace)
    await api.delete(kinds.CONFIG_MAP, "c", cluster.namespace)
    with pytest.raises(Absent):
        await api.delete(kinds.CONFIG_MAP, "c", cluster.namespace)


async def test_a_mirror_follows_the_api_server(cluster: Cluster, api: ServerApi) -> None:
    await cluster.unscheduled("a")
    mirror: Mirror[str] = Mirror(api, POD, lambda found: found["metadata"]["name"], RealClock())
    async with running(mirror):
        await mirror.synced.wait()
        assert set(mirror.items.values()) == {"a"}
        await cluster.unscheduled("b")
        await cluster.until(lambda: _so(set(mirror.items.values()) == {"a", "b"}))
        await cluster.ask("DELETE", cluster.here("pods", "a"), gracePeriodSeconds="0")
        await cluster.until(lambda: _so(set(mirror.items.values()) == {"b"}))


@pytest.mark.world
async def test_a_mirror_survives_a_server_that_drops_it(cluster: Cluster, api: ServerApi, played: World) -> None:
    mirror: Mirror[str] = Mirror(api, POD, lambda found: found["metadata"]["name"], RealClock())
    played.faults.add(Fault(verb="list", resource="pods", status=503))
    played.faults.add(Fault(verb="watch", resource="pods", status=410))
    async with running(mirror):
        await cluster.unscheduled("a")
        await cluster.until(lambda: _so(set(mirror.items.values()) == {"a"}), 10)


async def _so(truth: bool) -> bool:
    return truth


# -- leader election ------------------------------------------------------------------------------


async def test_of_two_contenders_one_leads_and_the_other_follows_at_once(cluster: Cluster, api: ServerApi) -> None:
    leading: list[str] = []

    def contend(me: str) -> asyncio.Task[None]:
        async def work() -> None:
            leading.append(me)
            try:
                await asyncio.Event().wait()
            finally:
                leading.remove(me)

        election = Election(api, cluster.namespace, "lease", me, 5.0, RealClock())
        return asyncio.create_task(election.lead(work))

    contenders = {me: contend(me) for me in "ab"}
    await cluster.until(lambda: _so(len(leading) == 1))
    (first,) = leading
    await asyncio.sleep(1.5)
    assert leading == [first]
    contenders[first].cancel()
    (other,) = {"a", "b"} - {first}
    await cluster.until(lambda: _so(leading == [other]), 4)
    contenders[other].cancel()
    await asyncio.gather(*contenders.values(), return_exceptions=True)


# -- PeerPods -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["Background", "Foreground", "Orphan"])
async def test_a_pod_of_a_dead_node_goes_with_its_vm_however_it_is_deleted(
    cluster: Cluster, api: ServerApi, policy: str
) -> None:
    cloud = cloud_with(vm(cluster))
    await with_peerpod(cluster)
    async with finishing(api, cloud, grace=0.2):
        await asyncio.sleep(0.5)
        assert cloud.living == ["i-1"]
        await cluster.ask("DELETE", cluster.here("pods", "web"), {"propagationPolicy": policy, "gracePeriodSeconds": 0})
        if policy == "Orphan":  # which tells the PeerPod nothing but that it has no owner
            await cluster.gone(cluster.here("pods", "web"))
        await _finished(cluster)
    assert cloud.living == []
    await cluster.gone(cluster.here("pods", "web"))


async def _finished(cluster: Cluster) -> None:
    await cluster.gone(cluster.here("peerpods", "web-abc", api=PEERPODS))


async def test_anothers_finalizer_keeps_the_peerpod_and_ours_is_dropped(cluster: Cluster, api: ServerApi) -> None:
    cloud = cloud_with()
    await with_peerpod(cluster, finalizers=("peerpods.io/test",), instanceID="", token="")
    await cluster.ask("DELETE", cluster.here("pods", "web"), gracePeriodSeconds="0")

    async def ours_is_gone() -> bool:
        found = await cluster.sure("GET", cluster.here("peerpods", "web-abc", api=PEERPODS))
        return bool(found["metadata"]["finalizers"] == ["peerpods.io/test"])

    async with finishing(api, cloud, grace=0.0):
        await cluster.until(ours_is_gone)


async def test_a_peerpod_of_another_cloud_has_an_event_that_says_so(cluster: Cluster, api: ServerApi) -> None:
    await with_peerpod(cluster, cloudProvider="ibmcloud")
    await cluster.ask("DELETE", cluster.here("pods", "web"), gracePeriodSeconds="0")

    async def told() -> list[str]:
        found = await cluster.sure("GET", cluster.here("events"))
        return [each["message"] for each in found["items"] if each["reason"] == "NotFinished"]

    async with finishing(api, cloud_with(vm(cluster)), grace=0.0):
        (message,) = await cluster.until(told)
    assert "is at ibmcloud, which is not the cloud configured here (memory)" in message


async def test_a_living_nodes_peerpod_is_left_to_its_adaptor(cluster: Cluster, api: ServerApi) -> None:
    cloud = cloud_with(vm(cluster))
    await with_peerpod(cluster, nodeName=cluster.worker)
    await cluster.ask("DELETE", cluster.here("pods", "web"), gracePeriodSeconds="0")

    async def deleted() -> bool:
        found = await cluster.sure("GET", cluster.here("peerpods", "web-abc", api=PEERPODS))
        return bool(found["metadata"].get("deletionTimestamp"))

    async with finishing(api, cloud, grace=0.0):
        await cluster.until(deleted)
        await asyncio.sleep(0.5)
    assert cloud.living == ["i-1"]


# -- quota ----------------------------------------------------------------------------------------


async def gated(cluster: Cluster, name: str, runtime_class: str) -> None:
    await cluster.unscheduled(
        name,
        runtimeClassName=runtime_class,
        schedulingGates=[{"name": "peerpods.io/test"}, {"name": names.QUOTA}],
        metadata={"annotations": {names.SIZED: "vcpus=2,memory-mib=2048"}},
    )


async def test_gates_are_lifted_as_far_as_the_quota_goes(cluster: Cluster, api: ServerApi) -> None:
    runtime_class, clock = await cluster.runtime_class(), RealClock()
    pods = Mirror(api, POD, lambda found: gates.pod_facts(found, (runtime_class,)), clock)
    namespaces = Mirror(api, NAMESPACE, annotation, clock)
    events = Events(api, clock)
    keeper = Gatekeeper(api, pods, namespaces, Quota(cluster=(("vcpus", 4),)), events, clock, cloud_with())
    for name in "abc":
        await gated(cluster, name, runtime_class)

    async def going() -> set[str]:
        found = await cluster.sure("GET", cluster.here("pods"))
        free = {"name": names.QUOTA}
        return {each["metadata"]["name"] for each in found["items"] if free not in each["spec"]["schedulingGates"]}

    async def two_go() -> set[str] | None:
        found = await going()
        return found if len(found) == 2 else None

    async def held() -> list[Json]:
        found = await cluster.sure("GET", cluster.here("events"))
        return [each for each in found["items"] if each["reason"] == "QuotaExceeded"]

    async with running(pods, namespaces, events, keeper):
        first = await cluster.until(two_go)
        (event,) = await cluster.until(held)
        (waiting,) = {"a", "b", "c"} - first
        assert event["involvedObject"]["name"] == waiting
        assert "the cluster may have 4 vCPUs, its pods have 4, this one needs 2" in event["message"]
        await cluster.ask("DELETE", cluster.here("pods", first.pop()), gracePeriodSeconds="0")
        await cluster.until(lambda: _has(going, waiting))


async def _has(look: Any, name: str) -> bool:
    return name in await look()


# -- certificates and offerings -------------------------------------------------------------------


async def configuration(cluster: Cluster, service: str) -> str:
    name = cluster.name("hook")
    webhook = {
        "name": f"{name}.peerpods.io",
        "clientConfig": {
            "service": {"namespace": cluster.namespace, "name": service, "path": "/"},
            "caBundle": "",
        },
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": cluster.namespace}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    body = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    await cluster.make(
        f"{ADMISSION}/mutatingwebhookconfigurations", {**body, "metadata": {"name": name}, "webhooks": [webhook]}
    )
    return name


async def secret(cluster: Cluster) -> dict[str, bytes]:
    found = await cluster.sure("GET", cluster.here("secrets", names.WEBHOOK_TLS))
    return {key: base64.b64decode(value) for key, value in found["data"].items()}


async def test_a_configuration_gets_the_bundle_of_the_secrets_ca(cluster: Cluster, api: ServerApi) -> None:
    name = await configuration(cluster, "hook")
    settings = Controller(webhook_service="hook", webhook_configurations=(name, "peerpods-test-none"))
    certificates = Certificates(api, settings, cluster.namespace, RealClock())
    for _ in range(3):
        await certificates.look()
    held = await secret(cluster)
    found = await cluster.sure("GET", f"{ADMISSION}/mutatingwebhookconfigurations/{name}")
    assert base64.b64decode(found["webhooks"][0]["clientConfig"]["caBundle"]) == held["ca.crt"]
    assert not await certificates.look()


@pytest.mark.world
async def test_every_pod_is_admitted_all_through_a_rotation(
    cluster: Cluster, api: ServerApi, played: World, tmp_path: Path
) -> None:
    """The API server calls the webhook over TLS all the while; the webhook takes new certificates late."""
    served = await cluster.serve(_allow)
    host, _, port = served.url.removeprefix("https://").rpartition(":")
    played.admission.dispatcher.services[cluster.namespace, "hook"] = host, int(port)
    name = await configuration(cluster, "hook")
    settings = Controller(webhook_service="hook", webhook_configurations=(name,))
    pace = Pace(authority=8.0, serving=6.0, settle=0.4, overlap=2.0)  # a CA's life is turned over once in the test
    certificates = Certificates(api, settings, cluster.namespace, RealClock(), pace)
    for _ in range(3):
        await certificates.look()
    seen = {await _serve_anew(cluster, served.context, tmp_path)}
    admitted = 0
    async with asyncio.timeout(60):
        while len(seen) < 3 or (await secret(cluster))["ca.crt"].count(b"BEGIN") > 1:
            await certificates.look()
            await asyncio.sleep(0.05)
            if admitted % 4 == 0:
                seen.add(await _serve_anew(cluster, served.context, tmp_path))
            answer = await cluster.ask("POST", cluster.here("pods"), cluster.pod_object("trial"), dryRun="All")
            assert answer.status_code == 201, answer.text
            admitted += 1
    assert len(served.reviews) == admitted


async def _allow(_: dict[str, Any]) -> dict[str, Any]:
    return {"allowed": True}


async def _serve_anew(cluster: Cluster, context: ssl.SSLContext, directory: Path) -> bytes:
    """As the webhook does when its mounted Secret changes."""
    held = await secret(cluster)
    (directory / "pem").write_bytes(held["tls.crt"] + held["tls.key"])
    context.load_cert_chain(directory / "pem")
    return held["tls.crt"]


async def test_the_offerings_are_a_config_map(cluster: Cluster, api: ServerApi) -> None:
    offers = Offers(api, cloud_with(), Prices(), cluster.namespace, RealClock())
    assert await offers.look()
    assert not await offers.look()
    found = await cluster.sure("GET", cluster.here("configmaps", names.OFFERINGS))
    assert '"m6a.large"' in found["data"]["offerings.json"]


# -- uninstalling ---------------------------------------------------------------------------------


async def test_after_an_uninstall_the_namespace_can_be_deleted(cluster: Cluster, api: OfOneNamespace) -> None:
    namespace = await cluster.new_namespace()
    cloud = cloud_with(replace(vm(cluster), tags={tags.CLUSTER: "cluster-a", tags.POD_NAMESPACE: namespace}))
    body = {
        "apiVersion": "confidentialcontainers.org/v1alpha1",
        "kind": "PeerPod",
        "metadata": {"name": "web-abc", "finalizers": [names.PEERPOD_FINALIZER]},
        "spec": {"cloudProvider": "memory", "instanceID": "i-1", "nodeName": cluster.worker},
    }
    await cluster.make(cluster.here("peerpods", api=PEERPODS, namespace=namespace), body)
    await cluster.ask("DELETE", f"/api/v1/namespaces/{namespace}")
    api.namespace = namespace
    machines = Machines(cloud, None, "cluster-a", RealClock())
    left = await Uninstall(api, machines, cluster.namespace, RealClock(), 30.0).run([])
    assert (left.finished, left.stuck) == (1, {})
    assert cloud.living == []
    await cluster.gone(f"/api/v1/namespaces/{namespace}")
