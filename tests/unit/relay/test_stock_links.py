"""Links to stock guests that break: a real relay process, TLS, and a forwarder that knows nothing of resuming."""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from adaptor import names
from adaptor.errors import Code, StatusError
from adaptor.relay.client import SessionState
from adaptor.ttrpc.connection import ClientConnection, RequestReceived, ServerConnection
from podvm_images.guest.agent import Agent
from tests.unit.relay.nodes import Node
from tests.unit.relay.pods import Pod, RunningRelay
from tests.unit.relay.tunnel_ends import eventually
from tests.worlds.cable import UNCUT, Cable
from tests.worlds.tunnel import PATIENCE, Pki, server_context
from tests.worlds.upstream_guest import Forwarder

NAME = "podvm-web-0"


class StockAgent:
    """Answers each call with its own message; one of `holds` when it is no longer held. Forgets no call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.carried_out: Counter[tuple[str, bytes]] = Counter()  # by method and message
        self.holds: set[str] = set()
        self._let = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    def let(self) -> None:
        self.holds.clear()
        self._let.set()

    def times(self, method: str) -> int:
        return sum(times for (carried_out, _), times in self.carried_out.items() if carried_out == method)

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls = ServerConnection()
        while data := await reader.read(1 << 16):
            for request in calls.receive(data):
                task = asyncio.create_task(self._carry_out(request, calls, writer))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        writer.close()

    async def _carry_out(self, request: RequestReceived, calls: ServerConnection, writer: asyncio.StreamWriter) -> None:
        self.carried_out[request.method, request.payload] += 1
        if request.method in self.holds:
            await self._let.wait()
        calls.respond(request.stream_id, request.payload)
        writer.write(calls.data_to_send())


class Calls:
    """The shim's calls, any number at a time; `call` gives a call's answer. A second answer would be an error."""

    def __init__(self, shim: socket.socket) -> None:
        self._shim = shim
        self._calls = ClientConnection()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._sending = asyncio.Lock()
        self._hearing = asyncio.create_task(self._hear())

    async def call(self, method: str, message: bytes = b"", service: str = names.AGENT_SERVICE) -> bytes:
        """Raises StatusError; ConnectionError when the shim's connection has ended, and with it the pod."""
        stream = self._calls.request(service, method, message)
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[stream] = waiting
        async with self._sending:
            await asyncio.get_running_loop().sock_sendall(self._shim, self._calls.data_to_send())
        async with asyncio.timeout(PATIENCE):
            return await waiting

    def begin(self, method: str, message: bytes = b"") -> asyncio.Task[bytes]:
        return asyncio.create_task(self.call(method, message))

    async def stop(self) -> None:
        self._hearing.cancel()
        await asyncio.gather(self._hearing, return_exceptions=True)

    async def _hear(self) -> None:
        while data := await asyncio.get_running_loop().sock_recv(self._shim, 1 << 18):
            for response in self._calls.receive(data):
                waiting = self._waiting.pop(response.stream_id)
                if response.error:
                    waiting.set_exception(response.error)
                else:
                    waiting.set_result(response.payload)
        for waiting in self._waiting.values():
            waiting.set_exception(ConnectionError("the shim's connection has ended"))


class StockPod:
    """A running pod in a stock VM, whose link goes over `cable`."""

    def __init__(self, pod: Pod, agent: StockAgent, cable: Cable, calls: Calls) -> None:
        self.pod = pod
        self.agent = agent
        self.cable = cable
        self.calls = calls


@pytest.fixture
async def stock(relay: RunningRelay, pki: Pki, tmp_path: Path) -> AsyncIterator[StockPod]:
    async with running(relay, pki, tmp_path) as pod:
        yield pod


@asynccontextmanager
async def running(relay: RunningRelay, pki: Pki, directory: Path) -> AsyncIterator[StockPod]:
    certificate, trust = pki.upstream(NAME)
    agent = StockAgent(directory / "agent.sock")
    await agent.start()
    forwarder = Forwarder(Agent(str(agent.path)))
    await forwarder.listen(server_context(certificate, pki.ca.pem, alpn=False))
    async with Cable(forwarder.port) as cable:
        pod = Pod(relay, None, pki)  # type: ignore[arg-type] # none of our guests
        await pod.open()
        await pod.relay.dial(pod.sandbox_id, ["127.0.0.1"], cable.port, PATIENCE, pki.worker, trust, PATIENCE)
        assert not await pod.relay.bind(pod.sandbox_id, b"", PATIENCE)
        calls = Calls((await pod.connect()).socket)
        try:
            yield StockPod(pod, agent, cable, calls)
        finally:
            await pod.relay.close(pod.sandbox_id)
            await calls.stop()
            pod.close()
            await forwarder.aclose()
            await agent.stop()


async def test_a_pod_lives_on_when_its_link_is_cut_in_mid_traffic(stock: StockPod) -> None:
    stock.agent.holds = {"GetOOMEvent", "WaitProcess", "ReadStdout", "ExecProcess"}
    waits = [stock.calls.begin("GetOOMEvent"), stock.calls.begin("WaitProcess", b"p"), stock.calls.begin("ReadStdout")]
    executing = stock.calls.begin("ExecProcess", b"rm -rf")
    await eventually(lambda: stock.agent.times("ExecProcess") == 1 and stock.agent.carried_out.total() == 4)
    stock.cable.cut()
    with pytest.raises(
        StatusError, match="ExecProcess was under way when the link to the pod's VM broke; it"
    ) as failed:
        await executing
    assert failed.value.code == Code.UNAVAILABLE
    assert await stock.calls.call("Check", b"?", names.HEALTH_SERVICE) == b"?"
    await eventually(lambda: stock.agent.times("ReadStdout") == 2)
    stock.agent.let()
    assert await asyncio.gather(*waits) == [b"", b"p", b""]
    assert stock.agent.times("ExecProcess") == 1
    session = await stock.pod.session()
    assert (session.state, session.resumes, session.reason) == (SessionState.JOINED, 1, "")


async def test_what_was_never_sent_is_carried_out_once_whatever_it_is(stock: StockPod) -> None:
    stock.cable.lets_through = False
    stock.cable.cut()
    await stock.pod.becomes(SessionState.RESUMING)
    executing = [stock.calls.begin("ExecProcess", f"command {n}".encode() * 9000) for n in range(3)]
    await asyncio.sleep(0.2)
    assert not any(each.done() for each in executing)
    stock.cable.lets_through = True
    await asyncio.gather(*executing)
    assert set(stock.agent.carried_out.values()) == {1}
    assert stock.agent.times("ExecProcess") == 3


@pytest.mark.parametrize("seed", range(4))
async def test_every_call_has_one_end_however_often_the_link_is_cut(stock: StockPod, seed: int) -> None:
    chance = random.Random(seed)
    cuts = iter([chance.choice([chance.randrange(2_500, 9_000), chance.randrange(9_000, 900_000)]) for _ in range(20)])
    stock.cable.lasts, stock.cable.resets = lambda: next(cuts, UNCUT), bool(seed % 2)
    stock.cable.cut()
    failed = 0

    async def converse(method: str) -> None:
        nonlocal failed
        for number in range(40):
            message = f"{method} {number} ".encode() + chance.randbytes(chance.choice([9, 900, 40_000]))
            try:
                assert await stock.calls.call(method, message) == message
                assert stock.agent.carried_out[method, message] >= 1
            except StatusError as error:
                assert method in ("WriteStdin", "Unheard"), f"{method} must not be failed"
                assert "was under way when the link to the pod's VM broke" in error.message  # noqa: PT017
                failed += 1
            if method in ("WriteStdin", "Unheard"):
                assert stock.agent.carried_out[method, message] <= 1

    await asyncio.gather(*map(converse, ("ReadStdout", "StatsContainer", "WriteStdin", "Unheard", "UpdateContainer")))
    assert stock.cable.cuts >= 10
    assert failed, "the cuts hit nothing that does not bear it"
    await stock.pod.becomes(SessionState.JOINED)


async def test_a_relay_that_hands_over_treats_what_is_under_way_as_a_break_does(tmp_path: Path, pki: Pki) -> None:
    with closing(Node(tmp_path)) as node:
        async with running(node.relay, pki, tmp_path) as stock:
            stock.agent.holds = {"WaitProcess", "ExecProcess"}
            waiting, executing = stock.calls.begin("WaitProcess", b"p"), stock.calls.begin("ExecProcess")
            await eventually(lambda: stock.agent.carried_out.total() == 2)
            await node.take_over()
            with pytest.raises(StatusError, match="ExecProcess was under way"):
                await executing
            await eventually(lambda: stock.agent.times("WaitProcess") == 2)
            stock.agent.let()
            assert await waiting == b"p"
            assert stock.agent.times("ExecProcess") == 1
