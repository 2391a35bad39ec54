"""HTTP at 169.254.169.254 for all instances, served from this process's own loop. Who asks is known by the address."""

import asyncio
import socket
from http import HTTPStatus
from typing import Final

from aiohttp import web

from providers.simcloud.machines.base import Machine

_GRACE: Final = 0.05  # seconds for an answer under way; whoever asked is dead by now


class MetadataService:
    """One socket, no thread and no process, however many instances there are."""

    def __init__(self) -> None:
        self._machines: dict[str, Machine] = {}
        self._protocols = web.Server(self._answer, access_log=None)
        self._server: asyncio.Server | None = None

    async def serve(self, listener: socket.socket) -> None:
        """Serve on a socket that listens already, in whatever network that is."""
        self._server = await asyncio.get_running_loop().create_server(self._protocols, sock=listener)

    def know(self, machine: Machine) -> None:
        """From now on requests from its address are its own."""
        self._machines[str(machine.address.ip)] = machine

    def forget(self, machine: Machine) -> None:
        """Its address may become another's."""
        self._machines.pop(str(machine.address.ip), None)

    async def aclose(self) -> None:
        """Close the socket and every connection."""
        if self._server is not None:
            self._server.close()
        self._protocols.pre_shutdown()
        await self._protocols.shutdown(_GRACE)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        machine = self._machines.get(request.remote or "")
        if machine is None:
            return web.Response(status=HTTPStatus.NOT_FOUND)
        return await machine.metadata(request)
