"""The stand-in for upstream's image must refuse what that image refuses: other tests rely on its strictness."""

import asyncio
import base64
import contextlib
import gzip
import hashlib
import json
import os
import signal
import ssl
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from adaptor import names
from adaptor.errors import Code
from adaptor.pki import NodePki
from adaptor.relay import tls
from podvm_images.guest.agent import Agent
from tests.unit.guest.clouds import Aws, Azure, Gcp, MetadataService
from tests.unit.guest.peers import DEADLINE, AgentWorld, Worker, refusal
from tests.worlds import upstream_guest
from tests.worlds.upstream_guest import Forwarder, Refused, parse_apf, parse_cloud_config, provision

NAME = "podvm-web-0-f00df00d"
INITDATA = b'version = "0.1.0"\nalgorithm = "sha384"\n[data]\n"aa.toml" = "aa"\n"policy.rego" = "p"\n"other" = "x"\n'


def apf(pki: NodePki, **changes: Any) -> dict[str, Any]:
    server = pki.issue_server(NAME)
    document = {
        "pod-network": {
            "podip": "10.244.1.5/24", "pod-hw-addr": "02:00:00:00:00:05", "interface": "eth0",
            "worker-node-ip": "10.0.0.4/24", "tunnel-type": "vxlan", "mtu": 1450, "index": 0, "vxlan-port": 4789,
            "vxlan-id": 555000, "dedicated": False, "external-net-via-pod-vm": False, "neighbors": [],
            "routes": [
                {"dst": "0.0.0.0/0", "gw": "10.244.1.1", "dev": "eth0"},
                {"dst": "10.244.1.0/24", "gw": "", "dev": "eth0", "protocol": "kernel", "scope": "link"},
            ],
        },
        "pod-namespace": "shop",
        "pod-name": "web-0",
        "tls-server-key": server.key.decode(),
        "tls-server-cert": server.certificate.decode(),
        "tls-client-ca": pki.ca_pem.decode(),
    }  # fmt: skip
    return document | changes


def cloud_config(files: dict[str, str]) -> bytes:
    """As upstream's image is given it."""
    lines = ["#cloud-config", "", "write_files:"]
    for path, content in files.items():
        lines += [f"  - path: {path}", "    content: |", *(f"      {line}" for line in content.splitlines())]
    return "\n".join(lines).encode() + b"\n"


def user_data(pki: NodePki, **changes: Any) -> bytes:
    return cloud_config({"/run/peerpod/apf.json": json.dumps(apf(pki, **changes), indent=2)})


def encoded(initdata: bytes) -> str:
    return base64.b64encode(gzip.compress(initdata, mtime=0)).decode()


# -- process-user-data ------------------------------------------------------------------------------


def test_a_document_as_upstream_writes_it_is_understood(pki: NodePki) -> None:
    document = apf(pki)
    text = json.dumps(document, indent=2)
    assert parse_cloud_config(cloud_config({"/run/peerpod/apf.json": text})) == {"/run/peerpod/apf.json": text + "\n"}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (b"write_files: []\n", "does not begin with"),
        (b"#cloud-config\nwrite_files: [\n", "not YAML"),
        (b"#cloud-config\nwrite_files: []\nruncmd: [reboot]\n", "exactly the key write_files"),
        (b"#cloud-config\nwrite_files: []\nwrite_files: []\n", "stands twice"),
        (b"#cloud-config\n", "exactly the key write_files"),
        (b"#cloud-config\nwrite_files: {path: a, content: b}\n", "not a list"),
        (b"#cloud-config\nwrite_files:\n- path: /run/peerpod/apf.json\n", "exactly path and content"),
        (b"#cloud-config\nwrite_files:\n- {path: a, content: b, permissions: '0600'}\n", "exactly path and content"),
        (b"#cloud-config\nwrite_files:\n- {path: a, content: b, encoding: b64}\n", "exactly path and content"),
        (b"#cloud-config\nwrite_files:\n- {path: a, content: b, owner: root}\n", "exactly path and content"),
        (b"#cloud-config\nwrite_files:\n- {path: a, content: b, path: c}\n", "stands twice"),
        (b"#cloud-config\nwrite_files:\n- {path: a, content: 7}\n", "must be texts"),
        (b"#cloud-config\nwrite_files:\n- just a text\n", "exactly path and content"),
    ],
)
def test_anything_but_path_and_content_is_refused(given: bytes, complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        parse_cloud_config(given)


def test_only_listed_paths_are_written_and_the_others_skipped(tmp_path: Path) -> None:
    listed = [f"/run/peerpod/{n}" for n in ("aa.toml", "cdh.toml", "apf.json", "auth.json", "scratch-space.marker")]
    others = ["/etc/passwd", "/run/peerpod/policy.rego", "/run/peerpod/../../etc/shadow", "/run/peerpod/agent.toml"]
    assert provision(cloud_config(dict.fromkeys([*listed, *others], "x")), tmp_path) == others
    written = {f"/{path.relative_to(tmp_path)}" for path in tmp_path.rglob("*") if path.is_file()}
    assert written == set(listed)
    assert {stat.S_IMODE((tmp_path / path[1:]).stat().st_mode) for path in listed} == {0o644}


def test_initdata_brings_its_files_and_its_digest(tmp_path: Path) -> None:
    provision(cloud_config({"/run/peerpod/initdata": encoded(INITDATA)}), tmp_path)
    run = tmp_path / "run/peerpod"
    assert (run / "initdata.digest").read_text() == hashlib.sha384(INITDATA).hexdigest()
    assert (run / "aa.toml").read_text() == "aa"
    assert (run / "policy.rego").read_text() == "p"
    assert not (run / "other").exists()


@pytest.mark.parametrize(
    "content",
    [
        INITDATA.decode(),
        base64.b64encode(INITDATA).decode(),
        encoded(b"not toml"),
        encoded(INITDATA.replace(b"sha384", b"sha-384")),
        encoded(INITDATA.replace(b"0.1.0", b"0.2.0")),
        encoded(INITDATA + b"n = 7\n"),
    ],
)
def test_initdata_that_the_image_cannot_read_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(Refused, match="initdata"):
        provision(cloud_config({"/run/peerpod/initdata": content}), tmp_path)


@pytest.mark.parametrize("cloud", [Aws, Azure, Gcp])
def test_it_boots_from_every_cloud(tmp_path: Path, pki: NodePki, cloud: type[MetadataService]) -> None:
    with cloud(user_data(pki)) as service:
        booted = upstream_guest.boot("/nonexistent", service.url, tmp_path, 0)
    assert (booted.pod_namespace, booted.pod_name) == ("shop", "web-0")


def test_a_fault_is_tried_again_until_the_time_is_up(tmp_path: Path, pki: NodePki) -> None:
    file, seconds = tmp_path / "user-data", 0.0

    def pause(length: float) -> None:
        nonlocal seconds
        seconds += length
        if seconds == 30:
            file.write_bytes(user_data(pki))

    file.write_bytes(b"#cloud-config\nwrite_files:\n- {path: a, content: b, encoding: b64}\n")
    upstream_guest.boot(str(file), "", tmp_path, 180, now=lambda: seconds, pause=pause)
    assert seconds == 30
    file.write_bytes(b"{}")
    with pytest.raises(Refused, match="within 10 s: user-data does not begin"):
        upstream_guest.boot(str(file), "", tmp_path, 10, now=lambda: seconds, pause=pause)


# -- apf.json ---------------------------------------------------------------------------------------


def test_every_documented_key_is_taken(pki: NodePki) -> None:
    suites = ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]
    document = apf(pki, **{"tls-min-version": "VersionTLS12", "tls-cipher-suites": suites})
    assert parse_apf(json.dumps(document).encode()).network["vxlan-id"] == 555000


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tls-server-key": ""}, "lacks tls-server-key"),
        ({"tls-server-cert": None}, "lacks tls-server-cert"),
        ({"tls-client-ca": ""}, "lacks tls-client-ca"),
        ({"pod-network": {}}, "lacks pod-network"),
        ({"pod-network": []}, "pod-network is list, not dict"),
        ({"pod-network": {"podip": ["10.0.0.1"]}}, "podip is list, not str"),
        ({"pod-network": {"mtu": "1450"}}, "mtu is str, not int"),
        ({"pod-network": {"pod-ip": "10.0.0.1"}}, "unknown key 'pod-ip'"),
        ({"podname": "x"}, "unknown key 'podname'"),
        ({"tls-min-version": "1.2"}, "not VersionTLS12 or VersionTLS13"),
        ({"tls-min-version": "VersionTLS13", "tls-cipher-suites": ["TLS_X"]}, "cannot be chosen"),
        ({"tls-cipher-suites": ["ECDHE-ECDSA-AES128-GCM-SHA256"]}, "not IANA names"),
    ],
)
def test_a_wrong_apf_json_is_refused(pki: NodePki, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        parse_apf(json.dumps(apf(pki, **changes)).encode())


@pytest.mark.parametrize("given", [b"", b"[]", b"{'a': 1}"])
def test_an_apf_json_that_is_no_object_is_refused(given: bytes) -> None:
    with pytest.raises(Refused, match=r"apf\.json is not"):
        parse_apf(given)


def test_a_key_that_is_not_the_certificates_is_refused(pki: NodePki) -> None:
    other = pki.issue_server(NAME).key.decode()
    with pytest.raises(Refused, match="certificates cannot be used"):
        upstream_guest.server_context(parse_apf(json.dumps(apf(pki) | {"tls-server-key": other}).encode()))


# -- links ------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def booted(root: Path, pki: NodePki, **changes: Any) -> AsyncIterator[tuple[Forwarder, AgentWorld]]:
    """The forwarder of a VM that was given this user-data, and its agent."""
    agent = AgentWorld(root / "agent.sock")
    await agent.start()
    provision(user_data(pki, **changes), root)
    forwarder = Forwarder(Agent(str(agent.path)))
    given = parse_apf((root / "run/peerpod/apf.json").read_bytes())
    await forwarder.listen(upstream_guest.server_context(given))
    try:
        yield forwarder, agent
    finally:
        await forwarder.aclose()
        await agent.stop()


def relay(pki: NodePki) -> ssl.SSLContext:
    return tls.upstream_client(pki.worker.certificate, pki.worker.key, pki.ca_pem)


async def test_calls_reach_the_agent_over_one_connection_that_outlives_the_links(tmp_path: Path, pki: NodePki) -> None:
    async with booted(tmp_path, pki) as (forwarder, agent):
        for _ in range(2):
            worker = await Worker.dial(forwarder.port, relay(pki), NAME)
            data = os.urandom(1 << 20)
            assert await worker.call(names.AGENT_SERVICE, "CopyFile", data) == data
            assert await worker.call(names.HEALTH_SERVICE, "Check") == b""
            worker.close()
        assert agent.connections == 1
        assert [stream for stream, _, _ in agent.calls] == [1, 3, 5, 7]


async def test_our_own_services_are_unknown_to_it(tmp_path: Path, pki: NodePki) -> None:
    async with booted(tmp_path, pki) as (forwarder, agent):
        worker = await Worker.dial(forwarder.port, relay(pki), NAME)
        assert (await refusal(worker.hello())).code == Code.UNIMPLEMENTED
        assert agent.connections == 0
        worker.close()


async def test_an_agent_that_hangs_up_fails_the_calls_that_wait(tmp_path: Path, pki: NodePki) -> None:
    async with booted(tmp_path, pki) as (forwarder, agent):
        agent.silent = True
        worker = await Worker.dial(forwarder.port, relay(pki), NAME)
        stream = worker.begin(names.AGENT_SERVICE, "GetOOMEvent")
        await worker.flush()
        await agent.called()
        await agent.stop()
        assert (await refusal(worker.answer(stream))).code == Code.UNAVAILABLE
        worker.close()


async def test_it_negotiates_no_alpn_with_a_client_that_offers_ours(tmp_path: Path, pki: NodePki) -> None:
    async with booted(tmp_path, pki) as (forwarder, _):
        worker = await Worker.dial(forwarder.port, tls.own_client(pki.worker.certificate, pki.worker.key))
        assert not tls.speaks_our_protocol(worker.link)
        assert await worker.call(names.HEALTH_SERVICE, "Check") == b""
        worker.close()


async def let_in(forwarder: Forwarder, context: ssl.SSLContext, name: str = NAME) -> bool:
    try:
        worker = await Worker.dial(forwarder.port, context, name)
    except OSError:
        return False
    try:
        return await worker.call(names.HEALTH_SERVICE, "Check") == b""
    except OSError:
        return False
    finally:
        worker.close()


async def test_clients_need_a_certificate_of_the_ca_in_apf_json(
    tmp_path: Path, pki: NodePki, stranger: NodePki
) -> None:
    strange = tls.upstream_client(stranger.worker.certificate, stranger.worker.key, pki.ca_pem)
    nobody = ssl.create_default_context(cadata=pki.ca_pem.decode())
    async with booted(tmp_path, pki) as (forwarder, _):
        assert not await let_in(forwarder, strange)
        assert not await let_in(forwarder, nobody)
        assert not await let_in(forwarder, relay(pki), "podvm-another")  # the name is the client's to check
        assert await let_in(forwarder, relay(pki))


@pytest.mark.parametrize(("least", "old_is_let_in"), [("", True), ("VersionTLS12", True), ("VersionTLS13", False)])
async def test_the_least_tls_version_is_what_apf_json_says(
    tmp_path: Path, pki: NodePki, least: str, old_is_let_in: bool
) -> None:
    tls.upstream_client.cache_clear()  # the context is changed below
    old = relay(pki)
    tls.upstream_client.cache_clear()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with booted(tmp_path, pki, **{"tls-min-version": least}) as (forwarder, _):
        assert await let_in(forwarder, old) == old_is_let_in
        assert await let_in(forwarder, relay(pki))


# -- the program ------------------------------------------------------------------------------------


async def test_the_program_boots_serves_and_ends_on_sigterm(tmp_path: Path, pki: NodePki) -> None:
    (tmp_path / "user-data").write_bytes(user_data(pki))
    agent = AgentWorld(tmp_path / "agent.sock")
    await agent.start()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.worlds.upstream_guest", "--listen", "127.0.0.1:0", "--root", str(tmp_path)),
        *("--user-data", str(tmp_path / "user-data"), "--agent-socket", str(agent.path), "--pod-network", "checked"),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(DEADLINE):
            line = (await process.stderr.readline()).decode()
        assert line.startswith("listening on 127.0.0.1:"), line
        worker = await Worker.dial(int(line.split()[2].rpartition(":")[2]), relay(pki), NAME)
        assert await worker.call(names.HEALTH_SERVICE, "Check") == b""
        worker.close()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await agent.stop()
