"""One sandbox in the relay: its agent socket, its shim's connection, the link to its VM, and their `states`.

The shim may connect at any time; what it sends waits in the kernel until its sandbox is JOINED.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from adaptor.errors import AdaptorError, Conflict, InvalidRequest, LinkLost, StatusError
from adaptor.protos import relay_pb2
from adaptor.protos.relay_pb2 import BindRequest, DialRequest, DialResponse, OpenRequest
from adaptor.relay import rewrite, tls
from adaptor.relay.link import Link, dial
from adaptor.relay.pump import End, Pump, Side
from adaptor.relay.splice import Splice
from adaptor.relay.states import OVER, TRANSITIONS, Event, State
from adaptor.telemetry import logs
from adaptor.ttrpc import unix
from adaptor.ttrpc.connection import ProtocolError

log = logs.get(__name__)

_BACKLOG: Final = 4  # one shim dials, once; the rest is room for mistakes that get an answer
_NO_DESCRIPTORS_PAUSE: Final = 1.0  # seconds until accepting is tried again after the process ran out of them


class Session:
    """`changed` is called after every change that List would show, counters apart."""

    def __init__(self, request: OpenRequest, changed: Callable[[], None]) -> None:
        self.sandbox_id = request.sandbox_id
        self.socket_path = request.socket_path
        self.rewrites = request.rewrites
        self.state = State.LISTENING
        self.reason = ""
        self._changed = changed
        self._log = log.bind(sandbox=self.sandbox_id)
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._listener: socket.socket | None = None
        self._inode = 0
        self._shim: socket.socket | None = None
        self._link: Link | None = None
        self._dialled: DialResponse | None = None
        self._pump: Pump | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._binding: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # for dialling

    def listen(self) -> None:
        """Make the agent socket; a shim can connect when this returns. Raises ListenError."""
        directory = os.path.dirname(self.socket_path)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        except OSError as error:
            raise unix.ListenError(f"no directory can be made at {directory}: {error.strerror}") from error
        self._listener = unix.bind(self.socket_path, 0o600)
        self._inode = os.stat(self.socket_path).st_ino
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    async def dial(self, request: DialRequest) -> DialResponse:
        """Reach the VM; on a session that has done so the same answer as then. Cancelling it stops the dialling.

        Raises InvalidRequest, GuestUnreachable, and Conflict when the session ends or has ended.
        """
        async with self._turn:
            if self._dialled is None:
                self._expect(State.LISTENING, "Dial")
                self._dialling = self._loop.create_task(self._dial(request))
                await self._unless_closed(self._dialling)
            if self._dialled is None:
                raise self._over("Dial")
            return self._dialled

    async def bind(self, request: BindRequest) -> None:
        """Make the VM this pod's and let agent calls flow. A repeat joins the first; cancelling it stops nothing.

        Raises InvalidRequest, Conflict (nothing is dialled, or the session is over), the guest's StatusError (it may
        be tried again), LinkLost (it must not: it may have been carried out).
        """
        if self.state is State.JOINED:
            return
        if self._binding is None:
            self._expect(State.DIALLED, "Bind")
            self._binding = self._loop.create_task(self._bind(request))
            self._binding.add_done_callback(lambda task: task.cancelled() or task.exception())
        await self._unless_closed(asyncio.shield(self._binding))

    def close(self) -> None:
        """End everything, remove the socket file, and its directory if nothing else is in it. May be repeated."""
        self._closed = True
        for task in (self._dialling, self._binding):
            if task:
                task.cancel()
        if self._pump:
            self._pump.close()
        self._drop_link()
        if self._shim:
            self._shim.close()
        if self._listener:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
            unix.remove(self.socket_path, self._inode)
            with suppress(OSError):
                os.rmdir(os.path.dirname(self.socket_path))

    def describe(self) -> relay_pb2.Session:
        pump = self._pump
        return relay_pb2.Session(
            sandbox_id=self.sandbox_id,
            socket_path=self.socket_path,
            state=self.state.name,
            address=self._dialled.address if self._dialled else "",
            certificate_sha256=tls.sha256(self._dialled.certificate).digest() if self._dialled else b"",
            shim_connected=self._shim is not None and self.state not in OVER,
            bytes_to_guest=pump.bytes_to_link if pump else 0,
            bytes_from_guest=pump.bytes_from_link if pump else 0,
            requests=pump.requests if pump else 0,
            reason=self.reason,
        )
