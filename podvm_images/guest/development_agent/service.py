"""grpc.AgentService and grpc.Health: from each call to the part that does it, and errors to statuses kata knows.

NOT_FOUND for an unknown process, INVALID_ARGUMENT for an unknown container, INTERNAL for the rest, as kata-agent has
it; what this agent does not do at all is UNIMPLEMENTED. Calls that change something run to their end even if the
caller goes away: half a container helps nobody, and DestroySandbox takes away whole ones.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from google.protobuf.message import Message

from adaptor.errors import Code, StatusError
from adaptor.protos import agent_pb2
from adaptor.telemetry import logs
from adaptor.ttrpc.aio import Call, Handler, Service
from podvm_images.guest.development_agent import defaults, stats, storages
from podvm_images.guest.development_agent.containers import Container
from podvm_images.guest.development_agent.defaults import Defaults
from podvm_images.guest.development_agent.files import Tree
from podvm_images.guest.development_agent.processes import Process
from podvm_images.guest.development_agent.sandbox import Sandbox

log = logs.get(__name__)

VERSION: Final = "0-development"  # of kata-agent, where anybody asks: this is none
EMPTY: Final = agent_pb2.Empty()


class Agent:
    """The two services over one sandbox."""

    def __init__(self, sandbox: Sandbox, tree: Tree, policy: Defaults | None = None) -> None:
        """Without a `policy` everything is allowed."""
        self._sandbox = sandbox
        self._tree = tree
        self._policy = policy
        self._deeds: set[asyncio.Task[Any]] = set()

    def services(self) -> list[Service]:
        """What the ttrpc server serves."""
        calls: dict[str, Callable[[Any], Awaitable[Message]]] = {
            "CreateSandbox": self._create_sandbox,
            "DestroySandbox": self._destroy_sandbox,
            "CreateContainer": self._create_container,
            "StartContainer": self._start_container,
            "RemoveContainer": self._remove_container,
            "UpdateContainer": self._update_container,
            "StatsContainer": self._stats_container,
            "PauseContainer": self._pause_container,
            "ResumeContainer": self._resume_container,
            "ExecProcess": self._exec_process,
            "SignalProcess": self._signal_process,
            "WaitProcess": self._wait_process,
            "WriteStdin": self._write_stdin,
            "CloseStdin": self._close_stdin,
            "ReadStdout": self._read_stdout,
            "ReadStderr": self._read_stderr,
            "TtyWinResize": self._resize,
            "CopyFile": self._copy_file,
            "SetPolicy": self._set_policy,
            "GetGuestDetails": self._guest_details,
            "GetMetrics": self._metrics,
            "GetOOMEvent": self._oom_event,
            "GetDiagnosticData": self._diagnostic_data,
            "RemoveStaleVirtiofsShareMounts": self._nothing,
        }
        health: dict[str, Callable[[Any], Awaitable[Message]]] = {"Check": self._check, "Version": self._version}
        named = agent_pb2.DESCRIPTOR.services_by_name
        return [
            Service(named["AgentService"], {name: self._judged(name, _told(call)) for name, call in calls.items()}),
            Service(named["Health"], {name: _told(call) for name, call in health.items()}),
        ]

    async def aclose(self) -> None:
        """Let deeds come to their end, then leave nothing of the sandbox."""
        while self._deeds:
            await asyncio.wait(self._deeds)
        await self._sandbox.destroy()

    # -- the pod ----------------------------------------------------------------------------------
    async def _create_sandbox(self, request: agent_pb2.CreateSandboxRequest) -> agent_pb2.Empty:
        self._sandbox.create(request)
        return EMPTY

    async def _destroy_sandbox(self, _: agent_pb2.Empty) -> agent_pb2.Empty:
        await self._whole(self._sandbox.destroy())
        return EMPTY

    async def _set_policy(self, request: agent_pb2.SetPolicyRequest) -> agent_pb2.Empty:
        if self._policy is not None:
            self._policy = defaults.read(request.policy)
        log.info("policy stored", characters=len(request.policy), enforced=self._policy is not None)
        return EMPTY

    async def _copy_file(self, request: agent_pb2.CopyFileRequest) -> agent_pb2.Empty:
        self._tree.copy(request)
        return EMPTY

    async def _guest_details(self, request: agent_pb2.GuestDetailsRequest) -> agent_pb2.GuestDetailsResponse:
        details = agent_pb2.AgentDetails(version=VERSION, storage_handlers=storages.DRIVERS)
        size = stats.memory_block_size() if request.mem_block_size else 0
        return agent_pb2.GuestDetailsResponse(mem_block_size_bytes=size, agent_details=details)

    async def _metrics(self, _: agent_pb2.Empty) -> agent_pb2.Metrics:
        return agent_pb2.Metrics(metrics=stats.metrics(len(self._sandbox)))

    async def _oom_event(self, _: agent_pb2.Empty) -> agent_pb2.OOMEvent:
        await asyncio.get_running_loop().create_future()  # no cgroup, no event: pending until the caller goes away
        raise AssertionError("nothing completes this future")

    async def _diagnostic_data(
        self, request: agent_pb2.GetDiagnosticDataRequest
    ) -> agent_pb2.GetDiagnosticDataResponse:
        data = self._sandbox.container(request.container_id).termination_log(self._tree)
        return agent_pb2.GetDiagnosticDataResponse(data=data)

    async def _nothing(self, _: agent_pb2.Empty) -> agent_pb2.Empty:
        return EMPTY

    async def _check(self, _: agent_pb2.CheckRequest) -> agent_pb2.HealthCheckResponse:
        return agent_pb2.HealthCheckResponse(status=agent_pb2.HealthCheckResponse.SERVING)

    async def _version(self, _: agent_pb2.CheckRequest) -> agent_pb2.VersionCheckResponse:
        return agent_pb2.VersionCheckResponse(grpc_version=VERSION, agent_version=VERSION)

    # -- containers -------------------------------------------------------------------------------
    async def _create_container(self, request: agent_pb2.CreateContainerRequest) -> agent_pb2.Empty:
        await self._whole(self._sandbox.create_container(request))
        return EMPTY

    async def _start_container(self, request: agent_pb2.StartContainerRequest) -> agent_pb2.Empty:
        await self._whole(self._sandbox.start_container(request.container_id))
        return EMPTY

    async def _remove_container(self, request: agent_pb2.RemoveContainerRequest) -> agent_pb2.Empty:
        await self._whole(self._sandbox.remove_container(request.container_id))
        return EMPTY

    async def _update_container(self, request: agent_pb2.UpdateContainerRequest) -> agent_pb2.Empty:
        container = self._container(request)
        if request.resources.HasField("memory"):
            container.memory_limit = request.resources.memory.limit  # reported by StatsContainer, enforced by nobody
        return EMPTY

    async def _stats_container(self, request: agent_pb2.StatsContainerRequest) -> agent_pb2.StatsContainerResponse:
        return self._container(request).stats()

    async def _pause_container(self, request: agent_pb2.ContainerRequest) -> agent_pb2.Empty:
        self._container(request).signal(signal.SIGSTOP)
        return EMPTY

    async def _resume_container(self, request: agent_pb2.ContainerRequest) -> agent_pb2.Empty:
        self._container(request).signal(signal.SIGCONT)
        return EMPTY

    # -- processes --------------------------------------------------------------------------------
    async def _exec_process(self, request: agent_pb2.ExecProcessRequest) -> agent_pb2.Empty:
        await self._whole(self._sandbox.exec(request))
        return EMPTY

    async def _signal_process(self, request: agent_pb2.SignalProcessRequest) -> agent_pb2.Empty:
        self._container(request).signal(request.signal, request.exec_id)
        return EMPTY

    async def _wait_process(self, request: agent_pb2.WaitProcessRequest) -> agent_pb2.WaitProcessResponse:
        return agent_pb2.WaitProcessResponse(status=await self._process(request).wait())

    async def _write_stdin(self, request: agent_pb2.WriteStreamRequest) -> agent_pb2.WriteStreamResponse:
        return agent_pb2.WriteStreamResponse(len=await self._process(request).stdin.write(request.data))

    async def _close_stdin(self, request: agent_pb2.CloseStdinRequest) -> agent_pb2.Empty:
        self._process(request).close_stdin()
        return EMPTY

    async def _read_stdout(self, request: agent_pb2.ReadStreamRequest) -> agent_pb2.ReadStreamResponse:
        return agent_pb2.ReadStreamResponse(data=await self._process(request).stdout.read(request.len))

    async def _read_stderr(self, request: agent_pb2.ReadStreamRequest) -> agent_pb2.ReadStreamResponse:
        return agent_pb2.ReadStreamResponse(data=await self._process(request).read_stderr(request.len))

    async def _resize(self, request: agent_pb2.TtyWinResizeRequest) -> agent_pb2.Empty:
        self._process(request).resize(request.row, request.column)
        return EMPTY

    def _container(self, request: Any) -> Container:
        return self._sandbox.container(request.container_id)

    def _process(self, request: Any) -> Process:
        return self._container(request).process(request.exec_id)

    def _judged(self, name: str, handler: Handler) -> Handler:
        async def judged(request: Any, call: Call) -> Message:
            if self._policy is not None and not self._policy.allows(name):
                raise StatusError(Code.PERMISSION_DENIED, f"{defaults.rule(name)} is blocked by policy")
            return await handler(request, call)

        return judged

    async def _whole(self, deed: Coroutine[Any, Any, None]) -> None:
        """Do all of `deed`, though the caller may stop waiting for it."""
        task = asyncio.ensure_future(deed)
        self._deeds.add(task)
        task.add_done_callback(self._deeds.discard)
        await asyncio.shield(task)


def _told(answer: Callable[[Any], Awaitable[Message]]) -> Handler:
    """The handler around `answer`: an operating system's refusal is INTERNAL, with its reason in readable words."""

    async def handler(request: Any, call: Call) -> Message:
        try:
            return await answer(request)
        except OSError as error:
            what = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
            raise StatusError(Code.INTERNAL, f"{call.method} failed in the pod VM: {what}") from error

    return handler
