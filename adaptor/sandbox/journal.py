"""The node's durable memory: one row per intent and result, in SQLite (`journal_file`).

A row is synced before `append` returns. A sandbox whose end is complete is deleted (`forget`): an idle node has an
empty journal. One thread does all the database work, so rows are in call order and the event loop never waits for a
disk.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import TypeVar

from adaptor.clock import Clock
from adaptor.errors import Unavailable
from adaptor.sandbox import journal_file
from adaptor.sandbox.model import Event
from adaptor.telemetry import metrics
from providers.base import Ownership

T = TypeVar("T")


class Journal:
    """Use `await Journal.open(path, clock, owner)`.

    Every method raises Unavailable when the disk or file refuses, with nothing half written: the same call may succeed
    when what is in the way has gone. JournalFault says that the file is damaged.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._db: sqlite3.Connection | None = None  # its thread's
        self._closed = False

    @classmethod
    async def open(cls, path: Path, clock: Clock, owner: Ownership | None = None) -> "Journal":
        """Open or make the file (0600), check it, bring an older format forward.

        Raises: Unavailable (disk, permissions, another program holds it); JournalFault (it is damaged, of a newer
        version, or of another owner than `owner`).
        """
        journal = cls(path, clock)
        try:
            await journal._call(lambda: journal._connect(owner))
        except BaseException:
            await journal.aclose()
            raise
        return journal

    async def append(self, sandbox: str, event: Event) -> None:
        """Durable when it returns."""
        await self.append_all([(sandbox, event)])

    async def append_all(self, entries: Sequence[tuple[str, Event]]) -> None:
        """All of them or none, durable when it returns."""
        at = self._clock.wall()
        outcome = "error"
        began = monotonic()
        try:
            await self._run(lambda db: journal_file.insert(db, at, entries))
            outcome = "ok"
        finally:
            metrics.JOURNAL_WRITES.labels(outcome=outcome).inc()
            metrics.JOURNAL_WRITE_SECONDS.observe(monotonic() - began)

    async def forget(self, sandbox: str) -> None:
        """Remove every row of a sandbox of which nothing is left."""
        await self._run(lambda db: db.execute("DELETE FROM journal WHERE sandbox = ?", (sandbox,)))

    async def load(self) -> dict[str, list[Event]]:
        """Every sandbox's events in the order they were written.

        Raises: JournalFault, naming the row, when one cannot be read.
        """
        events: dict[str, list[Event]] = {}
        for row in await self._run(lambda db: list(journal_file.rows(db, self._path))):
            events.setdefault(row.sandbox, []).append(row.event())
        return events

    async def aclose(self) -> None:
        """Finish what was asked and close the file."""
        if not self._closed:
            self._closed = True
            await self._call(self._disconnect)
            self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work` in the journal's thread, never half done: a cancelled caller leaves it to finish."""

        def call() -> T:
            assert self._db is not None
            return work(self._db)

        if self._closed:
            raise Unavailable(f"the journal {self._path} is closed")
        try:
            return await self._call(call)
        except sqlite3.Error as error:
            raise journal_file.explained(self._path, error) from error

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    def _connect(self, owner: Ownership | None) -> None:
        self._db = journal_file.connect(self._path, self._clock.wall(), owner)

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
