"""One adaptor per state_dir: two would each undo what the other does.

The kernel drops the lock with the process that holds it, however that ends; nothing is ever stale. Readers of the
journal need no lock.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from adaptor.errors import Conflict, Unavailable

LOCK: Final = "lock"  # in state_dir; its text is the holder's pid, for people and for the error below


@contextmanager
def held(state_dir: Path) -> Iterator[None]:
    """Hold `state_dir` (made if there is none) while entered. The lock passes to no child process.

    Raises: Conflict, naming the process that holds it; Unavailable for a directory that cannot be used.
    """
    path = state_dir / LOCK
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"the state directory {state_dir} cannot be used: {error.strerror} ({path})") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise Conflict(
                f"another peerpods (process {pid}) uses {state_dir}: only one adaptor, or `peerpods journal rebuild`, may "
                "do so at a time. Stop that one, or give this one a state_dir of its own"
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)
