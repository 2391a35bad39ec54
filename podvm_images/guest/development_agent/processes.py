"""One process of a container: its streams, its terminal, its signals, its end."""

import asyncio
import fcntl
import os
import struct
import termios
from contextlib import suppress
from typing import Final, NamedTuple

from adaptor.errors import Code, StatusError
from podvm_images.guest.development_agent.streams import Input, Output

# Seconds from a process's end to the end of its output, though a grandchild may hold that open: kata-agent's value.
DRAIN: Final = 0.5


class Pipes(NamedTuple):
    """Descriptors for 0, 1 and 2 of a process."""

    stdin: int
    stdout: int
    stderr: int

    def close(self) -> None:
        for fd in self:
            os.close(fd)


def pipes() -> tuple[Pipes, Pipes]:
    """The ends for a process that is about to start, and ours."""
    (their_stdin, our_stdin), (our_stdout, their_stdout), (our_stderr, their_stderr) = os.pipe(), os.pipe(), os.pipe()
    return Pipes(their_stdin, their_stdout, their_stderr), Pipes(our_stdin, our_stdout, our_stderr)


class Process:
    """A process that a runtime made for us. Its streams end at most DRAIN seconds after it."""

    def __init__(self, pid: int, ended: asyncio.Future[int], ends: Pipes | int) -> None:
        """`ended` brings the exit status; `ends` are our pipes, or the terminal: owned from now on."""
        self.pid = pid
        self._ended = ended
        self._terminal = ends if isinstance(ends, int) else None
        if isinstance(ends, int):
            self.stdin, self.stdout = Input(os.dup(ends)), Output(os.dup(ends))
            self.stderr: Output | None = None
        else:
            self.stdin, self.stdout, self.stderr = Input(ends.stdin), Output(ends.stdout), Output(ends.stderr)
        ended.add_done_callback(self._wind_up)

    @property
    def ended(self) -> bool:
        return self._ended.done()

    async def wait(self) -> int:
        """The exit status, 128 + N after signal N; as often as asked. Cancelling ends the waiting only."""
        return await asyncio.shield(self._ended)

    async def read_stderr(self, limit: int) -> bytes:
        """As `Output.read`; with a terminal there is nothing to read but the end: all output comes by stdout."""
        return b"" if self.stderr is None else await self.stderr.read(limit)

    def signal(self, number: int) -> None:
        """Send a signal; a process that has ended is left in peace."""
        if not self.ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def handles(self, number: int) -> bool:
        """Whether it has set a handler for this signal; a process that has ended handles nothing."""
        with suppress(OSError), open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as file:
            caught = next(line for line in file if line.startswith("SigCgt:"))
            return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
        return False

    def close_stdin(self) -> None:
        """End the input. A terminal stays open: its user types an end of file, if at all."""
        if self._terminal is None:
            self.stdin.close()

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size. Raises StatusError INTERNAL without one."""
        if self._terminal is None:
            raise StatusError(Code.INTERNAL, "the process has no terminal to resize")
        # More than 16 bits do not fit the kernel's struct winsize; such a window does not exist either.
        size = struct.pack("HHHH", min(rows, 0xFFFF), min(columns, 0xFFFF), 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    def close(self) -> None:
        """Let go of all descriptors; readers get the end of their stream. Repeatable."""
        for end in (self.stdin, self.stdout, self.stderr):
            if end is not None:
                end.close()
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None

    def _wind_up(self, ended: asyncio.Future[int]) -> None:
        self.stdin.close()
        asyncio.get_running_loop().call_later(DRAIN, self._end_output)

    def _end_output(self) -> None:
        self.stdout.end()
        if self.stderr is not None:
            self.stderr.end()
