"""A relay as the main process of a DaemonSet's pod, which is replaced by one that starts beside it.

    new pod starts ─► takes over ─► its serving file appears ─► it is ready ─► the old pod is deleted: SIGTERM

Until that SIGTERM the old pod's container must not end: kubelet would start it again, and it would take the sessions
back. So after the hand-over the process becomes one that only waits.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

# As process 1 of its pod it hears only signals that it has a handler for: until it has, they are held back.
_WAITING: Final = """
import os, signal
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: os._exit(0))
signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
while True:
    signal.pause()
"""


class Place:
    """Where this relay runs: with a `serving_file` in a pod, without one as a process that nobody starts again."""

    def __init__(self, serving_file: str | None = None) -> None:
        self._file = None if serving_file is None else Path(serving_file)
        self._remove()  # what a relay left in this pod that ended otherwise

    def serving(self) -> None:
        """Sessions are this relay's from here on. Raises OSError."""
        if self._file is not None:
            self._file.touch()

    def leave(self) -> NoReturn:
        """Everything is the successor's: let go of it at once, closing nothing in order."""
        if self._file is not None:
            with suppress(OSError):
                signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
                self._remove()
                _close_all()
                os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", _WAITING])
        os._exit(0)

    def _remove(self) -> None:
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def _close_all() -> None:
    """As the end of the process would: exec leaves those open that C code made without O_CLOEXEC."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2:
            with suppress(OSError):  # the one that listed them
                os.close(descriptor)
