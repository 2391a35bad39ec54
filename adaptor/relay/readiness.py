"""Which sockets can be read or written: one epoll for all tunnels, itself watched by the event loop.

The loop's own add_reader will not do. uvloop (libuv) gives a socket up at its first error event after calling its
callback once; a callback that has not read all that lay before the error is never called again, and a tunnel whose
VM was reset with its last answer under way would hang. Here a socket is ready for as long as it is, as in asyncio.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT

# Sockets served before the loop's other work gets its turn.
_AT_ONCE: Final = 64


class Readiness:
    """Calls back for ready sockets. Callbacks must bear being called for nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._dispatch)

    def watch(self, descriptor: int, events: int, ready: Callable[[], None]) -> None:
        """Call `ready` whenever one of `events` is there, or the socket has ended or failed; with no events: never.

        A descriptor must be watched for nothing again before it is closed.
        """
        known = self._ready.pop(descriptor, None)
        if events:
            (self._epoll.modify if known else self._epoll.register)(descriptor, events)
            self._ready[descriptor] = ready
        elif known:
            self._epoll.unregister(descriptor)

    def _dispatch(self) -> None:
        for descriptor, _ in self._epoll.poll(0, _AT_ONCE):
            ready = self._ready.get(descriptor)
            if ready:
                ready()


_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Readiness] = WeakKeyDictionary()


def readiness() -> Readiness:
    """The running loop's."""
    loop = asyncio.get_running_loop()
    found = _of_loop.get(loop)
    if found is None:
        found = _of_loop[loop] = Readiness(loop)
    return found
