"""One container: its init, the processes executed in it, its end."""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any, Final

from adaptor.errors import Code, StatusError
from adaptor.protos import agent_pb2
from adaptor.telemetry import logs
from podvm_images.guest.development_agent import stats
from podvm_images.guest.development_agent.files import Tree
from podvm_images.guest.development_agent.processes import Process
from podvm_images.guest.development_agent.runtime import Runtime

log = logs.get(__name__)

# Where a container says why it ended, unless its pod chose another place; and how much of that Kubernetes keeps.
_TERMINATION_PATH: Final = "io.kubernetes.container.terminationMessagePath"
_TERMINATION_DEFAULT: Final = "/dev/termination-log"
_TERMINATION_LIMIT: Final = 4096

# Ended processes whose status is kept: a probe makes one every few seconds for the pod's life, and the shim asks for
# each status within milliseconds.
KEPT: Final = 64
# Seconds from SIGKILL to the end of a container's processes; the kernel takes milliseconds unless a disk hangs.
KILL_PATIENCE: Final = 3.0


class Container:
    """A container that the runtime has made and `start` sets going."""

    def __init__(
        self, id: str, spec: agent_pb2.Spec, runtime: Runtime, init: Process, undo: ExitStack, *, own_pids: bool
    ) -> None:
        """`undo` takes away what was made for it beside the runtime's state."""
        self.id = id
        self.init = init
        self.memory_limit = spec.linux.resources.memory.limit  # bytes, 0 = none; nobody enforces it
        self._spec = spec
        self._runtime = runtime
        self._undo = undo
        self._own_pids = own_pids
        # Without a PID namespace of its own a container is told from its neighbours by its mounts.
        self._namespace: stats.NamespaceId | None = None
        with suppress(OSError):  # its init was killed already
            self._namespace = stats.namespace_of(init.pid, "pid" if own_pids else "mnt")
        self._processes: dict[str, Process] = {}
        self._starting: set[str] = set()
        self._removed = False

    async def start(self) -> None:
        """Let the init go on. Raises StatusError INTERNAL with the runtime's words."""
        await self._runtime.start(self.id)

    async def exec(self, exec_id: str, process: Mapping[str, Any]) -> None:
        """Run a process of the OCI form; raises StatusError INTERNAL with the runtime's words."""
        if exec_id in ("", self.id) or exec_id in self._starting or exec_id in self._processes:
            raise StatusError(Code.INTERNAL, f"container {self.id} has a process {exec_id!r} already")
        self._starting.add(exec_id)
        try:
            started = await self._runtime.exec(self.id, process)
        finally:
            self._starting.discard(exec_id)
        self._processes[exec_id] = started
        if self._removed:
            self._let_go(exec_id)
            raise StatusError(Code.INTERNAL, f"container {self.id} was removed meanwhile")
        ended = [name for name, one in self._processes.items() if one.ended]
        for name in ended[:-KEPT]:
            self._let_go(name)

    def process(self, exec_id: str) -> Process:
        """The process executed as `exec_id`; empty or the container's id is the init. Raises StatusError NOT_FOUND."""
        if exec_id in ("", self.id):
            return self.init
        if (found := self._processes.get(exec_id)) is None:
            raise StatusError(Code.NOT_FOUND, f"container {self.id} has no process {exec_id}")
        return found

    def signal(self, number: int, exec_id: str = "") -> None:
        """Signal one process, or all of them when `exec_id` is empty.

        SIGTERM becomes SIGKILL for an init that has no handler for it: the kernel would not deliver it, and
        kata-agent does the same. Raises StatusError: NOT_FOUND, or INVALID_ARGUMENT for what is no signal.
        """
        if not 0 < number < signal.NSIG:
            raise StatusError(Code.INVALID_ARGUMENT, f"there is no signal {number}")
        process = self.process(exec_id)
        others = [pid for pid in self._members() if pid != self.init.pid] if not exec_id else []
        deaf = process is self.init and self._own_pids and not process.handles(signal.SIGTERM)
        process.signal(signal.SIGKILL if number == signal.SIGTERM and deaf else number)
        for pid in others:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def termination_log(self, tree: Tree) -> str:
        """The end of its termination message; empty if it left none. `tree` holds what is mounted into containers."""
        path = self._spec.annotations.get(_TERMINATION_PATH) or _TERMINATION_DEFAULT
        sources = [mount.source for mount in self._spec.mounts if mount.destination == path]
        try:
            text = tree.read(sources[-1] if sources else self._spec.root.path + path, _TERMINATION_LIMIT)
        except FileNotFoundError:
            return ""
        return text.decode("utf-8", "replace")

    def stats(self) -> agent_pb2.StatsContainerResponse:
        """What its processes use now; of those that have ended, what their parents have collected."""
        return stats.report(self._members(), self.memory_limit)

    async def remove(self) -> None:
        """Kill it and take away all that was made for it; nothing of it is left even if an error is raised."""
        self._removed = True
        self.signal(signal.SIGKILL)
        for process in self._processes.values():
            process.signal(signal.SIGKILL)
        try:
            ends = [asyncio.ensure_future(one.wait()) for one in (self.init, *self._processes.values())]
            _, late = await asyncio.wait(ends, timeout=KILL_PATIENCE)
            for end in late:
                end.cancel()
            if late:
                log.warning("processes outlive SIGKILL: left to the kernel", container=self.id, processes=len(late))
            await self._runtime.delete(self.id)
        finally:
            for name in list(self._processes):
                self._let_go(name)
            self.init.close()
            self._undo.close()

    def _members(self) -> list[int]:
        return [] if self._namespace is None else stats.members(self._namespace)

    def _let_go(self, exec_id: str) -> None:
        process = self._processes.pop(exec_id)
        process.signal(signal.SIGKILL)
        process.close()
