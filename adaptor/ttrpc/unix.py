"""Unix socket files: made with their mode from the first moment, taken over only from the dead; and who connects."""

import errno
import os
import socket
import stat
import struct
from typing import NamedTuple, Protocol

from adaptor.errors import AdaptorError


class Peer(NamedTuple):
    """The process at the other end when it connected (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class ListenError(AdaptorError):
    """A socket can not be served at this path."""


class PeerSocket(Protocol):
    """The little of a socket that is needed here; event loops hand out their own wrappers."""

    @property
    def family(self) -> int: ...
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def peer_of(connection: PeerSocket) -> Peer | None:
    """Who connected; None where the kernel does not know: the socket is no unix socket."""
    credentials = struct.Struct("3i")  # struct ucred
    if connection.family != socket.AF_UNIX:
        return None
    return Peer(*credentials.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)))


def bind(path: str, mode: int) -> socket.socket:
    """A socket bound at `path`, not listening yet: until it does nobody can connect, whatever its mode."""
    _clear_the_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), mode)  # Linux makes the file with the socket's own mode, less the umask
        listener.bind(path)
        os.chmod(path, mode)
    except OSError as error:
        listener.close()
        raise ListenError(f"no socket can be made at {path}: {error.strerror or error}") from error
    return listener


def _clear_the_way(path: str) -> None:
    """Remove a socket file that nothing serves; raises ListenError for anything else at `path`."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ListenError(f"{path} is in the way: it is not a socket; move it or choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a server with a full backlog is alive, and would make us wait
        found = probe.connect_ex(path)
    if found not in (errno.ECONNREFUSED, errno.ENOENT):
        reason = "something serves it already" if found in (0, errno.EAGAIN) else os.strerror(found)
        raise ListenError(f"{path} can not be taken over: {reason}; stop what uses it or choose another path")
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(f"{path} is left over and can not be removed: {error.strerror}") from error


def remove(path: str, inode: int) -> None:
    """Remove our own socket file, not one that a successor has put in its place."""
    try:
        if os.lstat(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        return
