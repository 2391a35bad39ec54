"""The server over real TLS: answers, refusals of bad reviews, certificates that change, an end that nobody notices."""

import asyncio
import io
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from adaptor import names
from adaptor.catalog import published
from adaptor.catalog.chooser import Chooser
from adaptor.config import load
from adaptor.pki import NodePki
from providers.base import Offering
from tests.worlds.admission import answered, authority, container, place, pod, realistic, review
from webhook import mutate, wire
from webhook import review as reviewing
from webhook.certificates import Certificates
from webhook.mutate import Rules
from webhook.refuse import Market
from webhook.review import Desk
from webhook.server import BODY_LIMIT, Webhook

Json = dict[str, Any]
ANY_PORT = 'listen = "127.0.0.1:1"'


@pytest.fixture
def ca(tmp_path: Path) -> NodePki:
    return authority(tmp_path / "ca")


class Api:
    """An API server's side: it trusts the CA, keeps its connections, and asks for `localhost`."""

    def __init__(self, webhook: Webhook, session: aiohttp.ClientSession) -> None:
        self.webhook = webhook
        self.session = session

    async def post(self, path: str, body: bytes | Json, **more: Any) -> tuple[int, str]:
        assert self.webhook.address
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"https://localhost:{self.webhook.address[1]}{path}"
        async with self.session.post(url, data=io.BytesIO(data), **more) as answer:
            return answer.status, await answer.text()


def configured(directory: Path, port: int = 1, more: str = "", http: str = "") -> str:
    file = directory / "peerpods.toml"
    file.write_text(
        f'[webhook]\nlisten = "127.0.0.1:{port}"\ncertificates = "{directory}/tls"\n{more}\n[http]\nlisten = "{http}"\n'
    )
    return str(file)


def trusting(ca: NodePki) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ca.ca_pem.decode())


@asynccontextmanager
async def serving(directory: Path, ca: NodePki, more: str = "") -> AsyncIterator[Api]:
    place(directory / "tls", ca.issue_server("localhost"))
    webhook = Webhook(load(configured(directory, more=more), {}, needs_cloud=False))
    webhook._listen = ("127.0.0.1", 0)
    webhook.open()
    await webhook.serve()
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting(ca))) as session:
            yield Api(webhook, session)
    finally:
        await webhook.aclose()


async def test_a_pod_is_sized_and_checked(tmp_path: Path, ca: NodePki) -> None:
    async with serving(tmp_path, ca) as api:
        for path in ("/mutate?timeout=5s", "/mutate-v1-pod"):
            status, text = await api.post(path, realistic())
            response, patch = answered(text)
            assert (status, response["allowed"]) == (200, True)
            assert {each["path"] for each in patch} >= {
                "/spec/containers/0/resources",
                "/spec/initContainers/1/resources",
            }
        status, text = await api.post("/validate", review(pod(hostNetwork=True)))
        response, _ = answered(text)
        assert (status, response["allowed"], response["status"]["code"]) == (200, False, 403)
        assert response["status"]["message"].startswith("hostNetwork: true cannot work")


async def test_what_is_none_of_ours_passes_unread(tmp_path: Path, ca: NodePki) -> None:
    other = pod(hostNetwork=True, runtimeClassName="runc")
    none: Json = {"metadata": {}, "spec": {"containers": []}}
    async with serving(tmp_path, ca) as api:
        for asked in (
            review(other),
            review(none),
            review(pod(), operation="UPDATE"),
            review(pod(), subResource="binding"),
            review(pod(), resource={"group": "apps", "version": "v1", "resource": "deployments"}),
            review(None, operation="DELETE"),
        ):
            for path in ("/mutate", "/validate"):
                status, text = await api.post(path, asked)
                assert (status, answered(text)) == (200, ({"uid": asked["request"]["uid"], "allowed": True}, []))


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[]", "the review is not a table"),
        (b"{}", "not an AdmissionReview of admission.k8s.io/v1"),
        ({**review(pod()), "apiVersion": "admission.k8s.io/v1beta1"}, "not an AdmissionReview"),
        ({**review(pod()), "request": []}, "the review.request is not a table"),
        (review(pod(), uid=""), "request.uid is missing"),
        (review(pod()) | {"request": {"uid": 7}}, "request.uid is missing"),
        (review(None), "object is not a table"),
        (review({"spec": {"runtimeClassName": "kata-remote"}}), "object has no metadata"),
        (review({"metadata": {}, "spec": {"runtimeClassName": 1}}), "runtimeClassName is not a text"),
        (
            review(pod() | {"metadata": {"annotations": {"peerpods.io/a": 1}}}),
            "annotations['peerpods.io/a'] is not a text",
        ),
        (review(pod(containers="x")), "object.spec.containers is not a list"),
        (review(pod(containers=[1])), "object.spec.containers[0] is not a table"),
        (review(pod(container(limits=[]))), "object.spec.containers[0].limits is not a table"),  # type: ignore[arg-type]
        (review(pod(resources=[1])), "object.spec.resources is not a table"),
    ],
)
async def test_a_bad_review_is_told_what_is_wrong_with_it(
    body: Any, complaint: str, tmp_path: Path, ca: NodePki
) -> None:
    async with serving(tmp_path, ca) as api:
        status, text = await api.post("/mutate", body)
        assert status == 400
        assert complaint in text


async def test_a_dry_run_is_answered_like_any_other(tmp_path: Path, ca: NodePki) -> None:
    async with serving(tmp_path, ca) as api:
        assert await api.post("/mutate", review(pod(), dry_run=True)) == await api.post("/mutate", review(pod()))


async def test_the_largest_object_is_taken_and_what_is_larger_is_not(tmp_path: Path, ca: NodePki) -> None:
    large = pod(annotations={"a": "x" * (3 << 20)})
    async with serving(tmp_path, ca) as api:
        status, text = await api.post("/mutate", review(large))
        assert (status, answered(text)[0]["allowed"]) == (200, True)
        status, text = await api.post("/mutate", b" " * (BODY_LIMIT + 1))
        assert (status, text) == (413, f"a review has {BODY_LIMIT} bytes at most\n")


async def test_pages_and_wrong_paths(tmp_path: Path, ca: NodePki) -> None:
    async with serving(tmp_path, ca) as api:
        assert api.webhook.address
        base = f"https://localhost:{api.webhook.address[1]}"
        found = {}
        for path in ("/healthz", "/readyz", "/mutate", "/nothing"):
            async with api.session.get(base + path) as answer:
                found[path] = (answer.status, await answer.text())
        assert found["/healthz"] == (200, "ok\n")
        assert found["/readyz"] == (200, "ready\n")
        assert found["/mutate"][0] == 405
        assert found["/nothing"][0] == 404
        assert (await api.post("/nothing", b""))[0] == 404


async def test_offerings_are_taken_up_while_it_serves(tmp_path: Path, ca: NodePki) -> None:
    file = tmp_path / "offerings.json"
    large = review(pod(container(limits={"cpu": "64"})))
    async with serving(tmp_path, ca, f'offerings = "{file}"') as api:
        assert answered((await api.post("/validate", large))[1])[0]["allowed"]
        file.write_text(published.to_json("aws", [Offering("m6a.large", 2, 8192)]))
        api.webhook.look()
        refused = answered((await api.post("/validate", large))[1])[0]
        assert "no instance type found for the given vcpus (64)" in refused["status"]["message"]


async def test_pods_that_are_alike_get_the_same_answer_with_their_own_uid(tmp_path: Path, ca: NodePki) -> None:
    async with serving(tmp_path, ca) as api:
        first, second = [
            answered((await api.post("/mutate", review(pod(container(limits={"cpu": "2"})), uid=uid)))[1], uid)
            for uid in ("1-1", 'a"b')
        ]
        assert first[1] == second[1] != []
        other = answered((await api.post("/mutate", review(pod(container(limits={"cpu": "3"})))))[1])
        assert other[1] != first[1]


VARIANTS = [
    pod(),
    pod(annotations={}),
    pod(annotations={"other.example/x": "1"}),
    *(
        pod(annotations={key: "2"})
        for key in ("peerpods.io/vcpus", names.DEFAULT_GPUS, names.DEFAULT_MEMORY, names.INITDATA)
    ),
    pod(annotations={names.SIZED: "vcpus=2,memory-mib=2"}),
    pod(container(limits={"cpu": "1"})),
    pod(container(requests={"cpu": "1"})),
    pod(container(limits={"cpu": "1"}), init=(container("i", {"cpu": "1"}),)),
    pod(container(limits={"cpu": "1"}), init=(container("i", {"cpu": "1"}, sidecar=True),)),
    pod(container(limits={"cpu": "1"}), container("i", limits={"cpu": "1"})),
    pod(container("named", limits={"cpu": "x"})),
    pod(container("other", limits={"cpu": "x"})),
    pod(resources={"limits": {"cpu": "1"}}),
    pod(overhead={names.VM_RESOURCE: "1"}),
    pod(nodeName="worker"),
    pod(schedulingGates=[{"name": "a"}]),
    pod(hostNetwork=True),
    pod(hostPID=True),
    pod(hostIPC=True),
]


def test_a_desk_that_remembers_says_what_a_new_one_says() -> None:
    def desk() -> Desk:
        return Desk(
            frozenset({"kata-remote"}), Rules(gpu_resources=frozenset({"nvidia.com/gpu"}), quota=True), refuse=True
        )

    market = Market(Chooser())
    bodies = [json.dumps(review(made)).encode() for made in VARIANTS]
    old = desk()
    for _ in range(2):
        assert [old.mutate(body) for body in bodies] == [desk().mutate(body) for body in bodies]
        assert [old.validate(body, market) for body in bodies] == [desk().validate(body, market) for body in bodies]
    assert len({old.mutate(body).body for body in bodies}) > 14


def test_what_is_remembered_is_bounded() -> None:
    memory = reviewing.Memory()
    verdict = reviewing.Verdict(wire.ALLOWED, reviewing.ALLOWED)
    for number in range(5000):
        memory.put(str(number), verdict)
    memory.put("x" * (reviewing.Memory.LONGEST + 1), verdict)
    assert memory.get("x" * (reviewing.Memory.LONGEST + 1)) is None
    assert memory.get("4999") is verdict
    assert sum(memory.get(str(number)) is not None for number in range(5000)) <= reviewing.Memory.ENTRIES


async def test_a_fault_of_ours_denies_and_says_so(
    tmp_path: Path, ca: NodePki, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path, ca) as api:
        monkeypatch.setattr(mutate, "mutate", lambda *_: 1 / 0)
        status, text = await api.post("/mutate", review(pod()))
        assert status == 200
        assert "has a fault" in answered(text)[0]["status"]["message"]
        assert "ZeroDivisionError" in caplog.text


# -- certificates ---------------------------------------------------------------------------------


async def test_a_certificate_changes_while_reviews_flow_and_none_fails(tmp_path: Path, ca: NodePki) -> None:
    async with serving(tmp_path, ca) as api:
        stop = asyncio.Event()
        answers: list[int] = []

        async def keep_asking(fresh: bool) -> None:
            while not stop.is_set():
                headers = {"Connection": "close"} if fresh else {}
                answers.append((await api.post("/mutate", realistic(), headers=headers))[0])

        async with asyncio.TaskGroup() as tasks:
            for fresh in (True, False, True, False):
                tasks.create_task(keep_asking(fresh))
            serials = set()
            for _ in range(8):
                serials.add(await serial(api, ca))
                place(tmp_path / "tls", ca.issue_server("localhost"))
                api.webhook.look()
                before = len(answers)
                while len(answers) < before + 10:
                    await asyncio.sleep(0.005)
            stop.set()
        assert len(serials) == 8
        assert set(answers) == {200}
        assert len(answers) >= 80


async def serial(api: Api, ca: NodePki) -> int:
    """Of the certificate that a new connection is shown."""
    assert api.webhook.address
    _, writer = await asyncio.open_connection(
        "127.0.0.1", api.webhook.address[1], ssl=trusting(ca), server_hostname="localhost"
    )
    shown = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.close()
    return shown.serial_number


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda tls, ca: (tls / "tls.key").write_bytes(ca.issue_server("localhost").key), "its key is another's"),
        (
            lambda tls, ca: (tls / "tls.crt").write_bytes(ca.issue_server("localhost").certificate),
            "its key is another's",
        ),
        (lambda tls, ca: (tls / "tls.crt").write_bytes(b"garbage"), "not a PEM certificate"),
        (lambda tls, ca: (tls / "tls.key").write_bytes(b"garbage"), "not a PEM certificate with its key"),
        (lambda tls, ca: (tls / "tls.key").unlink(), "No such file or directory"),
    ],
)
async def test_a_pair_that_cannot_be_used_leaves_the_one_before(
    break_it: Any, complaint: str, tmp_path: Path, ca: NodePki
) -> None:
    async with serving(tmp_path, ca) as api:
        before = await serial(api, ca)
        tls = tmp_path / "tls"
        break_it(tls, ca)
        api.webhook.look()
        assert await serial(api, ca) == before
        ready, reasons = api.webhook.readiness()
        assert ready
        assert complaint in reasons[0]
        assert "PRIVATE" not in reasons[0]
        for name in ("tls.crt", "tls.key"):
            (tls / name).unlink(missing_ok=True)
        place(tls, ca.issue_server("localhost"))
        api.webhook.look()
        assert api.webhook.readiness() == (True, [])
        assert await serial(api, ca) != before


def test_old_tls_is_not_spoken(tmp_path: Path) -> None:
    assert Certificates(str(tmp_path)).context.minimum_version is ssl.TLSVersion.TLSv1_2


# -- the process ----------------------------------------------------------------------------------


async def test_the_process_waits_for_its_certificate_and_drains_before_it_ends(tmp_path: Path, ca: NodePki) -> None:
    from tests.bench._chains import free_port

    port, pages = free_port(), free_port()
    file = configured(tmp_path, port, http=f"127.0.0.1:{pages}")
    words = [sys.executable, "-m", "adaptor", "webhook", "--config", file]
    process = await asyncio.create_subprocess_exec(*words, stderr=subprocess.PIPE, env={**os.environ})
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting(ca))) as session:

            async def page(path: str) -> tuple[int, str]:
                async with session.get(f"http://127.0.0.1:{pages}{path}") as answer:
                    return answer.status, await answer.text()

            assert await eventually(page, "/healthz") == (200, "ok\n")
            status, text = await page("/readyz")
            assert status == 503
            assert "tls.crt: No such file" in text
            place(tmp_path / "tls", ca.issue_server("localhost"))
            while (await page("/readyz"))[0] != 200:
                await asyncio.sleep(0.05)
            url = f"https://localhost:{port}/mutate"
            async with session.post(url, data=realistic()) as answer:
                assert (answer.status, answer.headers.get("Connection")) == (200, None)
            process.send_signal(signal.SIGTERM)
            while (await page("/readyz"))[0] == 200:
                await asyncio.sleep(0.02)
            async with session.post(url, data=realistic()) as answer:
                assert (answer.status, answer.headers["Connection"]) == (200, "close"), "still answered, and sent away"
            assert (
                'peerpods_webhook_reviews_total{method="mutate",outcome="patched"} 2.0' in (await page("/metrics"))[1]
            )
        process.send_signal(signal.SIGTERM)
        _, told = await process.communicate()
        assert process.returncode == 0
        assert b'"pod":"shop/web","size":"vcpus=2,memory-mib=2304"' in told
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def eventually(ask: Any, path: str) -> Any:
    async with asyncio.timeout(20):
        while True:
            try:
                return await ask(path)
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)
