"""Serves a worker that speaks as upstream's adaptor does: TLS with the certificate that user-data brought, no ALPN, and
the agent's calls from the first byte.

    link ─┐                                     every link's calls go over one connection to the agent, which outlives
    link ─┴─ TLS ─► calls ─► rewrite ─► agent   the links; only the agent's two services are served
"""

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path
from typing import Final

from adaptor import names
from adaptor.errors import AdaptorError, Code, StatusError
from adaptor.relay.splice import Rules
from adaptor.telemetry import logs
from adaptor.ttrpc.connection import ClientConnection, RequestReceived, ResponseReceived, ServerConnection
from podvm_images.guest import bind, rewrite
from podvm_images.guest.agent import Agent
from podvm_images.guest.network import Network
from podvm_images.guest.rtnetlink import Rtnetlink
from podvm_images.guest.stock import Stock

SERVICES: Final = (names.AGENT_SERVICE, names.HEALTH_SERVICE)
AGENT_TIMEOUT: Final = 150.0  # seconds, as in upstream's forwarder
NETWORK_TIMEOUT: Final = 60.0  # seconds for the VM's own network: user-data may be there before it
_LOOK: Final = 0.1
_CHUNK: Final = 65536

log = logs.get(__name__)


class StockService:
    """Serves on `listener` (bound, listening) what `stock` is for. Its first deed makes this VM that pod's."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        stock: Stock,
        run_dir: Path,
        agent: Agent,
        network: Network,
    ) -> None:
        self.address = "{}:{}".format(*listener.getsockname())
        self._listener = listener
        self._context = context
        self._stock = stock
        self._run_dir = run_dir
        self._agent = agent
        self._network = network
        self._rules: Rules = rewrite.rules(has_network=True)
        self._calls = ClientConnection()
        self._waiting: dict[int, asyncio.Future[ResponseReceived]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_agent: asyncio.StreamWriter | None = None

    async def serve(self) -> None:
        """For ever. Links wait in the listener's queue until the agent is there. Raises AdaptorError, OSError."""
        if self._stock.ignored:
            log.warning("user-data has files that nothing here reads", files=self._stock.ignored)
        async with contextlib.AsyncExitStack() as opened:
            from_agent, self._to_agent = await asyncio.open_unix_connection(sock=await self._begin())
            opened.callback(self._to_agent.close)
            server = await asyncio.start_server(self._serve, sock=self._listener, ssl=self._context)
            opened.callback(server.close)
            try:
                await self._hear(from_agent)
                log.error("the agent has hung up: this VM is spent")
                await asyncio.get_running_loop().create_future()
            finally:
                for task in self._tasks:
                    task.cancel()

    async def _begin(self) -> socket.socket:
        """What Bind does for workers of ours; a connection to the agent."""
        request = self._stock.request
        if (pod := bind.bound_to(self._run_dir)) is not None:
            raise StatusError(Code.FAILED_PRECONDITION, f"this VM was bound to {pod} before: it takes no other")
        plan = self._network.understand(request.network)
        provision = bind.provision(request)
        await _reachable(plan.worker)
        bind.write(self._run_dir, provision.files)
        if provision.ignored:
            log.warning("initdata has entries that nothing here reads", entries=provision.ignored)
        await self._network.make()
        self._agent.start()
        await self._network.lay(plan)
        return await self._agent.connect(AGENT_TIMEOUT)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls = ServerConnection()
        try:
            while data := await reader.read(_CHUNK):
                for request in calls.receive(data):
                    task = asyncio.ensure_future(self._answer(request, calls, writer))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                writer.write(calls.data_to_send())
                await writer.drain()
        except (OSError, AdaptorError) as error:
            log.info("link ended", reason=error)
        finally:
            writer.close()

    async def _answer(self, request: RequestReceived, calls: ServerConnection, writer: asyncio.StreamWriter) -> None:
        try:
            if request.service not in SERVICES:
                raise StatusError(Code.UNIMPLEMENTED, f"service {request.service[:100]!r} is not served here")
            response = await self._call(request)
            if response.error is not None:
                raise response.error
            calls.respond(request.stream_id, response.payload)
        except StatusError as error:
            calls.fail(request.stream_id, error.code, error.message, error.details)
        if not writer.is_closing():  # else the link is gone; whoever asked asks again
            writer.write(calls.data_to_send())

    async def _call(self, request: RequestReceived) -> ResponseReceived:
        assert self._to_agent is not None
        rule = self._rules.get((request.service, request.method))
        verdict = rule(request.payload) if rule else None
        payload = verdict if isinstance(verdict, bytes) else request.payload
        stream = self._calls.request(request.service, request.method, payload, request.timeout, request.metadata)
        answer: asyncio.Future[ResponseReceived] = asyncio.get_running_loop().create_future()
        self._waiting[stream] = answer
        self._to_agent.write(self._calls.data_to_send())
        return await answer

    async def _hear(self, from_agent: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await from_agent.read(_CHUNK):
                for response in self._calls.receive(data):
                    waiting = self._waiting.pop(response.stream_id)
                    if not waiting.done():
                        waiting.set_result(response)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(StatusError(Code.UNAVAILABLE, "the pod VM's agent closed its connection"))


async def _reachable(worker: str) -> None:
    """Return once there is a route to it. Raises StatusError."""
    deadline = asyncio.get_running_loop().time() + NETWORK_TIMEOUT
    while True:
        try:
            with contextlib.closing(Rtnetlink()) as network:
                network.way_to(worker)
                return
        except OSError as error:
            if asyncio.get_running_loop().time() >= deadline:
                why = f"this VM has no route to the worker {worker} after {NETWORK_TIMEOUT:g} s: {error.strerror}"
                raise StatusError(Code.DEADLINE_EXCEEDED, why) from error
        await asyncio.sleep(_LOOK)
