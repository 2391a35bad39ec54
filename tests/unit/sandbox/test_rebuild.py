"""A journal made anew out of what relay and cloud still know."""

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from adaptor.clock import RealClock
from adaptor.errors import Unavailable
from adaptor.relay.client import Session, SessionState
from adaptor.sandbox import journal_file
from adaptor.sandbox.journal import Journal
from adaptor.sandbox.model import (
    Bound,
    Created,
    Event,
    JournalFault,
    LaunchAccepted,
    LaunchIntended,
    Phase,
    Reached,
    SandboxSpec,
    StartRequested,
    fold,
)
from adaptor.sandbox.rebuild import rebuild, running
from providers import tags
from providers.base import Instance, InstanceState, Ownership

HERE = Ownership("blue", "worker-1")
SPEC = SandboxSpec("web", "web", "shop", "/run/netns/web", vcpus=2)
HISTORY: list[Event] = [
    Created(SPEC),
    StartRequested(),
    LaunchIntended("token-web", "podvm-web", "m6a.large", "", "dXNlcg==", "bGF1bmNo"),
    LaunchAccepted("i-web", ("10.0.0.1",)),
    Reached("10.0.0.1:15150", "ab" * 32),
    Bound(),
]


def session(name: str, address: str, state: SessionState = SessionState.JOINED) -> Session:
    return Session(name, f"/run/peerpod/pods/{name}/agent.ttrpc", state, address, b"\xab" * 32, True, 0, 0, 0, "")


def instance(sandbox: str, *addresses: str, **more: Any) -> Instance:
    known = {
        tags.SANDBOX: sandbox, tags.TOKEN: f"token-{sandbox}", tags.POD_NAME: sandbox, tags.POD_NAMESPACE: "shop"
    }  # fmt: skip
    defaults: dict[str, Any] = {"state": InstanceState.RUNNING, "name": f"podvm-{sandbox}", "tags": known}
    return Instance(f"i-{sandbox}", addresses=addresses, **defaults | more)


@pytest.mark.parametrize("state", [SessionState.JOINED, SessionState.RESUMING])
def test_a_running_pod_is_made_whole_out_of_its_session_and_vm(state: SessionState) -> None:
    ((sandbox, events),) = rebuild([session("web", "10.0.0.1:15150", state)], [instance("web", "10.0.0.1")])
    made = fold(events)
    assert (sandbox, made.phase, made.spec.pod) == ("web", Phase.RUNNING, "shop/web")
    assert (made.instance_id, made.addresses, made.address) == ("i-web", ("10.0.0.1",), "10.0.0.1:15150")
    assert made.certificate_sha256 == "ab" * 32
    assert made.launch is not None
    assert (made.launch.token, made.launch.name) == ("token-web", "podvm-web")


@pytest.mark.parametrize("state", sorted(set(SessionState) - {SessionState.JOINED, SessionState.RESUMING}))
def test_what_does_not_run_is_left_out(state: SessionState) -> None:
    sessions = [session("web", "10.0.0.1:15150", state)]
    assert rebuild(sessions, [instance("web", "10.0.0.1")]) == []
    assert running(sessions) == []


def test_the_address_tells_the_vm_of_a_pod_that_adopted_its_predecessors() -> None:
    found = rebuild(
        [session("second", "10.0.0.1:15150")],
        [instance("second", "10.0.0.9"), instance("first", "10.0.0.1")],
    )
    assert [fold(events).instance_id for _, events in found] == ["i-first"]


def test_the_tag_tells_the_vm_where_the_clouds_address_is_another() -> None:
    found = rebuild([session("web", "192.0.2.1:15150")], [instance("web", "10.0.0.1"), instance("db", "10.0.0.2")])
    assert [fold(events).instance_id for _, events in found] == ["i-web"]


def test_an_address_of_version_6_is_found() -> None:
    found = rebuild([session("web", "[fd00::1]:15150")], [instance("x", "fd00::1")])
    assert [fold(events).instance_id for _, events in found] == ["i-x"]


def test_between_two_vms_of_one_sandbox_nothing_is_guessed() -> None:
    two = [instance("web", "10.0.0.1"), instance("web", "10.0.0.2")]
    assert rebuild([session("web", "192.0.2.1:15150")], two) == []


@pytest.mark.parametrize("state", [InstanceState.GONE, InstanceState.STOPPED])
def test_a_vm_that_cannot_answer_is_nobodys(state: InstanceState) -> None:
    assert rebuild([session("web", "10.0.0.1:15150")], [instance("web", "10.0.0.1", state=state)]) == []


def test_what_could_still_be_read_of_the_old_journal_is_kept_whole() -> None:
    ((_, events),) = rebuild([session("web", "10.0.0.1:15150")], [instance("web", "10.0.0.1")], {"web": HISTORY})
    assert events == HISTORY


def test_a_part_of_the_old_journal_still_tells_what_the_pod_was() -> None:
    ((_, events),) = rebuild([session("web", "10.0.0.1:15150")], [instance("web", "10.0.0.1")], {"web": HISTORY[:2]})
    assert fold(events).spec == SPEC
    assert fold(events).phase is Phase.RUNNING


def test_what_the_old_journal_says_of_another_vm_is_not_believed() -> None:
    other = [*HISTORY[:3], LaunchAccepted("i-other", ()), *HISTORY[4:]]
    ((_, events),) = rebuild([session("web", "10.0.0.1:15150")], [instance("web", "10.0.0.1")], {"web": other})
    assert fold(events).instance_id == "i-web"


def test_rows_out_of_order_are_no_history() -> None:
    ((_, events),) = rebuild([session("web", "10.0.0.1:15150")], [instance("web", "10.0.0.1")], {"web": HISTORY[1:]})
    assert fold(events).phase is Phase.RUNNING


# -- the file ---------------------------------------------------------------------------------------


async def journal(path: Path, sandboxes: int) -> None:
    made = await Journal.open(path, RealClock(), HERE)
    await made.append_all([(f"{n:04}", event) for n in range(sandboxes) for event in HISTORY])
    await made.aclose()


async def load(path: Path) -> dict[str, list[Event]]:
    made = await Journal.open(path, RealClock(), HERE)
    try:
        return await made.load()
    finally:
        await made.aclose()


async def test_the_new_journal_is_in_place_and_the_old_one_beside_it_with_its_log(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await journal(path, 3)
    path.with_name("journal.db-wal").write_bytes(b"what is left of its log")
    before = path.read_bytes()
    kept = journal_file.replace(path, 0.0, HERE, [("web", event) for event in HISTORY])
    assert kept == tmp_path / "journal.db.broken-1970-01-01T00-00-00Z"
    assert kept.read_bytes() == before
    assert kept.with_name(kept.name + "-wal").read_bytes() == b"what is left of its log"
    assert await load(path) == {"web": HISTORY}
    assert {stat.S_IMODE(each.stat().st_mode) for each in (path, kept)} == {0o600}
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name, kept.name, f"{kept.name}-wal"]


async def test_a_lost_journal_is_replaced_as_well(tmp_path: Path) -> None:
    assert journal_file.replace(tmp_path / "journal.db", 0.0, HERE, [("web", event) for event in HISTORY]) is None
    assert await load(tmp_path / "journal.db") == {"web": HISTORY}


@pytest.mark.parametrize("renames", range(3))
async def test_a_crash_during_the_repair_is_noticed_and_repaired_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """After no rename the old file is still there; after the last one the new one is."""
    path = tmp_path / "journal.db"
    await journal(path, 3)
    path.with_name("journal.db-wal").touch()
    left = renames
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        nonlocal left
        if left == 0:
            raise OSError(5, "the power fails", str(source))
        left -= 1
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        with pytest.raises(Unavailable, match="cannot be replaced"):
            journal_file.replace(path, 0.0, HERE, [("web", event) for event in HISTORY])
    if renames:
        with pytest.raises(JournalFault, match="was interrupted: run `peerpods journal rebuild` again"):
            await load(path)
    else:
        assert len(await load(path)) == 3
    journal_file.replace(path, 1.0, HERE, [("web", event) for event in HISTORY])
    assert await load(path) == {"web": HISTORY}


async def test_sound_rows_of_a_damaged_file_are_salvaged_and_altered_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await journal(path, 200)
    content = bytearray(path.read_bytes())
    at = content.index(b"token-web")  # some row's text, which SQLite does not guard
    content[at] ^= 1
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    found = journal_file.salvage(path)
    whole = [events for events in found.values() if events == HISTORY]
    assert 10 < len(whole) < 200
    assert all(event in HISTORY for events in found.values() for event in events)


async def test_of_what_is_no_database_nothing_is_salvaged(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"gibberish" * 1000)
    assert journal_file.salvage(path) == {}
    await journal(tmp_path / "sound.db", 1)
    shutil.copy(tmp_path / "sound.db", path)
    assert journal_file.salvage(path) == {"0000": HISTORY}
