"""The demo's worker node and cloud: simcloud, adaptor and relay as real processes, and pods' network namespaces.

    async with World(directory, boot_delay="2s") as world:
        await world.start_cloud()
        await world.start_adaptor()
        with world.pod_netns() as netns: ...

Must run in private namespaces (`enter`). `directory` is short: unix sockets live in it.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from adaptor.demo import cni, leftovers
from adaptor.demo.clouds import LOCAL, STAGES
from adaptor.errors import AdaptorError

# Seconds for a process of ours to come up, on a machine that is busy with others.
_PATIENCE: Final = 30.0
_POLL: Final = 0.02


class WorldBroken(AdaptorError):
    """A process of the world did not come up, or ended: its name, and the end of its log."""


class World:
    """Processes started here end with the block, the relay too."""

    def __init__(
        self,
        directory: Path,
        *,
        provider: str = "aws",
        boot_delay: str = "0s",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.stage = LOCAL if provider == "local" else STAGES[provider]
        self.cloud: dict[str, Any] = {}
        self.hypervisor_socket = str(directory / "hypervisor.sock")
        self.relay_socket = str(directory / "relay.sock")
        self.journal = str(directory / "state" / "journal.db")
        self.http = f"127.0.0.1:{free_port()}"
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self._boot_delay = boot_delay
        self._settings = settings or {}
        self._bridge = cni.Bridge(directory)

    async def start_cloud(self, *options: str) -> None:
        """simcloud, whose instances really boot; `cloud` is what it says of itself."""
        await self.spawn(
            "simcloud",
            "--listen",
            "127.0.0.1:0",
            "--cloud",
            self.stage.api,
            "--instances",
            "namespace",
            "--boot-delay",
            self._boot_delay,
            *options,
        )
        url = await self._introduced("simcloud")
        self.cloud = json.loads(await _fetch(f"{url}/_simcloud"))

    async def start_adaptor(self) -> None:
        """The adaptor, which brings up the relay; returns when it serves."""
        config = self.directory / "peerpods.toml"
        config.write_text(self._config())
        await self.spawn("adaptor", "--config", str(config))
        await self._until("adaptor", lambda: _answers(self.hypervisor_socket))

    async def spawn(self, verb: str, *arguments: str) -> asyncio.subprocess.Process:
        """`peerpods VERB ...`, its output in `<directory>/VERB.log`."""
        with open(self.directory / f"{verb}.log", "ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "adaptor", verb, *arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(),
            )  # fmt: skip
        self.processes[verb] = process
        return process

    async def stop(self, verb: str, number: int = signal.SIGTERM) -> int:
        """End one of our processes and wait for it; returns its exit status."""
        process = self.processes.pop(verb)
        if process.returncode is None:
            process.send_signal(number)
        return await process.wait()

    async def stop_relay(self, number: int = signal.SIGTERM) -> None:
        """End the relay, which is nobody's child for sure: it is found by what it says of itself."""
        from adaptor.relay.client import RelayClient

        with contextlib.suppress(AdaptorError):
            pid = (await RelayClient(self.relay_socket).list()).pid
            os.kill(pid, number)
            await self._until("relay", lambda: _is_over(pid))

    def reap(self) -> None:
        """Bury those that ended as nobody's children: where this is its namespace's first process, they are ours. An
        ordinary machine's init does it; wireguard-go is one of them."""
        ours = {process.pid for process in self.processes.values()}
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            if pid not in ours and _is_zombie(pid):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    async def cause(self, **faults: Any) -> None:
        """Have things go wrong in the cloud: `boot={"fate": "deaf"}`; docs/simcloud.md lists them."""
        await _fetch(f"{self.cloud['endpoint_url']}/_simcloud/faults", json.dumps(faults).encode())

    async def page(self, path: str) -> str:
        """A page of the adaptor's own HTTP server."""
        return (await _fetch(f"http://{self.http}{path}")).decode()

    async def instances(self) -> list[dict[str, Any]]:
        """Every instance there has been, as simcloud shows it."""
        return list(json.loads(await _fetch(f"{self.cloud['endpoint_url']}/_simcloud/instances")))

    async def living(self) -> list[str]:
        """Ids of the instances that are not terminated."""
        return [i["id"] for i in await self.instances() if i["state"] not in ("terminated", "shutting-down")]

    async def no_instance_lives(self) -> None:
        """Return once the cloud has let go of every instance; raises TimeoutError."""
        async with asyncio.timeout(_PATIENCE):
            while any(i["state"] != "terminated" for i in await self.instances()):
                await asyncio.sleep(_POLL)

    @contextlib.contextmanager
    def pod_network(self, families: tuple[int, ...] = (4,)) -> Iterator[cni.Pod]:
        """A pod's network as a CNI plugin leaves it; its address answers when its VM's tunnel stands."""
        with self._bridge.pod(families) as pod:
            yield pod

    @contextlib.contextmanager
    def pod_netns(self) -> Iterator[str]:
        """As `pod_network`, for those who need no more than the namespace's path."""
        with self.pod_network() as pod:
            yield pod.netns

    async def spans(self) -> AsyncIterator[dict[str, Any]]:
        """The adaptor's log lines as they are written, parsed, for ever."""
        with open(self.directory / "adaptor.log", encoding="utf-8") as log:
            line = ""
            while True:
                line += log.readline()
                if not line.endswith("\n"):
                    await asyncio.sleep(_POLL)
                    continue
                if line.startswith("{"):
                    yield json.loads(line)
                line = ""

    def log_of(self, name: str) -> str:
        """The end of a process's log."""
        try:
            return (self.directory / f"{name}.log").read_text(errors="replace")[-2000:]
        except FileNotFoundError:
            return ""

    def log_lines(self, name: str, level: str) -> list[str]:
        """The lines of that level in a process's JSON log."""
        text = (self.directory / f"{name}.log").read_text(errors="replace")
        return [line for line in text.splitlines() if f'"level":"{level}"' in line]

    def journal_rows(self) -> list[str]:
        """What the adaptor's journal holds."""
        return list(leftovers.journal_rows(self.journal))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "adaptor" in self.processes:
            await self.stop("adaptor")
        await self.stop_relay()
        if "simcloud" in self.processes:
            await self.stop("simcloud")
        self._bridge.close()

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "AZURE_", "GCP_", "GOOGLE_", "PODVM_"))
        }
        return {**kept, **self.cloud.get("environment", {})}

    def _config(self) -> str:
        cloud = self.cloud
        tables: dict[str, dict[str, Any]] = {
            "node": {
                "name": "demo-node",
                "hypervisor_socket": self.hypervisor_socket,
                "relay_socket": self.relay_socket,
                "pods_dir": str(self.directory / "pods"),
                "state_dir": str(self.directory / "state"),
            },
            "guest": {"start_timeout": "60s"},
            "cloud": {"provider": cloud["provider"]},
            "log": {"format": "json", "level": "debug"},
            "http": {"listen": self.http},
            cloud["provider"]: {**cloud["settings"], **self.stage.types},
        }
        for name, table in self._settings.items():
            tables.setdefault(name, {}).update(table)
        return "\n".join(f"[{name}]\n{_toml(table)}" for name, table in tables.items())

    async def _until(self, name: str, condition: Any) -> None:
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while not condition():
            process = self.processes.get(name)
            if process is not None and process.returncode is not None:
                raise WorldBroken(f"{name} ended with status {process.returncode}:\n{self.log_of(name)}")
            if asyncio.get_running_loop().time() > deadline:
                raise WorldBroken(f"{name} did not come up within {_PATIENCE:g} s:\n{self.log_of(name)}")
            await asyncio.sleep(_POLL)

    async def _introduced(self, name: str) -> str:
        """Where `name` says in its log's first line that it listens; waits for that."""

        def found() -> re.Match[str] | None:
            return re.search(r"at (http://127\.0\.0\.1:\d+)", (self.directory / f"{name}.log").read_text())

        await self._until(name, found)
        said = found()
        assert said is not None
        return said[1]


async def _fetch(url: str, data: bytes | None = None) -> bytes:
    def fetch() -> bytes:
        with urllib.request.urlopen(url, data, timeout=10) as answer:  # noqa: S310 - loopback
            return bytes(answer.read())

    return await asyncio.to_thread(fetch)


def _answers(path: str) -> bool:
    """Whether somebody listens there; a killed process leaves its socket's file behind."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def _is_over(pid: int) -> bool:
    """Whether a process that need not be our child has ended; as its namespace's first process we inherit it."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        pass
    return _is_zombie(pid) or not Path(f"/proc/{pid}").exists()


def _is_zombie(pid: int) -> bool:
    """It has ended; its parent must wait for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def free_port() -> int:
    """A TCP port of loopback that nobody listens on, from below those that the kernel gives to connections: it must
    still be free when a process that is started later listens there."""
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311 - no secret
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue


def _toml(table: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())  # JSON's scalars are TOML's
