"""Hello, Bind and Resume: what a worker may call on a link before the link is the agent's.

    ┌─ Hello (any link, any time)
free ──Bind──► bound, for the VM's life ──Resume──► the agent has another link, as often as links break
  ▲      │        ├─ the same Bind again: joins the first, for an answer that got lost
  └──────┘        └─ another Bind: refused
     refused Binds (bad initdata, ...) wrote nothing and change nothing
"""

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from google.protobuf.message import DecodeError, Message

from adaptor import __version__, names
from adaptor.errors import Code, InvalidRequest, StatusError
from adaptor.protos.guest_pb2 import BindRequest, BindResponse, HelloRequest, HelloResponse, ResumeRequest
from adaptor.telemetry import logs
from podvm_images.guest import bind
from podvm_images.guest.agent import Agent
from podvm_images.guest.forwarder import Forwarder
from podvm_images.guest.identity import launch_proof
from podvm_images.guest.network import Network
from podvm_images.guest.volumes import Volumes

if TYPE_CHECKING:  # for what reads it in, see Network
    from adaptor.podnet.plan import GuestPlan

# Seconds that an agent gets to listen. The image starts it on Bind, beside mounting what it needs; kubelet's patience
# for the whole pod is some four minutes.
AGENT_TIMEOUT: Final = 60.0
# Seconds for the pod's network. The kernel takes milliseconds; one that hangs must be told from one that is slow.
NETWORK_TIMEOUT: Final = 30.0
# Of a caller's own deadline, so that it still hears why the agent did not come.
_SHARE: Final = 0.9
_NONCE_LEAST: Final = 16  # bytes
_NAME_MOST: Final = 100  # characters of a call's name in a refusal: it is the caller's, and may have millions

log = logs.get(__name__)
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Bound:
    """What a Bind has come to."""

    forwarder: Forwarder
    answer: bytes  # to it, and to every repeat of it


@dataclass(frozen=True, slots=True)
class _Binding:
    """The Bind that made this VM a pod's. It belongs to the VM: the link it came on may be gone before it is done."""

    digest: bytes  # SHA-256 of the request, which is full of secrets
    sandbox_id: str
    bound: "asyncio.Task[Bound]"


class Control:
    """The calls, and what they must remember: whose this VM is, and which link is to be its agent's."""

    def __init__(
        self,
        launch_token: bytes,
        certificate: bytes,
        run_dir: Path,
        agent: Agent,
        volumes: Volumes,
        network: Network,
    ) -> None:
        self._launch_token = launch_token
        self._certificate = certificate  # DER
        self._run_dir = run_dir
        self._agent = agent
        self._volumes = volumes
        self._network = network
        self._binding: _Binding | None = None
        self._caller: object = None  # the link that asked last for the agent
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
            volumes=True,
            network=True,
            wireguard=self._network.can_encrypt(),
        ).SerializeToString()

    def bind(self, payload: bytes, timeout: float | None, caller: object) -> "asyncio.Task[Bound]":
        """Make this VM the pod's; the task is done when its agent can be talked to, in the pod's network.

        A repeat of the same bytes gets the same task: leave it running when `caller`, a link, ends. Raises
        InvalidRequest or StatusError. The VM is bound as soon as the files are written: should the network or the
        agent fail after that (the task's StatusError), the VM is spent and must be replaced.
        """
        digest = hashlib.sha256(payload).digest()
        if self._binding is None or self._binding.digest != digest:
            self._binding = self._begin(digest, payload, timeout)
        self._caller = caller
        return self._binding.bound

    def resume(self, payload: bytes, caller: object) -> tuple[Forwarder, bytes]:
        """Whose link `caller`, a link, is to be at once, and what that must send first, after the answer.

        Raises InvalidRequest, or StatusError (FAILED_PRECONDITION) when this VM has no agent to go on with.
        """
        request = _decode(ResumeRequest, payload)
        forwarder = self._forwarder_of(request.sandbox_id)
        first = forwarder.resume(request.received)
        self._caller = caller
        return forwarder, first

    def is_newest(self, caller: object) -> bool:
        """Whether no other link has asked for the agent since this one did."""
        return caller is self._caller

    async def aclose(self) -> None:
        """End the agent's link in order, and give up a Bind under way."""
        if self._binding is not None:
            task = self._binding.bound
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and task.exception() is None:
                task.result().forwarder.close()

    def refuse(self, service: str, method: str) -> StatusError:
        """The answer to a call that is none of ours: nothing reaches the agent from here."""
        service, method = service[:_NAME_MOST], method[:_NAME_MOST]
        if service == names.GUEST_SERVICE:
            return StatusError(Code.UNIMPLEMENTED, f"{service} has no method {method!r}")
        why = "is not bound to a pod yet" if self._pod is None else f"is bound to {self._pod} over another link"
        return StatusError(Code.FAILED_PRECONDITION, f"{service}/{method} cannot be served: this VM {why}")

    def _begin(self, digest: bytes, payload: bytes, timeout: float | None) -> _Binding:
        if self._pod is not None:
            raise StatusError(
                Code.FAILED_PRECONDITION, f"this VM is bound to {self._pod} already: a VM serves one pod in its life"
            )
        request = _decode(BindRequest, payload)
        plan = self._network.understand(request.network) if request.network else None
        self._write(request)
        share = None if timeout is None else _SHARE * timeout
        task = asyncio.get_running_loop().create_task(self._bring_up(request, plan, share), name="bind")
        task.add_done_callback(_note)
        return _Binding(digest, request.sandbox_id, task)

    async def _bring_up(self, request: BindRequest, plan: "GuestPlan | None", timeout: float | None) -> Bound:
        """The network while the agent starts, then volumes: the data hub, which opens encrypted ones, starts before
        the agent listens."""
        loop = asyncio.get_running_loop()
        began = loop.time()

        def left() -> float | None:
            return None if timeout is None else max(0.0, timeout - (loop.time() - began))

        answer = BindResponse()
        if plan is not None:
            answer.network = await self._lay(plan, _most(NETWORK_TIMEOUT, timeout))
        agent = await self._agent.connect(_most(AGENT_TIMEOUT, timeout if plan is None else left()))
        try:
            await self._volumes.mount(request.volumes, left())
        except BaseException:
            agent.close()
            raise
        return Bound(Forwarder(agent, plan is not None, self._volumes.release), answer.SerializeToString())

    async def _lay(self, plan: "GuestPlan", timeout: float) -> bytes:
        """The pod's namespace comes before the agent, which may have mounts of its own, and the rest beside it."""
        from adaptor.podnet.plan import to_json

        try:
            async with asyncio.timeout(timeout):
                await self._network.make()
                self._agent.start()
                return to_json(await self._network.lay(plan))
        except TimeoutError:
            raise StatusError(
                Code.DEADLINE_EXCEEDED, f"the pod's network was not laid in the VM within {timeout:.3g} s"
            ) from None

    def _forwarder_of(self, sandbox_id: str) -> Forwarder:
        binding = self._binding
        if binding is None and self._pod is None:
            why = "this VM is not bound to a pod yet"
        elif binding is None:
            why = f"this VM was bound to {self._pod}, and its guest program has started anew since: the agent is lost"
        elif binding.sandbox_id != sandbox_id:
            why = f"this VM is bound to {self._pod}, not to sandbox {sandbox_id[:_NAME_MOST]!r}"
        elif not binding.bound.done():
            why = f"this VM is still being bound to {self._pod}: repeat Bind to hear how that ends"
        elif (error := binding.bound.exception()) is not None:
            why = f"this VM could not be bound to {self._pod}: {error}"
        else:
            return binding.bound.result().forwarder
        raise StatusError(Code.FAILED_PRECONDITION, why)

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


def _note(bind: "asyncio.Task[Bound]") -> None:
    """Perhaps no link is left that would tell how it ended."""
    if not bind.cancelled() and (error := bind.exception()) is not None:
        log.error("bound, but the pod cannot begin: this VM is spent", reason=error)


def _most(seconds: float, left: float | None) -> float:
    return seconds if left is None else min(seconds, left)


def _decode(kind: type[M], payload: bytes) -> M:
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise InvalidRequest(f"the request is no {kind.__name__}") from error
