"""The two ends that a pump joins, as a test holds them: a shim's unix socket, and a VM's TLS link."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pytest

from adaptor.relay import tls
from adaptor.relay.pump import End, Pump, Side
from adaptor.relay.splice import Piece, Splice
from tests.worlds.tunnel import PATIENCE, Pki, server_context


@dataclass
class Tunnel:
    """`shim` and `vm` are the test's; whatever the pump says at its end is in `ended`."""

    shim: socket.socket
    vm: ssl.SSLSocket
    link: ssl.SSLSocket
    pump: Pump
    ended: "asyncio.Future[End]"

    def start(self) -> None:
        self.pump.attach(self.link)

    async def from_shim(self, size: int) -> bytes:
        """The next `size` bytes that the VM gets; fewer if its link ends before."""
        async with asyncio.timeout(PATIENCE):
            return await tls.read_exactly(self.vm, size)

    async def from_vm(self, size: int) -> bytes:
        """The next `size` bytes that the shim gets; fewer if its socket ends before."""
        loop, data = asyncio.get_running_loop(), bytearray()
        with suppress(ConnectionResetError):  # another form of its end: not all that the shim sent was taken
            async with asyncio.timeout(PATIENCE):
                while len(data) < size and (piece := await loop.sock_recv(self.shim, size - len(data))):
                    data += piece
        return bytes(data)

    async def end(self) -> End:
        async with asyncio.timeout(PATIENCE):
            return await self.ended

    async def vm_hears_an_orderly_end(self) -> None:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ConnectionAbortedError):  # a cut is another error
                await tls.read_exactly(self.vm, 1)

    def close(self) -> None:
        self.pump.close()
        self.shim.close()
        self.link.close()
        self.vm.close()


class Plain:
    """A carrier of nothing but the bytes: what a link loses is lost."""

    full = False
    owes = False

    def wrap(self, pieces: Sequence[Piece]) -> bytes:
        return b"".join(pieces)

    def unwrap(self, data: memoryview) -> Sequence[memoryview]:
        return (data,)

    def acknowledge(self) -> bytes:
        return b""


class Through(Splice):
    """Lets bytes pass that are no frames."""

    def __init__(self) -> None:
        super().__init__({})

    def requests(self, data: memoryview) -> Sequence[Piece]:
        return (data,)

    responses = requests


async def joined(pki: Pki, splice: Splice | None, requests_from: Side) -> Tunnel:
    """A link that breaks is given up at once."""
    loop = asyncio.get_running_loop()
    shim, unix = socket.socketpair()
    link, vm = await link_pair(pki)
    for each in (shim, unix):
        each.setblocking(False)
    ended: asyncio.Future[End] = loop.create_future()

    def broke(end: End) -> None:
        pump.give_up(end.reason)

    pump = Pump(unix, Plain(), splice or Through(), ended.set_result, broke, requests_from)
    return Tunnel(shim, vm, link, pump, ended)


async def link_pair(pki: Pki) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """The worker's and the VM's end of one TLS link over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for each in (near, far):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link = tls.wrap(tls.own_client(pki.worker.certificate, pki.worker.key), near)
    vm = tls.wrap(server_context(pki.guest, pki.ca.pem), far)
    await asyncio.gather(tls.handshake(link), tls.handshake(vm))
    return link, vm


async def eventually(holds: Callable[[], bool]) -> None:
    """Return when `holds` does: for what happens by itself and tells nobody."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.002)
