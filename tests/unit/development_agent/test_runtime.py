"""Runtimes that misbehave, and exit statuses; the runtimes are scripts, the processes real."""

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from adaptor.errors import Code, StatusError
from podvm_images.guest.development_agent import runtime
from podvm_images.guest.development_agent.children import Children
from podvm_images.guest.development_agent.runtime import Runtime

# A runtime is called as: --root R --log L --log-format json VERB ...
LOG = 'log=$4; say() { echo "$1" >> "$log"; }\n'


def make(folder: Path, script: str) -> Runtime:
    program = folder / "fake"
    program.write_text(f"#!/bin/sh\n{LOG}{script}\n")
    program.chmod(0o755)
    for name in ("state", "scratch"):
        (folder / name).mkdir()
    return Runtime(str(program), f"{folder}/state", f"{folder}/scratch", Children())


async def complaint(commands: Runtime) -> str:
    with pytest.raises(StatusError) as failure:
        await commands.create("c", "/bundle", terminal=False)
    assert failure.value.code == Code.INTERNAL
    return failure.value.message


async def test_the_last_error_of_the_log_is_the_message(tmp_path: Path) -> None:
    script = """
    say '{"level":"error","msg":"earlier"}'
    say '{"level":"error","msg":"the reason"}'
    say '{"level":"warning","msg":"something else"}'
    exit 1"""
    assert await complaint(make(tmp_path, script)) == "fake create: the reason"


async def test_a_log_that_is_no_json_is_told_as_it_is(tmp_path: Path) -> None:
    assert await complaint(make(tmp_path, "say 'plain words'; exit 1")) == "fake create: plain words"


async def test_a_runtime_that_says_nothing_is_told_by_its_status(tmp_path: Path) -> None:
    assert await complaint(make(tmp_path, "exit 9")) == "fake create: it ended with status 9 and said nothing"


async def test_a_runtime_that_leaves_no_process_is_a_failure(tmp_path: Path) -> None:
    assert "named no process" in await complaint(make(tmp_path, "exit 0"))


async def test_a_runtime_that_sends_no_terminal_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(StatusError, match="sent no terminal"):
        await make(tmp_path, "exit 0").create("c", "/bundle", terminal=True)


async def test_a_runtime_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "PATIENCE", 0.05)
    assert "hung" in await complaint(make(tmp_path, "exec sleep 600"))


async def test_failures_leave_no_file_and_no_descriptor(tmp_path: Path) -> None:
    commands = make(tmp_path, "say no; exit 1")
    await complaint(commands)
    before = len(os.listdir("/proc/self/fd"))
    for terminal in (False, True):
        with pytest.raises(StatusError):
            await commands.create("c", "/bundle", terminal=terminal)
        with pytest.raises(StatusError):
            await commands.exec("c", {"terminal": terminal})
    assert len(os.listdir("/proc/self/fd")) == before
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_containers_of_an_earlier_agent_are_known(tmp_path: Path) -> None:
    commands = make(tmp_path, "exit 0")
    (tmp_path / "state/b").mkdir()
    (tmp_path / "state/a").mkdir()
    assert commands.known() == ["a", "b"]


def test_a_runtime_is_found_in_path_by_preference_or_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/none:{tmp_path}")
    with pytest.raises(FileNotFoundError, match="install crun or runc"):
        runtime.find()
    for name in ("runc", "crun"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    assert runtime.find() == f"{tmp_path}/crun"
    assert runtime.find("runc") == f"{tmp_path}/runc"


async def test_exit_statuses_are_codes_or_signals_plus_128() -> None:
    children = Children()
    ends = []
    for script in ("exit 0", "exit 7", "exit 255", "kill -9 $$", "kill -15 $$"):
        child = subprocess.Popen(["sh", "-c", script])
        child.returncode = 0  # ours to wait for, not subprocess's
        ends.append(children.watch(child.pid))
    assert await asyncio.gather(*ends) == [0, 7, 255, 128 + signal.SIGKILL, 128 + signal.SIGTERM]
