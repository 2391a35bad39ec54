"""The load generator and the echo behind the tunnel: load.c, compiled when first needed."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_name("load.c")
TUNNEL_CORE = 0
LOAD_CORE = 1


class Missing(Exception):
    """A program that a benchmark needs is not on this machine."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement: `calls` in `seconds`, and the CPU seconds that both sides of the tunnel took for them."""

    calls: int
    seconds: float
    p50_us: float
    p99_us: float
    cpu: float

    @property
    def cpu_per_call(self) -> float:
        return self.cpu / self.calls


def find(program: str, package: str) -> str:
    """Where `program` is. Raises Missing, with how to get it."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if not found:
        raise Missing(f"{program} is needed and not here: install the package {package} (apt, dnf: install {package})")
    return found


def on_core(core: int) -> list[str]:
    """What to put before a command, so that it stays on this core; on a machine with one, all share it."""
    return [find("taskset", "util-linux"), "-c", str(core % (os.cpu_count() or 1))]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process with all its threads, to the nanosecond: its clock, by Linux's numbering of such clocks."""
    return time.clock_gettime((~pid << 3) | 2)


class Load:
    """Compiled in `directory`, with an echo already serving at `echo_path`. Close it."""

    def __init__(self, directory: Path) -> None:
        self.echo_path = str(directory / "echo.sock")
        program = str(directory / "load")
        subprocess.run([find("cc", "gcc"), "-O2", "-o", program, str(_SOURCE)], check=True)
        self._words = [*on_core(LOAD_CORE), program]
        self._echo = subprocess.Popen([*self._words, "echo", self.echo_path], stdin=subprocess.DEVNULL)

    def call(
        self, pattern: str, connections: int, seconds: float, what: str, size: int, pids: tuple[int, int]
    ) -> Figures:
        """Run calls through the tunnels at `pattern`, which the processes `pids` carry."""
        words = [*self._words, "call", pattern, str(connections), str(seconds), what, str(size)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as load:
            assert load.stdout is not None
            begun = load.stdout.readline()
            before = sum(map(cpu_seconds, pids))
            line = load.stdout.readline()
            cpu = sum(map(cpu_seconds, pids)) - before
        if begun != "go\n" or load.returncode:
            raise RuntimeError(f"the load failed: {words}")
        return Figures(**json.loads(line), cpu=cpu)

    def idle(self, pattern: str, connections: int) -> "subprocess.Popen[str]":
        """Connections that have made one call each; they end when the returned process does."""
        words = [*self._words, "idle", pattern, str(connections)]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        if process.stdout.readline() != "idle\n":
            raise RuntimeError("the load failed")
        return process

    def close(self) -> None:
        self._echo.kill()
        self._echo.wait()
