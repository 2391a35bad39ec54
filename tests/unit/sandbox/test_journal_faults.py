"""What a disk, a power cut or another program can do to the journal: every one is told, none loses a row."""

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adaptor.clock import RealClock
from adaptor.errors import Unavailable
from adaptor.sandbox import journal_file
from adaptor.sandbox.journal import Journal
from adaptor.sandbox.model import Created, Event, JournalFault, SandboxSpec, StartRequested, StopDecided
from tests.worlds.disk import SmallDisk, small_disk

PAGE = 4096
MANY = 300  # sandboxes: a file of some tens of pages


def spec(name: str) -> SandboxSpec:
    return SandboxSpec(name, "pod", "ns", f"/run/netns/{name}")


async def filled(path: Path, sandboxes: int = MANY) -> dict[str, list[Event]]:
    """A journal with this many sandboxes, closed; what it holds."""
    journal = await Journal.open(path, RealClock())
    entries: list[tuple[str, Event]] = []
    for number in range(sandboxes):
        name = f"sandbox-{number:04}"
        entries += [(name, Created(spec(name))), (name, StartRequested())]
    await journal.append_all(entries)
    held = await journal.load()
    await journal.aclose()
    return held


async def loaded(path: Path) -> dict[str, list[Event]]:
    journal = await Journal.open(path, RealClock())
    try:
        return await journal.load()
    finally:
        await journal.aclose()


async def forgotten(journal: Journal, sandboxes: Iterable[str]) -> None:
    for sandbox in sandboxes:
        await journal.forget(sandbox)


async def written_without_end(journal: Journal) -> None:
    for number in range(1000):
        await journal.append(f"row-{number}", Created(spec("x")))


# -- damage -----------------------------------------------------------------------------------------


async def test_whatever_page_is_overwritten_it_is_noticed_and_the_file_left_alone(tmp_path: Path) -> None:
    sound = tmp_path / "sound.db"
    await filled(sound)
    pages = sound.stat().st_size // PAGE
    assert pages > 15
    for page in range(pages):
        path = tmp_path / f"{page}.db"
        shutil.copy(sound, path)
        with open(path, "r+b") as file:
            file.seek(page * PAGE + 8)  # beyond page 1's magic; in every other page the first pointers
            file.write(b"\xa5" * 512)
        damaged = path.read_bytes()
        with pytest.raises(JournalFault, match=r"damaged|newer") as told:
            await loaded(path)
        assert path.read_bytes() == damaged
        assert str(path) in str(told.value)
        if page:
            assert "peerpods journal rebuild" in str(told.value)
            assert "\n" not in str(told.value)


async def test_one_flipped_bit_in_a_rows_text_is_noticed_where_sqlite_sees_none(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await filled(path)
    content = path.read_bytes()
    at = content.index(b"/run/netns/sandbox-0123") + len("/run/netns/sandbox-012")
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()
    with pytest.raises(JournalFault, match=r"row 247 \(sandbox sandbox-0123\) is not as it was written"):
        await loaded(path)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
async def test_a_file_cut_short_is_noticed(tmp_path: Path, part: float) -> None:
    path = tmp_path / "journal.db"
    await filled(path)
    os.truncate(path, int(path.stat().st_size * part))
    with pytest.raises(JournalFault, match=r"journal\.db is damaged.*peerpods journal rebuild"):
        await loaded(path)


async def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"this is not a database, and longer than SQLite's header has to be, to be sure of it" * 20)
    with pytest.raises(JournalFault, match=r"journal\.db is damaged: file is not a database\. .*journal rebuild"):
        await loaded(path)


async def test_another_programs_database_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(JournalFault, match="another program's database"):
        await loaded(path)
    assert path.read_bytes() == before


async def test_damage_found_while_serving_is_told_at_the_call(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    held = await filled(path)
    journal = await Journal.open(path, RealClock())
    await journal._run(lambda db: db.execute("PRAGMA shrink_memory"))  # it must look at the disk again
    with open(path, "r+b") as file:
        file.seek(PAGE)
        file.write(b"\xa5" * (path.stat().st_size - PAGE))
    with pytest.raises(JournalFault, match=r"damaged.*peerpods journal rebuild"):
        await forgotten(journal, held)
    await journal.aclose()


# -- power cuts -------------------------------------------------------------------------------------


async def test_a_log_cut_anywhere_is_what_a_crash_leaves_and_loads(tmp_path: Path) -> None:
    """Everything before the cut is there, whole transactions only, and the file can be written again."""
    live = tmp_path / "live" / "journal.db"
    journal = await Journal.open(live, RealClock())
    states: list[list[str]] = [[]]
    for number in range(12):
        await journal.append_all([(str(number), Created(spec(str(number)))), (str(number), StartRequested())])
        states.append([str(each) for each in range(number + 1)])
    log = live.with_name("journal.db-wal").read_bytes()
    seen = []
    for cut in range(0, len(log) + 1, 1009):
        copy = tmp_path / f"cut-{cut}" / "journal.db"
        copy.parent.mkdir()
        shutil.copy(live, copy)
        copy.with_name("journal.db-wal").write_bytes(log[:cut])
        again = await Journal.open(copy, RealClock())
        held = await again.load()
        assert list(held) in states
        assert all(len(events) == 2 for events in held.values())
        seen.append(len(held))
        await again.append("later", Created(spec("later")))
        await again.aclose()
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) in {(0, 11), (0, 12)}
    await journal.aclose()


WRITER = """
import asyncio, sys
from pathlib import Path
from adaptor.clock import RealClock
from adaptor.sandbox.journal import Journal
from adaptor.sandbox.model import Created, SandboxSpec

async def main():
    journal = await Journal.open(Path(sys.argv[1]), RealClock())
    for number in range(1_000_000):
        await journal.append(str(number), Created(SandboxSpec(str(number), "pod", "ns", "/run/netns/x")))
        print(number, flush=True)

asyncio.run(main())
"""


async def test_what_a_killed_process_was_told_is_written_is_there(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(200):
        await process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    said, _ = await process.communicate()
    last = int((said.split() or [b"199"])[-1])
    assert len(await loaded(path)) >= last + 1


# -- other programs ---------------------------------------------------------------------------------

HOLDER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


async def test_a_program_that_holds_the_file_is_named_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_file, "_BUSY_TIMEOUT", 0.1)
    path = tmp_path / "journal.db"
    journal = await Journal.open(path, RealClock())
    await journal.append("a", Created(spec("a")))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(Unavailable, match=rf"is held by another program \(process {holder.pid}\).*End that program"):
        await journal.append("a", StartRequested())
    assert list(await journal.load()) == ["a"], "reading goes on"
    holder.communicate()
    await journal.append("a", StartRequested())
    assert len((await journal.load())["a"]) == 2
    await journal.aclose()


async def test_the_journal_can_be_read_while_it_is_written_without_disturbing(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = await Journal.open(path, RealClock())
    for number in range(20):
        await journal.append(str(number), Created(spec(str(number))))
        assert len(journal_file.read(path)) == number + 1
    await journal.aclose()
    assert len(journal_file.read(path)) == 20


# -- disks ------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.mark.netns
async def test_a_full_disk_is_told_loses_nothing_and_is_over_when_there_is_room(disk: SmallDisk) -> None:
    journal = await Journal.open(disk.path / "journal.db", RealClock())
    await journal.append("a", Created(spec("a")))
    disk.fill()
    with pytest.raises(Unavailable, match=r"its disk is full \(\d+ KiB free\).*Make room there"):
        await written_without_end(journal)
    with pytest.raises(Unavailable, match="disk is full"):
        await journal.append_all([("b", Created(spec("b"))), ("b", StartRequested())])
    before = await journal.load()
    assert "b" not in before
    assert len(journal_file.read(disk.path / "journal.db")) == len(before)
    disk.make_room()
    await journal.append("a", StartRequested())
    assert await journal.load() == before | {"a": [Created(spec("a")), StartRequested()]}
    await journal.aclose()
    assert len(await loaded(disk.path / "journal.db")) == len(before)


@pytest.mark.netns
async def test_on_a_full_disk_no_journal_can_be_made_and_the_next_try_makes_it(disk: SmallDisk) -> None:
    disk.fill()
    with pytest.raises(Unavailable, match=r"journal\.db cannot be (opened|written)"):
        await Journal.open(disk.path / "journal.db", RealClock())
    disk.make_room()
    assert await loaded(disk.path / "journal.db") == {}


@pytest.mark.netns
async def test_a_disk_that_turns_read_only_is_told_and_the_rows_can_still_be_shown(disk: SmallDisk) -> None:
    """As the kernel does to a filesystem after an error."""
    path = disk.path / "journal.db"
    await filled(path, 3)
    disk.remount("ro")
    with pytest.raises(Unavailable, match=rf"{path} cannot be opened: .*Read-only file system"):
        await Journal.open(path, RealClock())
    assert len(journal_file.read(path)) == 6
    disk.remount("rw")
    assert len(await loaded(path)) == 3


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


async def test_a_limit_on_file_sizes_is_told_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = await Journal.open(path, RealClock())
    room = path.with_name("journal.db-wal").stat().st_size + 10 * PAGE
    with largest_file(room), pytest.raises(Unavailable, match=r"journal\.db cannot be used: disk I/O error.*limits"):
        await written_without_end(journal)
    before = await journal.load()
    assert before
    await journal.append("after", Created(spec("x")))
    await journal.append("after", StopDecided("x"))
    assert len(await journal.load()) == len(before) + 1
    await journal.aclose()
    assert len(await loaded(path)) == len(before) + 1


async def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=r"cannot be opened: .*/file: File exists"):
        await Journal.open(tmp_path / "file" / "journal.db", RealClock())


async def test_reading_where_there_is_no_journal_says_so_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="there is no journal"):
        journal_file.read(tmp_path / "journal.db")
    assert list(tmp_path.iterdir()) == []
