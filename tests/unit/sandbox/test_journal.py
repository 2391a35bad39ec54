"""The node's durable memory, on a real disk."""

import sqlite3
import stat
from pathlib import Path

import pytest

from adaptor.clock import RealClock
from adaptor.errors import Unavailable
from adaptor.sandbox.journal import VERSION, Journal
from adaptor.sandbox.model import Created, JournalFault, SandboxSpec, StartRequested, StopDecided


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


async def test_a_file_from_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(JournalFault, match="newer peerpods"):
        await Journal.open(path, RealClock())
    assert path.read_bytes()[:100] == before[:100]


async def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"this is not a database, and longer than SQLite's header has to be, to be sure of it" * 20)
    with pytest.raises(Unavailable, match=r"journal\.db cannot be used: file is not a database"):
        await Journal.open(path, RealClock())


async def test_a_row_of_an_unknown_kind_names_its_number(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = await Journal.open(path, RealClock())
    await journal.append("a", Created(spec("a")))
    await journal._run(
        lambda db: db.execute("INSERT INTO journal (sandbox, at, kind, body) VALUES ('a', 0, 'levitated', '{}')")
    )
    with pytest.raises(JournalFault, match=r"row 2 \(sandbox a\).*levitated"):
        await journal.load()
    await journal.aclose()


async def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be opened"):
        await Journal.open(tmp_path / "file" / "journal.db", RealClock())
