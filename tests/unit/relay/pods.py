"""A relay process, and pods that use it as the adaptor and the shim do."""

import asyncio
import itertools
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from adaptor.protos.guest_pb2 import BindRequest, BindResponse
from adaptor.relay.client import Dialled, OwnGuest, RelayClient, Session, SessionState, UpstreamGuest
from tests.worlds.bound import Agent
from tests.worlds.tunnel import PATIENCE, Guest, Pki, answer, call

_ids = itertools.count(1)


class RunningRelay:
    """`python -m adaptor.relay.process` in `directory`, as an adaptor would have started it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket_path = str(directory / "relay.sock")
        self.log = directory / "relay.log"
        words = [sys.executable, "-m", "adaptor.relay.process", "--socket", self.socket_path, "--log-level", "debug"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._await_listening()
        self.client = RelayClient(self.socket_path)

    @property
    def rss_kib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop()

    def _await_listening(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX) as probe:
                if not probe.connect_ex(self.socket_path):
                    return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)
        raise AssertionError(f"the relay does not listen: {self.log.read_text()}")


class Pod:
    """One sandbox: the adaptor's calls for it, and its shim."""

    def __init__(self, relay: RunningRelay, guest: Guest, pki: Pki) -> None:
        self.relay = relay.client
        self.guest = guest
        self.pki = pki
        self.sandbox_id = f"sandbox-{next(_ids)}"
        self.path = str(relay.directory / self.sandbox_id / "agent.ttrpc")
        self.bind_request = BindRequest(sandbox_id=self.sandbox_id, pod_namespace="shop", pod_name="web-0")
        self.port = 0  # to dial, if not the guest's own
        self.link_grace = PATIENCE
        self._shims: list[socket.socket] = []

    async def open(self, *, all_gpus: bool = False) -> None:
        await self.relay.open(self.sandbox_id, self.path, all_gpus=all_gpus)

    async def dial(self, trust: OwnGuest | UpstreamGuest | None = None, timeout: float = PATIENCE) -> Dialled:
        where = [self.guest.address], self.port or self.guest.port
        trust = trust or self.pki.own()
        return await self.relay.dial(self.sandbox_id, *where, timeout, self.pki.worker, trust, self.link_grace)

    async def bind(self, timeout: float = PATIENCE) -> BindResponse:
        return BindResponse.FromString(
            await self.relay.bind(self.sandbox_id, self.bind_request.SerializeToString(), timeout)
        )

    async def start(self, *, all_gpus: bool = False) -> "Shim":
        """Open, dial, bind, and the shim connected."""
        await self.open(all_gpus=all_gpus)
        await self.dial()
        await self.bind()
        return await self.connect()

    async def connect(self) -> "Shim":
        shim = socket.socket(socket.AF_UNIX)
        self._shims.append(shim)
        shim.setblocking(False)
        await asyncio.get_running_loop().sock_connect(shim, self.path)
        return Shim(shim)

    async def session(self) -> Session:
        (found,) = [each for each in await self.relay.sessions() if each.sandbox_id == self.sandbox_id]
        return found

    async def becomes(self, state: SessionState) -> Session:
        """The session once it is in `state`."""
        async with asyncio.timeout(PATIENCE):
            listing = await self.relay.list()
            while True:
                for each in listing.sessions:
                    if each.sandbox_id == self.sandbox_id and each.state is state:
                        return each
                listing = await self.relay.watch(listing.generation)

    @property
    def agent(self) -> Agent:
        """The bound VM's end of the streams."""
        return self.guest.bound[self.sandbox_id]

    def close(self) -> None:
        for shim in self._shims:
            shim.close()


class Shim:
    """The kata shim's one connection to its agent."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._stream = itertools.count(1, 2)

    async def call(self, message: bytes, method: str = "ReadStdout") -> bytes:
        """One call, to an agent that echoes; checks that exactly its answer comes back."""
        stream = next(self._stream)
        expected = answer(stream, message)
        got, _ = await asyncio.gather(self.receive(len(expected)), self.send(call(stream, method, message)))
        assert got == expected
        return message

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def receive(self, size: int) -> bytes:
        """The next `size` bytes; fewer where the connection ends before."""
        data = bytearray()
        async with asyncio.timeout(PATIENCE):
            while len(data) < size:
                try:
                    piece = await asyncio.get_running_loop().sock_recv(self.socket, size - len(data))
                except ConnectionResetError:
                    break
                if not piece:
                    break
                data += piece
        return bytes(data)

    async def hears_the_end(self) -> bool:
        return not await self.receive(1)
