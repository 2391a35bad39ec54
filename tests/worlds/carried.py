"""A pod whose agent connection the real relay and the real guest carry; the shim and the agent are the test's.

test: shim ── agent.ttrpc ── relay process ── TLS, over a cable ── guest's service ── agent.sock ── test: agent
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Final

from adaptor.pki import NodePki
from adaptor.protos import guest_pb2, relay_pb2
from adaptor.protos.guest_pb2 import BindRequest
from adaptor.relay import tls
from adaptor.relay.client import Identity, OwnGuest, RelayClient, Session
from podvm_images.guest import identity
from podvm_images.guest.agent import Agent
from podvm_images.guest.control import Control
from podvm_images.guest.network import Network
from podvm_images.guest.programs import Programs
from podvm_images.guest.service import Service
from podvm_images.guest.volumes import Volumes
from tests.worlds.cable import Cable
from tests.worlds.recording import Answer, Closed, Request, Step, Streams
from tests.worlds.wire import PATIENCE, Wire

TOKEN: Final = bytes(range(32))
NONCE: Final = b"recorded session"


class Carried:
    """One sandbox of the relay. `at_agent` and `at_shim`: every frame that `replay` saw come out there."""

    def __init__(self, relay: RelayClient, sandbox: str, socket_path: Path, cable: Cable, agent: Wire) -> None:
        self.relay = relay
        self.sandbox = sandbox
        self.cable = cable
        self.agent = agent
        self.shim: Wire | None = None
        self.at_agent: list[bytes] = []
        self.at_shim: list[bytes] = []
        self._socket_path = socket_path

    async def connect(self) -> Streams:
        """The shim dials its agent socket, which it does once."""
        assert self.shim is None, "the shim dials once"
        self.shim = await Wire.connect(self._socket_path)
        return self.shim.reader, self.shim.writer

    async def replay(self, steps: Iterable[Step]) -> None:
        """What shim and agent did, in the recorded order: each step shows at the other end before the next is made."""
        if self.shim is None:
            await self.connect()
        assert self.shim is not None
        for step in steps:
            match step:
                case Request():
                    await self.shim.send(step.frame)
                    self.at_agent.append(await self.agent.receive())
                case Answer():
                    await self.agent.send(step.frame)
                    self.at_shim.append(await self.shim.receive())
                case Closed(by_shim=True):
                    self.shim.close()
                    assert await self.agent.ended(), "the agent got more than the shim sent"
                case Closed():
                    self.agent.close()
                    assert await self.shim.ended(), "the shim got more than the agent sent"

    async def session(self) -> Session:
        """What the relay says of it."""
        (found,) = [each for each in await self.relay.sessions() if each.sandbox_id == self.sandbox]
        return found

    def close(self) -> None:
        self.agent.close()
        if self.shim is not None:
            self.shim.close()


@asynccontextmanager
async def carried(
    relay: RelayClient,
    sandbox: str,
    directory: Path,
    pki: NodePki,
    *,
    all_gpus: bool = False,
    volumes: Volumes | None = None,
    attached: Sequence[tuple[relay_pb2.DirectVolume, guest_pb2.Volume]] = (),
) -> AsyncIterator[Carried]:
    """A pod whose VM is bound, its sockets in `directory`; the shim has not dialled yet. The end is StopVM's.

    `volumes`: how the guest mounts what is `attached`, each disk as relay and guest are told of it.
    """
    me = identity.generate()
    async with AsyncExitStack() as stack:
        agent_at = await stack.enter_async_context(_agent(directory / "agent.sock"))
        agent = Agent(str(directory / "agent.sock"))
        mounts, network = volumes or Volumes(Programs()), Network(str(directory / "podns"))
        control = Control(TOKEN, me.der, directory / "guest", agent, mounts, network)
        listener = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
        context = tls.guest_server(me.certificate, me.key, pki.ca_pem)
        await stack.enter_async_context(_running(Service(listener, context, control)))
        cable = await stack.enter_async_context(Cable(listener.getsockname()[1]))

        await relay.open(
            sandbox, str(directory / "agent.ttrpc"), all_gpus=all_gpus, volumes=[each for each, _ in attached]
        )
        stack.push_async_callback(relay.close, sandbox)
        worker = Identity(pki.worker.certificate, pki.worker.key)
        dialled = await relay.dial(sandbox, ["127.0.0.1"], cable.port, PATIENCE, worker, OwnGuest(NONCE))
        assert dialled.hello.proof == identity.launch_proof(TOKEN, NONCE, me.der)
        bind = BindRequest(
            sandbox_id=sandbox, pod_namespace="lab", pod_name="recorded", volumes=[each for _, each in attached]
        )
        await relay.bind(sandbox, bind.SerializeToString(), PATIENCE)
        async with asyncio.timeout(PATIENCE):
            pod = Carried(relay, sandbox, directory / "agent.ttrpc", cable, await agent_at)
        with closing(pod):
            yield pod


@asynccontextmanager
async def _agent(path: Path) -> AsyncIterator["asyncio.Future[Wire]"]:
    """Listens where the guest looks for its agent; the result is the guest's one connection."""
    connected: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_unix_server(lambda *streams: connected.set_result(Wire(*streams)), path)
    try:
        yield connected
    finally:
        server.close()


@asynccontextmanager
async def _running(service: Service) -> AsyncIterator[None]:
    task = asyncio.create_task(service.serve())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
