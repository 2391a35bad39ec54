"""Exit statuses of our children: those we start and those a runtime leaves to us, for we are their subreaper."""

import asyncio
import os

# As shells and kata-agent do: a process that ended by signal N has status 128 + N.
SIGNALLED = 128


class Children:
    """Watches children through pidfds. One per process."""

    def __init__(self) -> None:
        self._watched: set[int] = set()

    def watch(self, pid: int) -> asyncio.Future[int]:
        """The exit status of `pid`, which must be our child and not reaped yet. Not to be cancelled: shield it."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()
        pidfd = os.pidfd_open(pid)
        self._watched.add(pid)

        def collect() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            self._watched.discard(pid)
            status = _status(os.waitid(os.P_PID, pid, os.WEXITED))
            if not ended.done():
                ended.set_result(status)

        loop.add_reader(pidfd, collect)
        return ended

    def reap_strays(self) -> None:
        """Collect ended children that nobody watches: what a runtime that was killed half-way left behind.

        Not while a runtime is starting something: its process has ended perhaps, and is not watched yet.
        """
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in self._watched:
                return  # a watched one is collected by its watcher; the next call finds what is behind it
            os.waitid(os.P_PID, found.si_pid, os.WEXITED)


def _status(found: os.waitid_result | None) -> int:
    assert found is not None  # without WNOHANG waitid always has a result
    return found.si_status if found.si_code == os.CLD_EXITED else SIGNALLED + found.si_status
