"""The node's durable memory: one row per intent and result, in SQLite.

    journal (seq, sandbox, at, kind, body)      written by `append`, in one transaction, synced before it returns

A sandbox whose end is complete is deleted (`forget`): an idle node has an empty journal. One thread does all the
database work, so rows are in call order and the event loop never waits for a disk.
"""

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Final, TypeVar

from adaptor.clock import Clock
from adaptor.errors import Unavailable
from adaptor.sandbox.model import Event, JournalFault, from_json, to_json
from adaptor.telemetry import metrics

T = TypeVar("T")

VERSION: Final = 1
# Another process may hold the lock for one transaction (`peerpods journal show`); longer means trouble. Seconds.
_BUSY_TIMEOUT: Final = 5.0

_SCHEMA: Final = """
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    sandbox TEXT NOT NULL,
    at REAL NOT NULL,      -- wall clock, for people; order is seq
    kind TEXT NOT NULL,
    body TEXT NOT NULL     -- JSON of adaptor.sandbox.model
) STRICT;
CREATE INDEX by_sandbox ON journal (sandbox, seq);
"""

_INSERT: Final = "INSERT INTO journal (sandbox, at, kind, body) VALUES (?, ?, ?, ?)"


class Journal:
    """Use `await Journal.open(path, clock)`; every method raises Unavailable when the disk or file refuses."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._db: sqlite3.Connection | None = None

    @classmethod
    async def open(cls, path: Path, clock: Clock) -> "Journal":
        """Open or make the file (0600).

        Raises: Unavailable (disk, permissions, another fault of SQLite), JournalFault (a newer version wrote it).
        """
        journal = cls(path, clock)
        try:
            await journal._run(journal._connect)
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
        rows = [(s, at, event.kind, json.dumps(to_json(event), separators=(",", ":"))) for s, event in entries]

        def write(db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")
            try:
                db.executemany(_INSERT, rows)
                db.execute("COMMIT")
            except BaseException:
                db.execute("ROLLBACK")
                raise

        outcome = "error"
        began = monotonic()
        try:
            await self._run(write)
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
        rows = await self._run(
            lambda db: db.execute("SELECT seq, sandbox, kind, body FROM journal ORDER BY seq").fetchall()
        )
        events: dict[str, list[Event]] = {}
        for seq, sandbox, kind, body in rows:
            try:
                events.setdefault(sandbox, []).append(from_json(kind, json.loads(body)))
            except (JournalFault, json.JSONDecodeError) as error:
                raise JournalFault(f"{self._path}: row {seq} (sandbox {sandbox}): {error}") from error
        return events

    async def aclose(self) -> None:
        """Finish what was asked and close the file."""
        if self._db is not None:
            await self._run(sqlite3.Connection.close)
            self._db = None
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work` in the journal's thread, never half done: a cancelled caller leaves it to finish."""

        def call() -> T:
            db = self._db if self._db is not None else self._open_file()
            return work(db)

        try:
            return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, call))
        except sqlite3.Error as error:
            raise Unavailable(
                f"the journal {self._path} cannot be used: {error}; no sandbox can start or stop until it can. "
                "Check free space and permissions"
            ) from error

    def _open_file(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite alone would use the umask
        except OSError as error:
            raise Unavailable(f"the journal {self._path} cannot be opened: {error}") from error
        # autocommit: each statement is its own transaction, durable when it returns
        self._db = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        return self._db

    def _connect(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise JournalFault(
                f"{self._path} was written by a newer peerpods (format {version}, this one knows {VERSION}): "
                "go back to that version, or drain the node first"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
