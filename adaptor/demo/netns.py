"""Network namespaces for whoever must stay in his own: a thread goes there, works, and ends.

Netlink sockets belong to the namespace they were opened in, and a thread that has left cannot be trusted to come
back; so every visit has a thread of its own.
"""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")

HERE: Final = "/proc/thread-self/ns/net"
_CLONE_NEWNET: Final = 0x40000000
_MS_BIND: Final = 0x1000
_MNT_DETACH: Final = 2
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1
_libc: Final = ctypes.CDLL(None, use_errno=True)


def visit(path: str, work: Callable[[], T]) -> T:
    """What `work` returns, called by a thread in the namespace at `path`. Raises OSError, and what `work` raises."""

    def go() -> T:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("enter a network namespace", _libc.setns, descriptor, _CLONE_NEWNET)
        finally:
            os.close(descriptor)
        return work()

    return _alone(go)


def make(path: Path) -> None:
    """A new network namespace, mounted on `path`, which is made; nothing in it is up. Raises OSError."""

    def go() -> None:
        _call("make a network namespace", _libc.unshare, _CLONE_NEWNET)
        _call("mount it", _libc.mount, HERE.encode(), os.fsencode(path), None, ctypes.c_ulong(_MS_BIND), None)

    path.touch()
    try:
        _alone(go)
    except BaseException:
        path.unlink()
        raise


def remove(path: Path) -> None:
    """Unmount it; the kernel takes what is in it. Raises OSError."""
    _call("unmount a network namespace", _libc.umount2, os.fsencode(path), _MNT_DETACH)
    path.unlink()


def leave() -> int:
    """Give this thread, and what it starts from now on, a namespace of its own; returns a descriptor of the one before,
    for `come_back`. Raises OSError."""
    before = os.open(HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("make a network namespace", _libc.unshare, _CLONE_NEWNET)
    except BaseException:
        os.close(before)
        raise
    return before


def loopback_up() -> None:
    """In this thread's namespace: a new one's is down. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def come_back(before: int) -> None:
    """To where `leave` was called. Raises OSError."""
    _call("return to a network namespace", _libc.setns, before, _CLONE_NEWNET)
    os.close(before)


def _alone(work: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1, thread_name_prefix="netns") as thread:
        return thread.submit(work).result()


def _call(deed: str, function: Any, *arguments: Any) -> None:
    """A C function that returns -1 and sets errno."""
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{deed}: {os.strerror(number)}")
