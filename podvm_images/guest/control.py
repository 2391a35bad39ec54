"""Hello and Bind: what a worker may call on a link before the link is the agent's.

    ┌─ Hello (any link, any time)
free ──Bind──► bound, for the VM's life; every further Bind is refused
  ▲      │
  └──────┘ refused Binds (bad initdata, ...) wrote nothing and change nothing
"""

import socket
from pathlib import Path
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from adaptor import __version__, names
from adaptor.errors import Code, InvalidRequest, StatusError
from adaptor.protos.guest_pb2 import BindRequest, BindResponse, HelloRequest, HelloResponse
from adaptor.telemetry import logs
from podvm_images.guest import bind
from podvm_images.guest.agent import Agent
from podvm_images.guest.identity import launch_proof

# Seconds that an agent gets to listen. The image starts it on Bind, beside mounting what it needs; kubelet's patience
# for the whole pod is some four minutes.
AGENT_TIMEOUT: Final = 60.0
# Of a caller's own deadline, so that it still hears why the agent did not come.
_SHARE: Final = 0.9
_NONCE_LEAST: Final = 16  # bytes
_NAME_MOST: Final = 100  # characters of a call's name in a refusal: it is the caller's, and may have millions

log = logs.get(__name__)
M = TypeVar("M", bound=Message)


class Control:
    """The calls, and the one thing they must remember: whose this VM is."""

    def __init__(self, launch_token: bytes, certificate: bytes, run_dir: Path, agent: Agent) -> None:
        self._launch_token = launch_token
        self._certificate = certificate  # DER
        self._run_dir = run_dir
        self._agent = agent
        self._pod = bind.bound_to(run_dir)
        if self._pod is not None:
            log.warning("this VM was bound before this program started: it takes no pod", bound_to=self._pod)

    def hello(self, payload: bytes) -> bytes:
        """The launch proof for this link's nonce. Raises StatusError for a caller of another protocol."""
        request = _decode(HelloRequest, payload)
        if request.protocol != names.GUEST_PROTOCOL:
            raise StatusError(
                Code.FAILED_PRECONDITION,
                f"the worker speaks guest protocol {request.protocol}, this pod VM image {names.GUEST_PROTOCOL}: "
                "use an image of the worker's release",
            )
        if len(request.nonce) < _NONCE_LEAST:
            raise InvalidRequest(f"the nonce has {len(request.nonce)} bytes; it must have {_NONCE_LEAST} or more")
        return HelloResponse(
            protocol=names.GUEST_PROTOCOL,
            proof=launch_proof(self._launch_token, request.nonce, self._certificate),
            version=__version__,
            bound=self._pod is not None,
        ).SerializeToString()

    async def bind(self, payload: bytes, timeout: float | None) -> socket.socket:
        """Make this VM the pod's; returns the connection to its agent. The answer is BIND_ANSWER.

        Raises InvalidRequest or StatusError. The VM is bound as soon as the files are written: should the agent fail
        after that, or the caller be cancelled, the VM is spent and must be replaced.
        """
        if self._pod is not None:
            raise StatusError(
                Code.FAILED_PRECONDITION, f"this VM is bound to {self._pod} already: a VM serves one pod in its life"
            )
        request = _decode(BindRequest, payload)
        if request.network:
            raise StatusError(
                Code.UNIMPLEMENTED,
                "this pod VM image cannot apply a pod network plan yet: leave 'network' empty, "
                "which gives the pod the VM's own network",
            )
        self._write(request)
        return await self._agent.connect(AGENT_TIMEOUT if timeout is None else min(AGENT_TIMEOUT, _SHARE * timeout))

    def refuse(self, service: str, method: str) -> StatusError:
        """The answer to a call that is none of ours: nothing reaches the agent from here."""
        service, method = service[:_NAME_MOST], method[:_NAME_MOST]
        if service == names.GUEST_SERVICE:
            return StatusError(Code.UNIMPLEMENTED, f"{service} has no method {method!r}")
        why = "is not bound to a pod yet" if self._pod is None else f"is bound to {self._pod} over another link"
        return StatusError(Code.FAILED_PRECONDITION, f"{service}/{method} cannot be served: this VM {why}")

    def _write(self, request: BindRequest) -> None:
        provision = bind.provision(request)
        try:
            bind.write(self._run_dir, provision.files)
        except OSError as error:
            self._pod = bind.bound_to(self._run_dir)
            raise StatusError(Code.INTERNAL, f"the pod VM cannot write what Bind brought: {error}") from error
        self._pod = bind.bound_to(self._run_dir)
        if provision.ignored:
            log.warning("initdata has entries that nothing here reads", entries=provision.ignored)
        log.info(
            "bound to a pod",
            sandbox=request.sandbox_id,
            pod=f"{request.pod_namespace}/{request.pod_name}",
            files=tuple(provision.files),
        )


BIND_ANSWER: Final = BindResponse().SerializeToString()


def _decode(kind: type[M], payload: bytes) -> M:
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise InvalidRequest(f"the request is no {kind.__name__}") from error
