"""A simulated pod VM, as simcloud boots one: namespaces of its own, a tmpfs on /run, and the real development agent."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

REPO: Final = Path(__file__).parents[3]
SOCKET: Final = "/run/kata-containers/agent.sock"
# Seconds for something that takes milliseconds, on a machine where other tests run too.
PATIENCE: Final = 20.0

_INIT: Final = "mount -t tmpfs tmpfs /run && echo ready && sleep infinity & wait"


def eventually(look: Callable[[], T | None], what: str) -> T:
    """The first thing that `look` finds; for what another process does in its own time."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE} s"
        time.sleep(0.005)
    return found


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


class Traces(NamedTuple):
    """What can be left behind. Descriptors are the agent's; the rest is the whole VM's."""

    processes: list[str]
    mounts: list[str]
    files: list[str]
    descriptors: list[str]


class Vm:
    """`restricted` puts it into a user namespace with a single user id, whose network is not its own."""

    def __init__(self, log: Path, *, restricted: bool = False) -> None:
        self.log = log
        self._restricted = restricted
        namespaces = ["--user", "--map-root-user"] if restricted else ["--net"]
        self._outer = subprocess.Popen(
            ["unshare", *namespaces, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", _INIT],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._outer.stdout is not None
        assert select.select([self._outer.stdout], [], [], PATIENCE)[0], "the VM did not come up"
        assert self._outer.stdout.readline() == b"ready\n"
        self.init = children_of(self._outer.pid)[0]
        self._launchers: list[subprocess.Popen[bytes]] = []
        self.agent = 0
        self.pristine = Traces([], [], [], [])

    @property
    def socket(self) -> str:
        return f"/proc/{self.init}/root{SOCKET}"

    def resident(self) -> int:
        """KiB of memory that the agent holds."""
        status = Path(f"/proc/{self.agent}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def path(self, inside: str) -> Path:
        """A file of the VM as the test sees it."""
        return Path(f"/proc/{self.init}/root{inside}")

    def start_agent(self, *options: str) -> None:
        """Run the agent until it listens."""
        launcher = self._launch(*options)
        self.agent = eventually(lambda: children_of(launcher.pid), "the agent is started")[0]
        eventually(lambda: launcher.poll() is not None or self._listens(), "the agent listens")
        assert launcher.poll() is None, self.log.read_text()
        self.pristine = self.traces()

    def check_pristine(self) -> None:
        """Nothing but the open connections of clients is there that was not when the agent had just started."""
        for what, now, before in zip(Traces._fields, self.traces(), self.pristine, strict=True):
            if what != "descriptors":
                assert now == before, f"{what}: {now} instead of {before}"

    def check_disconnected(self) -> None:
        """With every client gone, the agent holds what it held at first; it sees their going in its own time."""
        eventually(lambda: self.traces().descriptors == self.pristine.descriptors, "the agent drops descriptors")

    def refused_agent(self, *options: str) -> tuple[int, str]:
        """Run an agent that gives up: its exit status and what the log has by then."""
        return self._launch(*options).wait(PATIENCE), self.log.read_text()

    def kill_agent(self, number: signal.Signals) -> int:
        """The agent's exit status after signal `number`."""
        launcher = self._launchers[-1]
        os.kill(self.agent, number)
        return launcher.wait(PATIENCE)

    def traces(self) -> Traces:
        """Call it when nothing is going on."""
        mounts = Path(f"/proc/{self.agent}/mountinfo").read_text().splitlines()
        return Traces(
            processes=sorted(self.processes()),
            # A VM begins with the mounts of here; other tests' pods come and go among them.
            mounts=[line.split(" ", 3)[3] for line in mounts if " nsfs " not in line],
            files=sorted(str(path) for path in self.path("/run").rglob("*")),
            descriptors=sorted(target.partition(":")[0] for target in self._descriptors()),
        )

    def processes(self) -> list[str]:
        """Everything that is alive in the VM by name; `name stopped` and `name zombie` for what is not running."""
        found = []
        for entry in self.path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(FileNotFoundError, ProcessLookupError):
                    name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
                    found.append(name + {"T": " stopped", "Z": " zombie"}.get(rest.split()[0], ""))
        return found

    def run(self, *command: str) -> str:
        """Output of a command in the VM."""
        return subprocess.run(
            [*self._enter(), *command], check=True, capture_output=True, text=True, timeout=PATIENCE
        ).stdout

    def close(self) -> None:
        self._outer.kill()
        self._outer.wait(PATIENCE)
        for launcher in self._launchers:
            launcher.wait(PATIENCE)
        assert self._outer.stdout is not None
        self._outer.stdout.close()

    def _launch(self, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "podvm_images.guest.development_agent", "--socket", SOCKET, *options]
        with self.log.open("ab") as log:
            launcher = subprocess.Popen([*self._enter(), *command], cwd=REPO, stdin=subprocess.DEVNULL, stderr=log)
        self._launchers.append(launcher)
        return launcher

    def _enter(self) -> list[str]:
        user = ["--user", "--preserve-credentials"] if self._restricted else ["--net"]
        return ["nsenter", "--target", str(self.init), *user, "--mount", "--pid", "--wd=.", "--"]

    def _listens(self) -> bool:
        """Seen from outside: a connection to try it would be a trace in the agent."""
        held = self._descriptors()
        table = Path(f"/proc/{self.agent}/net/unix").read_text().splitlines()
        return any(f"socket:[{line.split()[6]}]" in held for line in table if line.endswith(f" {SOCKET}"))

    def _descriptors(self) -> list[str]:
        found = []
        for fd in Path(f"/proc/{self.agent}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found.append(os.readlink(fd))
        return found
