"""A bound VM's two byte streams, as guest.proto and the record format promise them, built once more.

Whole streams are kept and positions counted in them; each link is one thread's, and everything on it non-blocking.
"""

import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

from adaptor.errors import Code, StatusError

_PATIENT = 1 << 20  # bytes that an agent may leave unread before its link is not read either


class Agent:
    """The agent's end, whatever links carry the bytes: blocking, for one thread."""

    def __init__(self) -> None:
        self.heard = bytearray()  # all that the worker has sent
        self.said = bytearray()  # all that it is sent
        self.confirmed = 0  # how much of `said` it is known to have
        self.links = 0
        self.closed = False  # ends in order once everything has been said
        self._read = 0
        self._changed = threading.Condition()
        self._link: _Carrying | None = None

    def recv(self, size: int) -> bytes:
        """As of a socket; b"" once the worker has ended the stream in order, or all is over."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.heard) > self._read or self.closed)
            piece = bytes(self.heard[self._read : self._read + size])
            self._read += len(piece)
            self._wake()
            return piece

    def sendall(self, data: bytes) -> None:
        with self._changed:
            self.said += data
            self._wake()

    def unwrap(self) -> None:
        """End in order, as when the agent has ended."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
            self._wake()

    def cut(self, *, reset: bool = True) -> None:
        """End the link there is, with a reset or with a mere FIN; the VM lives on."""
        with self._changed:
            if self._link:
                self._link.cut(reset=reset)

    def go_on(self, worker_has: int) -> int:
        """Give the old link up; returns how much has been heard. Raises StatusError for what cannot be."""
        with self._changed:
            if not self.confirmed <= worker_has <= len(self.said):
                raise StatusError(Code.FAILED_PRECONDITION, f"{worker_has} of {self.confirmed}-{len(self.said)} bytes")
            if self._link:
                self._link.stale = True
                self._wake()
            self.confirmed = worker_has
            return len(self.heard)

    def carry(self, connection: ssl.SSLSocket) -> None:
        """Move bytes until this link ends or another takes its place."""
        with self._changed:
            link = self._link = _Carrying(connection, self.confirmed)
            self.links += 1
        try:
            while not link.stale and not link.done:
                with self._changed:
                    self._step(link)
                link.wait()
        finally:
            with self._changed:
                link.waker.close()
                link.wakes.close()
                if self._link is link:
                    self._link = None

    def _wake(self) -> None:
        if self._link:
            self._link.wake()

    def _step(self, link: "_Carrying") -> None:
        if link.stale:
            return
        link.listens = len(self.heard) - self._read < _PATIENT
        for taken, data in link.received() if link.listens else ():
            self.confirmed += taken
            assert self.confirmed <= link.position, "the worker confirms what it was never sent"
            self.heard += data
        if link.ended:
            self.closed = True
        link.position += link.send(self.said[link.position :], last=self.closed)
        self._changed.notify_all()


class _Carrying:
    """One link's part: cuts records, and makes them."""

    def __init__(self, connection: ssl.SSLSocket, position: int) -> None:
        self.position = position  # of what the worker is sent, where the next record begins
        self.stale = False  # another link has taken its place
        self.ended = False  # by the worker, in order
        self.done = False
        self.listens = True
        self.wakes, self.waker = socket.socketpair()
        self._connection = connection
        self._in = bytearray()
        self._out = bytearray()
        self._untold = 0
        connection.setblocking(False)

    def wake(self) -> None:
        with suppress(OSError):
            self.waker.send(b"!")

    def cut(self, *, reset: bool) -> None:
        self.stale = True
        self.wake()
        if reset:
            linger = struct.pack("ii", 1, 0)
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def wait(self) -> None:
        ready = [self._connection, self.wakes] if self.listens else [self.wakes]
        writers = [self._connection] if self._out else []
        if not (self.stale or self.done):
            select.select(ready, writers, [])
            with suppress(BlockingIOError):
                self.wakes.recv(4096, socket.MSG_DONTWAIT)

    def received(self) -> Iterator[tuple[int, bytes]]:
        """(bytes newly confirmed, data) of every record that is whole, or as far as it has come."""
        try:
            while piece := self._connection.recv(1 << 16):
                self._in += piece
            self.ended = self.done = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = self.done = True
        while len(self._in) >= 8:
            taken, length = struct.unpack_from(">II", self._in)
            data = bytes(self._in[8 : 8 + length])
            if len(data) < length and data:  # the rest as a record of its own
                self._in[: 8 + len(data)] = struct.pack(">II", 0, length - len(data))
            elif len(data) < length:
                if taken:
                    struct.pack_into(">I", self._in, 0, 0)
                    yield taken, b""
                return
            else:
                del self._in[: 8 + length]
            self._untold += len(data)
            yield taken, data
            if len(data) < length:
                return

    def send(self, data: bytearray, *, last: bool) -> int:
        """How much of `data` is on its way now."""
        size = 0
        if not self._out and (data or self._untold >= 50_000):
            size = min(len(data), 100_000)
            self._out += struct.pack(">II", self._untold, size) + data[:size]
            self._untold = 0
        with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while self._out:
                del self._out[: self._connection.send(self._out)]
        if last and not self._out and size == len(data) and not self.done:
            self.done = True
            with suppress(OSError):
                self._connection.unwrap()
        elif not self._out and size < len(data):
            self.wake()
        return size
