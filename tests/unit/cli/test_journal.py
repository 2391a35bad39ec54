"""`peerpods journal show`, and what the family says when it cannot do its work; its whole work is in tests/e2e."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from adaptor.cli import parser
from adaptor.sandbox import journal_file, state_lock
from adaptor.sandbox.model import (
    Bound,
    Created,
    Event,
    LaunchAccepted,
    LaunchIntended,
    Reached,
    SandboxSpec,
    StartRequested,
)
from providers.base import Ownership

SECRETS = ("bGF1bmNo", "dXNlci1kYXRh", "hunter2")
WEB, DB = "aa" * 32, "bb" * 32
ENOUGH = {"CLOUD_PROVIDER": "aws", "PODVM_AMI_ID": "ami-0123456789abcdef0"}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's state_dir, with a running pod and one that was only created."""
    events: list[Event] = [
        Created(SandboxSpec(WEB, "web", "shop", "/run/netns/web", vcpus=2, initdata='[data]\nx = "hunter2"')),
        StartRequested(),
        LaunchIntended("token-of-web", "podvm-web", "m6a.large", "", "dXNlci1kYXRh", "bGF1bmNo"),
        LaunchAccepted("i-0123", ("10.0.0.1",)),
        Reached("10.0.0.1:15150", "ab" * 32),
        Bound(),
    ]
    db = journal_file.connect(tmp_path / "journal.db", 0.0, Ownership("blue", "worker-1"))
    for number, event in enumerate(events):
        journal_file.insert(db, 1_000_000_000.25 + number, [(WEB, event)])
    journal_file.insert(db, 1_000_000_100, [(DB, Created(SandboxSpec(DB, "", "", "")))])
    db.close()
    for name, value in ENOUGH.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PEERPODS_STATE_DIR", str(tmp_path))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = parser.main(["journal", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_show_tells_each_sandboxes_story_in_order(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "show")
    lines = out.splitlines()
    assert status == 0
    assert lines[0] == f"shop/web  running  sandbox {WEB}"
    assert lines[1].split()[:3] == ["2001-09-09T01:46:40.250Z", "+0.000s", "created"]
    assert "netns=/run/netns/web" in lines[1]
    assert "vcpus=2" in lines[1]
    assert [line.split()[2] for line in lines[1:7]] == [
        "created", "start-requested", "launch-intended", "launch-accepted", "reached", "bound"
    ]  # fmt: skip
    assert "+1.000s" in lines[2]
    assert "token=token-of-web" in lines[3]
    assert "instance_id=i-0123" in lines[4]
    assert lines[8] == f"(no pod)  created  sandbox {DB}"


def test_show_as_json_is_one_list_of_rows(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "show", "--json")
    rows = json.loads(out)
    assert [row["seq"] for row in rows] == list(range(1, 8))
    assert rows[3] == {
        "seq": 4, "sandbox": WEB, "at": "2001-09-09T01:46:43.250Z", "event": "launch-accepted",
        "instance_id": "i-0123", "addresses": ["10.0.0.1"],
    }  # fmt: skip


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_no_secret_is_ever_shown(state: Path, capsys: pytest.CaptureFixture[str], form: tuple[str, ...]) -> None:
    _, out, _ = run(capsys, "show", *form)
    assert [secret for secret in SECRETS if secret in out] == []
    assert "launch_token" in out
    assert "(12 characters)" in out


def test_one_sandbox_is_found_by_the_beginning_of_its_id(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "show", "--sandbox", "bbbb")
    assert WEB not in out
    assert DB in out
    status, out, err = run(capsys, "show", "--sandbox", "cc")
    assert (status, out) == (1, "")
    assert "knows no sandbox cc" in err


def test_a_file_is_shown_without_a_configuration_and_while_it_is_written(state: Path) -> None:
    db = journal_file.connect(state / "journal.db", 0.0, None)
    db.execute("BEGIN IMMEDIATE")
    command = [sys.executable, "-m", "adaptor", "journal", "show", "--file", str(state / "journal.db")]
    bare = {"PATH": os.environ["PATH"]}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=bare)
    db.execute("ROLLBACK")
    db.close()
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("shop/web")


def test_showing_changes_nothing(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (state / "journal.db").read_bytes()
    run(capsys, "show")
    assert (state / "journal.db").read_bytes() == before


def test_an_event_of_a_later_version_is_shown_all_the_same(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = sqlite3.connect(state / "journal.db")
    body = '{"height": 3, "api_key": "hunter2"}'
    crc = journal_file._crc(DB, "levitated", body)
    db.execute("INSERT INTO journal (sandbox, at, kind, body, crc) VALUES (?, 0, 'levitated', ?, ?)", (DB, body, crc))
    db.commit()
    db.close()
    status, out, _ = run(capsys, "show", "--sandbox", DB)
    assert status == 0
    assert "levitated" in out
    assert "height=3" in out
    assert "cannot be understood: row 8" in out
    assert "hunter2" not in out


def test_an_empty_journal_and_a_missing_one_are_told_apart(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal_file.connect(state / "empty.db", 0.0, None).close()
    assert "is empty: no sandbox lives on this node" in run(capsys, "show", "--file", str(state / "empty.db"))[1]
    status, _, err = run(capsys, "show", "--file", str(state / "missing.db"))
    assert status == 1
    assert "there is no journal" in err
    assert not (state / "missing.db").exists()


def test_a_damaged_journal_names_its_repair(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "journal.db").write_bytes(b"gibberish" * 1000)
    status, _, err = run(capsys, "show")
    assert status == 1
    assert "peerpods journal rebuild" in err


def test_rebuild_refuses_while_an_adaptor_holds_the_state(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (state / "journal.db").read_bytes()
    with state_lock.held(state):
        status, _, err = run(capsys, "rebuild")
    assert status == 1
    assert f"another peerpods (process {os.getpid()}) uses {state}" in err
    assert (state / "journal.db").read_bytes() == before


def test_the_family_alone_asks_for_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser.main(["journal"])
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
