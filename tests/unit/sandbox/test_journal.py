"""The node's durable memory, on a real disk; what can go wrong with it is in test_journal_faults."""

import sqlite3
import stat
import zlib
from pathlib import Path

import pytest

import adaptor
from adaptor.clock import RealClock
from adaptor.errors import Unavailable
from adaptor.sandbox import journal_file
from adaptor.sandbox.journal import Journal
from adaptor.sandbox.model import Created, JournalFault, SandboxSpec, StartRequested, StopDecided
from providers.base import Ownership
from tests.worlds.clock import VirtualClock

HERE = Ownership("blue", "worker-1")


def spec(name: str) -> SandboxSpec:
    return SandboxSpec(name, "pod", "ns", "/run/netns/x")


async def test_what_was_appended_is_there_for_the_next_process_in_order(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal.db"
    journal = await Journal.open(path, RealClock())
    await journal.append("a", Created(spec("a")))
    await journal.append("b", Created(spec("b")))
    await journal.append("a", StartRequested())
    # no aclose: the process was killed
    again = await Journal.open(path, RealClock())
    assert await again.load() == {"a": [Created(spec("a")), StartRequested()], "b": [Created(spec("b"))]}
    await again.aclose()
    await journal.aclose()


async def test_a_forgotten_sandbox_leaves_no_row(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path / "journal.db", RealClock())
    await journal.append("a", Created(spec("a")))
    await journal.append("b", Created(spec("b")))
    await journal.forget("a")
    assert list(await journal.load()) == ["b"]
    await journal.aclose()


async def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path / "journal.db", RealClock())
    await journal.append("a", StopDecided("x"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    await journal.aclose()


async def test_every_write_is_synced_before_it_returns(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path / "journal.db", RealClock())
    settings = await journal._run(
        lambda db: (db.execute("PRAGMA journal_mode").fetchone()[0], db.execute("PRAGMA synchronous").fetchone()[0])
    )
    assert settings == ("wal", 2)  # 2 = FULL
    await journal.aclose()


async def test_a_row_of_an_unknown_kind_names_its_number(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = await Journal.open(path, RealClock())
    await journal.append("a", Created(spec("a")))
    body = "{}"
    crc = zlib.crc32(f"a\0levitated\0{body}".encode())
    await journal._run(
        lambda db: db.execute(
            "INSERT INTO journal (sandbox, at, kind, body, crc) VALUES ('a', 0, 'levitated', ?, ?)", (body, crc)
        )
    )
    with pytest.raises(JournalFault, match=r"row 2 \(sandbox a\).*levitated"):
        await journal.load()
    await journal.aclose()


async def test_several_rows_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path / "journal.db", RealClock())
    await journal._run(
        lambda db: db.execute(
            "CREATE TRIGGER full BEFORE INSERT ON journal WHEN NEW.sandbox = 'b' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    )
    with pytest.raises(Unavailable, match="cannot be used: no"):
        await journal.append_all([("a", Created(spec("a"))), ("b", Created(spec("b")))])
    assert await journal.load() == {}
    await journal.append("a", Created(spec("a")))
    assert list(await journal.load()) == ["a"]
    await journal.aclose()


async def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path / "journal.db", RealClock())
    await journal.aclose()
    await journal.aclose()
    with pytest.raises(Unavailable, match="is closed"):
        await journal.append("a", Created(spec("a")))


# -- formats ----------------------------------------------------------------------------------------

# Format 1 as its program wrote it: never to be changed with the code.
FORMAT_1 = """
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    sandbox TEXT NOT NULL,
    at REAL NOT NULL,      -- wall clock, for people; order is seq
    kind TEXT NOT NULL,
    body TEXT NOT NULL     -- JSON of adaptor.sandbox.model
) STRICT;
CREATE INDEX by_sandbox ON journal (sandbox, seq);
INSERT INTO journal (sandbox, at, kind, body) VALUES ('a', 1000.5, 'created',
  '{"spec":{"id":"a","pod_name":"pod","pod_namespace":"ns","netns":"/run/netns/x"}}');
INSERT INTO journal (sandbox, at, kind, body) VALUES ('a', 1001.5, 'start-requested', '{}');
PRAGMA user_version = 1;
"""


def format_1(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(FORMAT_1)
    db.close()


def dump(path: Path) -> list[str]:
    db = sqlite3.connect(path)
    try:
        return [*db.iterdump(), str(db.execute("PRAGMA user_version").fetchone())]
    finally:
        db.close()


def meta(path: Path) -> dict[str, str]:
    db = sqlite3.connect(path)
    try:
        return dict(db.execute("SELECT key, value FROM meta"))
    finally:
        db.close()


async def test_a_file_of_format_1_is_brought_forward_with_every_row(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    format_1(path)
    journal = await Journal.open(path, RealClock(), HERE)
    assert await journal.load() == {"a": [Created(spec("a")), StartRequested()]}
    await journal.append("a", StopDecided("x"))
    await journal.aclose()
    assert [row.at for row in journal_file.read(path)][:2] == [1000.5, 1001.5]
    assert (meta(path)["cluster"], meta(path)["node"]) == ("blue", "worker-1")
    again = await Journal.open(path, RealClock(), HERE)
    assert await again.load() == {"a": [Created(spec("a")), StartRequested(), StopDecided("x")]}
    await again.aclose()


async def test_a_program_that_knows_format_1_only_refuses_the_file_afterwards(tmp_path: Path) -> None:
    """Its rule, in every version: a user_version above its own is refused."""
    path = tmp_path / "journal.db"
    format_1(path)
    await (await Journal.open(path, RealClock())).aclose()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (2,)
    assert journal_file.VERSION == 2
    db.close()


async def test_a_file_brought_forward_is_like_one_made_new(tmp_path: Path) -> None:
    def schema(path: Path) -> list[tuple[str, ...]]:
        db = sqlite3.connect(path)
        try:
            names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
            return [row[1:] for name in names for row in db.execute(f"PRAGMA table_info({name})")]
        finally:
            db.close()

    format_1(tmp_path / "old.db")
    for name in ("old.db", "new.db"):
        await (await Journal.open(tmp_path / name, RealClock())).aclose()
    assert schema(tmp_path / "old.db") == schema(tmp_path / "new.db")


async def test_a_migration_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.db"
    format_1(path)
    before = dump(path)

    def broken(db: sqlite3.Connection, wall: float) -> None:
        journal_file._to_2(db, wall)
        db.execute("INSERT INTO nowhere VALUES (1)")

    monkeypatch.setattr(journal_file, "_MIGRATIONS", (journal_file._to_1, broken))
    with pytest.raises(Unavailable, match="no such table: nowhere"):
        await Journal.open(path, RealClock(), HERE)
    assert dump(path) == before


async def test_a_file_from_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {journal_file.VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(JournalFault, match="newer peerpods"):
        await Journal.open(path, RealClock())
    assert path.read_bytes() == before


# -- whose it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stranger", [Ownership("blue", "worker-2"), Ownership("green", "worker-1")])
async def test_a_journal_of_another_node_or_cluster_is_refused_while_it_holds_sandboxes(
    tmp_path: Path, stranger: Ownership
) -> None:
    path = tmp_path / "journal.db"
    journal = await Journal.open(path, RealClock(), stranger)
    await journal.append("a", Created(spec("a")))
    await journal.aclose()
    before = dump(path)
    with pytest.raises(JournalFault) as told:
        await Journal.open(path, RealClock(), HERE)
    assert dump(path) == before
    for part in (str(path), stranger.node, stranger.cluster, "worker-1", "set node.name", "peerpods journal rebuild"):
        assert part in str(told.value)
    rightful = await Journal.open(path, RealClock(), stranger)
    assert list(await rightful.load()) == ["a"]
    await rightful.aclose()


async def test_an_empty_journal_follows_its_nodes_new_name(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await (await Journal.open(path, RealClock(), Ownership("blue", "old-name"))).aclose()
    await (await Journal.open(path, RealClock(), HERE)).aclose()
    assert meta(path)["node"] == "worker-1"


async def test_the_file_says_when_and_by_what_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    clock = VirtualClock(start=1234.5)
    await (await Journal.open(path, clock, HERE)).aclose()
    assert meta(path) == {
        "cluster": "blue", "node": "worker-1", "created_at": "1234.5", "created_by": adaptor.__version__
    }  # fmt: skip
