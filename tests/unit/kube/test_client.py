"""Where the API server is looked for, and what its refusals become."""

from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest
from lightkube import AsyncClient
from lightkube.resources.core_v1 import Node, Pod

from adaptor.config import Kubernetes
from adaptor.errors import Unavailable
from adaptor.kube import client as api
from adaptor.kube import place
from adaptor.kube.errors import Absent, Forbidden, KubernetesError, Outdated, Rejected, Taken
from tests.worlds.kubernetes.faults import Fault
from tests.worlds.kubernetes.world import World


@pytest.fixture
def account(tmp_path: Path) -> Path:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("t")
    return folder


@pytest.mark.parametrize(
    ("enabled", "kubeconfig", "in_pod", "found"),
    [
        ("auto", None, False, None),
        ("auto", "/etc/kc", False, "kubeconfig"),
        ("auto", None, True, "pod"),
        ("auto", "/etc/kc", True, "kubeconfig"),
        ("off", "/etc/kc", True, None),
        ("on", None, True, "pod"),
        ("on", "/etc/kc", False, "kubeconfig"),
    ],
)
def test_a_cluster_is_where_the_settings_say_or_around_the_pod(
    enabled: str,
    kubeconfig: str | None,
    in_pod: bool,
    found: str | None,
    account: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if in_pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    where = place.find(Kubernetes(enabled=enabled, kubeconfig=kubeconfig), str(account))
    expected = {None: None, "kubeconfig": place.Place("/etc/kc"), "pod": place.Place(service_account=str(account))}
    assert where == expected[found]


def test_on_without_a_cluster_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    with pytest.raises(Unavailable, match=r"no .*/token.*set kubernetes.kubeconfig"):
        place.find(Kubernetes(enabled="on"), str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not found"),
        ("a: [", "not YAML"),
        ("", "missing or of the wrong kind"),
        ("clusters: []\ncontexts: []\n", "current context"),
        ("clusters: []\ncontexts: []\ncurrent-context: x\n", "'x' not found"),
        ("clusters: []\ncontexts: [{name: x, context: {cluster: y}}]\ncurrent-context: x\n", "missing"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named_with_the_reason(
    content: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Unavailable, match=f"(?s){path}.*{message}"):
        api.open_client(Kubernetes(kubeconfig=str(path)))


async def test_a_pods_service_account_is_used_and_its_token_read_again_when_it_was_renewed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "serviceaccount"
    for key, value in world.in_cluster(folder, world.admin(), "peerpods").items():
        monkeypatch.setenv(key, value)
    client = api.open_client(Kubernetes(), str(folder))
    assert client is not None
    assert client.namespace == "peerpods"
    assert [each async for each in client.list(Pod, namespace="shop")] == []
    world.access._tokens.clear()  # expired
    with pytest.raises(Forbidden, match="token is not valid"), api.told("list pods"):
        [each async for each in client.list(Pod, namespace="shop")]
    (folder / "token").write_text(world.admin())
    assert [each async for each in client.list(Pod, namespace="shop")] == []
    await client.aclose()


@pytest.mark.parametrize(
    ("fault", "cls", "text"),
    [
        ({"status": 404}, Absent, "injected"),
        ({"status": 409}, Outdated, "injected"),
        ({"status": 410}, Outdated, "injected"),
        ({"status": 403}, Forbidden, "must grant this"),
        ({"status": 401}, Forbidden, "does not know who this is"),
        ({"status": 422}, Rejected, "injected"),
        ({"status": 429, "retry_after": 7}, KubernetesError, "injected"),
        ({"status": 500}, KubernetesError, r"failed \(500\)"),
        ({}, KubernetesError, "no usable answer"),
    ],
    ids=str,
)
async def test_each_refusal_is_of_the_class_that_its_caller_decides_by(
    connect: Callable[[], AsyncClient],
    world: World,
    fault: dict[str, int],
    cls: type[KubernetesError],
    text: str,
) -> None:
    client = connect()
    world.faults.add(Fault(verb="get", resource="nodes", times=2, **fault))  # type: ignore[arg-type]
    with pytest.raises(KubernetesError, match=f"^cannot read the node: .*{text}") as caught, api.told("read the node"):
        await client.get(Node, "worker-1")
    assert type(caught.value) is cls
    assert caught.value.code == fault.get("status", 0)
    assert caught.value.retry_after == fault.get("retry_after")
    await client.aclose()


async def test_a_name_that_is_taken_is_told_from_a_version_that_is_old(
    connect: Callable[[], AsyncClient],
) -> None:
    client = connect()
    body = api.PeerPod({"metadata": {"name": "a", "namespace": "shop"}})
    await client.create(body)
    with pytest.raises(Taken), api.told("create"):
        await client.create(body)
    await client.aclose()


async def test_a_server_that_does_not_answer_is_left_soon(
    connect: Callable[[], AsyncClient], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "READ", 0.1)
    client = connect()
    world.faults.add(Fault(verb="get", latency=0.4))
    with pytest.raises(KubernetesError, match="did not answer in time"), api.told("read the node"):
        await client.get(Node, "worker-1")
    await client.aclose()


def test_an_answer_that_is_no_kubernetes_is_an_error_all_the_same() -> None:
    """A proxy's page, and what the library makes of a header that is missing."""
    request = httpx.Request("GET", "https://10.96.0.1/")
    page = httpx.HTTPStatusError(
        "502 Bad Gateway", request=request, response=httpx.Response(502, text="<html>", request=request)
    )
    for error in (page, KeyError("content-type"), ValueError("not JSON")):
        assert type(api.explained("read", error)) is KubernetesError
