"""The journal's file: its format and how it came to that, whose it is, whether it is sound. Blocking; no event loop.

    journal (seq, sandbox, at, kind, body, crc)   one row per intent and result; crc guards what SQLite does not
    meta    (key, value)                          cluster and node whose VMs it is about; when and by what it was made

`user_version` is the format. A file of an older one is brought forward in one transaction, one of a newer is refused.
"""

import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import adaptor
from adaptor.errors import AdaptorError, Unavailable
from adaptor.sandbox.model import Event, JournalFault, SandboxState, fold, from_json, to_json
from providers.base import Ownership

# Where a person who reads one of these errors finds what to do.
REPAIR: Final = "`peerpods journal rebuild` repairs it and keeps running pods; docs/journal.md says how"
# What `rebuild` has written and not yet put into the journal's place.
REBUILT: Final = ".rebuilt"

# SQLite's own files: the log of what is not in the file yet, and that log's index.
_BESIDE: Final = ("-wal", "-shm")

# Seconds for another process's transaction (somebody looks at the file with sqlite3); longer means trouble.
_BUSY_TIMEOUT: Final = 5.0
# A filesystem with less than this is called full. Bytes; SQLite asks for a page of the file and one of its index.
_FULL: Final = 64 * 1024

_FORMAT_1: Final = """
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    sandbox TEXT NOT NULL,
    at REAL NOT NULL,      -- wall clock, for people; order is seq
    kind TEXT NOT NULL,
    body TEXT NOT NULL     -- JSON of adaptor.sandbox.model
) STRICT;
CREATE INDEX by_sandbox ON journal (sandbox, seq);
"""
_INSERT: Final = "INSERT INTO journal (sandbox, at, kind, body, crc) VALUES (?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Row:
    """One row, its body parsed."""

    seq: int
    sandbox: str
    at: float  # seconds since the epoch
    kind: str
    body: dict[str, Any]

    def event(self) -> Event:
        """Raises: JournalFault, naming the row, for what this version does not know."""
        try:
            return from_json(self.kind, self.body)
        except JournalFault as error:
            raise JournalFault(f"row {self.seq} (sandbox {self.sandbox}): {error}") from error


def connect(path: Path, wall: float, owner: Ownership | None) -> sqlite3.Connection:
    """The file, made if there is none (0600), sound, of this format and `owner`'s; any thread may use it.

    Raises: Unavailable, JournalFault.
    """
    if not path.exists() and path.with_name(path.name + REBUILT).exists():
        raise JournalFault(f"a repair of the journal {path} was interrupted: run `peerpods journal rebuild` again")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite alone would use the umask
    except OSError as error:
        raise Unavailable(f"the journal {path} cannot be opened: {error.filename}: {error.strerror}") from error
    # autocommit: each statement is its own transaction, durable when it returns
    db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        version = _checked(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")  # a forgotten sandbox's user-data may have held secrets
        _bring_forward(db, version, wall)
        if owner is not None:
            _claim(db, path, owner)
    except sqlite3.Error as error:
        db.close()
        raise explained(path, error) from error
    except BaseException:
        db.close()
        raise
    return db


def read(path: Path) -> list[Row]:
    """Every row, without writing anything, also while an adaptor runs; of this format or an older one.

    Raises: Unavailable, JournalFault.
    """
    if not path.exists():
        raise Unavailable(f"there is no journal {path}: no adaptor has run here, or it was removed")
    try:
        return _read(path, "mode=ro")
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_CANTOPEN and not path.with_name(path.name + "-wal").exists():
            return _read(path, "immutable=1")  # a read-only filesystem: SQLite cannot make its index, and needs none
        raise explained(path, error) from error


def read_states(path: Path) -> dict[str, SandboxState]:
    """Every sandbox's state by its id, read like `read`. Raises: Unavailable, JournalFault."""
    events: dict[str, list[Event]] = {}
    for row in read(path):
        events.setdefault(row.sandbox, []).append(row.event())
    return {sandbox: fold(own) for sandbox, own in events.items()}


def _read(path: Path, how: str) -> list[Row]:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=_BUSY_TIMEOUT)) as db:
        _checked(db, path)
        return list(rows(db, path))


def rows(db: sqlite3.Connection, path: Path) -> Iterator[Row]:
    """Every row in the order it was written; raises JournalFault at one that has been altered."""
    version = _version(db)
    if version == 0:
        return
    crc = "crc" if version > 1 else "NULL"
    for seq, sandbox, at, kind, body, written in db.execute(
        f"SELECT seq, sandbox, at, kind, body, {crc} FROM journal ORDER BY seq"  # noqa: S608 - one of two words
    ):
        where = f"the journal {path} is damaged: row {seq} (sandbox {sandbox})"
        if written is not None and written != _crc(sandbox, kind, body):
            raise JournalFault(f"{where} is not as it was written. {REPAIR}")
        try:
            parsed = json.loads(body)
        except json.JSONDecodeError as error:
            raise JournalFault(f"{where} is not JSON. {REPAIR}") from error
        yield Row(seq, sandbox, at, kind, parsed)


def salvage(path: Path) -> dict[str, list[Event]]:
    """What can still be read of a damaged file: each sandbox's sound rows, possibly not all. Never raises for damage."""
    found: dict[str, list[Event]] = {}
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        crc = "crc" if _version(db) > 1 else "NULL"
        for sandbox, kind, body, written in db.execute(f"SELECT sandbox, kind, body, {crc} FROM journal ORDER BY seq"):  # noqa: S608 - one of two words
            with suppress(JournalFault, ValueError, TypeError, AttributeError):
                if written in (None, _crc(sandbox, kind, body)):
                    found.setdefault(sandbox, []).append(from_json(kind, json.loads(body)))
    return found


def replace(path: Path, wall: float, owner: Ownership, entries: Sequence[tuple[str, Event]]) -> Path | None:
    """Put a new journal with these events in the place of `path`; where the old file is now, if there was one.

    A crash in between leaves a state that `connect` refuses, and that this call, repeated, repairs.
    Raises: Unavailable.
    """
    fresh = path.with_name(path.name + REBUILT)
    when = datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    kept = path.with_name(f"{path.name}.broken-{when}")
    try:
        for suffix in ("", *_BESIDE):
            fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
        with closing(connect(fresh, wall, owner)) as db:
            insert(db, wall, entries)
        was = path.exists()
        if was:
            os.rename(path, kept)
        for suffix in _BESIDE:  # beside the new file they would be taken for the new one's
            with suppress(FileNotFoundError):
                os.rename(path.with_name(path.name + suffix), kept.with_name(kept.name + suffix))
        os.rename(fresh, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)
    except sqlite3.Error as error:
        raise explained(fresh, error) from error
    except OSError as error:
        raise Unavailable(f"the journal {path} cannot be replaced: {error.filename}: {error.strerror}") from error
    return kept if was else None


def insert(db: sqlite3.Connection, at: float, entries: Sequence[tuple[str, Event]]) -> None:
    """All of them or none, durable when it returns."""
    encoded = [(sandbox, event.kind, json.dumps(to_json(event), separators=(",", ":"))) for sandbox, event in entries]
    with _transaction(db):
        db.executemany(_INSERT, [(s, at, kind, body, _crc(s, kind, body)) for s, kind, body in encoded])


def explained(path: Path, error: sqlite3.Error) -> AdaptorError:
    """What SQLite's refusal means to the person who reads it: JournalFault for damage, else Unavailable."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the upper bits tell variants of one error apart
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return JournalFault(f"the journal {path} is damaged: {error}. {REPAIR}")
    stop = "no sandbox can start, and those being stopped wait, until it can be written again"
    if code == sqlite3.SQLITE_BUSY:
        return Unavailable(f"the journal {path} is held by {_holders(path)}: {stop}. End that program")
    if code == sqlite3.SQLITE_READONLY:
        return Unavailable(
            f"the journal {path} cannot be written ({error}): {stop}. Is its filesystem mounted read-only, after an "
            "error perhaps?"
        )
    free = _free_bytes(path)
    if code == sqlite3.SQLITE_FULL or (free is not None and free < _FULL):
        return Unavailable(
            f"the journal {path} cannot be written, its disk is full ({(free or 0) // 1024} KiB free): {stop}. Make room "
            "there; nothing is lost and nothing needs a restart"
        )
    return Unavailable(
        f"the journal {path} cannot be used: {error}; {stop}. Look for errors of its disk, and at limits"
    )


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _checked(db: sqlite3.Connection, path: Path) -> int:
    """The format, of a sound file that is a journal and not of a later program."""
    version = _version(db)
    if version > VERSION:
        raise JournalFault(
            f"{path} was written by a newer peerpods (format {version}, this one knows {VERSION}): "
            "go back to that version, or drain the node first"
        )
    found = [row[0] for row in db.execute("PRAGMA integrity_check(3)")]
    if found != ["ok"]:
        raise JournalFault(f"the journal {path} is damaged: {' '.join('; '.join(found).split())}. {REPAIR}")
    if version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise JournalFault(f"{path} is another program's database, not a journal of peerpods: move it away")
    return version


def _to_1(db: sqlite3.Connection, wall: float) -> None:
    for statement in _FORMAT_1.strip().split(";\n"):
        db.execute(statement)


def _to_2(db: sqlite3.Connection, wall: float) -> None:
    """Each row guarded against silent damage; the file knows whose it is."""
    db.create_function("row_crc", 3, _crc, deterministic=True)
    db.execute("ALTER TABLE journal ADD COLUMN crc INTEGER NOT NULL DEFAULT 0")
    db.execute("UPDATE journal SET crc = row_crc(sandbox, kind, body)")
    db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT")
    made = (("created_at", str(wall)), ("created_by", adaptor.__version__))
    db.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", made)


# The n-th brings a file from format n to n + 1. None is ever changed once released.
_MIGRATIONS: Final[Sequence[Callable[[sqlite3.Connection, float], None]]] = (_to_1, _to_2)
VERSION: Final = len(_MIGRATIONS)


def _bring_forward(db: sqlite3.Connection, version: int, wall: float) -> None:
    if version == VERSION:
        return
    with _transaction(db):
        for migrate in _MIGRATIONS[version:]:
            migrate(db, wall)
        db.execute(f"PRAGMA user_version = {VERSION}")


def _claim(db: sqlite3.Connection, path: Path, owner: Ownership) -> None:
    """Check that the file is `owner`'s. One without sandboxes becomes so: nothing can be lost by it."""
    meta: dict[str, str] = dict(db.execute("SELECT key, value FROM meta"))
    known = Ownership(meta.get("cluster", ""), meta.get("node", ""))
    if known == owner:
        return
    stranger = known != Ownership("", "")  # what an older format could not tell is believed
    if stranger and db.execute("SELECT count(*) FROM journal").fetchone()[0]:
        raise JournalFault(
            f"the journal {path} is that of node {known.node!r} of cluster {known.cluster!r}, and this is node "
            f"{owner.node!r} of cluster {owner.cluster!r}: its pods' VMs carry the other name and would be lost. If the "
            f"machine or cluster was renamed, set node.name = {known.node!r} and node.cluster = {known.cluster!r} again "
            "until its pods are gone; if this disk is a copy, `peerpods journal rebuild` makes a journal of its own "
            "(docs/journal.md)"
        )
    with _transaction(db):
        db.executemany(
            "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (("cluster", owner.cluster), ("node", owner.node))
        )


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite has rolled back itself when the disk was full
            db.execute("ROLLBACK")
        raise


def _crc(sandbox: str, kind: str, body: str) -> int:
    return zlib.crc32(f"{sandbox}\0{kind}\0{body}".encode())


def _free_bytes(path: Path) -> int | None:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _holders(path: Path) -> str:
    """The processes that have locks on the file or on SQLite's index beside it, as the kernel lists them."""
    inodes = {str(each.stat().st_ino) for each in (path, path.with_name(path.name + "-shm")) if each.exists()}
    pids = set()
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()  # 1: POSIX ADVISORY WRITE 4711 08:01:1234 120 127
        if len(words) > 5 and words[5].rpartition(":")[2] in inodes and words[4] != str(os.getpid()):
            pids.add(words[4])
    return f"another program (process {', '.join(sorted(pids))})" if pids else "another program"
