"""A pod's image pull secrets as an API server gives them out, to who has the right and to who has not."""

import base64
import json
from typing import Any

from adaptor.clock import RealClock
from adaptor.config import Kubernetes
from adaptor.kube.secrets import PullSecrets
from tests.contract.kubernetes.cluster import Cluster

READS = [{"apiGroups": [""], "resources": ["pods", "secrets", "serviceaccounts"], "verbs": ["get"]}]


async def secret(cluster: Cluster, name: str, registry: str, namespace: str = "") -> None:
    pair = base64.b64encode(f"user:of-{name}".encode()).decode()
    content = json.dumps({"auths": {registry: {"auth": pair}}}).encode()
    await cluster.make(
        cluster.here("secrets", namespace=namespace),
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": base64.b64encode(content).decode()},
        },
    )


async def account(cluster: Cluster, name: str, *secrets: str) -> None:
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
    await cluster.make(
        cluster.here("serviceaccounts"), body | {"imagePullSecrets": [{"name": each} for each in secrets]}
    )


async def pod(
    cluster: Cluster, *secrets: str, service_account: str = "default", namespace: str = ""
) -> tuple[str, str]:
    """(name, uid) of one that no node takes."""
    spec: dict[str, Any] = {"imagePullSecrets": [{"name": each} for each in secrets]} if secrets else {}
    spec |= {"serviceAccountName": service_account, "nodeSelector": {"peerpods.io/no-such-node": "true"}}
    made = await cluster.sure(
        "POST",
        cluster.here("pods", namespace=namespace),
        cluster.pod_object(metadata={"namespace": namespace or cluster.namespace}, **spec),
    )
    return made["metadata"]["name"], made["metadata"]["uid"]


async def reader(cluster: Cluster, name: str) -> PullSecrets:
    return PullSecrets(Kubernetes(pull_secrets="own"), await cluster.client(name), RealClock())


def registries(auth: bytes) -> dict[str, str]:
    entries = json.loads(auth)["auths"] if auth else {}
    return {name: base64.b64decode(each["auth"]).decode().partition(":")[2] for name, each in entries.items()}


async def test_the_pods_secrets_come_before_its_service_accounts(cluster: Cluster) -> None:
    await cluster.token("reader")
    await cluster.grant("reader", READS)
    for name, registry in (("pods", "quay.io"), ("accounts", "quay.io"), ("more", "ghcr.io")):
        await secret(cluster, name, registry)
    await account(cluster, "builder", "accounts", "more")
    name, uid = await pod(cluster, "pods", "missing", service_account="builder")
    secrets = await reader(cluster, "reader")

    async def read() -> Any:
        auth, notes = await secrets.auth(cluster.namespace, name, uid)
        return (auth, notes) if auth else None  # roles take a moment

    auth, notes = await cluster.until(read)
    assert registries(auth) == {"quay.io": "of-pods", "ghcr.io": "of-more"}
    assert notes == [
        f"the image pull secret missing does not exist in {cluster.namespace}",
        "the image pull secret accounts: another one is used for quay.io, which comes first",
    ]


async def test_who_may_not_read_them_learns_which_right_is_missing_and_the_pod_goes_on(cluster: Cluster) -> None:
    await cluster.token("blind")
    await cluster.grant("blind", [{"apiGroups": [""], "resources": ["pods", "serviceaccounts"], "verbs": ["get"]}])
    await secret(cluster, "private", "quay.io")
    name, uid = await pod(cluster, "private")
    secrets = await reader(cluster, "blind")

    async def read() -> Any:
        auth, notes = await secrets.auth(cluster.namespace, name, uid)
        return (auth, notes) if any("Secret" in each for each in notes) else None

    auth, notes = await cluster.until(read)
    assert auth == b""
    assert 'cannot get resource "secrets"' in notes[0]
    assert f'in the namespace "{cluster.namespace}"' in notes[0]


async def test_a_right_in_one_namespace_is_none_in_another(cluster: Cluster) -> None:
    elsewhere = await cluster.new_namespace()
    await cluster.token("reader")
    await cluster.grant("reader", READS)
    for namespace in (cluster.namespace, elsewhere):
        await secret(cluster, "private", "quay.io", namespace)
    here, there = await pod(cluster, "private"), await pod(cluster, "private", namespace=elsewhere)
    secrets = await reader(cluster, "reader")

    async def read() -> Any:
        return (await secrets.auth(cluster.namespace, *here))[0]

    assert registries(await cluster.until(read)) == {"quay.io": "of-private"}
    auth, notes = await secrets.auth(elsewhere, *there)
    assert auth == b""
    assert 'cannot get resource "pods"' in notes[0]
