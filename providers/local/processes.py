"""Programs that outlive this one: started, known again after a restart, and ended.

A process id alone may be another's by now: whose it is, is told by its start time and this host's boot. Both are written
by the process itself before it becomes its program, so none is ever started that is not written down.
"""

import os
import select
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# $0: where to write. The shell's own /proc/PID/stat has its id and its start time, which stay through exec.
_WRITTEN: Final = 'read -r stat </proc/$$/stat && printf "%s\\n" "$stat" >"$0" && exec "$@"'
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_THREADS: Final = 17  # of the fields behind the name
_START: Final = 19  # likewise: clock ticks since the boot


@dataclass(frozen=True, slots=True)
class Process:
    """One that was started here, or by a predecessor."""

    pid: int
    started: int  # clock ticks since the boot


def boot_id() -> str:
    """Another one after every boot of this host."""
    return Path(_BOOT_ID).read_text().strip()


def spawn(
    command: Sequence[str],
    pidfile: str,
    *,
    output: str,
    input: str = "/dev/null",
    environment: Mapping[str, str] | None = None,
) -> int:
    """Start it in a session of its own; it ends when it wants to, not when we do. Raises OSError."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, input, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", _WRITTEN, pidfile, *command],
        dict(os.environ if environment is None else environment),
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM],
    )


def read(pidfile: str) -> Process | None:
    """What was started with this file; None when nothing was."""
    try:
        return _parse(Path(pidfile).read_text())
    except OSError:
        return None


def alive(process: Process | None) -> bool:
    """Whether it still runs, if only some of its threads. One that has ended and was our child is buried."""
    if process is None:
        return False
    try:
        text = Path(f"/proc/{process.pid}/stat").read_text()
    except OSError:
        return False
    if _parse(text) != process:
        return False
    fields = text.rpartition(")")[2].split()
    if fields[0] not in "ZX":
        return True
    try:
        return os.waitpid(process.pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return int(fields[_THREADS]) > 1


def end(process: Process | None, *, grace: float, children: bool = False) -> bool:
    """SIGTERM, `grace` seconds, SIGKILL; True when it is gone. `children`: kill these, after which it ends itself."""
    with _held(process) as handle:
        if handle is None or process is None:
            return True
        if children:
            for child in _children(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        elif grace:
            _send(handle, signal.SIGTERM)
        if not _ended(handle, grace):
            _send(handle, signal.SIGKILL)
            if not _ended(handle, 5.0):
                return False
    return not alive(process)


def wait(process: Process | None, timeout: float) -> bool:
    """Whether it ended within `timeout` seconds."""
    with _held(process) as handle:
        return handle is None or _ended(handle, timeout)


def _parse(stat: str) -> Process | None:
    """/proc/PID/stat; the name in its second field may hold anything."""
    front, _, back = stat.rpartition(")")
    fields = back.split()
    if not front or len(fields) <= _START:
        return None
    return Process(int(front.split(" ", 1)[0]), int(fields[_START]))


@contextmanager
def _held(process: Process | None) -> Iterator[int | None]:
    """A descriptor that means this process and no later one of its number; None when it has ended."""
    if process is None:
        yield None
        return
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle if alive(process) else None
    finally:
        os.close(handle)


def _send(handle: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)


def _ended(handle: int, timeout: float) -> bool:
    """A pidfd becomes readable when its process ends. poll, for descriptors may be many."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(each) for each in text.split()]
