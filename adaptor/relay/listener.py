"""The agent socket of one sandbox: a file that the shim dials once."""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
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
    """

    def __init__(self, path: str, accepted: Callable[[socket.socket], None], log: Log) -> None:
        # The shim splits what it is given at ":".
        if not os.path.isabs(path) or ":" in path or len(os.fsencode(path)) > _PATH_LIMIT:
            raise InvalidRequest(
                f"{path!r} can not be an agent socket: the path must be absolute, without ':', of {_PATH_LIMIT} bytes at most"
            )
        self.path = path
        self._accepted = accepted
        self._log = log
        self._loop = asyncio.get_running_loop()
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        except OSError as error:
            raise unix.ListenError(f"the directory of {path} can not be made: {error.strerror}") from error
        self._listener = unix.bind(path, 0o600)
        self._inode = os.stat(path).st_ino
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Remove the file, and its directory if nothing else is in it. May be repeated."""
        if self._listener.fileno() < 0:
            return
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        unix.remove(self.path, self._inode)
        with suppress(OSError):
            os.rmdir(os.path.dirname(self.path))

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # the connection stays in the queue: look again later instead of at once, for ever
            self._log.error("cannot accept the shim's connection", path=self.path, error=error)
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(_NO_DESCRIPTORS_PAUSE, self._resume)
            return
        connection.setblocking(False)
        self._accepted(connection)

    def _resume(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener.fileno(), self._accept)


def hung_up(connection: socket.socket) -> bool:
    """Whether its peer has closed it without having sent anything; takes nothing from it."""
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
