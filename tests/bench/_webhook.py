"""What an admission review costs, beside the least that an aiohttp handler can do with one.

Both are processes of their own on one core, with TLS and connections that stay open, as API servers call them.
"""

import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench._chains import free_port
from tests.bench._daemon import NotReady
from tests.bench._load import LOAD_CORE, TUNNEL_CORE, cpu_seconds, on_core
from tests.bench._report import Target, load, quantile
from tests.worlds import admission

_PATIENCE: Final = 20.0  # seconds to come up
_OURS, _OTHERS, _VALIDATE = (
    "webhook, /mutate, pods alike",
    "webhook, /mutate, no two alike",
    "webhook, /validate, alike",
)
_MINIMAL = "minimal aiohttp handler"


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement: reviews per second, latencies in ms, the server's CPU in ms per review."""

    rate: float
    p50: float
    p99: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Server:
    process: "subprocess.Popen[bytes]"
    port: int
    path: str
    alike: bool = True  # the pods, as those of a Deployment are


def run(seconds: float, rounds: int, connections: Sequence[int]) -> list[Target]:
    """Print the table."""
    body = admission.realistic()
    os.sched_setaffinity(0, {LOAD_CORE % (os.cpu_count() or 1)})
    with ExitStack() as stack:
        servers = _servers(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench"))), stack)
        print(
            f"reviews of {len(body)} bytes over TLS; medians of {rounds} interleaved rounds of {seconds:g} s, the server "
            f"on a core of its own; {load()}\n"
        )
        print(f"{'':42}{'p50 ms':>9}{'p99 ms':>9}{'reviews/s':>11}{'CPU ms/review':>15}")
        found = {count: _measured(servers, body, count, seconds, rounds) for count in connections}
    print(
        "\nThe pods of a Deployment or Job are alike in all that is decided by, and decided once. The first two targets are "
        "for\nwhichever is worse, the third is for pods that are alike. Figures of a busy machine say little.\n"
    )
    alone, many = found[connections[0]], found[connections[-1]]
    first, last = f"{connections[0]} connection", f"{connections[-1]} connections"
    worst = {name: median(f.p99 for f in alone[name]) for name in (_OURS, _OTHERS)}
    slowest = min(median(f.rate for f in many[name]) for name in (_OURS, _OTHERS))

    def ratio(name: str) -> float:
        return median(a.cpu / b.cpu for a, b in zip(many[name], many[_MINIMAL], strict=True))

    print(f"CPU per review in a minimal handler's: alike {ratio(_OURS):.2f}, no two alike {ratio(_OTHERS):.2f}\n")
    return [
        Target(f"p99 of a review, {first}", max(worst.values()), 2.0, "ms"),
        Target(f"ms of wall clock per review, {last} (2,500 a second)", 1000 / slowest, 0.4, "ms"),
        Target("CPU per review of pods alike, in a minimal handler's", ratio(_OURS), 1.6, "x"),
    ]


def _measured(
    servers: dict[str, Server], body: bytes, count: int, seconds: float, rounds: int
) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, server in servers.items():
            found[name].append(_load(server, body, count, seconds))
    for name, figures in found.items():
        print(
            f"{f'{name}, {count} connections':42}"
            f"{median(f.p50 for f in figures):9.2f}{median(f.p99 for f in figures):9.2f}"
            f"{median(f.rate for f in figures):11.0f}{median(f.cpu for f in figures):15.3f}"
        )
    return found


def _servers(directory: Path, stack: ExitStack) -> dict[str, Server]:
    admission.place(directory / "tls", admission.authority(directory / "pki").issue_server("localhost"))
    ours, minimal = free_port(), free_port()
    settings = directory / "peerpods.toml"
    settings.write_text(
        f'[webhook]\nlisten = "127.0.0.1:{ours}"\ncertificates = "{directory}/tls"\n[http]\nlisten = ""\n'
        '[log]\nformat = "json"\n'
    )
    log = stack.enter_context((directory / "log").open("wb"))
    commands = {
        ours: ["-m", "adaptor", "webhook", "--config", str(settings)],
        minimal: [
            "-m",
            "tests.bench._minimal_webhook",
            *(f"{directory}/tls/tls.{x}" for x in ("crt", "key")),
            str(minimal),
        ],
    }
    processes = {}
    for port, words in commands.items():
        process = subprocess.Popen([*on_core(TUNNEL_CORE), sys.executable, *words], stderr=log)
        stack.callback(_end, process)
        processes[port] = process
        _wait(process, port, directory / "log")
    return {
        _OURS: Server(processes[ours], ours, "/mutate"),
        _OTHERS: Server(processes[ours], ours, "/mutate", alike=False),
        _VALIDATE: Server(processes[ours], ours, "/validate"),
        _MINIMAL: Server(processes[minimal], minimal, "/mutate"),
    }


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise NotReady(f"a webhook did not come up: {log.read_text()[-2000:]}")


def _load(server: Server, body: bytes, connections: int, seconds: float) -> Figures:
    """Every connection asks again as soon as it is answered."""
    head = f"POST {server.path}?timeout=5s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    message = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    before_it, mark, behind_it = message.partition(admission.MEMORY.encode())
    assert mark

    def messages() -> Iterator[bytes]:
        while True:
            yield (
                before_it
                + (mark if server.alike else b"%d" % (2_000_000_000 + secrets.randbelow(1_000_000_000)))
                + behind_it
            )

    took: list[float] = []
    with ExitStack() as stack:
        links = [stack.enter_context(_connect(server.port)) for _ in range(connections)]
        for link in links:
            _ask(link, message)
        begun, before = time.perf_counter(), cpu_seconds(server.process.pid)
        until = begun + seconds
        threads = [threading.Thread(target=_keep_asking, args=(link, messages(), until, took)) for link in links]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        elapsed, cpu = time.perf_counter() - begun, cpu_seconds(server.process.pid) - before
    count = len(took)
    return Figures(count / elapsed, quantile(took, 0.5) * 1e3, quantile(took, 0.99) * 1e3, cpu / count * 1e3)


def _connect(port: int) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain)


def _keep_asking(link: ssl.SSLSocket, messages: Iterator[bytes], until: float, took: list[float]) -> None:
    for message in messages:
        began = time.perf_counter()
        if began >= until:
            return
        _ask(link, message)
        took.append(time.perf_counter() - began)


def _ask(link: ssl.SSLSocket, message: bytes) -> None:
    link.sendall(message)
    answer = link.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    while len(body) < length:
        body += link.recv(65536)
    if not head.startswith(b"HTTP/1.1 200") or b'"allowed":true' not in body.replace(b" ", b""):
        raise RuntimeError(f"not allowed: {answer[:500]!r}")
