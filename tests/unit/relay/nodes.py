"""One relay after the other at one socket, and successors of a test's own making."""

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from adaptor.protos.handover_pb2 import HandedRelay, HandedSession
from adaptor.protos.relay_pb2 import HandOverRequest, HandOverResponse
from adaptor.relay.handover import Line
from adaptor.ttrpc.aio import Client
from tests.unit.relay.pods import RunningRelay
from tests.worlds.tunnel import PATIENCE


class Node:
    """One relay after the other at one socket."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.relay = RunningRelay(directory)
        self.client = self.relay.client
        self.successors: list[subprocess.Popen[bytes]] = []

    def successor(self) -> "subprocess.Popen[bytes]":
        """Start one; its log is beside the first's."""
        words = [sys.executable, "-m", "adaptor", "relay", "--takeover", "--socket", self.relay.socket_path]
        with self.log(len(self.successors)).open("wb") as log:
            self.successors.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        return self.successors[-1]

    def log(self, number: int) -> Path:
        return self.directory / f"successor-{number}.log"

    async def take_over(self) -> None:
        """Have a successor replace the one that serves, whose process has ended in peace when this returns."""
        before = self.successors[-1] if self.successors else self.relay.process
        after = self.successor()
        assert await asyncio.to_thread(before.wait, PATIENCE) == 0
        assert (await self.client.list()).pid == after.pid

    def close(self) -> None:
        for process in [self.relay.process, *self.successors]:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                process.wait(PATIENCE)


class Impostor:
    """A successor of the test's making, at the old relay's line."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.path = str(node.directory / "impostor")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.lines: list[Line] = []
        self.taken: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        closable: list[Line | socket.socket] = [*self.lines, *self.taken, self.listener]
        for each in closable:
            each.close()

    async def ask(self) -> "asyncio.Task[HandOverResponse]":
        """Call HandOver; the old relay connects then."""
        client = await Client.connect_unix(self.node.relay.socket_path)
        request = HandOverRequest(socket_path=self.path)
        calling = client.call("peerpods.relay.Relay", "HandOver", request, HandOverResponse)
        task = asyncio.ensure_future(calling)
        task.add_done_callback(lambda _: asyncio.ensure_future(client.aclose()))
        return task

    async def line(self) -> Line:
        connection, _ = await asyncio.to_thread(self.listener.accept)
        self.lines.append(Line(connection, PATIENCE))
        return self.lines[-1]

    async def take(self, *, sessions: bool = True) -> None:
        """The relay's own part, and every session."""
        relay, sockets = await asyncio.to_thread(self.lines[-1].receive, HandedRelay)
        self.taken += sockets
        for _ in range(relay.sessions if sessions else 0):
            self.taken += (await asyncio.to_thread(self.lines[-1].receive, HandedSession))[1]
