"""The verbs for people against an API server: the real command and lightkube, a strict server, a person's kubeconfig."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from adaptor import names
from adaptor.cli import parser
from adaptor.kube import peerpod
from adaptor.kube.peerpod import Condition, PeerPod
from adaptor.sandbox import consoles
from tests.worlds.kubernetes.containers import Containers
from tests.worlds.kubernetes.world import World

CRD = Path(__file__).parents[3] / "manifests/peerpods/crds/peerpods.yaml"
WEB = PeerPod(
    name=peerpod.name_of("web", "ab" * 32),
    namespace="shop",
    cloud="aws",
    instance_id="i-0123456789abcdef0",
    node="worker-1",
    sandbox="ab" * 32,
    pod_name="web",
    token="token-1",
    phase="running",
    instance_type="m6a.large",
    zone="us-east-1a",
    purchase="on-demand",
    tee="snp",
    price=0.0864,
    address="10.0.1.7:15150",
    conditions=(Condition("Ready", True, "Bound", "", "2026-11-21T18:00:00Z"),),
)
START = ("created", "start-requested", "launch-intended", "launch-accepted", "reached", "bound")
READER = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "reader"},
    "rules": [
        {"apiGroups": [names.PEERPOD_GROUP], "resources": ["peerpods"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods", "pods/log", "events", "configmaps"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]},
    ],
}


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def times(*offsets: float, ago: float = 3600.0, kinds: tuple[str, ...] = START) -> Mapping[str, str]:
    return {kind: stamp(time.time() - ago + offset) for kind, offset in zip(kinds, offsets, strict=False)}


class Cluster:
    """A cluster with one worker's adaptor, and a person who may look."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.containers = Containers(world)
        self.directory = directory
        self.kubeconfig = world.kubeconfig(directory / "kubeconfig", world.user("ann", "readers"), "shop")

    async def prepare(self) -> None:
        await self.world.install(CRD)
        for name in ("shop", "peerpods"):
            await self.world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            account = {"name": "default", "namespace": name}
            await self.world.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        await self.allow(READER)
        await self.pod("adaptor-x1", "peerpods", labels={"app.kubernetes.io/component": "adaptor"}, runtime_class="")
        await self.pod("relay-y2", "peerpods", labels={"app.kubernetes.io/component": "relay"}, runtime_class="")

    async def allow(self, role: Mapping[str, Any], *, group: str = "readers") -> None:
        name = role["metadata"]["name"]
        await self.world.create(dict(role))
        about = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": about,
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        }
        await self.world.create(binding)

    async def pod(
        self,
        name: str,
        namespace: str = "shop",
        *,
        runtime_class: str = names.RUNTIME_CLASS,
        node: str = "worker-1",
        annotations: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        if runtime_class and not self.world.get(self.world.kind("node.k8s.io/v1", "RuntimeClass"), "", runtime_class):
            made = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": runtime_class}}
            await self.world.create({**made, "handler": "kata-remote"})
        pod = await self.world.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "annotations": dict(annotations or {}),
                    "labels": dict(labels or {}),
                },
                "spec": {
                    "containers": [{"name": "adaptor", "image": "example.org/image:1"}],
                    **({"nodeName": node} if node else {}),
                    **({"runtimeClassName": runtime_class} if runtime_class else {}),
                },
            }
        )
        return str(pod["metadata"]["uid"])

    async def peerpod(self, told: PeerPod) -> None:
        await self.world.create(peerpod.to_object(told))
        kind = self.world.kind(peerpod.API_VERSION, peerpod.KIND)
        await self.world.patch(kind, told.namespace, told.name, {"status": peerpod.status(told)}, subresource="status")

    async def event(self, pod: str, uid: str, reason: str, message: str) -> None:
        now = stamp(time.time()).partition(".")[0] + "Z"
        await self.world.create(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{pod}.{reason.lower()}", "namespace": "shop"},
                "involvedObject": {"kind": "Pod", "apiVersion": "v1", "name": pod, "namespace": "shop", "uid": uid},
                "type": "Warning",
                "reason": reason,
                "message": message,
                "count": 3,
                "firstTimestamp": now,
                "lastTimestamp": now,
            }
        )

    async def __call__(self, *arguments: str) -> int:
        return await asyncio.to_thread(parser.main, [*arguments, "--kubeconfig", str(self.kubeconfig)])


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with World() as world:
        made = Cluster(world, tmp_path)
        await made.prepare()
        yield made


Said = pytest.CaptureFixture[str]


async def test_ps_lists_the_namespaces_pod_vms_and_wide_their_machine_and_price(cluster: Cluster, capsys: Said) -> None:
    await cluster.peerpod(replace(WEB, times=times(0, 0.1, 0.4, 1.9, 21.4, 21.6)))
    await cluster.peerpod(replace(WEB, namespace="default", name="other-1", pod_name="other", price=None))
    assert await cluster("ps") == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["POD", "PHASE", "VM", "TYPE", "AGE"]
    assert row.split() == ["web", "running", "i-0123456789abcdef0", "m6a.large", "1h"]
    assert await cluster("ps", "-A", "-o", "wide") == 0
    head, other, row = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "NAMESPACE"
    assert other.split()[:2] == ["default", "other"]
    assert row.split()[6:12] == ["worker-1", "us-east-1a", "on-demand", "snp", "0.0864", "10.0.1.7:15150"]


async def test_ps_for_programs_is_json_and_filters_by_node(cluster: Cluster, capsys: Said) -> None:
    await cluster.peerpod(replace(WEB, times=times(0, 0.1, 0.4, 1.9, 21.4, 21.6)))
    await cluster.peerpod(replace(WEB, name="db-1", pod_name="db", node="worker-2"))
    assert await cluster("ps", "-o", "json", "--node", "worker-1") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["pod"], found["price_per_hour"], found["instance"]) == ("web", 0.0864, "i-0123456789abcdef0")
    assert found["cost_so_far"] == pytest.approx(0.0864, rel=0.01)
    assert await cluster("ps", "-n", "default") == 0
    assert capsys.readouterr().out == "no peer pods in the namespace default; -A lists all\n"


async def test_describe_tells_pod_machine_cost_events_and_the_clouds_page(cluster: Cluster, capsys: Said) -> None:
    uid = await cluster.pod("web", annotations={names.DEFAULT_VCPUS: "4", names.INITDATA: "secret"})
    await cluster.peerpod(replace(WEB, pod_uid=uid, times=times(0, 0.1, 0.4, 1.9, 21.4, 21.6)))
    await cluster.event("web", uid, "VMLaunched", "aws accepted the create of the VM")
    await cluster.world.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "peerpods-config", "namespace": "peerpods"},
            "data": {
                "peerpods.toml": '[cloud]\nprovider = "aws"\n[aws]\nregion = "us-east-1"\nimage = "ami-0123456789abcdef0"\n'
            },
        }
    )
    assert await cluster("describe", "web") == 0
    out = capsys.readouterr().out
    for line in (
        "Pod:           shop/web",
        "Phase:         running, for 59m",
        "Asked for:     default_vcpus 4",
        "Machine:       m6a.large, us-east-1a, on-demand, TEE snp",
        "Price:         0.0864 USD/h, 0.0864 USD so far",
        "Cloud console: https://us-east-1.console.aws.amazon.com/ec2/home?",
        "region=us-east-1#InstanceDetails:instanceId=i-0123456789abcdef0",
    ):
        assert line in out
    assert "VMLaunched             aws accepted the create of the VM (x3)" in out
    assert "Slowest: the VM's boot, 19.5 s" in out
    assert "secret" not in out
    assert "Not shown" not in out


async def test_describe_says_what_it_may_not_read_and_shows_the_rest(cluster: Cluster, capsys: Said) -> None:
    await cluster.peerpod(WEB)
    role = {**READER, "metadata": {"name": "narrow"}, "rules": READER["rules"][:1]}  # type: ignore[index]
    await cluster.allow(role, group="narrow")
    user = cluster.world.user("bob", "narrow")
    cluster.kubeconfig = cluster.world.kubeconfig(cluster.directory / "narrow", user, "shop")
    assert await cluster("describe", "web") == 0
    out = capsys.readouterr().out
    assert "m6a.large" in out
    shown = out.partition("Not shown:")[2]
    assert 'cannot list resource "events"' in shown
    assert 'cannot get resource "pods"' in shown


async def test_who_may_not_list_peerpods_hears_which_right_is_missing(cluster: Cluster, capsys: Said) -> None:
    cluster.kubeconfig = cluster.world.kubeconfig(cluster.directory / "none", cluster.world.user("eve"), "shop")
    assert await cluster("ps") == 1
    err = capsys.readouterr().err
    assert err.startswith("peerpods: cannot list the PeerPods in the namespace shop: ")
    assert '"peerpods"' in err
    assert "must grant this" in err


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        ("wbe", "there is no pod shop/wbe; did you mean web?"),
        ("nothing-like-it", "there is no pod shop/nothing-like-it; -n says the namespace"),
        ("plain", "the pod shop/plain is no peer pod: it has no runtimeClassName, and peer pods have kata-remote"),
        ("other", "the pod shop/other is no peer pod: its runtimeClassName is gvisor"),
        ("waiting", "the pod shop/waiting has no PeerPod yet: no node has been found for it"),
    ],
)
async def test_a_pod_without_a_vm_is_answered_with_why(cluster: Cluster, capsys: Said, pod: str, said: str) -> None:
    await cluster.pod("web")
    await cluster.pod("plain", runtime_class="")
    await cluster.pod("other", runtime_class="gvisor")
    await cluster.pod("waiting", node="")
    assert await cluster("describe", pod) == 1
    assert said in capsys.readouterr().err


async def test_a_pod_whose_attempt_failed_and_left_nothing_is_followed_to_its_node(
    cluster: Cluster, capsys: Said
) -> None:
    uid = await cluster.pod("web")
    await cluster.event("web", uid, "VMStartFailed", "no guest answered")
    cluster.containers.logs["adaptor-x1"] = LOG
    cluster.containers.run = lambda pod, command: (0, "Kernel panic\n", "")
    assert await cluster("describe", "web") == 0
    out = capsys.readouterr().out
    assert "Reason:        there is no PeerPod of it now: kubelet on the node worker-1 has not asked" in out
    assert "VMStartFailed          no guest answered (x3)" in out
    assert "the pod's events, above, say how its last attempt ended" in out
    assert await cluster("logs", "web") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "18:00:03.000 WARNING slow   seconds=3.5"
    assert await cluster("console", "web") == 0
    assert capsys.readouterr().out == "Kernel panic\n"
    assert await cluster("trace", "web") == 0
    assert "no times are known of it: there is no PeerPod" in capsys.readouterr().out


async def test_of_several_attempts_the_living_one_is_meant_and_the_others_are_named(
    cluster: Cluster, capsys: Said
) -> None:
    await cluster.pod("web")
    await cluster.peerpod(replace(WEB, times=times(0, 0.1, 0.4, 1.9, 21.4, 21.6)))
    old = replace(WEB, sandbox="cd" * 32, name="web-old", phase="stopping", instance_id="i-old", reason="given away")
    await cluster.peerpod(replace(old, times=times(0, 0.1, ago=9000)))
    assert await cluster("describe", "shop/web") == 0
    out = capsys.readouterr().out
    assert "VM:            i-0123456789abcdef0" in out
    assert "stopping: VM i-old, sandbox cdcdcdcdcdcd" in out
    newer = replace(old, sandbox="ef" * 32, name="web-new", instance_id="i-newer", times=times(0, 0.1, ago=60))
    await cluster.peerpod(newer)
    assert await cluster("describe", "shop/web") == 0
    assert "VM i-newer, sandbox efefefefefef\n  stopping: VM i-old" in capsys.readouterr().out
    assert await cluster("trace", "web", "--sandbox", "cdcd") == 0
    assert capsys.readouterr().out.startswith("shop/web  stopping, VM i-old")


async def test_an_object_of_upstreams_is_found_by_its_pods_uid(cluster: Cluster, capsys: Said) -> None:
    uid = await cluster.pod("web")
    await cluster.world.create(
        {
            "apiVersion": peerpod.API_VERSION,
            "kind": peerpod.KIND,
            "metadata": {
                "name": "web-resource-x7k2p",
                "namespace": "shop",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid}],
            },
            "spec": {"cloudProvider": "aws", "instanceID": "i-upstream"},
        }
    )
    assert await cluster("describe", "web") == 0
    assert "i-upstream" in capsys.readouterr().out
    assert await cluster("trace", "web") == 0
    assert "no times are known of it" in capsys.readouterr().out


LOG = [
    '{"time":"2026-11-21T18:00:00.000Z","level":"info","logger":"daemon","message":"ready","node":"worker-1"}',
    json.dumps({"time": "2026-11-21T18:00:01.5Z", "level": "info", "message": "CreateVM", "sandbox": "ab" * 32}),
    '{"time":"2026-11-21T18:00:02.000Z","level":"info","message":"CreateVM","sandbox":"ff","pod":"shop/other"}',
    '{"time":"2026-11-21T18:00:03.000Z","level":"warning","message":"slow \\u001b[2J","pod":"shop/web","seconds":3.5}',
]


@pytest.mark.parametrize("options", [(), ("--follow",)])
async def test_logs_are_the_adaptors_lines_about_this_pod_fit_for_a_terminal(
    cluster: Cluster, capsys: Said, options: tuple[str, ...]
) -> None:
    await cluster.pod("web")
    await cluster.peerpod(WEB)
    cluster.containers.logs["adaptor-x1"] = LOG
    assert await cluster("logs", "web", *options) == 0
    assert capsys.readouterr().out.splitlines() == [
        "18:00:01.5   INFO    CreateVM",
        "18:00:03.000 WARNING slow   seconds=3.5",
    ]


async def test_logs_of_a_node_without_an_adaptor_say_so(cluster: Cluster, capsys: Said) -> None:
    await cluster.pod("web")
    await cluster.peerpod(replace(WEB, node="worker-9"))
    assert await cluster("logs", "web") == 1
    assert "no adaptor's Pod runs on the node worker-9 now" in capsys.readouterr().err


async def test_a_console_comes_through_the_adaptors_pod_on_the_node(cluster: Cluster, capsys: Said) -> None:
    await cluster.pod("web")
    await cluster.peerpod(WEB)
    cluster.containers.run = lambda pod, command: (0, "\x1b[2Jbooting\r\nKernel panic\n", "")
    assert await cluster("console", "web") == 0
    assert capsys.readouterr().out == "booting\nKernel panic\n"
    assert cluster.containers.ran == [
        ("adaptor-x1", ("peerpods", "console", "shop/web", "--local", "--raw")),
    ]
    assert await cluster("console", "web", "--tail", "1", "--kept") == 0
    assert capsys.readouterr().out == "Kernel panic\n"
    assert cluster.containers.ran[-1][1][-1] == "--kept"


async def test_the_nodes_refusal_is_told_as_it_was(cluster: Cluster, capsys: Said) -> None:
    await cluster.pod("web")
    await cluster.peerpod(WEB)
    cluster.containers.run = lambda pod, command: (1, "", "peerpods: aws has nothing of the console yet\n")
    assert await cluster("console", "web") == 1
    assert capsys.readouterr().err == "peerpods: aws has nothing of the console yet\n"


async def test_who_may_not_exec_gets_the_last_lines_that_the_adaptor_logged(cluster: Cluster, capsys: Said) -> None:
    await cluster.pod("web")
    await cluster.peerpod(replace(WEB, phase="failed", reason="no guest answered"))
    fields = {"pod": "shop/web", "instance": WEB.instance_id, "why": "no guest answered", "file": "/state/x.txt"}
    line = {"message": consoles.MESSAGE, "sandbox": WEB.sandbox, "console": ["a", "Kernel panic"], **fields}
    cluster.containers.logs["adaptor-x1"] = [*LOG, json.dumps(line)]
    assert await cluster("console", "web") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"# pod shop/web, VM {WEB.instance_id}"
    assert out[-2:] == ["a", "Kernel panic"]
    assert "/state/x.txt on the node" in out[2]


async def test_an_unknown_context_is_an_error_that_names_it(cluster: Cluster, capsys: Said) -> None:
    assert await cluster("ps", "--context", "elsewhere") == 1
    assert "elsewhere" in capsys.readouterr().err
