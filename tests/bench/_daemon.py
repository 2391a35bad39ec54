"""How long the two programs of a node take to come up, and what memory they hold then; beside what anybody can have.

Measured alike, by one clock from exec: adaptor and relay until they answer, plain Pythons until they have printed.
"""

import asyncio
import http.client
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from adaptor import names
from adaptor.protos import hypervisor_pb2
from adaptor.relay.client import RelayClient
from adaptor.ttrpc.aio import Client
from providers.simcloud.cloud import Simcloud
from providers.simcloud.testing import running_in_thread
from tests.bench._chains import free_port
from tests.bench._load import cpu_seconds
from tests.bench._report import Target, load
from tests.bench._tunnels import rss

Process = subprocess.Popen[bytes]

_READY_TARGET: Final = 1.2  # seconds
_ADAPTOR_TARGET: Final = 95.0  # MiB
_RELAY_TARGET: Final = 40.0  # MiB
_PATIENCE: Final = 30.0  # seconds for anything to come up
_POLL: Final = 0.001
_PASS: Final = "pass"
_BOTO3: Final = "import boto3; boto3.client('ec2')"
_WARMED_UP: Final = 'verb="offerings"} 1.0'  # in the adaptor's metrics: it has learned what the cloud offers

_FRESH, _AGAIN, _RELAY = "adaptor, first start (starts a relay too)", "adaptor, started again", "relay"
_BASELINES: Final = {f'python -c "{code}"': code for code in (_BOTO3, _PASS)}


class NotReady(Exception):
    """A program did not come up; its own words are on stderr."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds, wall and CPU, until it was ready; MiB at rest after that."""

    ready: float
    cpu: float
    rss: float
    pss: float


class Node:
    """A directory with a configuration in it, for an adaptor on this simulated cloud."""

    def __init__(self, directory: Path, cloud: Simcloud) -> None:
        self.port = free_port()
        self.config = directory / "peerpods.toml"
        self.hypervisor_socket = str(directory / "hypervisor.sock")
        self.relay_socket = str(directory / "relay.sock")
        self.environment = os.environ | cloud.environment()
        self.config.write_text(
            f'[node]\nname = "bench"\nhypervisor_socket = "{self.hypervisor_socket}"\n'
            f'relay_socket = "{self.relay_socket}"\npods_dir = "{directory}/pods"\nstate_dir = "{directory}/state"\n'
            f'[cloud]\nprovider = "aws"\n[log]\nlevel = "error"\n[http]\nlisten = "127.0.0.1:{self.port}"\n'
            f'[aws]\nregion = "{cloud.region}"\nendpoint_url = "{cloud.endpoint_url}"\nimage = "{cloud.ami}"\n'
            f'subnet_ids = ["{cloud.subnet}"]\nsecurity_group_ids = ["{cloud.security_group}"]\n'
        )

    def start_adaptor(self) -> Figures:
        """Its figures; it has ended afterwards, the relay has not."""
        words = ["-m", "adaptor", "adaptor", "--config", str(self.config)]
        return _measured(words, self.environment, self._adaptor_is_ready, self._has_warmed_up)

    def start_relay(self) -> Figures:
        """Its figures; it has ended afterwards."""
        words = ["-m", "adaptor", "relay", "--socket", self.relay_socket, "--log-level", "error"]
        return _measured(words, self.environment, self._relay_is_ready)

    def stop_relay(self) -> None:
        """The one that the adaptor has started."""
        os.kill(asyncio.run(RelayClient(self.relay_socket).list()).pid, signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE
        while _connects(self.relay_socket) and time.monotonic() < deadline:
            time.sleep(_POLL)

    def _adaptor_is_ready(self, process: Process) -> None:
        until(process, lambda: _connects(self.hypervisor_socket))
        asyncio.run(self._version())
        until(process, lambda: self._page("/readyz").startswith("ready"))

    async def _version(self) -> None:
        async with await Client.connect_unix(self.hypervisor_socket) as client:
            request = hypervisor_pb2.VersionRequest()
            await client.call(names.HYPERVISOR_SERVICE, "Version", request, hypervisor_pb2.VersionResponse, _PATIENCE)

    def _has_warmed_up(self, process: Process) -> None:
        until(process, lambda: _WARMED_UP in self._page("/metrics"))

    def _relay_is_ready(self, process: Process) -> None:
        until(process, lambda: _connects(self.relay_socket))
        asyncio.run(RelayClient(self.relay_socket).list())

    def _page(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()


def run(runs: int) -> list[Target]:
    """Print the table."""
    print(f"medians of {runs} interleaved runs (least-most), Python {platform.python_version()}; {load()}\n")
    seen: dict[str, list[Figures]] = {name: [] for name in (_FRESH, _AGAIN, _RELAY, *_BASELINES)}
    with running_in_thread() as cloud:
        for _ in range(runs):
            with tempfile.TemporaryDirectory(prefix="bench") as directory:
                node = Node(Path(directory), cloud)
                seen[_RELAY].append(node.start_relay())
                seen[_FRESH].append(node.start_adaptor())
                seen[_AGAIN].append(node.start_adaptor())
                node.stop_relay()
            for name, code in _BASELINES.items():
                seen[name].append(_plain_python(code, cloud.environment()))
    print(f"{'':52}{'seconds until ready':>22}{'of CPU':>9}{'MiB RSS':>10}{'MiB PSS':>10}")
    for name, figures in seen.items():
        print(_line(name, figures))
    return [
        *(Target(f"{name}: ready", _median(seen[name], "ready"), _READY_TARGET, "s") for name in (_FRESH, _AGAIN)),
        *(Target(f"{name}: RSS", _median(seen[name], "rss"), _ADAPTOR_TARGET, "MiB") for name in (_FRESH, _AGAIN)),
        Target(f"{_RELAY}: RSS", _median(seen[_RELAY], "rss"), _RELAY_TARGET, "MiB"),
    ]


def _line(name: str, figures: Sequence[Figures]) -> str:
    ready = [each.ready for each in figures]
    spread = f"{median(ready):.2f} ({min(ready):.2f}-{max(ready):.2f})"
    cpu, rss, pss = (_median(figures, field) for field in ("cpu", "rss", "pss"))
    return f"{name:52}{spread:>22}{cpu:9.2f}{rss:10.1f}{pss:10.1f}"


def _median(figures: Sequence[Figures], field: str) -> float:
    return float(median(getattr(each, field) for each in figures))


def _plain_python(code: str, cloud: Mapping[str, str]) -> Figures:
    return _measured(["-c", f"{code}\nprint('ready', flush=True)\ninput()"], os.environ | cloud, _has_printed)


def _has_printed(process: Process) -> None:
    assert process.stdout is not None
    if not process.stdout.readline():
        raise NotReady("it has ended")


def _measured(
    words: Sequence[str],
    environment: Mapping[str, str],
    until_ready: Callable[[Process], None],
    until_at_rest: Callable[[Process], None] = lambda _: None,
) -> Figures:
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        until_ready(process)
        ready, cpu = time.perf_counter() - began, cpu_seconds(process.pid)
        until_at_rest(process)
        return Figures(ready, cpu, rss(process.pid) / 1024, _pss(process.pid) / 1024)
    finally:
        process.terminate()
        process.communicate()


def _pss(pid: int) -> int:
    """KiB: what several processes share is divided among them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _connects(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def until(process: Process, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise NotReady(f"{process.args!r} has ended with {process.returncode}, or is late by {_PATIENCE:g} s")
        time.sleep(_POLL)
