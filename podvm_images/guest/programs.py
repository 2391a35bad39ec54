"""Programs of the VM that this one runs to their end: mount, mkfs, umount.

As PID 1 this program collects every child that ends (`program._reap`), so that whoever waits for one here must be
asked first: a status that another takes would read as success.
"""

import asyncio
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Final

from adaptor.errors import Code, StatusError

_LOOK: Final = 0.01  # seconds between two looks whether it has ended
_SAID: Final = 300  # characters of its last output that travel in an error: it becomes the pod's event


class Programs:
    """One per process. `run` belongs to the loop's thread, as `collect` does: between starting and knowing a child
    nothing can come."""

    def __init__(self) -> None:
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    async def run(self, command: Sequence[str], timeout: float) -> None:
        """Raises StatusError with the program's words where it fails, is missing, or takes longer than `timeout` s."""
        with tempfile.TemporaryFile() as output:
            process = _start(command, output)
            self._running[process.pid] = process
            try:
                async with asyncio.timeout(timeout):
                    while process.poll() is None:  # noqa: ASYNC110 - what ended it cannot tell a loop of any kind
                        await asyncio.sleep(_LOOK)
            except BaseException as error:
                process.kill()
                process.wait()
                if isinstance(error, TimeoutError):
                    raise _failed(command, f"took longer than {timeout:.3g} s") from None
                raise
            finally:
                del self._running[process.pid]
            _check(command, process.returncode, output)

    def run_now(self, command: Sequence[str], timeout: float) -> None:
        """As `run`, and nothing else happens in this process meanwhile."""
        with tempfile.TemporaryFile() as output:
            process = _start(command, output)
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise _failed(command, f"took longer than {timeout:.3g} s") from None
            _check(command, status, output)

    def collect(self, pid: int) -> bool:
        """Take the exit status of `pid` if that is one of ours; False for anybody else's child."""
        process = self._running.get(pid)
        if process is None:
            return False
        process.poll()
        return True


def _start(command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    except OSError as error:
        raise _failed(command, f"cannot be run in this pod VM image: {error.strerror}") from error


def _check(command: Sequence[str], status: int, output: IO[bytes]) -> None:
    if status:
        output.seek(0)
        words = " ".join(output.read(1 << 20).decode("utf-8", "replace").split())[-_SAID:]
        raise _failed(command, f"ended with status {status}: {words or 'it said nothing'}")


def _failed(command: Sequence[str], why: str) -> StatusError:
    return StatusError(Code.INTERNAL, f"{command[0]} {why}")
