"""One adaptor per state_dir."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adaptor.errors import Conflict, Unavailable
from adaptor.sandbox import state_lock

HOLDER = """
import subprocess, sys
from pathlib import Path
from adaptor.sandbox import state_lock
with state_lock.held(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"], close_fds=False)  # as the relay: it outlives its adaptor
    print(child.pid, flush=True)
    sys.stdin.read()
"""


def test_a_second_holder_is_refused_and_told_the_firsts_process(tmp_path: Path) -> None:
    with state_lock.held(tmp_path / "state"):
        refused = pytest.raises(Conflict, match=rf"another peerpods \(process {os.getpid()}\) uses {tmp_path}/state")
        with refused, state_lock.held(tmp_path / "state"):
            pytest.fail("held twice")
        with state_lock.held(tmp_path / "another"):
            pass
    with state_lock.held(tmp_path / "state"):
        pass


def test_a_killed_holder_leaves_no_lock_behind_not_even_with_a_child_that_lives(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        _check(holder, child, tmp_path)


def _check(holder: subprocess.Popen[bytes], child: int, tmp_path: Path) -> None:
    try:
        with pytest.raises(Conflict, match=rf"process {holder.pid}\)"), state_lock.held(tmp_path):
            pytest.fail("held twice")
        holder.kill()
        holder.wait()
        os.kill(child, 0)
        with state_lock.held(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_place_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="file cannot be used"), state_lock.held(tmp_path / "file"):
        pytest.fail("held")
