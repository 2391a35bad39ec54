"""The agent socket of one sandbox, a file that the shim dials once; and taking turns at making such files."""

import asyncio
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from adaptor.errors import InvalidRequest
from adaptor.telemetry.logs import Log
from adaptor.ttrpc import unix

_BACKLOG: Final = 4  # one shim, and room for a mistake or two that get an answer
_PATH_LIMIT: Final = 107  # bytes, of sockaddr_un
_NO_DESCRIPTORS_PAUSE: Final = 1.0  # seconds until accepting goes on after this process has run out of descriptors


class AgentSocket:
    """Listens from construction on, and hands each accepted, non-blocking connection to `accepted`.

    The file has mode 0600 from its first moment, in a directory of mode 0700 if that is not there yet. A file left
    behind by a dead relay is replaced. Raises InvalidRequest, ListenError.

    With the `listener` of another process it is that one's file, and nobody is accepted before `resume`.
    """

    def __init__(
        self,
        path: str,
        accepted: Callable[[socket.socket], None],
        log: Log,
        listener: socket.socket | None = None,
    ) -> None:
        # The shim splits what it is given at ":".
        if not os.path.isabs(path) or ":" in path or len(os.fsencode(path)) > _PATH_LIMIT:
            raise InvalidRequest(
                f"{path!r} can not be an agent socket: the path must be absolute, without ':', of {_PATH_LIMIT} bytes at most"
            )
        self.path = path
        self._accepted = accepted
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._inode = 0
        self.listener = listener or _bound(path)
        self.listener.setblocking(False)
        with suppress(FileNotFoundError):  # somebody removed it while it was another's
            self._inode = os.stat(path).st_ino
        if listener is None:
            self.listener.listen(_BACKLOG)
            self.resume()

    def pause(self) -> None:
        """Leave whoever connects waiting until `resume`."""
        self._loop.remove_reader(self.listener.fileno())

    def resume(self) -> None:
        """Accept."""
        if self.listener.fileno() >= 0:
            self._loop.add_reader(self.listener.fileno(), self._accept)

    def close(self) -> None:
        """Remove the file, and its directory if nothing else is in it. May be repeated."""
        if self.listener.fileno() < 0:
            return
        self._loop.remove_reader(self.listener.fileno())
        self.listener.close()
        unix.remove(self.path, self._inode)
        with suppress(OSError):
            os.rmdir(os.path.dirname(self.path))

    def _accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # the connection stays in the queue: look again later instead of at once, for ever
            self._log.error("cannot accept the shim's connection", path=self.path, error=error)
            self.pause()
            self._loop.call_later(_NO_DESCRIPTORS_PAUSE, self.resume)
            return
        connection.setblocking(False)
        self._accepted(connection)


def _bound(path: str) -> socket.socket:
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    except OSError as error:
        raise unix.ListenError(f"the directory of {path} can not be made: {error.strerror}") from error
    return unix.bind(path, 0o600)


def hung_up(connection: socket.socket) -> bool:
    """Whether its peer has closed it without having sent anything; takes nothing from it."""
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


@contextmanager
def alone_at(path: str, *, wait: bool = True) -> Iterator[None]:
    """Keep two relays that start at the same moment from taking each other's socket for one left behind.

    Raises BlockingIOError where another is at it and `wait` is false.
    """
    directory = os.path.dirname(os.path.abspath(path))
    os.makedirs(directory, mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
