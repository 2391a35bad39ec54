"""The whole path through a cluster, on real processes: a pod is created, sized by the webhook, scheduled by what the
adaptor advertises, started in a VM, read, moved through restarts of both, and deleted.

Chart, webhook, controller, adaptor, relay, guest and the cloud's SDK are real; the API server is the strict one of
tests/worlds, with the chart's own rights and webhook configurations, and scheduler, kubelet and shim are played.
"""

import asyncio
import base64
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from adaptor import names
from adaptor.catalog.quantities import nano
from adaptor.demo.shim import Shim
from adaptor.demo.world import World, free_port
from tests.e2e.conftest import clean
from tests.unit.manifests import charts
from tests.worlds.kubernetes.node import Kubelet, Scheduler
from tests.worlds.kubernetes.refusals import Refusal
from tests.worlds.kubernetes.world import World as Cluster

pytestmark = pytest.mark.netns

CRD = charts.CHART / "crds" / "peerpods.yaml"
NODE = "demo-node"
SHOP = "shop"
VALUES = {
    "image": {"repository": "registry.example/peerpods"},
    "config": {"cloud": {"provider": "aws"}, "node": {"cluster": "e2e"}, "aws": {"image": "ami-0123456789abcdef0"}},
    "runtimeClass": {"create": True},
}
WORKLOADS = ("DaemonSet", "Deployment", "Job")
Object = dict[str, Any]


class Site:
    """A cluster with the chart installed, and a node of it with everything running."""

    def __init__(self, cluster: Cluster, node: World) -> None:
        self.cluster = cluster
        self.node = node
        self.certificates = node.directory / "webhook-tls"
        self.port = free_port()

    # -- the chart ------------------------------------------------------------------------------

    async def install(self) -> None:
        """All that the chart makes, but for what runs: that is started here by hand."""
        for name in (SHOP, charts.NAMESPACE):
            await self.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        await self.cluster.install(CRD)
        for each in charts.render(VALUES, "1.36.0"):
            if each["kind"] not in WORKLOADS:
                await self.cluster.create(each)

    def kubeconfig(self, component: str, *, node: str = "") -> str:
        """Of a service account of the chart's, with the rights that the chart gives it."""
        token = self.cluster.service_account(charts.NAMESPACE, f"peerpods-{component}", node=node)
        return str(self.cluster.kubeconfig(self.node.directory / f"{component}.kubeconfig", token))

    def config(self, verb: str, tables: dict[str, Object]) -> str:
        """A file of settings: the node's cloud, and these tables."""
        path = self.node.directory / f"{verb}.toml"
        cloud = self.node.cloud
        whole = {
            "cloud": {"provider": cloud["provider"]},
            cloud["provider"]: {**cloud["settings"], **self.node.stage.types},
        }
        whole |= {"log": {"format": "json", "level": "debug"}, **tables}
        lines = (f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in t.items()) for name, t in whole.items())
        path.write_text("\n".join(lines))
        return str(path)

    async def start_controller(self) -> None:
        config = self.config(
            "controller",
            {
                "node": {"cluster": "e2e", "name": "controller"},
                "http": {"listen": ""},
                "kubernetes": {"kubeconfig": self.kubeconfig("controller"), "namespace": charts.NAMESPACE},
                "controller": {"webhook_configurations": ["peerpods"]},
            },
        )
        await self.node.spawn("controller", "--config", config)

    async def start_webhook(self) -> None:
        """Returns when the API server could call it; its certificate is what the controller made."""
        await until(self._mount_certificates, "the controller makes the webhook's certificate", self.logs)
        config = self.config(
            "webhook",
            {
                "http": {"listen": ""},
                "webhook": {"listen": f"127.0.0.1:{self.port}", "certificates": str(self.certificates)},
            },
        )
        await self.node.spawn("webhook", "--config", config)
        self.cluster.admission.dispatcher.services[charts.NAMESPACE, "peerpods-webhook"] = ("127.0.0.1", self.port)
        await until(self._webhook_listens, "the webhook listens", self.logs)
        await until(self._bundles, "the API server is told whom to believe", self.logs)

    async def _mount_certificates(self) -> bool:
        """What kubelet does with a Secret volume."""
        secret = self.found("v1", "Secret", charts.NAMESPACE, names.WEBHOOK_TLS)
        if secret is None or "tls.crt" not in (secret.get("data") or {}):
            return False
        self.certificates.mkdir(exist_ok=True)
        for key in ("tls.crt", "tls.key"):
            (self.certificates / key).write_bytes(base64.b64decode(secret["data"][key]))
        return True

    async def _webhook_listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def _bundles(self) -> bool:
        group = "admissionregistration.k8s.io/v1"
        kinds = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
        found = [self.found(group, kind, "", "peerpods") for kind in kinds]
        return all(each and each["webhooks"][0]["clientConfig"].get("caBundle") for each in found)

    def logs(self) -> str:
        return "\n".join(f"--- {name}\n{self.node.log_of(name)}" for name in ("controller", "webhook", "adaptor"))

    # -- objects --------------------------------------------------------------------------------

    def found(self, version: str, kind: str, namespace: str, name: str) -> Object | None:
        return self.cluster.get(self.cluster.kind(version, kind), namespace, name)

    def all(self, version: str, kind: str) -> list[Object]:
        return [stored.object for stored in self.cluster.store.all(self.cluster.kind(version, kind))]

    async def create(self, name: str, **spec: Any) -> Object:
        resources = {"requests": {"cpu": "1500m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}}
        container = {"name": "main", "image": "registry.local/demo:1", "resources": resources}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": SHOP, "annotations": {"peerpods.io/scratch-gib": "5"}},
            "spec": {"runtimeClassName": names.RUNTIME_CLASS, "containers": [container], **spec},
        }
        return await self.cluster.create(pod)

    async def scheduled(self, name: str) -> Object:
        await until(lambda: self._bound(name), f"{name} is scheduled", self.logs)
        pod = self.found("v1", "Pod", SHOP, name)
        assert pod is not None
        return pod

    async def _bound(self, name: str) -> bool:
        pod = self.found("v1", "Pod", SHOP, name)
        return bool(pod and pod["spec"].get("nodeName") == NODE)

    async def delete(self, name: str) -> None:
        kind = self.cluster.kind("v1", "Pod")
        await self.cluster.api.direct("delete", kind, SHOP, name, {"gracePeriodSeconds": 0})

    def peerpods(self) -> list[Object]:
        return self.all(f"{names.PEERPOD_GROUP}/{names.PEERPOD_VERSION}", "PeerPod")

    def reasons(self, name: str) -> list[str]:
        """Of the events on a pod, in their order."""
        events = [each for each in self.all("v1", "Event") if each["involvedObject"].get("name") == name]
        return [each["reason"] for each in sorted(events, key=lambda each: each["firstTimestamp"])]


def shim_of(pod: Object, socket: str, netns: str) -> Shim:
    """kata's, with what it makes of this pod: its annotations, and the limits of its one container added."""
    annotations = {
        key: value
        for key, value in (pod["metadata"].get("annotations") or {}).items()
        if key.startswith("io.katacontainers.config.hypervisor.")
    }
    limits = pod["spec"]["containers"][0]["resources"].get("limits") or {}
    for key, limit, unit in ((names.DEFAULT_VCPUS, "cpu", 10**9), (names.DEFAULT_MEMORY, "memory", 10**9 << 20)):
        annotations[key] = str(int(annotations.get(key, "0")) - (-nano(limits.get(limit, "0")) // unit))
    return Shim(socket, pod=f"{SHOP}/{pod['metadata']['name']}", netns=netns, annotations=annotations)


async def until(met: Callable[[], Awaitable[bool]], what: str, said: Callable[[], str]) -> None:
    """Within a time that only a failing test needs."""
    try:
        async with asyncio.timeout(40):
            while not await met():
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not in time: {what}\n{said()}")


@pytest.fixture
async def site(directory: Path) -> AsyncIterator[Site]:
    kubernetes = {
        "enabled": "on",
        "kubeconfig": str(directory / "adaptor.kubeconfig"),
        "namespace": charts.NAMESPACE,
        "pull_secrets": "off",
    }
    settings = {
        "node": {"cluster": "e2e"},
        "guest": {"start_timeout": "20s", "adopt_grace": "3s"},
        "limits": {"peerpods_per_node": 3},
        "kubernetes": kubernetes,
    }
    async with Cluster() as cluster, World(directory, settings=settings) as node:
        site = Site(cluster, node)
        await site.install()
        await node.start_cloud()
        kubelet, scheduler = Kubelet(cluster, NODE), Scheduler(cluster)
        await kubelet.start()
        labels = {"metadata": {"labels": {"katacontainers.io/kata-runtime": "true"}}}  # as kata-deploy leaves it
        await cluster.patch(cluster.kind("v1", "Node"), "", NODE, labels)
        site.kubeconfig("adaptor", node=NODE)
        await asyncio.gather(node.start_adaptor(), site.start_controller())
        await site.start_webhook()
        await scheduler.start()
        yield site
        await clean(node)
        node.processes["webhook"].terminate()
        await asyncio.sleep(0.3)  # two signals at once are one; the second ends its wait for endpoints to move
        for verb in ("webhook", "controller"):
            assert await node.stop(verb) == 0, node.log_of(verb)
            assert not node.log_lines(verb, "error"), node.log_lines(verb, "error")
        await scheduler.stop()
        await kubelet.stop()


async def test_a_pod_goes_the_whole_way_and_restarts_in_the_middle_disturb_nothing(site: Site) -> None:
    await site.create("web")
    pod = await site.scheduled("web")
    assert pod["metadata"]["annotations"][names.SIZED] == "vcpus=2,memory-mib=1024,scratch-gib=5"
    assert pod["spec"]["containers"][0]["resources"] == {
        "limits": {"cpu": "2", "memory": "1Gi", names.VM_RESOURCE: "1"},
        "requests": {"cpu": "0", "memory": "0", "ephemeral-storage": "0", names.VM_RESOURCE: "1"},
    }
    node = site.found("v1", "Node", "", NODE)
    assert node is not None
    assert node["status"]["allocatable"][names.VM_RESOURCE] == "3"

    with site.node.pod_netns() as netns:
        async with shim_of(pod, site.node.hypervisor_socket, netns) as shim:
            await shim.start_pod()
            ticker = await shim.run(["sh", "-c", "n=0; while :; do echo tick $n; n=$((n+1)); sleep 0.05; done"])
            await ticker.until(lambda out: b"tick 5\n" in out)
            (peerpod,) = site.peerpods()
            (instance,) = await site.node.living()
            assert peerpod["spec"]["instanceID"] == instance
            assert [owner["uid"] for owner in peerpod["metadata"]["ownerReferences"]] == [pod["metadata"]["uid"]]
            await until(lambda: phase(site, "running"), "the PeerPod says that it runs", site.logs)
            assert {"VMChosen", "VMLaunched", "VMReached", "VMReady"} <= set(site.reasons("web"))

            await asyncio.gather(site.node.stop("adaptor", signal.SIGKILL), site.node.stop("webhook", signal.SIGKILL))
            with pytest.raises(Refusal, match="failed calling webhook"):  # not admitted unsized
                await site.create("while-it-is-down")
            seen = len(ticker.stdout)
            await ticker.until(lambda out: len(out) > seen + 100)
            await asyncio.gather(site.node.start_adaptor(), site.start_webhook())
            assert await (await shim.exec(ticker, ["true"])).exit_code() == 0
            assert await site.node.living() == [instance]
            lines = bytes(ticker.stdout).splitlines()
            assert lines[:-1] == [b"tick %d" % n for n in range(len(lines) - 1)], "no line lost, none twice"

            assert await shim.stop(ticker, signal.SIGKILL) == 128 + signal.SIGKILL
            await site.delete("web")
            await shim.stop_pod()
            assert not shim.checks_failed
    await until(lambda: none_left(site), "nothing of the pod is left in the cluster", site.logs)


async def test_a_fourth_pod_waits_for_room_and_a_pod_that_could_never_start_is_refused(site: Site) -> None:
    with pytest.raises(Refusal, match="hostNetwork"):
        await site.create("host", hostNetwork=True)
    for number in range(4):
        await site.create(f"web-{number}")
    for number in range(3):
        await site.scheduled(f"web-{number}")
    await until(lambda: waiting(site, "web-3"), "the fourth is told why it waits", site.logs)
    await site.delete("web-0")
    await site.scheduled("web-3")
    assert site.peerpods() == [], "no shim has come yet, so there is no VM"


async def phase(site: Site, wanted: str) -> bool:
    return [(each.get("status") or {}).get("phase") for each in site.peerpods()] == [wanted]


async def none_left(site: Site) -> bool:
    return not site.peerpods() and site.found("v1", "Pod", SHOP, "web") is None


async def waiting(site: Site, name: str) -> bool:
    pod = site.found("v1", "Pod", SHOP, name)
    conditions = (pod or {}).get("status", {}).get("conditions") or []
    return any(f"Insufficient {names.VM_RESOURCE}" in each.get("message", "") for each in conditions)
