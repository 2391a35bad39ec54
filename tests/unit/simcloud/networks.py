"""Network namespaces for tests: what a test does to the network, it does to its own."""

import ctypes
import functools
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Any, ParamSpec

P = ParamSpec("P")
CLONE_NEWNET = 0x40000000


def in_own_network(test: Callable[P, None]) -> Callable[P, None]:
    """Run the test in a thread with a new network namespace, loopback up; threads it starts live there too."""

    @functools.wraps(test)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        caught: list[BaseException] = []

        def inside() -> None:
            try:
                if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "unshare")
                subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
                test(*args, **kwargs)
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if caught:
            raise caught[0]

    return wrapped


def links() -> list[str]:
    """The links of this namespace, loopback aside."""
    return sorted(name for _, name in socket.if_nameindex() if name != "lo")


def held() -> list[str]:
    """The namespaces that this process keeps alive by holding them open."""
    fds = os.listdir("/proc/self/fd")
    return [name for fd in fds if (name := _or_empty(_target, fd)).startswith(("net:[", "uts:["))]


def processes(argument: str) -> list[int]:
    """Processes that have this word on their command line."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        words = _or_empty(_command_line, pid)
        if argument in words:
            found.append(int(pid))
    return found


def _target(fd: str) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def _command_line(pid: str) -> list[str]:
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read().split("\0")


def _or_empty(read: Callable[[str], Any], pid: str) -> Any:
    """A process may end while it is looked at."""
    try:
        return read(pid)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
