"""What lies between a worker and a VM: a TCP path that can be cut at any byte, or lets nobody through."""

import asyncio
import ctypes
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, Self

UNCUT: Final = 1 << 62
_CHUNK: Final = 16 << 10


class Cable:
    """Leads from 127.0.0.1:`port` to `to`. `lasts` says of each connection how many bytes, both ways, it carries."""

    def __init__(self, to: int) -> None:
        self.lasts: Callable[[], int] = lambda: UNCUT
        self.resets = True  # or it ends with a FIN, and TLS hears no goodbye
        self.lets_through = True  # or each connection is closed as soon as it is made
        self.carried = 0  # connections
        self.cuts = 0
        self.to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: dict[asyncio.Task[None], tuple[socket.socket, socket.socket]] = {}

    async def __aenter__(self) -> Self:
        self._listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._accepting.cancel()
        await asyncio.wait([self._accepting])
        self._listener.close()
        self.cut()
        if self._ends:
            await asyncio.wait(self._ends)

    def cut(self) -> None:
        """Every connection there is."""
        for task in self._ends:
            task.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            near, _ = await loop.sock_accept(self._listener)
            if not self.lets_through:
                near.close()
                continue
            self.carried += 1
            far = socket.create_connection(("127.0.0.1", self.to))
            for end in (near, far):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(self._carry(near, far, self.lasts()))
            self._ends[task] = near, far
            task.add_done_callback(self._close)

    def _close(self, task: asyncio.Task[None]) -> None:
        """Also where it was cancelled before it began."""
        for end in self._ends.pop(task):
            end.close()

    async def _carry(self, near: socket.socket, far: socket.socket, lasts: int) -> None:
        left = [lasts]
        ways = [asyncio.create_task(self._one_way(*ends, left)) for ends in ((near, far), (far, near))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)  # a way that ends in order is no exception
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            cut = left[0] <= 0 or bool((task := asyncio.current_task()) and task.cancelling())
            self.cuts += cut
            for end in (near, far):
                if cut and self.resets:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()

    async def _one_way(self, source: socket.socket, to: socket.socket, left: list[int]) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(source, _CHUNK):
            data = data[: left[0]]
            left[0] -= len(data)
            await loop.sock_sendall(to, data)
            if left[0] <= 0:
                raise ConnectionAbortedError("cut")
        with suppress(OSError):
            to.shutdown(socket.SHUT_WR)


@contextmanager
def black_hole(*sockets: socket.socket) -> Iterator[None]:
    """The kernel drops every packet for these sockets before TCP sees it, as if the cable were out."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0 bytes of each packet
    attach, detach = 26, 27  # SO_ATTACH_FILTER, SO_DETACH_FILTER
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, attach, struct.pack("HP", 1, ctypes.addressof(drop_all)))
    yield
    for each in sockets:
        with suppress(OSError):  # closed meanwhile
            each.setsockopt(socket.SOL_SOCKET, detach, 0)
