"""What shims notice when their relay is replaced: handed over, and beside it the incumbent's way, a restart."""

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adaptor.protos.agent_pb2 import ReadStreamRequest
from adaptor.relay.client import RelayClient
from adaptor.ttrpc.frames import HEADER
from tests.bench._chains import Ours, Papers, start
from tests.bench._load import Load
from tests.bench._report import Target, quantile
from tests.bench._report import load as load_of_machine
from tests.worlds.tunnel import call

_LIMIT: Final = 2.0  # seconds that no shim may be kept waiting for longer
_PAUSE: Final = 0.05  # seconds between an answer and the next call
_BEFORE: Final = 1.0  # seconds of calls before a hand-over
_AFTER: Final = 3.0  # and after it
_PATIENCE: Final = 30.0


@dataclass
class Shim:
    """One pod's connection, which calls and waits, and calls again."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    longest: float = 0.0  # seconds that a call took
    calls: int = 0
    lost: bool = False

    async def run(self, going: Callable[[], bool]) -> None:
        try:
            while going():
                await self._call()
                await asyncio.sleep(_PAUSE)
        except (OSError, asyncio.IncompleteReadError):
            self.lost = True
        finally:
            self.writer.close()

    async def _call(self) -> None:
        began = time.perf_counter()
        stream = 2 * self.calls + 1
        self.writer.write(call(stream, "ReadStdout", ReadStreamRequest(container_id="c", len=100).SerializeToString()))
        length, answered, *_ = HEADER.unpack(await self.reader.readexactly(HEADER.size))
        await self.reader.readexactly(length)
        assert answered == stream, "an answer to another call"
        self.longest = max(self.longest, time.perf_counter() - began)
        self.calls += 1


class Node:
    """Tunnels through a relay that is replaced."""

    def __init__(self, directory: Path, tunnels: int) -> None:
        self.tunnels = tunnels
        self._stack = ExitStack()
        load = Load(directory)
        self._stack.callback(load.close)
        self._chain = Ours(directory, Papers(directory), load.echo_path)
        self._stack.callback(self._chain.close)
        self._paths = self._chain.open(tunnels)
        self._socket = self._chain.socket_path

    def close(self) -> None:
        self._stack.close()

    async def measure(self, replace: Callable[[], Awaitable[None]] | None, rounds: int) -> list[Shim]:
        """Every shim of every round, after a replacement each (or none)."""
        shims = [
            Shim(*await asyncio.open_unix_connection(self._paths.replace("%", str(n)))) for n in range(self.tunnels)
        ]
        seen: list[Shim] = []
        going = True
        running = [asyncio.create_task(each.run(lambda: going)) for each in shims]
        for _ in range(rounds):
            for each in shims:
                each.longest = 0.0
            await asyncio.sleep(_BEFORE)
            if replace:
                await replace()
            await asyncio.sleep(_AFTER)
            seen += [Shim(each.reader, each.writer, each.longest, each.calls, each.lost) for each in shims]
        going = False
        await asyncio.wait_for(asyncio.gather(*running), _PATIENCE)
        return seen

    async def hand_over(self) -> None:
        """Start a successor, and wait until it serves."""
        old = (await RelayClient(self._socket).list()).pid
        words = ["-m", "adaptor", "relay", "--takeover", "--socket", self._socket, "--log-level", "error"]
        self._stack.callback(_end, start([sys.executable, *words]))
        await self._until_another_serves(old)

    async def restart(self) -> None:
        """As a relay without hand-over is updated."""
        old = (await RelayClient(self._socket).list()).pid
        os.kill(old, signal.SIGTERM)
        while os.path.exists(self._socket):
            await asyncio.sleep(0.01)
        words = ["-m", "adaptor", "relay", "--socket", self._socket, "--log-level", "error"]
        self._stack.callback(_end, start([sys.executable, *words]))
        await self._until_another_serves(old)

    async def _until_another_serves(self, old: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                if (await RelayClient(self._socket).list()).pid != old:
                    return
            except Exception:  # none at this moment
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.02)
        raise RuntimeError("no other relay serves")


def run(tunnels: int, rounds: int) -> list[Target]:
    """Print what shims notice; raises Missing."""
    print(
        f"{tunnels} tunnels on {os.cpu_count()} cores, {ssl.OPENSSL_VERSION}; each shim calls, and {_PAUSE * 1e3:g} ms"
    )
    print("after its answer again; silence: the longest that a call of it waited\n")
    print(f"{'':34}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'pods lost':>11}")
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        node = Node(Path(directory), tunnels)
        try:
            idle = asyncio.run(node.measure(None, 1))
            _line("no replacement", idle)
        finally:
            node.close()
    handed = _replaced(tunnels, rounds, lambda node: node.hand_over)
    _line(f"handed over, {rounds} times in a row", handed)
    restarted = _replaced(tunnels, 1, lambda node: node.restart)
    _line("restarted, as without hand-over", restarted)
    print(f"\n{load_of_machine()}")
    return [
        Target(f"hand-over of {tunnels} tunnels: longest silence", max(each.longest for each in handed), _LIMIT, "s"),
        Target(f"hand-over of {tunnels} tunnels: pods lost", sum(each.lost for each in handed), 0, "pods"),
    ]


def _replaced(tunnels: int, rounds: int, how: Callable[[Node], Callable[[], Awaitable[None]]]) -> list[Shim]:
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        node = Node(Path(directory), tunnels)
        try:
            return asyncio.run(node.measure(how(node), rounds))
        finally:
            node.close()


def _line(what: str, shims: list[Shim]) -> None:
    waits = [each.longest * 1e3 for each in shims if not each.lost]
    lost = sum(each.lost for each in shims)
    figures = (
        "".join(f"{each:9.0f}" for each in (quantile(waits, 0.5), quantile(waits, 0.99), max(waits)))
        if waits
        else " " * 27
    )
    print(f"{what:34}{figures}{lost:7} of {len(shims)}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait()
