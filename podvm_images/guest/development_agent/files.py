"""Files and directories below one base, made so that neither `..` nor a symbolic link leads out of it.

Every path is walked one component at a time by descriptors that refuse symbolic links. The shim copies directory
trees as they are, parents first, so an honest path never passes through one.
"""

import errno
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from adaptor.errors import Code, StatusError
from adaptor.protos import agent_pb2
from adaptor.telemetry import logs
from podvm_images.guest.development_agent.ledger import Ledger

log = logs.get(__name__)

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_PARENT_MODE: Final = 0o750  # of parents whose mode nobody told; the shim always does
# Go's os.FileMode keeps permissions where POSIX has them, and the three special bits elsewhere.
_GO_SPECIAL: Final = {1 << 23: stat.S_ISUID, 1 << 22: stat.S_ISGID, 1 << 20: stat.S_ISVTX}


def posix_of_go(mode: int) -> int:
    """Permission bits of a Go os.FileMode."""
    return (mode & 0o777) | sum(bit for go, bit in _GO_SPECIAL.items() if mode & go)


class Tree:
    """What is below `base`; what did not exist before is entered in `ledger`, so that it can be taken away again."""

    def __init__(self, base: str, ledger: Ledger, private: str) -> None:
        """`private` is the directory below `base` that is the agent's own: no request reaches into it."""
        self._base = base.rstrip("/")
        self._ledger = ledger
        self._private = private

    def make_directory(self, path: str, mode: int) -> None:
        """Make `path` and its parents; a directory that exists stays as it is."""
        with self._inside(self._parts(path), mode):
            pass

    def copy(self, request: agent_pb2.CopyFileRequest) -> None:
        """One CopyFile: a directory, a symbolic link, or a piece of a regular file.

        A file appears under its name when its last byte has arrived, in place of an older one. Pieces come in order;
        one that comes twice changes nothing. Raises StatusError INVALID_ARGUMENT for a path or piece that can not be.
        """
        *parents, name = self._parts(request.path)
        put = _PUT.get(stat.S_IFMT(request.file_mode))
        if put is None:
            raise _unusable(request.path, f"mode {request.file_mode:#o} is of no file, directory or symbolic link")
        with self._inside(parents, posix_of_go(request.dir_mode) or _PARENT_MODE) as folder:
            self._ledger.add("/".join([self._base, *parents, name]))
            put(folder, name, request)

    def read(self, path: str, limit: int) -> bytes:
        """The last `limit` bytes of the regular file at `path`; raises OSError, also for a symbolic link."""
        *parents, name = self._parts(path)
        with self._inside(parents, None) as folder:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            with open(fd, "rb") as file:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode):
                    raise OSError(errno.EINVAL, f"{path} is no regular file")
                file.seek(max(0, found.st_size - limit))
                return file.read(limit)

    def _parts(self, path: str) -> list[str]:
        inside = path.removeprefix(self._base + "/")
        parts = [part for part in inside.split("/") if part not in ("", ".")]
        if inside == path or not parts or ".." in parts or "\0" in path:
            raise _unusable(path, f"it has to be below {self._base}, and without `..`")
        if f"{self._base}/{'/'.join(parts)}/".startswith(f"{self._private}/"):
            raise _unusable(path, "it is the agent's own")
        return parts

    @contextmanager
    def _inside(self, parts: Sequence[str], mode: int | None) -> Iterator[int]:
        """A descriptor of the directory that `parts` lead to; missing ones are made with `mode`, unless it is None."""
        here = os.open(self._base or "/", DIRECTORY)
        try:
            for depth in range(len(parts)):
                below = self._step(here, parts[: depth + 1], mode)
                os.close(here)
                here = below
            yield here
        finally:
            os.close(here)

    def _step(self, here: int, parts: Sequence[str], mode: int | None) -> int:
        path, made = "/".join([self._base, *parts]), False
        if mode is not None:
            self._ledger.add(path)
            with suppress(FileExistsError):
                os.mkdir(parts[-1], mode, dir_fd=here)
                made = True
        try:
            below = os.open(parts[-1], DIRECTORY, dir_fd=here)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise _unusable(path, "it is no directory, and symbolic links are not followed") from error
        if made and mode is not None:
            os.fchmod(below, mode)  # whatever our umask is
        return below


def _put_directory(folder: int, name: str, request: agent_pb2.CopyFileRequest) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=folder)
    here = os.open(name, DIRECTORY, dir_fd=folder)
    try:
        _give(here, request)
        os.fchmod(here, stat.S_IMODE(request.file_mode))
    finally:
        os.close(here)


def _put_link(folder: int, name: str, request: agent_pb2.CopyFileRequest) -> None:
    """Kubernetes turns `..data` to a new revision: the link is replaced in one step, never absent."""
    fresh = _unfinished(name)
    with suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=folder)
    os.symlink(request.data, os.fsencode(fresh), dir_fd=folder)
    os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)


def _put_piece(folder: int, name: str, request: agent_pb2.CopyFileRequest) -> None:
    start, end = request.offset, request.offset + len(request.data)
    if start < 0 or end > request.file_size:
        raise _unusable(request.path, f"bytes {start} to {end} are outside of a file of {request.file_size} bytes")
    begin = os.O_CREAT | os.O_TRUNC if start == 0 else 0
    fresh = _unfinished(name)
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | begin, 0o600, dir_fd=folder)
    except FileNotFoundError:
        if _has(folder, name, request):
            return  # the last piece, a second time
        raise _unusable(request.path, f"bytes from {start} came before those from 0") from None
    try:
        if (arrived := os.fstat(fd).st_size) < start:
            raise _unusable(request.path, f"bytes from {start} came, but so far only {arrived} have arrived")
        _write(fd, request.data, start)
        if end == request.file_size:
            _give(fd, request)
            os.fchmod(fd, stat.S_IMODE(request.file_mode))
            os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(fd)


_PUT: Final = {stat.S_IFDIR: _put_directory, stat.S_IFLNK: _put_link, stat.S_IFREG: _put_piece, 0: _put_piece}


def _has(folder: int, name: str, request: agent_pb2.CopyFileRequest) -> bool:
    """Whether the finished file holds this piece already."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return False
    try:
        same_size = os.fstat(fd).st_size == request.file_size
        return same_size and os.pread(fd, len(request.data), request.offset) == request.data
    finally:
        os.close(fd)


def _write(fd: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        count = os.pwrite(fd, rest, offset)
        rest, offset = rest[count:], offset + count


def _give(fd: int, request: agent_pb2.CopyFileRequest) -> None:
    try:
        os.fchown(fd, request.uid, request.gid)
    except OSError as error:  # an id that our user namespace does not have; containers run as root there
        log.debug("file keeps our owner", path=request.path, uid=request.uid, gid=request.gid, reason=error.strerror)


def _unfinished(name: str) -> str:
    """The name of a file that is still arriving; short, for a ConfigMap's key may be almost NAME_MAX long."""
    return f".arriving-{zlib.crc32(os.fsencode(name)):08x}"


def _unusable(path: str, reason: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, f"{path} can not be used: {reason}")
