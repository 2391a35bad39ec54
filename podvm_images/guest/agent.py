"""The agent of this VM: started here (development), or by the image's own units (external).

Nothing connects to it before Bind. One connection is made, and kept for the pod's life.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from adaptor.errors import Code, StatusError
from adaptor.telemetry import logs

# Seconds between two looks at the agent's socket, while Bind waits for it: the pod's start waits too.
LOOK: Final = 0.01
# Seconds that an agent has to end by itself after SIGTERM; it ends its containers first.
GRACE: Final = 5.0
TAIL: Final = 4096  # bytes of an agent's last output that are kept to explain its death
_READS: Final = 16  # of 64 KiB, in one go: a full pipe, and no agent can talk the links to a standstill
_SAID: Final = 512  # characters of them that travel in a status: it becomes the pod's event

log = logs.get(__name__)


class Agent:
    """The agent that listens on `socket_path`; with `command` it is a child process, started by `connect`."""

    def __init__(self, socket_path: str, command: Sequence[str] = ()) -> None:
        self.socket_path = socket_path
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._tail = bytearray()
        self._stopping = False

    def start(self) -> None:
        """Start the agent where that is ours to do and not done. Raises StatusError INTERNAL."""
        if self._command and self._process is None:
            self._start()

    async def connect(self, timeout: float) -> socket.socket:
        """`start` it, and return a connection to it (non-blocking) once it listens.

        Raises StatusError: INTERNAL when it ended instead, DEADLINE_EXCEEDED when `timeout` seconds were not enough.
        Cancelling is safe: no connection is left behind.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        self.start()
        while True:
            connection, reason = self._try()
            if connection is not None:
                return connection
            if self._process is not None and self._process.poll() is not None:
                raise StatusError(Code.INTERNAL, f"the pod VM's agent {self._ending()}")
            if asyncio.get_running_loop().time() >= deadline:
                raise StatusError(
                    Code.DEADLINE_EXCEEDED,
                    f"the pod VM's agent did not listen on {self.socket_path} within {timeout:.3g} s ({reason})"
                    + self._last_words(),
                )
            await asyncio.sleep(LOOK)

    def collect(self, pid: int) -> bool:
        """Take the exit status of `pid` if that is our agent; False for anybody else's child."""
        if self._process is None or self._process.pid != pid:
            return False
        if self._process.poll() is not None:
            tell = log.info if self._stopping else log.warning
            tell("the agent has ended", status=self._process.returncode)
        return True

    async def stop(self) -> None:
        """End an agent that was started here: SIGTERM, and after GRACE seconds SIGKILL."""
        process, self._stopping = self._process, True
        if process is None or process.poll() is not None:
            return
        process.terminate()
        deadline = asyncio.get_running_loop().time() + GRACE
        while process.poll() is None:
            if asyncio.get_running_loop().time() >= deadline:
                log.warning("agent outlived its grace and was killed", seconds=GRACE)
                process.kill()
                process.wait()
            await asyncio.sleep(LOOK)

    def _start(self) -> None:
        try:
            os.makedirs(os.path.dirname(self.socket_path), mode=0o700, exist_ok=True)
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise StatusError(Code.INTERNAL, f"the pod VM's agent cannot be started: {error}") from error
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        asyncio.get_running_loop().add_reader(self._process.stdout.fileno(), self._read_output)

    def _try(self) -> tuple[socket.socket | None, str]:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(self.socket_path)
        except OSError as error:  # absent, not listening yet, or its backlog is full: all of them may pass
            connection.close()
            return None, error.strerror or str(error)
        return connection, ""

    def _read_output(self) -> None:
        """Pass what the agent printed on to our own output, and remember its end."""
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout
        with suppress(BlockingIOError):
            for _ in range(0 if pipe.closed else _READS):
                output = os.read(pipe.fileno(), 65536)
                if not output:
                    asyncio.get_running_loop().remove_reader(pipe.fileno())
                    pipe.close()
                    return
                self._tail += output
                del self._tail[:-TAIL]
                sys.stderr.write(output.decode("utf-8", "replace"))
                sys.stderr.flush()

    def _ending(self) -> str:
        assert self._process is not None
        self._read_output()  # what it said last may still be in the pipe
        status = self._process.returncode
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"{how} before it could be reached{self._last_words()}"

    def _last_words(self) -> str:
        words = self._words()
        return f"; its last output: {words}" if words else ""

    def _words(self) -> str:
        return self._tail.decode("utf-8", "replace").strip()[-_SAID:]
