"""Resources of nodes, gates, and the end of a pod on a node."""

from tests.contract.kubernetes.cluster import MERGE, VM, Cluster


async def _node_of(cluster: Cluster, name: str) -> str:
    return str((await cluster.sure("GET", cluster.here("pods", name)))["spec"].get("nodeName", ""))


async def test_a_node_takes_as_many_pods_as_it_has_vms(cluster: Cluster) -> None:
    node = await cluster.node({VM: "1"})
    await cluster.pod("first", limits={VM: "1"}, **cluster.on(node))
    assert await cluster.until(lambda: _node_of(cluster, "first")) == node
    await cluster.pod("second", limits={VM: "1"}, **cluster.on(node))

    async def told() -> bool:
        status = (await cluster.sure("GET", cluster.here("pods", "second")))["status"]
        return any(f"Insufficient {VM}" in one.get("message", "") for one in status.get("conditions", ()))

    await cluster.until(told)
    await cluster.sure("DELETE", cluster.here("pods", "first"), gracePeriodSeconds="0")
    assert await cluster.until(lambda: _node_of(cluster, "second")) == node


async def test_a_gate_holds_a_pod_until_it_is_lifted(cluster: Cluster) -> None:
    node = await cluster.node()
    await cluster.pod("p", schedulingGates=[{"name": "kata.peerpods.io/quota"}], **cluster.on(node))
    pod = await cluster.sure("GET", cluster.here("pods", "p"))
    assert pod["status"]["conditions"][0]["reason"] == "SchedulingGated"
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": node},
    }
    early = await cluster.ask("POST", cluster.here("pods", "p") + "/binding", binding)
    assert early.status_code == 409
    another = {"spec": {"schedulingGates": [{"name": "kata.peerpods.io/quota"}, {"name": "peerpods.io/late"}]}}
    refused = await cluster.ask("PATCH", cluster.here("pods", "p"), another, content_type=MERGE)
    assert refused.status_code == 422
    assert "only deletion is allowed, but found new scheduling gate 'peerpods.io/late'" in refused.json()["message"]
    await cluster.sure("PATCH", cluster.here("pods", "p"), {"spec": {"schedulingGates": []}}, content_type=MERGE)
    assert await cluster.until(lambda: _node_of(cluster, "p")) == node


async def test_a_pod_on_a_node_ends_in_its_time(cluster: Cluster) -> None:
    node = await cluster.node()
    await cluster.pod("p", **cluster.on(node))
    await cluster.until(lambda: _node_of(cluster, "p"))
    await cluster.sure("DELETE", cluster.here("pods", "p"), gracePeriodSeconds="7")
    pod = await cluster.sure("GET", cluster.here("pods", "p"))
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 7
    await cluster.sure("DELETE", cluster.here("pods", "p"), gracePeriodSeconds="0")
    await cluster.gone(cluster.here("pods", "p"))
