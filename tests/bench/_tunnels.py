"""What an idle tunnel holds of memory on each side, and what it costs to set up."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.bench._chains import Ours, Papers
from tests.bench._load import Load, cpu_seconds
from tests.bench._report import Target
from tests.bench._report import load as load_of_machine

_RSS_TARGET = 48.0  # KiB per idle tunnel and side
_SETUP_TARGET = 4.0  # ms of CPU per tunnel and side, mTLS, Hello, Bind and the session's own calls
_BASE_TARGET = 40.0  # MiB of a relay without a tunnel


def run(tunnels: int) -> list[Target]:
    """Measure; raises Missing."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench")))
        load = Load(directory)
        stack.callback(load.close)
        ours = Ours(directory, Papers(directory), load.echo_path)
        stack.callback(ours.close)
        base = rss(ours.pids[0])
        targets = [Target("relay without tunnels: RSS", base / 1024, _BASE_TARGET, "MiB")]
        _use(ours, load, 1)  # what a process allocates once is no tunnel's
        before = [(rss(pid), cpu_seconds(pid)) for pid in ours.pids]
        pattern = ours.open(tunnels)
        spent = [cpu_seconds(pid) - cpu for pid, (_, cpu) in zip(ours.pids, before, strict=True)]
        process = load.idle(pattern, tunnels)
        for side, pid, (start, _), cpu in zip(("relay", "guest side"), ours.pids, before, spent, strict=True):
            each, setup = (rss(pid) - start) / tunnels, cpu * 1000 / tunnels
            targets.append(Target(f"{side}: RSS of an idle tunnel", each, _RSS_TARGET, "KiB"))
            targets.append(Target(f"{side}: CPU to set a tunnel up", setup, _SETUP_TARGET, "ms"))
        process.communicate("")
        ours.shut()
        print(f"{tunnels} tunnels, idle after one call each; {load_of_machine()}")
        return targets


def rss(pid: int) -> int:
    """KiB of a process that are in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def _use(ours: Ours, load: Load, tunnels: int) -> None:
    load.idle(ours.open(tunnels), tunnels).communicate("")
    ours.shut()
