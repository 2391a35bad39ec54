"""Instances as Linux namespaces: one `unshare` and the instance's own program each, nothing else.

    this process ─fork─► setpriv --pdeathsig ═ unshare --mount --pid --fork --kill-child ─fork─► sh boot.py's ═ program

The network namespace and the hostname are made by this process's network thread, which forks from inside them: so
everything is in place before the first instruction, and one instance costs two processes.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Final, ParamSpec, TypeVar

from providers import boot
from providers.simcloud.faults import Fate
from providers.simcloud.machines.base import Machine, Run
from providers.simcloud.machines.imds import MetadataService
from providers.simcloud.machines.network import Network
from providers.simcloud.options import SimcloudError

P = ParamSpec("P")
T = TypeVar("T")

# pdeathsig: unshare dies with this process's network thread; kill-child: the instance with unshare.
_DIE_WITH_US: Final = ("setpriv", "--pdeathsig", "KILL", "--")
_ISOLATE: Final = ("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--")
_TOOLS: Final = ("setpriv", "unshare", "mount", "sh")
_NOTHING: Final = ("sleep", "infinity")  # the program of an instance that never listens
_READ_SIZE: Final = 16384  # bytes of console output taken at a time


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the network thread has made of one boot."""

    link: str
    process: "subprocess.Popen[bytes]"


class NamespaceHost:
    """Boots instances; `machines.base.Host`."""

    def __init__(self, program: Sequence[str]) -> None:
        name, *arguments = program or boot.GUEST
        self._program = (shutil.which(name) or name, *arguments)  # an instance has a search path of its own
        # Namespaces are entered per thread, and children die with the thread that forked them: one, for life.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="simcloud-network")
        self._network: Network | None = None
        self.metadata = MetadataService()
        self._numbers = count()
        self.network = ""
        self.worker_address = ""

    @classmethod
    async def open(cls, program: Sequence[str], network: str = "") -> "NamespaceHost":
        """Claim a range and build the router. Raises SimcloudError, saying what this machine lacks."""
        host = cls(program)
        try:
            await host._in_thread(_check_tools, host._program)
            host._network = await host._in_thread(Network, network)
            await host.metadata.serve(host._network.metadata)
        except BaseException:
            await host.aclose()
            raise
        host.network, host.worker_address = str(host._network.range), str(host._network.worker)
        return host

    async def boot(self, machine: Machine, fate: Fate) -> Run:
        """See Host.boot."""
        starting = asyncio.ensure_future(self._in_thread(self._start, machine, fate))
        try:
            parts = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread can not be stopped half-way; what it makes must go.
            with contextlib.suppress(SimcloudError):
                await _Instance(self, machine, await starting).end()
            raise
        return _Instance(self, machine, parts)

    async def aclose(self) -> None:
        """See Host.aclose."""
        await self.metadata.aclose()
        if self._network is not None:
            network, self._network = self._network, None
            await self._in_thread(network.close)
        await asyncio.to_thread(self._thread.shutdown)

    async def disconnect(self, machine: Machine, link: str) -> None:
        """Take an instance off the network."""
        assert self._network is not None, "instances end before their host closes"
        self.metadata.forget(machine)
        await self._in_thread(self._network.disconnect, link)

    async def plug(self, machine: Machine, link: str, *, connected: bool) -> None:
        """Take an instance's cable out, or put it back in."""
        if self._network is not None:
            await self._in_thread(self._network.plug, machine, link, connected=connected)

    def _start(self, machine: Machine, fate: Fate) -> _Parts:
        assert self._network is not None, "instances boot while the host is open"
        link = f"vm{next(self._numbers)}"
        program = _NOTHING if fate is Fate.DEAF else self._program
        banner = f"simcloud: {machine.id} boots, {machine.hostname} at {machine.address}"
        steps = boot.script(banner, boot.kept(program))
        try:
            with self._network.instance(machine, link, reachable=fate is not Fate.UNREACHABLE):
                process = subprocess.Popen(
                    [*_DIE_WITH_US, *_ISOLATE, "sh", "-c", steps, machine.id, *program],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    bufsize=0,
                    cwd="/",
                    env=boot.environment(),
                    start_new_session=True,  # a Ctrl-C at the terminal is for simcloud
                )
        except OSError as error:
            raise SimcloudError(f"cannot boot {machine.id}: {error}") from error
        return _Parts(link, process)

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))


class _Instance:
    """One boot; `machines.base.Run`."""

    def __init__(self, host: NamespaceHost, machine: Machine, parts: _Parts) -> None:
        self._host = host
        self._machine = machine
        self._parts = parts
        self._loop = asyncio.get_running_loop()
        self._gone: asyncio.Future[int] = self._loop.create_future()
        self._ended = False
        assert parts.process.stdin is not None
        assert parts.process.stdout is not None
        self._input, self._output = parts.process.stdin, parts.process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._pidfd = os.pidfd_open(parts.process.pid)
        self._loop.add_reader(self._pidfd, self._reap)
        host.metadata.know(machine)
        self._loop.add_reader(self._output.fileno(), self._read)

    async def wait(self) -> int:
        """See Run.wait."""
        return await asyncio.shield(self._gone)

    async def plug(self, *, connected: bool) -> None:
        """See Run.plug."""
        if not self._ended:
            await self._host.plug(self._machine, self._parts.link, connected=connected)

    async def end(self) -> None:
        """See Run.end."""
        if self._ended:
            return
        self._ended = True
        self._read()
        self._loop.remove_reader(self._output.fileno())  # from here on it would be unshare's own words
        if not self._gone.done():
            _kill(self._parts.process.pid)
            await self.wait()
        self._output.close()
        self._input.close()
        await self._host.disconnect(self._machine, self._parts.link)

    def _read(self) -> None:
        """Keep what it prints. The first thing it prints says that it is ready to become its program."""
        try:
            data = os.read(self._output.fileno(), _READ_SIZE)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._output.fileno())
            return
        self._machine.console.write(data)
        if not self._input.closed:
            with contextlib.suppress(BrokenPipeError):  # it has died at its first step; its console says of what
                self._input.write(b"go\n")
            self._input.close()

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._gone.set_result(self._parts.process.wait())


def _kill(unshare: int) -> None:
    """End an instance by its init. The kernel ends all the others before the init can be reaped, and unshare ends
    when it has reaped it: so whoever sees unshare gone knows that nothing is left.
    """
    try:
        with open(f"/proc/{unshare}/task/{unshare}/children") as file:
            inits = [int(pid) for pid in file.read().split()]
    except OSError:
        inits = []
    for pid in inits or [unshare]:  # before it has forked there is only itself
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _check_tools(program: Sequence[str]) -> None:
    """Raises SimcloudError when instances can not be booted here, before any is asked for."""
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        raise SimcloudError(f"booting instances needs {' and '.join(missing)} (util-linux), not found on the PATH")
    if shutil.which(program[0]) is None:
        raise SimcloudError(f"the instances' program {program[0]!r} does not exist, or is not executable")
    if len(boot.kept(program)) > boot.KEPT_LIMIT:
        raise SimcloudError(f"too much of the instances' program lies in {', '.join(boot.PRIVATE)}; install elsewhere")
    trial = subprocess.run([*_ISOLATE, "true"], capture_output=True, text=True, check=False)
    if trial.returncode != 0:
        raise SimcloudError(
            f"this machine does not let instances be isolated: {trial.stderr.strip()}. It needs root, or a user"
            " namespace of one's own (`peerpods demo` makes one; or `unshare -Urnm peerpods simcloud ...`); a container"
            " must be privileged. Or choose --instances api-only"
        )
