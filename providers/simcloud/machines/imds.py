"""HTTP at 169.254.169.254 inside one instance, served from this process's own loop."""

import asyncio
import socket

from aiohttp import web

from providers.simcloud.machines.base import Metadata


class MetadataService:
    """One instance's. Cheap: a listening socket and a protocol factory, no thread and no process."""

    def __init__(self, server: asyncio.Server, protocols: web.Server) -> None:
        self._server = server
        self._protocols = protocols

    @classmethod
    async def serve(cls, listener: socket.socket, metadata: Metadata) -> "MetadataService":
        """Serve `metadata` on a socket that listens already, in whatever network that is."""
        protocols = web.Server(metadata, access_log=None)
        server = await asyncio.get_running_loop().create_server(protocols, sock=listener)
        return cls(server, protocols)

    async def aclose(self) -> None:
        """Close the socket and every connection: they alone would keep the instance's network alive."""
        self._server.close()
        await self._protocols.shutdown(timeout=0)
