"""Tunnels to compare: side A takes a unix socket to TLS 1.3 with certificates on both ends, side B takes it back."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from adaptor.protos.guest_pb2 import BindRequest
from adaptor.relay.client import RelayClient
from tests.bench._load import TUNNEL_CORE, find, on_core
from tests.worlds.tunnel import Pki, issue

_PATIENCE = 20.0  # seconds for a side to come up
# OpenSSL's own first choice, and so ours; stunnel's would be another (ChaCha20), which costs more on most machines.
_CIPHER = "TLS_AES_256_GCM_SHA384"


class Papers:
    """Everybody's keys as files in `directory`, for programs that take nothing else."""

    def __init__(self, directory: Path) -> None:
        self.pki = Pki()
        self.worker = self.pki.worker
        server = issue("podvm", self.pki.ca)
        for name, content in {
            "ca": self.pki.ca.pem,
            "worker": self.worker.certificate,
            "worker.key": self.worker.key,
            "server": server.pem,
            "server.key": server.key,
            "worker.both": self.worker.certificate + self.worker.key,
            "server.both": server.pem + server.key,
        }.items():
            (directory / name).write_bytes(content)


class Chain(Protocol):
    """Both sides of one kind of tunnel, running; `pids` of A and B."""

    name: str
    pids: tuple[int, int]

    @abstractmethod
    def open(self, tunnels: int) -> str:
        """Make this many tunnels ready to be connected to; returns the path, with % for the number where it matters."""

    @abstractmethod
    def shut(self) -> None:
        """End what `open` has made."""

    @abstractmethod
    def close(self) -> None:
        """End both sides."""


class Ours:
    """The relay as a node runs it, and the guest's half of the pump."""

    name = "peerpods"

    def __init__(self, directory: Path, papers: Papers, echo: str) -> None:
        self._directory = directory
        self._papers = papers
        self._port = free_port()
        self._opened = 0
        self.socket_path = relay_socket = str(directory / "relay.sock")
        files = [str(directory / name) for name in ("server", "server.key", "ca")]
        self._sides = [
            start([sys.executable, "-m", "adaptor.relay.process", "--socket", relay_socket, "--log-level", "error"]),
            start([sys.executable, "-m", "tests.bench._far_side", str(self._port), echo, *files]),
        ]
        self.pids = (self._sides[0].pid, self._sides[1].pid)
        until_listening(relay_socket)
        until_listening(self._port)
        self._client = RelayClient(relay_socket)

    def open(self, tunnels: int) -> str:
        asyncio.run(self._open(tunnels))
        return str(self._directory / "pods" / "%" / "s")

    def shut(self) -> None:
        asyncio.run(self._shut())

    def close(self) -> None:
        stop(self._sides)

    async def _open(self, tunnels: int) -> None:
        for number in range(tunnels):
            sandbox = str(number)
            await self._client.open(sandbox, str(self._directory / "pods" / sandbox / "s"))
            trust = self._papers.pki.own()
            await self._client.dial(sandbox, ["127.0.0.1"], self._port, 10.0, self._papers.worker, trust)
            await self._client.bind(sandbox, BindRequest(sandbox_id=sandbox).SerializeToString(), 10.0)
        self._opened = tunnels

    async def _shut(self) -> None:
        for number in range(self._opened):
            await self._client.close(str(number))


class Stunnel:
    """stunnel at both ends, with what a user would set: TLS 1.3, verified chains, no Nagle; and our cipher."""

    name = "stunnel"

    def __init__(self, directory: Path, papers: Papers, echo: str) -> None:
        program, port = find("stunnel", "stunnel4"), free_port()
        self._path = str(directory / "stunnel.sock")
        self._sides = []
        for side, accept, connect, own in (
            ("b", f"127.0.0.1:{port}", echo, "server"),
            ("a", self._path, f"127.0.0.1:{port}", "worker"),
        ):
            config = directory / f"stunnel-{side}.conf"
            config.write_text(
                "foreground = yes\npid =\ndebug = crit\n"
                "socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n"
                f"[tunnel]\nclient = {'yes' if side == 'a' else 'no'}\naccept = {accept}\nconnect = {connect}\n"
                f"cert = {directory}/{own}\nkey = {directory}/{own}.key\nCAfile = {directory}/ca\nverifyChain = yes\n"
                f"sslVersion = TLSv1.3\nciphersuites = {_CIPHER}\n"
            )
            os.chmod(directory / f"{own}.key", 0o600)
            self._sides.append(start([program, str(config)]))
        until_listening(port)
        until_listening(self._path)
        self.pids = (self._sides[1].pid, self._sides[0].pid)

    def open(self, tunnels: int) -> str:
        return self._path

    def shut(self) -> None:
        """Its tunnels end with their connections."""

    def close(self) -> None:
        stop(self._sides)


class Haproxy:
    """haproxy at both ends, in TCP mode, one thread each (both ends share a core here)."""

    name = "haproxy"

    def __init__(self, directory: Path, papers: Papers, echo: str) -> None:
        program, port = find("haproxy", "haproxy"), free_port()
        self._path = str(directory / "haproxy.sock")
        tls = f"ca-file {directory}/ca verify required"
        ends = {
            "b": (f"127.0.0.1:{port} ssl crt {directory}/server.both {tls}", f"unix@{echo}"),
            "a": (
                f"unix@{self._path}",
                f"127.0.0.1:{port} ssl crt {directory}/worker.both {tls} sni str(podvm) verifyhost podvm",
            ),
        }
        self._sides = []
        for side, (bind, server) in ends.items():
            config = directory / f"haproxy-{side}.cfg"
            config.write_text(
                "global\n  nbthread 1\n  maxconn 4000\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n"
                "  ssl-default-server-options ssl-min-ver TLSv1.3\n"
                f"  ssl-default-bind-ciphersuites {_CIPHER}\n  ssl-default-server-ciphersuites {_CIPHER}\n"
                "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n"
                f"frontend in\n  bind {bind}\n  default_backend out\nbackend out\n  server s {server}\n"
            )
            self._sides.append(start([program, "-db", "-f", str(config)]))
        until_listening(port)
        until_listening(self._path)
        self.pids = (self._sides[1].pid, self._sides[0].pid)

    def open(self, tunnels: int) -> str:
        return self._path

    def shut(self) -> None:
        """Its tunnels end with their connections."""

    def close(self) -> None:
        stop(self._sides)


def start(words: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([*on_core(TUNNEL_CORE), *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def stop(sides: Sequence["subprocess.Popen[bytes]"]) -> None:
    for side in sides:
        side.terminate()
        side.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def until_listening(where: int | str) -> None:
    """Return when something accepts connections at this port or path."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        family, address = (socket.AF_INET, ("127.0.0.1", where)) if isinstance(where, int) else (socket.AF_UNIX, where)
        with socket.socket(family) as probe:
            if not probe.connect_ex(address):
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing listens at {where}")
        time.sleep(0.02)
