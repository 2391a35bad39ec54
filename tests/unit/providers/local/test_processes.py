"""Processes that outlive us are known by more than their number."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from providers.local import processes
from providers.local.processes import Process


def started(tmp_path: Path, *command: str) -> Process:
    processes.spawn(command, f"{tmp_path}/pid", output=f"{tmp_path}/log")
    for _ in range(2000):
        if (found := processes.read(f"{tmp_path}/pid")) is not None:
            return found
        time.sleep(0.002)
    raise AssertionError("it was not written down")


def test_what_was_started_is_found_again_and_ended(tmp_path: Path) -> None:
    process = started(tmp_path, "sleep", "60")
    assert processes.alive(process)
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    assert processes.end(processes.read(f"{tmp_path}/pid"), grace=5)
    assert not processes.alive(process)
    assert processes.end(process, grace=5)  # gone is success


def test_a_number_that_has_become_anothers_is_not_touched(tmp_path: Path) -> None:
    process = started(tmp_path, "sleep", "60")
    earlier = Process(process.pid, process.started - 1)
    assert not processes.alive(earlier)
    assert processes.end(earlier, grace=1)
    assert processes.alive(process)
    assert processes.end(process, grace=1)


def test_who_does_not_heed_the_request_is_killed(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    process = started(tmp_path, sys.executable, "-IS", "-c", deaf)
    while "up" not in Path(tmp_path, "log").read_text():
        time.sleep(0.005)
    assert processes.end(process, grace=0.1)


def test_one_that_has_ended_is_not_left_a_zombie(tmp_path: Path) -> None:
    process = started(tmp_path, "true")
    for _ in range(2000):
        if not processes.alive(process):
            break
        time.sleep(0.002)
    assert not Path(f"/proc/{process.pid}").exists()


def test_it_ignores_no_signal_that_we_do(tmp_path: Path) -> None:
    process = started(tmp_path, "sleep", "60")
    status = Path(f"/proc/{process.pid}/status").read_text()
    ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1))  # Python itself ignores it
    processes.end(process, grace=1)


@pytest.mark.parametrize("text", ["", "12", "12 (sh", "12 (a) b", "\0"])
def test_a_torn_or_foreign_file_means_nobody(tmp_path: Path, text: str) -> None:
    Path(tmp_path, "pid").write_text(text)
    assert processes.read(f"{tmp_path}/pid") is None
    assert not processes.alive(None)
    assert processes.read(f"{tmp_path}/other") is None


def test_a_name_with_a_bracket_confuses_nobody(tmp_path: Path) -> None:
    program = Path(tmp_path, "a) 1 b")
    program.write_text("#!/bin/sh\nsleep 60\n")
    program.chmod(0o700)
    process = started(tmp_path, str(program))
    assert processes.alive(process)
    assert processes.end(process, grace=1)
