"""Real servers and clients on real sockets, and a peer that speaks raw frames."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adaptor.ttrpc.aio import Client, Handler, Limits, Server, Service
from tests.unit.ttrpc.sides import DESCRIPTOR, Script, Scripted, Serve


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    servers: list[Server] = []

    async def start(limits: Limits | None = None, **handlers: Handler) -> tuple[Server, Path]:
        path = tmp_path / f"{len(servers)}.sock"
        server = Server([Service(DESCRIPTOR, handlers)], limits)
        await server.listen_unix(path)
        servers.append(server)
        return server, path

    yield start
    for server in servers:
        await server.aclose()


@pytest.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[Scripted]:
    """A client connected to a server that does what the test's script says, byte by byte."""
    listeners: list[asyncio.Server] = []
    clients: list[Client] = []

    async def start(script: Script) -> Client:
        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await script(reader, writer)
            finally:
                writer.close()

        path = tmp_path / f"scripted{len(listeners)}.sock"
        listeners.append(await asyncio.start_unix_server(run, path))
        clients.append(await Client.connect_unix(path))
        return clients[-1]

    yield start
    for client in clients:
        await client.aclose()
    for listener in listeners:
        listener.close()
        await listener.wait_closed()
