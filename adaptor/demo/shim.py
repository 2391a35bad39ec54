"""Plays kata's shim for one pod, call for call as the real one was recorded (tests/golden/shim).

    async with Shim(hypervisor_socket, pod="demo/hello", netns=path) as shim:
        await shim.start_pod()
        main = await shim.run(["sh", "-c", "echo hello; sleep 3600"])
        ...
        await shim.stop_pod()

Each hypervisor call has its own connection, the agent one for the sandbox's whole life. Errors are the peers'
StatusErrors.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from google.protobuf.message import Message

from adaptor import names
from adaptor.demo import spec
from adaptor.errors import StatusError
from adaptor.protos import agent_pb2 as pb
from adaptor.protos import hypervisor_pb2 as hv
from adaptor.ttrpc.aio import Client

M = TypeVar("M", bound=Message)

_METADATA: Final = (("containerd-namespace-ttrpc", "k8s.io"),)
_READ: Final = 32768  # bytes per ReadStdout, as the shim asks
_CHUNK: Final = 1 << 20  # bytes per CopyFile
# Seconds; kata's own.
_STARTVM_TIMEOUT: Final = 600.0
_CHECK_TIMEOUT: Final = 30.0
_CHECK_INTERVAL: Final = 5.0
_CALL_TIMEOUT: Final = 60.0
_DIAL_TIMEOUT: Final = 30.0
_RESOLV_CONF: Final = b"search svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"


@dataclass
class Process:
    """A container's or an exec's process as the shim knows it: what it wrote, and the task that waits for it."""

    container_id: str
    exec_id: str
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: "asyncio.Future[int] | None" = None

    async def until(self, condition: Callable[[bytes], bool], timeout: float = 10.0) -> bytes:
        """What stdout holds once it meets `condition`; raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while not condition(bytes(self.stdout)):
                self.changed.clear()
                await self.changed.wait()
        return bytes(self.stdout)

    async def exit_code(self, timeout: float = 10.0) -> int:
        """Its status once both streams have ended."""
        assert self.ended is not None
        return await asyncio.wait_for(asyncio.shield(self.ended), timeout)


class Shim:
    """One sandbox's shim."""

    def __init__(
        self,
        hypervisor_socket: str,
        *,
        pod: str,
        netns: str,
        sandbox_id: str = "",
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        self.sandbox_id = sandbox_id or secrets.token_hex(32)
        self.pod = pod
        self._hypervisor_socket = hypervisor_socket
        self._netns = netns
        self._annotations = annotations or {}
        self._agent: Client | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._resolv_conf = ""
        self._pause: Process | None = None
        self.checks_failed: list[StatusError] = []
        self._stopping = False

    # -- hypervisor calls -----------------------------------------------------------------------

    async def create_vm(self) -> str:
        """CreateVM; returns the agent socket's path."""
        namespace, _, name = self.pod.partition("/")
        nine = dict.fromkeys((names.MACHINE_TYPE, names.IMAGE, names.INITDATA, names.DEFAULT_GPU_MODEL), "")
        nine |= dict.fromkeys((names.DEFAULT_VCPUS, names.DEFAULT_MEMORY, names.DEFAULT_GPUS), "0")
        nine |= {names.CRI_SANDBOX_NAME: name, names.CRI_SANDBOX_NAMESPACE: namespace, **self._annotations}
        request = hv.CreateVMRequest(id=self.sandbox_id, annotations=nine, network_namespace_path=self._netns)
        answer = await self._hypervisor("CreateVM", request, hv.CreateVMResponse, None, _METADATA)
        self.agent_path = answer.agent_socket_path
        return self.agent_path

    async def start_vm(self) -> None:
        """StartVM; the only call without metadata."""
        await self._hypervisor(
            "StartVM", hv.StartVMRequest(id=self.sandbox_id), hv.StartVMResponse, _STARTVM_TIMEOUT, ()
        )

    async def stop_vm(self) -> None:
        """StopVM, then the agent connection is closed, as the shim does."""
        self._stopping = True  # Checks go on, and the agent may be gone before the answer
        try:
            await self._hypervisor("StopVM", hv.StopVMRequest(id=self.sandbox_id), hv.StopVMResponse, None, _METADATA)
        finally:
            await self.aclose()

    async def _hypervisor(
        self,
        method: str,
        request: Message,
        response: type[M],
        timeout: float | None,
        metadata: tuple[tuple[str, str], ...],
    ) -> M:
        async with await Client.connect_unix(self._hypervisor_socket) as client:
            return await client.call(names.HYPERVISOR_SERVICE, method, request, response, timeout, metadata)

    # -- the sandbox ----------------------------------------------------------------------------

    async def connect(self) -> None:
        """Dial the agent socket and make the first Check."""
        async with asyncio.timeout(_DIAL_TIMEOUT):
            self._agent = await Client.connect_unix(self.agent_path)
        await self.check()

    async def check(self) -> None:
        """Health.Check."""
        await self._call("Check", pb.CheckRequest(), pb.HealthCheckResponse, _CHECK_TIMEOUT, names.HEALTH_SERVICE)

    async def create_sandbox(self) -> None:
        """CreateSandbox and what surrounds it."""
        shm = pb.Storage(
            driver="ephemeral",
            source="shm",
            fstype="tmpfs",
            options=["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"],
            mount_point=spec.SHM,
        )
        request = pb.CreateSandboxRequest(
            hostname=self.pod.rpartition("/")[2],
            dns=_RESOLV_CONF.decode().split("\n"),
            storages=[shm],
            sandbox_id=self.sandbox_id,
        )
        await self._call("CreateSandbox", request, pb.Empty, 300)
        await self._call("GetGuestDetails", pb.GuestDetailsRequest(mem_block_size=True), pb.GuestDetailsResponse)

    async def start_pause(self) -> None:
        """The pause container, and the three calls that stay for the pod's life."""
        self._resolv_conf = await self.copy_file("resolv.conf", _RESOLV_CONF)
        self._pause = await self._start_container(self.sandbox_id, ["/pause"], "pause")
        self._pause.ended = self._spawn(self._wait(self._pause))
        self._spawn(self._call("GetOOMEvent", pb.Empty(), pb.OOMEvent, None))
        self._spawn(self._check_for_ever())

    async def start_pod(self) -> None:
        """Everything that RunPodSandbox makes the shim do."""
        await self.create_vm()
        await self.start_vm()
        await self.connect()
        await self.create_sandbox()
        await self.start_pause()

    async def stop_pod(self) -> None:
        """Everything that StopPodSandbox makes the shim do."""
        await self.stop_sandbox()
        await self.stop_vm()

    async def stop_sandbox(self) -> None:
        """The agent's half of stop_pod."""
        if self._pause is not None:
            await self.signal(self._pause, 9)
            await self._pause.exit_code()
            await self.remove(self._pause)
        await self._call("DestroySandbox", pb.Empty(), pb.Empty)

    # -- containers and processes ---------------------------------------------------------------

    async def copy_file(self, name: str, data: bytes) -> str:
        """Copy a file for this sandbox in chunks, one after the other; returns its path in the guest."""
        path = f"{spec.SHARED}/{self.sandbox_id}-{secrets.token_hex(8)}-{name}"
        for offset in range(0, max(len(data), 1), _CHUNK):
            request = pb.CopyFileRequest(
                path=path,
                file_size=len(data),
                file_mode=0o100644,
                dir_mode=2147484136,  # Go's os.ModeDir | 0750, as recorded
                offset=offset,
                data=data[offset : offset + _CHUNK],
            )
            await self._call("CopyFile", request, pb.Empty)
        return path

    async def create_container(self, args: list[str], container_id: str = "") -> str:
        """CreateContainer alone; returns its id."""
        container_id = container_id or secrets.token_hex(32)
        request = spec.container(
            self.sandbox_id,
            container_id,
            self.pod,
            args,
            image="registry.local/demo:1",
            resolv_conf=self._resolv_conf,
        )
        await self._call("CreateContainer", request, pb.Empty)
        return container_id

    async def start_container(self, container_id: str) -> Process:
        """StartContainer, then read its streams until they end."""
        await self._call("StartContainer", pb.StartContainerRequest(container_id=container_id), pb.Empty)
        return self._follow(Process(container_id, container_id), stderr=True)

    async def run(self, args: list[str]) -> Process:
        """A container, created and started."""
        return await self.start_container(await self.create_container(args))

    async def exec(self, container: Process, args: list[str], *, terminal: bool = False) -> Process:
        """ExecProcess, then read its streams; a terminal has only one."""
        process = Process(container.container_id, secrets.token_hex(16))
        request = pb.ExecProcessRequest(
            container_id=process.container_id,
            exec_id=process.exec_id,
            process=spec.process(args, terminal=terminal),
        )
        await self._call("ExecProcess", request, pb.Empty)
        return self._follow(process, stderr=not terminal)

    async def resize(self, process: Process, rows: int, columns: int) -> None:
        """TtyWinResize."""
        request = pb.TtyWinResizeRequest(
            container_id=process.container_id, exec_id=process.exec_id, row=rows, column=columns
        )
        await self._call("TtyWinResize", request, pb.Empty)

    async def write(self, process: Process, data: bytes) -> None:
        """WriteStdin, in the pieces the shim makes; no metadata."""
        for start in range(0, len(data), _READ):
            request = pb.WriteStreamRequest(
                container_id=process.container_id, exec_id=process.exec_id, data=data[start : start + _READ]
            )
            await self._call("WriteStdin", request, pb.WriteStreamResponse, metadata=())

    async def signal(self, process: Process, number: int) -> None:
        """SignalProcess to every process of the container."""
        request = pb.SignalProcessRequest(container_id=process.container_id, signal=number)
        await self._call("SignalProcess", request, pb.Empty)

    async def stop(self, process: Process, number: int = 15) -> int:
        """Stop a container as CRI does: signal, both streams end, WaitProcess, SIGKILL, WaitProcess again, remove."""
        await self.signal(process, number)
        code = await process.exit_code()
        await self.signal(process, 9)
        again = await self._wait(process)
        if again != code:
            raise AssertionError(f"WaitProcess answered {code}, then {again}")
        await self.remove(process)
        return code

    async def remove(self, process: Process) -> None:
        """RemoveContainer and the call that always follows it."""
        await self._call("RemoveContainer", pb.RemoveContainerRequest(container_id=process.container_id), pb.Empty)
        await self._call("RemoveStaleVirtiofsShareMounts", pb.Empty(), pb.Empty)

    # -- plumbing -------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the agent connection and end what waits on it."""
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._agent is not None:
            await self._agent.aclose()
            self._agent = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _start_container(self, container_id: str, args: list[str], image: str) -> Process:
        request = spec.container(
            self.sandbox_id, container_id, self.pod, args, image=image, resolv_conf=self._resolv_conf
        )
        await self._call("CreateContainer", request, pb.Empty)
        await self._call("StartContainer", pb.StartContainerRequest(container_id=container_id), pb.Empty)
        return Process(container_id, container_id)

    def _follow(self, process: Process, *, stderr: bool) -> Process:
        streams = [self._spawn(self._read(process, "ReadStdout", process.stdout))]
        if stderr:
            streams.append(self._spawn(self._read(process, "ReadStderr", process.stderr)))

        async def wait() -> int:
            await asyncio.gather(*streams)
            return await self._wait(process)

        process.ended = self._spawn(wait())
        return process

    async def _read(self, process: Process, method: str, into: bytearray) -> None:
        request = pb.ReadStreamRequest(container_id=process.container_id, exec_id=process.exec_id, len=_READ)
        while True:
            try:
                answer = await self._call(method, request, pb.ReadStreamResponse, None)
            except StatusError:  # an error ends the stream as an empty answer does
                return
            if not answer.data:
                return
            into += answer.data
            process.changed.set()

    async def _wait(self, process: Process) -> int:
        exec_id = process.exec_id
        request = pb.WaitProcessRequest(container_id=process.container_id, exec_id=exec_id)
        return (await self._call("WaitProcess", request, pb.WaitProcessResponse, None)).status

    async def _check_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_INTERVAL)
            try:
                await self.check()
            except StatusError as error:  # the real shim kills the pod at this point
                if not self._stopping:
                    self.checks_failed.append(error)
                return

    async def _call(
        self,
        method: str,
        request: Message,
        response: type[M],
        timeout: float | None = _CALL_TIMEOUT,
        service: str = names.AGENT_SERVICE,
        *,
        metadata: tuple[tuple[str, str], ...] = _METADATA,
    ) -> M:
        if self._agent is None:
            raise RuntimeError("connect() comes before agent calls")
        return await self._agent.call(service, method, request, response, timeout, metadata)

    def _spawn(self, work: Any) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(_looked_at)
        return task


def _looked_at(task: "asyncio.Task[Any]") -> None:
    """Calls that stay open end with the connection; their error is no news."""
    if not task.cancelled():
        task.exception()
