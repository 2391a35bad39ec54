"""The OCI runtime: crun or runc as a command, its errors made readable, its containers' processes made ours."""

import asyncio
import itertools
import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from adaptor.errors import Code, StatusError
from podvm_images.guest.development_agent.children import Children
from podvm_images.guest.development_agent.processes import Pipes, Process, pipes

# In order of preference: crun takes 10 ms to create and start a container, runc 40.
KNOWN: Final = ("crun", "runc")
# Seconds for one command: a thousand times the usual, so that a hung one does not keep its call for ever.
PATIENCE: Final = 30.0

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find(name: str = "") -> str:
    """The path of the runtime called `name`, or of the first known one. Raises FileNotFoundError with what to do."""
    folders = os.environ.get("PATH", _PATH).split(":")
    for path in (f"{folder}/{wanted}" for wanted in ([name] if name else KNOWN) for folder in folders):
        if os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(f"no OCI runtime: install {name or ' or '.join(KNOWN)} where PATH finds it")


class Runtime:
    """Commands of one runtime. Each raises StatusError INTERNAL with the runtime's own words."""

    def __init__(self, program: str, state: str, scratch: str, children: Children) -> None:
        """`state` is the runtime's own directory, one entry per container; `scratch` one for short-lived files."""
        self.name = os.path.basename(program)
        self._program = program
        self._state = state
        self._scratch = scratch
        self._children = children
        self._numbers = itertools.count(1)
        self._running = 0

    def known(self) -> list[str]:
        """Containers that the runtime has state of, perhaps from an agent before us."""
        return sorted(os.listdir(self._state)) if os.path.isdir(self._state) else []

    async def create(self, container: str, bundle: str, *, terminal: bool) -> Process:
        """Prepare the container whose config.json is in `bundle`; its first process waits for `start`."""
        return await self._launch("create", ["--bundle", bundle], container, terminal=terminal)

    async def start(self, container: str) -> None:
        await self._run("start", [container])

    async def exec(self, container: str, process: Mapping[str, Any]) -> Process:
        """Run a process of the OCI form in a started container."""
        file = f"{self._scratch}/{next(self._numbers)}.json"
        try:
            write_json(file, process)
            options = ["--detach", "--process", file]
            return await self._launch("exec", options, container, terminal=bool(process["terminal"]))
        finally:
            _remove(file)

    async def delete(self, container: str) -> None:
        """Forget a container, and kill what runs of it."""
        await self._run("delete", ["--force", container])
        self._tidy()

    async def _launch(self, verb: str, options: Sequence[str], container: str, *, terminal: bool) -> Process:
        self._running += 1  # until the process that the runtime leaves to us is watched
        pid_file = f"{self._scratch}/{next(self._numbers)}.pid"
        arguments = [*options, "--pid-file", pid_file, container]
        try:
            if terminal:
                ends: Pipes | int = await self._run_with_terminal(verb, arguments)
            else:
                ends = await self._run_with_pipes(verb, arguments)
            try:
                pid = _read_number(pid_file)
                return Process(pid, self._children.watch(pid), ends)
            except (OSError, ValueError) as error:
                _close(ends)
                raise StatusError(Code.INTERNAL, f"{self.name} {verb}: it named no process: {error}") from error
        finally:
            self._running -= 1
            _remove(pid_file)
            self._tidy()

    def _tidy(self) -> None:
        if not self._running:
            self._children.reap_strays()

    async def _run_with_pipes(self, verb: str, arguments: Sequence[str]) -> Pipes:
        theirs, ours = pipes()
        try:
            await self._run(verb, arguments, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    async def _run_with_terminal(self, verb: str, arguments: Sequence[str]) -> int:
        """The runtime makes the terminal inside the container, and sends its outer side here."""
        path = f"{self._scratch}/{next(self._numbers)}.console"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
            console.bind(path)
            console.listen(1)
            console.setblocking(False)
            try:
                await self._run(verb, ["--console-socket", path, *arguments])
                with console.accept()[0] as sender:  # it has sent before it ended
                    sender.setblocking(False)
                    _, fds, _, _ = socket.recv_fds(sender, 4096, 1)
                return fds[0]
            except (BlockingIOError, IndexError) as error:
                raise StatusError(Code.INTERNAL, f"{self.name} {verb}: it sent no terminal") from error
            finally:
                _remove(path)

    async def _run(self, verb: str, arguments: Sequence[str], stdio: Pipes | None = None) -> None:
        log = f"{self._scratch}/{next(self._numbers)}.log"
        command = [self._program, "--root", self._state, "--log", log, "--log-format", "json"]
        if self.name == "crun":
            command.append("--cgroup-manager=disabled")
        self._running += 1
        try:
            ended = self._children.watch(pid := _spawn([*command, verb, *arguments], stdio))
            done, _ = await asyncio.wait([ended], timeout=PATIENCE)
            if not done:
                os.kill(pid, signal.SIGKILL)
                await ended
                raise StatusError(Code.INTERNAL, f"{self.name} {verb} hung for {PATIENCE:.0f} s and was killed")
            if ended.result() != 0:
                reason = _last_error(log) or f"it ended with status {ended.result()} and said nothing"
                raise StatusError(Code.INTERNAL, f"{self.name} {verb}: {reason}")
        finally:
            self._running -= 1
            _remove(log)


def write_json(path: str, value: Mapping[str, Any]) -> None:
    """A new file with `value` in it, readable by us only."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as file:
        json.dump(value, file)


def _read_number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())


def _spawn(command: Sequence[str], stdio: Pipes | None) -> int:
    null = os.open(os.devnull, os.O_RDWR)
    try:
        given = stdio or Pipes(null, null, null)
        return os.posix_spawn(
            command[0],
            list(command),
            {"PATH": os.environ.get("PATH", _PATH)},
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(given)],
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores them, and containers would inherit that
        )
    finally:
        os.close(null)


def _close(ends: Pipes | int) -> None:
    for fd in [ends] if isinstance(ends, int) else ends:
        os.close(fd)


def _last_error(log: str) -> str:
    """The runtime's last complaint: its log holds a JSON object per line."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        with suppress(ValueError):
            entry = json.loads(line)
            if entry.get("level") in ("error", "fatal"):
                return str(entry.get("msg", ""))
    return lines[-1] if lines else ""


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
