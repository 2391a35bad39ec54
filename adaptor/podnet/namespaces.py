"""Entering a network namespace by its path, and coming home again.

A thread that does this is one that nothing else runs on: `Visitor` belongs to it, and it is in another namespace only
while a socket is opened or read there.
"""

import ctypes
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from adaptor.errors import InvalidRequest

# ioctl(2) on a namespace file, from linux/nsfs.h and linux/sched.h
_NS_GET_NSTYPE: Final = 0xB703
_CLONE_NEWNET: Final = 0x40000000


def check(netns: str) -> None:
    """Raises InvalidRequest unless `netns` is a network namespace that can be opened."""
    try:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidRequest(
            f"the pod's network namespace {netns} cannot be opened: {os.strerror(error.errno or 0)}. Does the "
            "adaptor see the host's /run/netns (hostPath mount with propagation)?"
        ) from error
    try:
        if not _is_network(descriptor):
            raise InvalidRequest(
                f"{netns} is not a network namespace: the file exists but nothing is mounted on it (its pod may be gone)"
            )
    finally:
        os.close(descriptor)


def _is_network(descriptor: int) -> bool:
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False


def leave_for_a_new_one() -> None:
    """Move the calling thread, for good, into a namespace of its own. Raises: OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:  # os.unshare needs Python 3.12
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Visitor:
    """The calling thread's home, and its way back there."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._home)

    def go_home(self) -> None:
        """Raises: OSError."""
        self._enter(self._home)

    @contextmanager
    def inside(self, descriptor: int) -> Iterator[None]:
        """This thread, and no other, is in that namespace. Raises: OSError."""
        self._enter(descriptor)
        try:
            yield
        finally:
            self.go_home()

    def _enter(self, descriptor: int) -> None:
        # os.setns needs Python 3.12
        if self._libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


@contextmanager
def opened(netns: str) -> Iterator[int | None]:
    """Its descriptor; None where there is no such namespace. Raises: OSError."""
    try:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        yield None
        return
    try:
        yield descriptor if _is_network(descriptor) else None
    finally:
        os.close(descriptor)
