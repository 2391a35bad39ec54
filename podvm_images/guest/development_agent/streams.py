"""The agent's ends of a process's pipes or terminal.

Nothing is read ahead: a pipe that nobody reads fills up and stalls the process that writes it, not the agent.
"""

import asyncio
import errno
import os
from typing import Final

from adaptor.errors import Code, StatusError

_USUAL: Final = 32 << 10  # bytes of one answer where the caller names no limit; the shim asks for as many
_MOST: Final = 1 << 20  # bytes of one answer, whatever the caller asks: a frame has to be below 4 MiB
_HELD: Final = 1 << 20  # bytes that a pipe can hold at most; after as many, what comes was written after the end


class _End:
    """One of our descriptors, closed once. Those who wait for it are woken when it is closed."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Future[None] | None = None

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def close(self) -> None:
        """Drop what was not read or written; repeatable."""
        if not self.closed:
            self._wake()
            os.close(self._fd)
            self._fd = -1

    async def _ready(self, *, to_write: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        (loop.add_writer if to_write else loop.add_reader)(self._fd, self._wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            self._unwatch()

    def _wake(self) -> None:
        self._unwatch()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _unwatch(self) -> None:
        if not self.closed:  # else the number may be another's already
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._fd)
            loop.remove_writer(self._fd)


class Output(_End):
    """What a process writes; closes itself at the end of the stream."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._left: int | None = None  # bytes that may come still, once the end is near

    async def read(self, limit: int) -> bytes:
        """At most `limit` bytes (0 = the usual 32 KiB), as soon as there are any; empty at the end of the stream.

        Cancelling is safe: bytes are taken only to be returned.
        """
        async with self._turn:
            while (data := self._take(min(limit or _USUAL, _MOST))) is None:
                await self._ready()
            return data

    def end(self) -> None:
        """Let the stream end where it would wait next, though somebody may hold its other side open."""
        if not self.closed and self._left is None:
            self._left = _HELD
            self._wake()

    def _take(self, limit: int) -> bytes | None:
        """Bytes, empty at the end, None where there are none yet."""
        if self.closed:
            return b""
        try:
            data = os.read(self._fd, limit if self._left is None else min(limit, self._left))
        except BlockingIOError:
            if self._left is None:
                return None
            data = b""
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal's way to say that nobody holds its other side any more
                raise
            data = b""
        if not data:
            self.close()
        elif self._left is not None:
            self._left -= len(data)
        return data


class Input(_End):
    """What a process reads; closing it shows the process the end of its input."""

    async def write(self, data: bytes) -> int:
        """Write all of `data`, waiting while the process does not read; returns its length.

        Raises StatusError INTERNAL when this was closed or the process has closed its side.
        """
        async with self._turn:
            rest = memoryview(data)
            while rest:
                if self.closed:
                    raise StatusError(Code.INTERNAL, "stdin is closed: the process ended, or CloseStdin came before")
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:
                    await self._ready(to_write=True)
                except OSError as error:
                    self.close()
                    raise StatusError(
                        Code.INTERNAL, f"the process does not read its stdin: {error.strerror}"
                    ) from error
        return len(data)
