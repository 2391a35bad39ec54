"""A pod's pull secrets, from the strict API server, with the rights of whoever reads them."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from lightkube.resources.core_v1 import Pod

from adaptor.config import Kubernetes
from adaptor.kube import client as api
from adaptor.kube.errors import KubernetesError
from adaptor.kube.place import Place
from adaptor.kube.secrets import KubeletClient, PullSecrets
from adaptor.pki import NodePki
from tests.worlds.hand import HandClock
from tests.worlds.identities import Asked, serving
from tests.worlds.kubernetes.faults import Fault
from tests.worlds.kubernetes.world import World

ADAPTOR = {"kind": "ServiceAccount", "name": "peerpods-adaptor", "namespace": "peerpods"}
KUBELET = {"kind": "User", "name": "system:node:worker-1", "apiGroup": "rbac.authorization.k8s.io"}


class Shop:
    """A namespace with pods, service accounts and secrets."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.directory = directory
        self.clock = HandClock()

    async def make(self) -> None:
        await self.world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        await self.account("default")
        everything = ["pods", "secrets", "serviceaccounts"]
        await self.grant("adaptor", ADAPTOR, [{"apiGroups": [""], "resources": everything, "verbs": ["get"]}])
        await self.grant("kubelet", KUBELET, [{"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get"]}])

    async def grant(self, name: str, who: dict[str, str], rules: list[dict[str, Any]]) -> None:
        rbac, group = "rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
        await self.world.create({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules})
        role = {"apiGroup": group, "kind": "ClusterRole", "name": name}
        binding = {"metadata": {"name": name}, "subjects": [who], "roleRef": role}
        await self.world.create({"apiVersion": rbac, "kind": "ClusterRoleBinding", **binding})

    async def secret(self, name: str, registry: str, password: str, **changes: Any) -> None:
        pair = base64.b64encode(f"user:{password}".encode()).decode()
        document = json.dumps({"auths": {registry: {"auth": pair}}}).encode()
        secret = {"type": "kubernetes.io/dockerconfigjson"}
        data = {"data": {".dockerconfigjson": base64.b64encode(document).decode()}}
        await self._create("Secret", name, secret | data | changes)

    async def account(self, name: str, *secrets: str) -> None:
        await self._create("ServiceAccount", name, {"imagePullSecrets": [{"name": each} for each in secrets]})

    async def pod(self, name: str, *secrets: str, account: str = "default") -> str:
        """Its uid."""
        references = [{"name": each} if each else {} for each in secrets]
        containers = [{"name": "c", "image": "quay.io/private/app"}]
        spec = {"containers": containers, "serviceAccountName": account, "imagePullSecrets": references}
        made = await self._create("Pod", name, {"spec": spec})
        uid: str = made["metadata"]["uid"]
        return uid

    def kubeconfig(self, mode: str) -> Path:
        token = self.world.service_account("peerpods", "peerpods-adaptor")
        if mode == "node":
            token = self.world.user("system:node:worker-1", "system:nodes")
        return self.world.kubeconfig(self.directory / mode, token)

    async def read(self, pod: str, mode: str = "own", **more: str) -> tuple[dict[str, str], list[str]]:
        """Registry to password, and the notes."""
        client = api.connect(Place(kubeconfig=str(self.kubeconfig("own"))))
        settings = Kubernetes(pull_secrets=mode, kubelet_kubeconfig=str(self.kubeconfig("node")))
        secrets = PullSecrets(settings, client, self.clock)
        try:
            auth, notes = await secrets.auth("shop", pod, **more)
        finally:
            await secrets.aclose()
            await client.close()
        auths = json.loads(auth)["auths"] if auth else {}
        return {name: base64.b64decode(each["auth"]).decode()[5:] for name, each in auths.items()}, notes

    async def _create(self, kind: str, name: str, rest: dict[str, Any]) -> dict[str, Any]:
        metadata = {"name": name, "namespace": "shop"}
        return await self.world.create({"apiVersion": "v1", "kind": kind, "metadata": metadata, **rest})


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with World() as world:
        shop = Shop(world, tmp_path)
        await shop.make()
        yield shop


@pytest.mark.parametrize("mode", ["own", "node"])
async def test_a_pods_secrets_are_read_and_merged_in_its_order(shop: Shop, mode: str) -> None:
    await shop.secret("first", "quay.io", "1")
    await shop.secret("second", "quay.io", "2")
    await shop.secret("third", "ghcr.io", "3")
    uid = await shop.pod("web", "first", "", "second", "third", "first")
    found, notes = await shop.read("web", mode, pod_uid=uid)
    assert found == {"quay.io": "1", "ghcr.io": "3"}
    assert notes == ["the image pull secret second: another one is used for quay.io, which comes first"]


async def test_a_service_accounts_secrets_come_after_the_pods(shop: Shop) -> None:
    await shop.secret("pods", "quay.io", "pod")
    await shop.secret("accounts", "ghcr.io", "account")
    await shop.account("builder", "accounts", "pods")
    await shop.pod("web", "pods", account="builder")
    assert await shop.read("web") == ({"quay.io": "pod", "ghcr.io": "account"}, [])
    assert await shop.read("web", "node") == ({"quay.io": "pod"}, [])  # as kubelet itself


async def test_a_pod_without_secrets_gets_nothing_and_no_note(shop: Shop) -> None:
    await shop.pod("web")
    assert await shop.read("web") == ({}, [])


async def test_off_reads_nothing(shop: Shop) -> None:
    await shop.secret("a", "quay.io", "1")
    await shop.pod("web", "a")
    shop.world.server.requests.clear()
    assert await shop.read("web", "off") == ({}, [])
    assert shop.world.server.requests == []


async def test_a_secret_that_is_missing_or_of_another_type_is_a_note_and_the_others_count(shop: Shop) -> None:
    await shop.secret("good", "quay.io", "1")
    await shop.secret("opaque", "ghcr.io", "2", type="Opaque")
    await shop.pod("web", "missing", "opaque", "good")
    found, notes = await shop.read("web")
    assert found == {"quay.io": "1"}
    assert notes[0] == "the image pull secret missing does not exist in shop"
    assert notes[1].startswith("the image pull secret opaque cannot be used: its type is 'Opaque'")


async def test_who_may_not_read_secrets_says_which_right_is_missing(shop: Shop) -> None:
    await shop.secret("a", "quay.io", "1")
    await shop.pod("web", "a")
    shop.world.faults.add(Fault("get", "secrets", status=403, message="no get on secrets"))
    found, notes = await shop.read("web")
    assert found == {}
    (note,) = notes
    assert note.startswith("the image pull secret a is not known: cannot read the Secret shop/a: no get on secrets. ")
    assert "Role must grant this" in note


async def test_a_pod_that_is_gone_or_another_by_now_gets_nothing(shop: Shop) -> None:
    await shop.secret("a", "quay.io", "1")
    await shop.pod("web", "a")
    found, notes = await shop.read("web", pod_uid="that-of-its-predecessor")
    assert found == {}
    assert "the pod shop/web is another one by now" in notes[0]
    assert "not known: cannot read the Pod shop/none" in (await shop.read("none"))[1][0]


async def test_a_service_account_that_cannot_be_read_is_a_note(shop: Shop) -> None:
    await shop.secret("a", "quay.io", "1")
    await shop.pod("web", "a")
    found, notes = await shop.read("web", service_account="none")
    assert found == {"quay.io": "1"}
    assert "the image pull secrets of the service account none are not known" in notes[0]


async def test_an_answer_that_fails_is_asked_for_again_and_then_a_note(shop: Shop) -> None:
    await shop.secret("a", "quay.io", "1")
    await shop.pod("web", "a")
    shop.world.faults.add(Fault("get", "secrets", times=2, status=503))
    reading = asyncio.create_task(shop.read("web"))
    await _passing(shop.clock, reading)
    assert reading.result() == ({"quay.io": "1"}, [])
    shop.world.faults.add(Fault("get", "secrets", times=3, status=503))
    reading = asyncio.create_task(shop.read("web"))
    await _passing(shop.clock, reading)
    assert "the image pull secret a is not known: cannot read the Secret shop/a" in reading.result()[1][0]


async def test_nothing_of_a_secret_is_logged(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    await shop.secret("a", "quay.io", "hunter2")
    broken = base64.b64encode(b'{"auths": {"ghcr.io": {"auth": "hunter2"').decode()
    await shop.secret("b", "ghcr.io", "x", data={".dockerconfigjson": broken}, type="kubernetes.io/dockerconfigjson")
    await shop.pod("web", "a", "b")
    found, notes = await shop.read("web")
    encoded = base64.b64encode(b"user:hunter2").decode()
    for text in (caplog.text, *notes):
        assert "hunter2" not in text
        assert encoded not in text
        assert broken not in text
    assert found == {"quay.io": "hunter2"}


async def test_a_kubelet_whose_kubeconfig_is_missing_is_a_note_that_names_it(shop: Shop) -> None:
    client = api.connect(Place(kubeconfig=str(shop.kubeconfig("own"))))
    settings = Kubernetes(pull_secrets="node", kubelet_kubeconfig=str(shop.directory / "none"))
    auth, notes = await PullSecrets(settings, client, shop.clock).auth("shop", "web")
    await client.close()
    assert auth == b""
    assert f"{shop.directory / 'none'}" in notes[0]


async def test_a_kubelets_renewed_certificate_is_shown_from_the_next_call_on(tmp_path: Path) -> None:
    """Kubelet writes a new file and turns a link to it. The server asks for certificates, as the real one does, and
    takes the second one alone."""
    old, new = NodePki.load(tmp_path / "old"), NodePki.load(tmp_path / "new")
    server = new.issue_server("localhost")
    (tmp_path / "server.pem").write_bytes(server.certificate + server.key)
    (tmp_path / "ca.crt").write_bytes(new.ca_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    context.load_verify_locations(tmp_path / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED

    def turn_to(number: int, pki: NodePki) -> None:
        (tmp_path / f"client-{number}.pem").write_bytes(pki.worker.certificate + pki.worker.key)
        link = tmp_path / "link"
        link.symlink_to(f"client-{number}.pem")
        link.rename(tmp_path / "current.pem")

    def answer(asked: Asked) -> tuple[int, Any]:
        return 200, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"}}

    with serving(answer, context) as endpoint:
        kubeconfig = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": endpoint.url, "certificate-authority": "ca.crt"}}],
            "users": [{"name": "u", "user": {"client-certificate": "current.pem", "client-key": "current.pem"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        (tmp_path / "kubelet.conf").write_text(json.dumps(kubeconfig))
        turn_to(1, old)
        kubelet = KubeletClient(str(tmp_path / "kubelet.conf"))
        first = await kubelet.get()
        assert await kubelet.get() is first
        with pytest.raises(KubernetesError), api.told("read the pod"):
            await first.get(Pod, "web", namespace="shop")
        turn_to(2, new)
        second = await kubelet.get()
        assert await kubelet.get() is second
        assert (await second.get(Pod, "web", namespace="shop")).metadata
        turn_to(3, new)
        third = await kubelet.get()
        assert (await second.get(Pod, "web", namespace="shop")).metadata  # what is under way is not cut off
        with pytest.raises(RuntimeError, match="closed"):
            await first.get(Pod, "web", namespace="shop")
        assert third is not second
        await kubelet.aclose()


async def _passing(clock: HandClock, task: "asyncio.Task[Any]") -> None:
    async with asyncio.timeout(5):
        while not task.done():
            await asyncio.sleep(0.01)
            clock.advance(0.5)
