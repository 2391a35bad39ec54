"""What a crowd of running sandboxes costs their node's adaptor: memory, and the time of a restart.

The adaptor is the real program, on the real SDK and a journal on disk as 1,000 starts leave it; the cloud is simcloud,
with that many instances that exist in its API and do not boot. The relay is a stand-in in this process that answers as
one with as many JOINED sessions does: its own memory is `tunnels`' figure.
"""

import asyncio
import base64
import hashlib
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

from adaptor import daemon, names
from adaptor.clock import RealClock
from adaptor.config import load as load_config
from adaptor.pki import NodePki
from adaptor.protos import relay_pb2
from adaptor.relay.states import SessionState
from adaptor.sandbox import launch
from adaptor.sandbox.journal import Journal
from adaptor.sandbox.model import (
    Bound,
    Created,
    Event,
    LaunchAccepted,
    LaunchIntended,
    Reached,
    SandboxSpec,
    StartRequested,
)
from adaptor.ttrpc.aio import Server
from adaptor.ttrpc.service import Call, Service
from providers.base import Instance
from providers.simcloud.testing import running_in_thread
from tests.bench._daemon import Figures, Node, Process, until
from tests.bench._report import Target, load

_EACH_TARGET = 24.0  # KiB of the adaptor's memory for a running sandbox
_RECOVERY_TARGET = 0.5  # seconds of CPU more until it is ready, with a thousand sandboxes

_CERTIFICATE = hashlib.sha256(b"a guest's certificate")
_LAUNCHES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class _Pod:
    """A running sandbox."""

    history: Sequence[Event]
    session: relay_pb2.Session


class _Crowded(Node):
    """Its adaptor is at rest when it has found so many running sandboxes."""

    running = 0

    def _has_warmed_up(self, process: Process) -> None:
        super()._has_warmed_up(process)
        if self.running:
            until(process, lambda: f'peerpods_sandboxes{{state="running"}} {self.running}.0' in self._page("/metrics"))


def run(sandboxes: int, runs: int) -> list[Target]:
    """Measure."""
    print(f"medians of {runs} runs, {sandboxes} running sandboxes and none; {load()}\n")
    seen: dict[int, list[Figures]] = {0: [], sandboxes: []}
    for count, figures in seen.items():
        with (
            running_in_thread() as cloud,
            patch.dict(os.environ, cloud.environment()),
            tempfile.TemporaryDirectory(prefix="bench") as directory,
        ):
            node = _Crowded(Path(directory), cloud)
            node.running = count
            pods = asyncio.run(_start(node, count))
            with _relay(node.relay_socket, [pod.session for pod in pods]):
                figures += [node.start_adaptor() for _ in range(runs)]
    print(f"{'sandboxes':>12}{'seconds until ready':>22}{'of CPU':>9}{'MiB RSS':>10}{'MiB PSS':>10}")
    rows = {
        count: [median(getattr(each, field) for each in figures) for field in _FIELDS]
        for count, figures in seen.items()
    }
    for count, (ready, cpu, rss, pss) in rows.items():
        print(f"{count:>12}{ready:22.2f}{cpu:9.2f}{rss:10.1f}{pss:10.1f}")
    more = [full - idle for full, idle in zip(rows[sandboxes], rows[0], strict=True)]
    return [
        Target("adaptor: RSS of a running sandbox", more[2] * 1024 / sandboxes, _EACH_TARGET, "KiB"),
        Target(f"adaptor: CPU to recover {sandboxes} sandboxes", more[1], _RECOVERY_TARGET, "s"),
    ]


_FIELDS = ("ready", "cpu", "rss", "pss")


async def _start(node: Node, count: int) -> list[_Pod]:
    """The node as it is when so many pods have been started on it."""
    config = load_config(str(node.config), os.environ)
    state = Path(config.node.state_dir)
    pki = NodePki.load(state / "pki")
    owner = daemon.ownership(config)
    provider = await daemon.open_provider(config, owner)
    offering = (await provider.offerings())[0]
    turns = asyncio.Semaphore(_LAUNCHES_AT_ONCE)

    async def pod(number: int) -> _Pod:
        spec = SandboxSpec(secrets.token_hex(32), f"web-{number:04}", "shop", f"/run/netns/cni-{secrets.token_hex(16)}")
        token, launch_token = launch.client_token(owner, spec.id, 1), secrets.token_bytes(32)
        user_data = launch.own_user_data(launch_token, pki.ca_pem, config.guest.port)
        intent = LaunchIntended(
            token,
            launch.vm_name(spec),
            offering.instance_type,
            offering.zone,
            base64.b64encode(user_data).decode(),
            base64.b64encode(launch_token).decode(),
            spec.id,
        )
        async with turns:
            instance = await provider.create(launch.launch_spec(spec, intent), token)
        return _pod(spec, intent, instance, config.node.pods_dir)

    try:
        pods = await asyncio.gather(*(pod(number) for number in range(count)))
    finally:
        await provider.aclose()
    journal = await Journal.open(state / names.JOURNAL, RealClock(), owner)
    await journal.append_all([(each.session.sandbox_id, event) for each in pods for event in each.history])
    await journal.aclose()
    return pods


def _pod(spec: SandboxSpec, intent: LaunchIntended, instance: Instance, pods_dir: str) -> _Pod:
    address = f"{instance.addresses[0]}:15150"
    accepted = LaunchAccepted(instance.id, instance.addresses)
    session = relay_pb2.Session(
        sandbox_id=spec.id,
        socket_path=f"{pods_dir}/{spec.id}/{names.AGENT_SOCKET}",
        state=SessionState.JOINED.value,
        address=address,
        certificate_sha256=_CERTIFICATE.digest(),
        shim_connected=True,
    )
    reached = Reached(address, _CERTIFICATE.hexdigest())
    return _Pod((Created(spec), StartRequested(), intent, accepted, reached, Bound()), session)


@contextmanager
def _relay(path: str, sessions: Sequence[relay_pb2.Session]) -> Iterator[None]:
    """A stand-in that carries these, in a thread of its own."""
    listing = relay_pb2.ListResponse(sessions=sessions, generation=1, version="bench", pid=os.getpid())

    async def list_(request: relay_pb2.ListRequest, call: Call) -> relay_pb2.ListResponse:
        return listing

    async def watch(request: relay_pb2.WatchRequest, call: Call) -> relay_pb2.ListResponse:
        if request.generation == listing.generation:
            await asyncio.Event().wait()
        return listing

    async def serve() -> None:
        ended = asyncio.Event()
        server = Server([Service(relay_pb2.DESCRIPTOR.services_by_name["Relay"], {"List": list_, "Watch": watch})])
        await server.listen_unix(path)
        served.append((asyncio.get_running_loop(), ended))
        up.set()
        await ended.wait()
        await server.aclose()

    served: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    up = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="relay")
    thread.start()
    up.wait()
    try:
        yield
    finally:
        ((loop, ended),) = served
        loop.call_soon_threadsafe(ended.set)
        thread.join()
