"""The pod: its containers by id, its storages, its host name."""

import asyncio
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from adaptor.errors import Code, StatusError
from adaptor.protos import agent_pb2
from adaptor.telemetry import logs
from podvm_images.guest.development_agent import bundle, kernel, storages
from podvm_images.guest.development_agent.containers import Container
from podvm_images.guest.development_agent.files import Tree
from podvm_images.guest.development_agent.ledger import Ledger, remove
from podvm_images.guest.development_agent.machine import Machine
from podvm_images.guest.development_agent.runtime import Runtime, write_json

log = logs.get(__name__)

# Removed containers that are remembered, so that RemoveContainer may be repeated; a pod has a handful at a time.
REMEMBERED: Final = 256

# What containerd allows; it becomes a file name. 76 is containerd's limit for one.
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,75}")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a sandbox is made with; the process is in UTS and IPC namespaces of its own. `work` is the agent's folder."""

    runtime: Runtime
    machine: Machine
    tree: Tree
    ledger: Ledger
    root: str
    work: str


@dataclass(slots=True)
class _Slot:
    """A container's place: taken before it is made, so that its id is given once; `lock` orders what changes it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    container: Container | None = None


class Sandbox:
    """Everything of one pod. `destroy` leaves it as new."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._here = surroundings
        self._slots: dict[str, _Slot] = {}
        self._removed: dict[str, None] = {}
        self._mounts: dict[str, bool] = {}  # mount points of the pod's storages; True = to be unmounted
        self._pause: Container | None = None
        self._said: set[str] = set()

    def __len__(self) -> int:
        return len(self._slots)

    def create(self, request: agent_pb2.CreateSandboxRequest) -> None:
        """Prepare what the pod's containers share."""
        for storage in request.storages:
            self._prepare_shared(storage)
        if request.hostname:
            socket.sethostname(request.hostname)
        if any(request.dns):
            folder = f"{self._here.root}/sandbox"
            self._here.tree.make_directory(folder, 0o755)
            with open(f"{folder}/resolv.conf", "w", encoding="utf-8") as file:
                file.write("\n".join(request.dns))

    async def create_container(self, request: agent_pb2.CreateContainerRequest) -> None:
        """Make a container that waits for its start.

        Raises StatusError: INVALID_ARGUMENT for an id that can not be one, INTERNAL when it exists already or can not
        be made; nothing is left of it then.
        """
        id = request.container_id
        if not _ID.fullmatch(id):
            raise StatusError(Code.INVALID_ARGUMENT, f"container id {id!r} is not 1 to 76 of A-Za-z0-9_.-")
        if id in self._slots:
            raise StatusError(Code.INTERNAL, f"container {id} exists already")
        slot = self._slots[id] = _Slot()
        async with slot.lock:
            try:
                slot.container = await self._make(request)
            finally:
                if slot.container is None:
                    del self._slots[id]

    async def start_container(self, id: str) -> None:
        """Raises StatusError: INVALID_ARGUMENT for an unknown container, INTERNAL with the runtime's words."""
        container = self.container(id)
        async with self._slots[id].lock:
            await container.start()

    async def exec(self, request: agent_pb2.ExecProcessRequest) -> None:
        """Run one more process in a container; raises StatusError as `start_container` does."""
        container, omissions = self.container(request.container_id), list[str]()
        process = bundle.process(request.process, self._here.machine, omissions)
        self._say(omissions)
        await container.exec(request.exec_id, process)

    async def remove_container(self, id: str) -> None:
        """Kill and forget a container; repeating it does nothing. Raises StatusError INVALID_ARGUMENT for a stranger."""
        slot = self._slots.get(id)
        if slot is None:
            if id not in self._removed:
                self.container(id)  # says that it is unknown
            return
        async with slot.lock:  # whatever is being done to it comes to its end first
            if self._slots.get(id) is not slot or slot.container is None:
                return
            try:
                await slot.container.remove()
            finally:
                self._pause = None if self._pause is slot.container else self._pause
                del self._slots[id]
                self._removed[id] = None
                for oldest in list(self._removed)[:-REMEMBERED]:
                    del self._removed[oldest]

    def container(self, id: str) -> Container:
        """Raises StatusError INVALID_ARGUMENT for an unknown one, and for one that is still being made."""
        slot = self._slots.get(id)
        if slot is None or slot.container is None:
            raise StatusError(Code.INVALID_ARGUMENT, f"there is no container {id!r} in this sandbox")
        return slot.container

    async def destroy(self) -> None:
        """Leave nothing: no process, no mount, no file. Repeatable; goes on where one thing fails, and logs it."""
        while self._slots:
            results = await asyncio.gather(
                *(self.remove_container(id) for id in list(self._slots)), return_exceptions=True
            )
            for failure in (result for result in results if isinstance(result, Exception)):
                log.error("a container was not removed cleanly", reason=str(failure))
        for place in reversed([place for place, mounted in self._mounts.items() if mounted]):
            _quietly(kernel.unmount, place)
        self._mounts.clear()
        self._removed.clear()
        self._pause = None
        if left := self._here.ledger.clear():
            log.error("files could not be removed", paths=left)

    async def _make(self, request: agent_pb2.CreateContainerRequest) -> Container:
        here, id = self._here, request.container_id
        pause = any(
            one.driver == storages.GUEST_PULL and one.source == storages.PAUSE_IMAGE for one in request.storages
        )
        neighbour = self._pause if request.sandbox_pidns else None
        plan = bundle.container(
            request.oci,
            here.machine,
            pause=pause,
            pid_namespace=f"/proc/{neighbour.init.pid}/ns/pid" if neighbour else "",
        )
        self._say(plan.omissions)
        with ExitStack() as undo:
            for storage in request.storages:
                self._prepare(storage, undo)
            self._set(plan.sysctls, plan.network)
            folder = f"{here.work}/bundles/{id}"
            undo.callback(remove, folder)
            os.makedirs(folder, mode=0o700)
            write_json(f"{folder}/config.json", plan.config)
            init = await here.runtime.create(id, folder, terminal=request.oci.process.terminal)
            container = Container(id, request.oci, here.runtime, init, undo.pop_all(), own_pids=neighbour is None)
        if pause:
            self._pause = container
        return container

    def _prepare(self, storage: agent_pb2.Storage, undo: ExitStack) -> None:
        """A root file system goes with its container; other storages are the pod's, for containers are restarted."""
        if storage.driver != storages.GUEST_PULL:
            self._prepare_shared(storage)
            return
        if storages.GUEST_PULL not in self._said:
            self._said.add(storages.GUEST_PULL)
            log.warning("IMAGES ARE NOT PULLED: containers get the VM's own /usr, the pause container `sleep infinity`")
        undo.callback(self._here.ledger.drop, storage.mount_point)
        storages.prepare(storage, self._here.tree)
        undo.callback(_quietly, kernel.unmount, storage.mount_point)

    def _prepare_shared(self, storage: agent_pb2.Storage) -> None:
        if storage.mount_point not in self._mounts:
            self._mounts[storage.mount_point] = storages.prepare(storage, self._here.tree)

    def _set(self, sysctls: Mapping[str, str], network: str) -> None:
        """In the agent's own namespaces, which are the pod's; those of the network in `network`, if that is a path."""
        for name, value in sysctls.items():
            path = "/proc/sys/" + name.replace(".", "/")
            try:
                if network and name.startswith("net."):
                    kernel.write_in_network(network, path, value)
                else:
                    kernel.write(path, value)
            except (OSError, UnicodeError) as error:
                log.warning("sysctl not set", name=name, value=value, reason=str(error))

    def _say(self, omissions: Iterable[str]) -> None:
        for omission in omissions:
            if omission not in self._said:
                self._said.add(omission)
                log.warning("left out of a container's specification", what=omission)


def _quietly(deed: Callable[[str], None], path: str) -> None:
    """Undo what was done at `path`; a failure is logged, for the next thing has to be undone as well."""
    try:
        deed(path)
    except OSError as error:
        log.warning("something stays behind", path=path, reason=str(error))
