"""`peerpods controller` as a whole: its own process, between a played API server and a simulated EC2."""

import asyncio
import os
import signal
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from adaptor import names
from adaptor.demo.world import free_port
from providers import tags
from providers.base import InstanceState, Ownership, ResourceKind
from tests.contract import aws_world
from tests.contract.aws_world import AwsWorld
from tests.contract.kubernetes.cluster import PEERPODS, Cluster
from tests.contract.kubernetes.test_controller import AT_HOME, EVERYWHERE

CONFIG = """\
[node]
cluster = "cluster-a"
[http]
listen = "127.0.0.1:{port}"
[kubernetes]
kubeconfig = "{kubeconfig}"
namespace = "{namespace}"
[cloud]
provider = "aws"
[aws]
region = "us-east-1"
endpoint_url = "{endpoint}"
subnet_ids = ["{subnet}"]
security_group_ids = ["{group}"]
image = "{image}"
[quota]
cluster = "pods=1"
"""


async def configured(cluster: Cluster, cloud: AwsWorld, port: int, directory: Path) -> Path:
    path = directory / "peerpods.toml"
    settings: Any = cloud.config
    text = CONFIG.format(
        port=port,
        kubeconfig=cluster.kubeconfig_of(await cluster.token("controller"), cluster.namespace),
        namespace=cluster.namespace,
        endpoint=settings.endpoint_url,
        subnet=settings.subnet_ids[0],
        group=settings.security_group_ids[0],
        image=settings.image,
    )
    path.write_text(text)
    return path


async def run(*arguments: object) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "adaptor", "controller", *map(str, arguments)]
    return await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=dict(os.environ)
    )


def page(port: int) -> str:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
        return str(answer.read().decode())
    return ""


@pytest.mark.world
async def test_the_controller_leads_ends_a_lost_nodes_vm_and_leaves_nothing_behind(
    cluster: Cluster, tmp_path: Path
) -> None:
    node = await cluster.node()
    taints = [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]
    await cluster.sure(
        "PATCH", f"/api/v1/nodes/{node}", {"spec": {"taints": taints}}, content_type="application/merge-patch+json"
    )
    await cluster.grant("controller", EVERYWHERE, everywhere=True)
    await cluster.grant("controller", AT_HOME)
    port = free_port()
    async with aws_world.world() as cloud:
        marks = {**tags.ownership(Ownership("cluster-a", node)), tags.POD_NAMESPACE: cluster.namespace}
        lost = await cloud.plant(ResourceKind.INSTANCE, marks)
        config = await configured(cluster, cloud, port, tmp_path)
        await cluster.peerpod(
            "web-abc",
            {"cloudProvider": "aws", "instanceID": lost, "nodeName": node},
            finalizers=[names.PEERPOD_FINALIZER],
        )
        controller = await run("--config", config)
        try:
            await cluster.until(lambda: asyncio.to_thread(lambda: "leading" in page(port)), 20)

            async def deleted() -> bool:
                return not await cloud.exists(ResourceKind.INSTANCE, lost)

            async def published() -> bool:
                return (await cluster.ask("GET", cluster.here("configmaps", names.OFFERINGS))).status_code == 200

            await cluster.ask("DELETE", cluster.here("peerpods", "web-abc", api=PEERPODS))
            await cluster.until(deleted, 10)
            await cluster.until(published, 10)
        finally:
            controller.send_signal(signal.SIGTERM)
            said, logged = await controller.communicate()
        assert controller.returncode == 0, logged.decode()
        lease = await cluster.sure("GET", cluster.here("leases", names.LEASE, api="/apis/coordination.k8s.io/v1"))
        assert lease["spec"]["holderIdentity"] == ""
        ended = await run("--uninstall", "--seconds", 20, "--config", config)
        said, logged = await ended.communicate()
        assert ended.returncode == 0, logged.decode()
        assert b"1 PeerPods released" in said
        seen = await cloud.provider.get([lost])
        assert lost not in seen or seen[lost].state is InstanceState.GONE
    for path in (
        cluster.here("peerpods", "web-abc", api=PEERPODS),
        cluster.here("leases", names.LEASE, api="/apis/coordination.k8s.io/v1"),
        cluster.here("secrets", names.WEBHOOK_TLS),
        cluster.here("configmaps", names.OFFERINGS),
    ):
        assert (await cluster.ask("GET", path)).status_code == 404, path


@pytest.mark.world
async def test_without_a_cluster_of_its_own_the_controller_refuses_and_says_which_setting(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with aws_world.world() as cloud:
        config = await configured(cluster, cloud, free_port(), tmp_path)
        config.write_text(config.read_text().replace('cluster = "cluster-a"', "", 1))
        refused = await run("--config", config)
        _, said = await refused.communicate()
    assert refused.returncode == 1
    assert b"node.cluster must be set for the controller, and to the same value for every adaptor" in said
