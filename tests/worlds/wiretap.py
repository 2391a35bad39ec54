"""Everything that passes a link of this namespace, as it passes."""

import asyncio
import socket
from types import TracebackType
from typing import Final, Self

from adaptor.demo import leftovers

_ALL: Final = 3  # ETH_P_ALL


class Wiretap:
    """`packets` on the only link whose name begins with `link`, in both directions; needs a running event loop."""

    def __init__(self, link: str) -> None:
        (self._link,) = [name for name in leftovers.interfaces() if name.startswith(link)]
        self.packets: list[bytes] = []

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ALL))
        self._socket.bind((self._link, 0))
        asyncio.get_running_loop().add_reader(self._socket, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._take()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _take(self) -> None:
        try:
            while True:
                self.packets.append(self._socket.recv(65536))
        except BlockingIOError:
            pass
