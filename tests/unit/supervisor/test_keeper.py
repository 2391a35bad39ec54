"""PID 1's care for programs, in a process of its own: it takes every child that ends, whoever's that was."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

REPO = Path(__file__).parents[3]
# What each scenario begins with: services of sh, and a loop that ends by itself if the scenario does not.
_HEAD = """
import os, signal, sys
from podvm_images.supervisor import keeper, services
from podvm_images.supervisor.keeper import Keeper
from podvm_images.supervisor.loop import Loop
from podvm_images.supervisor.services import Service
def sh(name, script, *needs, **more):
    return Service(name, lambda exists: ("/bin/sh", "-c", script), needs, **more)
services.FIRST_PAUSE = 0.05
loop = Loop()
def keep(*wanted, exists=os.path.exists):
    kept = Keeper(loop, wanted, exists)
    loop.on(signal.SIGCHLD, kept.reap)
    loop.on(signal.SIGTERM, kept.end)
    loop.after(15, lambda: os._exit(9))
    kept.look()
    return kept
"""


def scenario(tmp_path: Path, script: str) -> subprocess.CompletedProcess[str]:
    code = _HEAD + textwrap.dedent(script)
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )


def test_what_ends_is_started_again_after_a_pause_that_grows_and_its_end_is_told(tmp_path: Path) -> None:
    done = scenario(
        tmp_path,
        """
        keep(sh("short", "date +%s.%N >>starts; [ $(wc -l <starts) -lt 4 ] || kill -TERM $PPID; exit 3"))
        loop.run()
        """,
    )
    starts = [float(line) for line in (tmp_path / "starts").read_text().splitlines()]
    pauses = [later - before for before, later in itertools.pairwise(starts)]
    assert len(starts) == 4
    assert pauses[0] >= 0.05 and pauses[1] >= 0.1 and pauses[2] >= 0.2  # noqa: PT018
    assert "short ended with status 3 after 0.0 s" in done.stderr


def test_one_waits_for_what_it_needs_and_no_longer(tmp_path: Path) -> None:
    scenario(
        tmp_path,
        """
        keep(sh("second", "[ -e socket ] && echo second >>order; kill -TERM $PPID; exec sleep 9", "socket"),
             sh("first", "sleep 0.2; echo first >>order; touch socket; exec sleep 9"))
        loop.run()
        """,
    )
    assert (tmp_path / "order").read_text() == "first\nsecond\n"


def test_orphans_and_other_programs_are_reaped_and_told_to_whom_they_concern(tmp_path: Path) -> None:
    done = scenario(
        tmp_path,
        """
        import ctypes
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # a subreaper: orphans come here, as they come to PID 1
        kept = keep(sh("parent", "(sleep 0.1 &) ; exec sleep 9"))
        kept.run(["/bin/sh", "-c", "exit 7"], lambda status: print("ended", status))
        def look():
            try:
                names = [open(f"/proc/{pid}/comm").read().strip() for pid in open(f"/proc/self/task/{os.getpid()}/children").read().split()]
            except FileNotFoundError:
                names = []
            print("left", *sorted(names))
            kept.end()
        loop.after(0.6, look)
        loop.run()
        """,
    )
    assert done.stdout.splitlines() == ["ended 7", "left sleep"]


def test_a_program_that_cannot_be_started_is_told_and_tried_again(tmp_path: Path) -> None:
    done = scenario(
        tmp_path,
        """
        keep(Service("absent", lambda exists: ("/nonexistent/program",)))
        loop.after(0.4, loop.end)
        loop.run()
        """,
    )
    assert done.stderr.count("absent cannot be started: [Errno 2]") >= 2


@pytest.mark.parametrize(("debug", "said"), [(False, False), (True, True)])
def test_what_speaks_of_the_pod_speaks_on_the_console_of_debug_images_only(
    tmp_path: Path, debug: bool, said: bool
) -> None:
    done = scenario(
        tmp_path,
        f"""
        keep(sh("agent", "echo secret >&2; exec sleep 1", said=False), sh("guest", "echo open >&2; exec sleep 1"),
             exists=lambda path: path == services.DEBUG and {debug})
        loop.after(0.5, loop.end)
        loop.run()
        """,
    )
    assert ("secret" in done.stderr) is said
    assert "open" in done.stderr


def test_it_ends_everything_and_then_itself_when_it_is_told_to(tmp_path: Path) -> None:
    code = _HEAD + 'keep(sh("one", "echo $$ >pid; exec sleep 60"))\nloop.run()\n'
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPO)})
    deadline = time.monotonic() + 15
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()
