"""A stand-in for upstream's pod VM image, as strict as that image about what a worker gives it.

    user-data ─► process-user-data ─► /run/peerpod/* ─► agent-protocol-forwarder :15150 (TLS, no ALPN) ─► agent socket

User-data is a #cloud-config whose entries have exactly `path` and `content`; the server's key and certificate and the
clients' CA come in apf.json. Every link's calls go over one agent connection, which outlives the links; only the
agent's two services are served. Stricter than the original on purpose: an unknown key in apf.json is refused, because
there it would be ignored, and be our mistake. As a simulated instance it makes the pod's network (`upstream_network`)
and has containers join it. Left out: cipher suites are checked but not chosen.

`python -m tests.worlds.upstream_guest` is the program of a simulated instance.
"""

import argparse
import asyncio
import base64
import binascii
import contextlib
import gzip
import hashlib
import json
import os
import signal
import ssl
import sys
import time
import tomllib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from adaptor import names
from adaptor.errors import Code, StatusError
from adaptor.ttrpc.connection import ClientConnection, RequestReceived, ResponseReceived, ServerConnection
from podvm_images.guest import imds
from podvm_images.guest.agent import Agent
from podvm_images.guest.program import DEVELOPMENT_AGENT
from tests.worlds import upstream_network

_RUN: Final = names.RUN_DIR
FROM_USER_DATA: Final = tuple(
    f"{_RUN}/{name}" for name in ("aa.toml", "cdh.toml", "apf.json", "auth.json", "initdata", "scratch-space.marker")
)
FROM_INITDATA: Final = ("aa.toml", "cdh.toml", "policy.rego")
SERVICES: Final = (names.AGENT_SERVICE, names.HEALTH_SERVICE)
AGENT_TIMEOUT: Final = 150.0  # seconds, as in the original

_NETWORK: Final[dict[str, type]] = {
    "podip": str, "pod-hw-addr": str, "interface": str, "worker-node-ip": str, "tunnel-type": str, "routes": list,
    "neighbors": list, "mtu": int, "index": int, "vxlan-port": int, "vxlan-id": int, "dedicated": bool,
    "external-net-via-pod-vm": bool,
}  # fmt: skip
_APF: Final[dict[str, type]] = {
    "pod-network": dict, "pod-namespace": str, "pod-name": str, "tls-server-key": str, "tls-server-cert": str,
    "tls-client-ca": str, "tls-min-version": str, "tls-cipher-suites": list,
}  # fmt: skip
_NEEDED: Final = ("pod-network", "tls-server-key", "tls-server-cert", "tls-client-ca")
_VERSIONS: Final = {
    "": ssl.TLSVersion.TLSv1_2,
    "VersionTLS12": ssl.TLSVersion.TLSv1_2,
    "VersionTLS13": ssl.TLSVersion.TLSv1_3,
}


class Refused(Exception):
    """The image would not come up with this; says why."""


# -- process-user-data ------------------------------------------------------------------------------


def parse_cloud_config(raw: bytes) -> dict[str, str]:
    """Path → content of user-data, every path, allowed or not. Raises Refused for anything the image cannot parse."""
    if not raw.startswith(b"#cloud-config\n"):
        raise Refused("user-data does not begin with a line '#cloud-config'")
    try:
        document = yaml.load(raw, _StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused(f"user-data is not YAML: {error}") from error
    if not isinstance(document, dict) or set(document) != {"write_files"}:
        raise Refused(f"user-data must have exactly the key write_files: {document!r:.200}")
    if not isinstance(document["write_files"], list):
        raise Refused("write_files is not a list")
    files: dict[str, str] = {}
    for entry in document["write_files"]:
        if not isinstance(entry, dict) or set(entry) != {"path", "content"}:
            raise Refused(f"an entry of write_files must have exactly path and content, not {sorted(entry)}")
        if not all(isinstance(value, str) for value in entry.values()):
            raise Refused(f"path and content must be texts: {entry['path']!r}")
        files[entry["path"]] = entry["content"]
    return files


def provision(raw: bytes, root: Path) -> list[str]:
    """Write what user-data brings below `root`; returns the paths it may not write, which are skipped."""
    files = parse_cloud_config(raw)
    for path, content in files.items():
        if path in FROM_USER_DATA:
            _write(root, path, content.encode())
    initdata = root / f"{_RUN}/initdata".lstrip("/")
    if initdata.exists():
        _process_initdata(initdata.read_bytes(), root)
    return [path for path in files if path not in FROM_USER_DATA]


def _process_initdata(encoded: bytes, root: Path) -> None:
    try:
        raw = gzip.decompress(base64.b64decode(b"".join(encoded.split()), validate=True))
        document = tomllib.loads(raw.decode())
    except (binascii.Error, OSError, EOFError, zlib.error, ValueError) as error:
        raise Refused(f"initdata is not base64 of gzip of TOML: {error}") from error
    algorithm, data = document.get("algorithm"), document.get("data")
    if document.get("version") != "0.1.0" or algorithm not in ("sha256", "sha384", "sha512"):
        raise Refused(f"initdata's version or algorithm is not understood: {algorithm!r}")
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise Refused("initdata's [data] is not a table of texts")
    for name in FROM_INITDATA:
        if name in data:
            _write(root, f"{_RUN}/{name}", data[name].encode())
    _write(root, f"{_RUN}/initdata.digest", hashlib.new(algorithm, raw).hexdigest().encode())


def _write(root: Path, path: str, content: bytes) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    target.write_bytes(content)
    target.chmod(0o644)


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key may stand only once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len({str(key) for key in keys}):
            raise yaml.constructor.ConstructorError(None, None, f"a key stands twice: {keys}", node.start_mark)
        return dict(super().construct_mapping(node, deep=deep))


# -- agent-protocol-forwarder -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Apf:
    """apf.json, checked."""

    pod_namespace: str
    pod_name: str
    network: dict[str, Any]
    server_key: str = field(repr=False)
    server_certificate: str
    client_ca: str
    least_version: ssl.TLSVersion


def parse_apf(raw: bytes) -> Apf:
    """Raises Refused for a key that is missing, unknown or of another type."""
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise Refused(f"apf.json is not JSON: {error}") from error
    _check(document, _APF, "apf.json")
    if missing := [key for key in _NEEDED if not document.get(key)]:
        raise Refused(f"apf.json lacks {', '.join(missing)}")
    _check(document["pod-network"], _NETWORK, "pod-network")
    version, suites = document.get("tls-min-version", ""), document.get("tls-cipher-suites") or []
    if version not in _VERSIONS:
        raise Refused(f"tls-min-version is {version!r}, not VersionTLS12 or VersionTLS13")
    if not all(isinstance(suite, str) and suite.startswith("TLS_") for suite in suites):
        raise Refused(f"tls-cipher-suites are not IANA names: {suites}")
    if suites and version == "VersionTLS13":
        raise Refused("tls-cipher-suites cannot be chosen with VersionTLS13")
    return Apf(
        pod_namespace=document.get("pod-namespace", ""),
        pod_name=document.get("pod-name", ""),
        network=document["pod-network"],
        server_key=document["tls-server-key"],
        server_certificate=document["tls-server-cert"],
        client_ca=document["tls-client-ca"],
        least_version=_VERSIONS[version],
    )


def server_context(apf: Apf) -> ssl.SSLContext:
    """TLS as apf.json asks for it: clients must show a certificate that its CA signed; no ALPN."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = apf.least_version
    context.verify_mode = ssl.CERT_REQUIRED
    descriptor = os.memfd_create("apf")
    try:
        os.write(descriptor, f"{apf.server_certificate}\n{apf.server_key}".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        context.load_verify_locations(cadata=apf.client_ca)
    except (ssl.SSLError, ValueError) as error:
        raise Refused(f"apf.json's certificates cannot be used: {error}") from error
    finally:
        os.close(descriptor)
    return context


def _check(document: Any, keys: dict[str, type], what: str) -> None:
    if not isinstance(document, dict):
        raise Refused(f"{what} is not an object")
    for key, value in document.items():
        wanted = keys.get(key)
        if wanted is None:
            raise Refused(f"{what} has an unknown key {key!r}")
        if type(value) is not wanted and value is not None:
            raise Refused(f"{what}: {key} is {type(value).__name__}, not {wanted.__name__}")


class Forwarder:
    """Serves links on TLS, and carries their calls over one connection to the agent, made by the first of them."""

    def __init__(self, agent: Agent, join: Callable[[bytes], bytes] = bytes) -> None:
        """`join`: what it makes of CreateContainer."""
        self.port = 0
        self._agent = agent
        self._join = join
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._client = ClientConnection()
        self._waiting: dict[int, asyncio.Future[ResponseReceived]] = {}
        self._connecting: asyncio.Task[asyncio.StreamWriter] | None = None

    async def listen(self, context: ssl.SSLContext, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, host, port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        writers = [*self._links]
        if self._connecting is not None and self._connecting.done() and not self._connecting.exception():
            writers.append(self._connecting.result())
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await self._agent.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._links.add(writer)
        calls = ServerConnection()
        try:
            while data := await reader.read(65536):
                for request in calls.receive(data):
                    self._run(self._answer(request, calls, writer))
                writer.write(calls.data_to_send())
                await writer.drain()
        except OSError:
            pass  # the link's end is all there is to know
        finally:
            self._links.discard(writer)
            writer.close()

    async def _answer(self, request: RequestReceived, calls: ServerConnection, writer: asyncio.StreamWriter) -> None:
        try:
            if request.service not in SERVICES:
                raise StatusError(Code.UNIMPLEMENTED, f"service {request.service}")
            response = await self._call(request)
            if response.error is not None:
                raise response.error
            calls.respond(request.stream_id, response.payload)
        except StatusError as error:
            calls.fail(request.stream_id, error.code, error.message, error.details)
        writer.write(calls.data_to_send())

    async def _call(self, request: RequestReceived) -> ResponseReceived:
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect())
        agent = await asyncio.shield(self._connecting)
        creates = (request.service, request.method) == (names.AGENT_SERVICE, "CreateContainer")
        payload = self._join(request.payload) if creates else request.payload
        stream = self._client.request(request.service, request.method, payload, request.timeout, request.metadata)
        self._waiting[stream] = asyncio.get_running_loop().create_future()
        agent.write(self._client.data_to_send())
        return await self._waiting[stream]

    async def _connect(self) -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_unix_connection(sock=await self._agent.connect(AGENT_TIMEOUT))
        self._run(self._listen_to_agent(reader))
        return writer

    async def _listen_to_agent(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                for response in self._client.receive(data):
                    self._waiting.pop(response.stream_id).set_result(response)
        for waiting in self._waiting.values():
            waiting.set_exception(StatusError(Code.UNAVAILABLE, "the agent closed its connection"))

    def _run(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


# -- the program ------------------------------------------------------------------------------------


def boot(
    file: str,
    url: str,
    root: Path,
    timeout: float,
    *,
    now: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Apf:
    """What happens before the forwarder: fetch user-data, parse, write. Like the image it tries again on any fault.

    Raises Refused with the last fault after `timeout` seconds.
    """
    deadline = now() + timeout
    while True:
        try:
            for path in provision(_fetch(file, url), root):
                print(f"file {path} is not allowed in write_files", file=sys.stderr)
            return parse_apf((root / names.UPSTREAM_APF.lstrip("/")).read_bytes())
        except (Refused, FileNotFoundError) as error:
            if now() >= deadline:
                raise Refused(f"no usable user-data within {timeout:g} s: {error}") from error
            pause(0.5)


def _fetch(file: str, url: str) -> bytes:
    if os.path.exists(file):
        return Path(file).read_bytes()
    tried = []
    for source in imds.candidates():
        try:
            raw = imds.fetch(source, url)
            return raw if source is imds.AWS else base64.b64decode(raw, validate=True)
        except (imds.ImdsError, binascii.Error) as error:
            tried.append(f"{source.cloud}: {error}")
    raise Refused("; ".join(tried))


async def _main(options: argparse.Namespace) -> None:
    apf = boot(options.user_data, options.imds, Path(options.root), options.timeout)
    host, _, port = options.listen.rpartition(":")
    command = (*DEVELOPMENT_AGENT, options.agent_socket) if options.agent == "development" else ()
    if options.pod_network == "made":
        try:
            await asyncio.to_thread(upstream_network.apply, apf.network)
        except (OSError, ValueError, KeyError) as error:
            raise Refused(f"the pod's network cannot be made: {error!r}") from error
    forwarder = Forwarder(Agent(options.agent_socket, command), upstream_network.join)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await forwarder.listen(server_context(apf), host, int(port))
    print(f"listening on {host}:{forwarder.port} for pod {apf.pod_namespace}/{apf.pod_name}", file=sys.stderr)
    await ended.wait()
    await forwarder.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.worlds.upstream_guest", description=__doc__)
    parser.add_argument("--listen", default=f"0.0.0.0:{names.GUEST_PORT}")
    parser.add_argument("--agent", choices=("external", "development"), default="external")
    parser.add_argument("--agent-socket", default=names.KATA_AGENT_SOCKET)
    parser.add_argument("--user-data", default=names.CIDATA_USER_DATA)
    parser.add_argument("--imds", default=imds.URL)
    parser.add_argument("--root", default="/")
    parser.add_argument("--pod-network", choices=("made", "checked"), default="made")
    parser.add_argument("--timeout", type=float, default=180.0)
    try:
        asyncio.run(_main(parser.parse_args()))
    except Refused as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
