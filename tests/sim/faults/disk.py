"""The journal on a disk that is full at times, under an adaptor that is killed before or after any write."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from adaptor.sandbox.journal import Journal
from adaptor.sandbox.model import Event
from tests.sim.faults.process import Process
from tests.sim.faults.stage import Stage, short

T = TypeVar("T")

# Seconds of a flush: pods that start together are written down one after the other.
_FLUSH = 0.002


class SimJournal(Journal):
    """The real one, real SQLite: what is added stands around its calls."""

    stage: Stage
    process: Process
    _disk: asyncio.Lock  # one flush after the other
    _mounted = False
    _writing = False

    @classmethod
    async def mount(cls, path: Path, stage: Stage, process: Process) -> "SimJournal":
        """`open` for one adaptor."""
        journal = await cls.open(path, stage.clock)
        assert isinstance(journal, cls)
        journal.stage, journal.process, journal._mounted = stage, process, True
        journal._disk = asyncio.Lock()
        return journal

    async def append_all(self, entries: Sequence[tuple[str, Event]]) -> None:
        what = "+".join(event.kind for _, event in entries)
        who = ",".join(short(sandbox) for sandbox, _ in entries)
        await self._write(what, who, lambda: super(SimJournal, self).append_all(entries))

    async def forget(self, sandbox: str) -> None:
        await self._write("forget", short(sandbox), lambda: super(SimJournal, self).forget(sandbox))

    async def aclose(self) -> None:
        self._mounted = False
        await super().aclose()

    async def _write(self, what: str, who: str, write: Callable[[], Awaitable[None]]) -> None:
        crash = self.stage.pass_border("journal", self.process, what)
        async with self._disk:
            await self.stage.sleep(_FLUSH)
            self._writing = True
            try:
                await write()
                self.stage.tell(f"journal: {who} {what}")
            finally:
                self._writing = False
                if crash is not None and crash.side == "after":  # also after a refusal
                    self.stage.crash(crash, what)
        self.process.check()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def job(db: sqlite3.Connection) -> T:
            if self._writing and self._full():
                self.stage.strike("disk full")
                raise sqlite3.OperationalError("database or disk is full")
            before = db.total_changes
            result = work(db)
            assert self._writing or db.total_changes == before, "the journal writes where no crash is tried"
            return result

        if not self._mounted:  # being opened, or closed
            return await super()._run(work)
        if not self.process.alive:
            raise asyncio.CancelledError
        return await super()._run(job)

    def _full(self) -> bool:
        return not self.stage.calm and any(
            window.kind == "disk full" and 0 <= self.stage.now - window.start < window.seconds
            for window in self.stage.scenario.windows
        )
