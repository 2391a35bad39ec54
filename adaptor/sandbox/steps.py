"""The chain that makes a pod's VM, and its inverse: CHAIN's `do`s run in order, its `undo`s in reverse.

    socket   the agent socket listens            undo: relay.close
    launch   a VM exists                         undo: the VM is deleted, also one whose create was never answered
    reach    the VM answers and proved itself    undo: relay.close
    bind     the VM is this pod's                undo: nothing; it dies with the VM

A step writes its events through `Work.record` (journal first, then state) and may be cancelled anywhere; `undo` is
idempotent, needs nothing but the state, and does not return before it is done or cancelled.
"""

import asyncio
import base64
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from adaptor import names
from adaptor.catalog.select import Requirements, select
from adaptor.errors import GuestUnreachable, InvalidRequest, NoCapacity, StartFailed
from adaptor.protos import guest_pb2
from adaptor.relay.client import Dialled, Identity, OwnGuest, UpstreamGuest
from adaptor.sandbox import launch
from adaptor.sandbox.model import (
    Bound,
    Event,
    InstanceDeleted,
    LaunchAccepted,
    LaunchIntended,
    LaunchRefused,
    Reached,
    SandboxState,
)
from adaptor.sandbox.rooms import Rooms
from adaptor.telemetry.logs import Log
from adaptor.telemetry.spans import span
from providers import tags
from providers.base import Instance, Offering
from providers.errors import Capacity, Denied, InvalidSpec, NotFound, ProviderError, Quota, Throttled, Transient

T = TypeVar("T")

# Pauses between tries of one cloud call, full jitter, seconds: many nodes share one account's bucket.
_RETRY_WAIT: Final = wait_random_exponential(multiplier=0.5, max=20)
# A create whose answer was lost may show up in the cloud's list only after a while. Seconds without a sight of it
# before it counts as never made; EC2 documents "seconds", a minute is ample.
_UNSEEN_PATIENCE: Final = 60.0
# Seconds between tries of a delete that the cloud refuses for a reason that retrying alone will not cure.
_STUBBORN_WAIT: Final = 30.0
_NONCE_BYTES: Final = 32
_TOKEN_BYTES: Final = 32


class Work:
    """What a step may use: the rooms, the state as it is now, and the one way to change it."""

    def __init__(
        self, rooms: Rooms, state: Callable[[], SandboxState], record: Callable[[Event], Awaitable[None]], log: Log
    ) -> None:
        self.rooms = rooms
        self._state = state
        self.record = record
        self.log = log
        self.deadline = rooms.clock.now() + rooms.guest.start_timeout

    @property
    def state(self) -> SandboxState:
        return self._state()

    def time_left(self) -> float:
        """Seconds until the start must have ended; at least one, so that a late step still gets a chance."""
        return max(1.0, self.deadline - self.rooms.clock.now())


@dataclass(frozen=True, slots=True)
class Step:
    """A deed and its inverse."""

    name: str
    do: Callable[[Work], Awaitable[None]]
    undo: Callable[[Work], Awaitable[None]]


async def open_socket(work: Work) -> None:
    """Have the relay listen where the shim will dial."""
    spec = work.state.spec
    await work.rooms.relay.open(spec.id, str(_pod_directory(work) / names.AGENT_SOCKET), all_gpus=bool(spec.gpus))


async def close_socket(work: Work) -> None:
    """Have the relay drop everything it holds of this sandbox."""
    await work.rooms.relay.close(work.state.spec.id)
    directory = _pod_directory(work)
    with suppress(OSError):  # the relay has removed them, unless it was killed
        (directory / names.AGENT_SOCKET).unlink(missing_ok=True)
        directory.rmdir()


def _pod_directory(work: Work) -> Path:
    return Path(work.rooms.pods_dir) / work.state.spec.id


async def launch_vm(work: Work) -> None:
    """Create a VM: offerings in the order of their rank, the next one where the cloud has no room."""
    spec = work.state.spec
    wanted = Requirements(spec.instance_type, spec.vcpus, spec.memory_mib, spec.gpus, spec.gpu_model)
    try:
        choice = select(await work.rooms.provider.offerings(), wanted)
    except ProviderError as error:
        raise StartFailed(f"cannot find out what {work.rooms.provider.name} offers: {error}") from error
    if not choice.ranked:
        raise InvalidRequest(choice.refusal(wanted))
    tried: list[str] = []
    for offering in choice.ranked:
        try:
            await _create(work, offering)
        except (Capacity, Quota) as error:
            work.log.warning("offering is exhausted", type=offering.instance_type, zone=offering.zone, error=str(error))
            tried.append(f"{offering.instance_type}{offering.zone and f' in {offering.zone}'}: {error}")
        else:
            return
    raise NoCapacity(f"{work.rooms.provider.name} has no room for this pod's VM. Tried: {'; '.join(tried)}")


async def _create(work: Work, offering: Offering) -> None:
    rooms, spec = work.rooms, work.state.spec
    token = launch.client_token(rooms.owner, spec.id, work.state.launches + 1)
    launch_token = secrets.token_bytes(_TOKEN_BYTES) if rooms.guest.flavor == "own" else b""
    user_data = await _user_data(work, launch_token)
    await work.record(
        LaunchIntended(
            token=token,
            name=launch.vm_name(spec),
            instance_type=offering.instance_type,
            zone=offering.zone,
            user_data=base64.b64encode(user_data).decode(),
            launch_token=base64.b64encode(launch_token).decode(),
        )
    )
    request = launch.launch_spec(spec, offering, user_data, token)
    try:
        with span(work.log, "instance.create", type=offering.instance_type, zone=offering.zone) as note:
            async with rooms.creates.turn(spec.pod_namespace):
                instance = await _once_only(work, lambda: rooms.provider.create(request, token))
            note.note(instance=instance.id)
    except (Capacity, Quota) as error:
        await work.record(LaunchRefused(str(error)))
        raise
    except (Throttled, Denied, InvalidSpec, NotFound) as error:
        await work.record(LaunchRefused(str(error)))
        raise StartFailed(f"{rooms.provider.name} refused the VM ({offering.instance_type}): {error}") from error
    except ProviderError as error:  # it may or may not exist: undo will find out
        raise StartFailed(f"{rooms.provider.name} gave no usable answer to the create call: {error}") from error


async def _once_only(work: Work, create: Callable[[], Awaitable[Instance]]) -> Instance:
    """The create call, repeated with its token while repeating is right; its answer is recorded even when the
    caller is cancelled meanwhile, so that an undo knows the VM by its id."""

    async def attempt() -> Instance:
        unanswered = False
        try:
            async for retry in _retrying(work):
                with retry:
                    try:
                        instance = await create()
                    except Transient:
                        unanswered = True
                        raise
        except ProviderError as error:
            if unanswered:  # a later refusal does not tell what became of the try that was lost
                raise ProviderError(f"an earlier try was never answered, the last one: {error}") from error
            raise
        await work.record(LaunchAccepted(instance.id, instance.addresses))
        return instance

    task = asyncio.ensure_future(attempt())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task_ended = asyncio.gather(task, return_exceptions=True)
        work.deadline = work.rooms.clock.now()  # no further tries
        await task_ended
        raise


def _retrying(work: Work) -> AsyncRetrying:
    def wait(call: RetryCallState) -> float:
        error = call.outcome.exception() if call.outcome else None
        asked = error.retry_after if isinstance(error, Throttled) else None
        return max(_RETRY_WAIT(call), asked or 0.0)

    return AsyncRetrying(
        retry=retry_if_exception_type((Throttled, Transient)),
        wait=wait,
        stop=lambda call: work.rooms.clock.now() + (call.upcoming_sleep or 0.0) >= work.deadline,
        sleep=work.rooms.clock.sleep,
        reraise=True,
    )


async def _user_data(work: Work, launch_token: bytes) -> bytes:
    rooms, spec = work.rooms, work.state.spec
    if rooms.guest.flavor == "own":
        data = launch.own_user_data(launch_token, rooms.pki.ca_pem, rooms.guest.port)
    else:
        server = rooms.pki.issue_server(launch.vm_name(spec))
        apf = {
            "pod-network": await rooms.networks.apf(spec.netns),
            "pod-namespace": spec.pod_namespace,
            "pod-name": spec.pod_name,
            "tls-server-key": server.key.decode(),
            "tls-server-cert": server.certificate.decode(),
            "tls-client-ca": rooms.pki.ca_pem.decode(),
        }
        data = launch.upstream_user_data(apf, spec.initdata or rooms.guest.initdata)
    return launch.check_user_data(data, rooms.guest.user_data_limit)


async def delete_vm(work: Work) -> None:
    """Delete the VM, whatever is known of it; try until the cloud accepts."""
    if work.state.launch is None:
        return
    with span(work.log, "instance.delete", instance=work.state.instance_id):
        if work.state.launch_unresolved:
            await _resolve(work)
        while work.state.instance_id:
            try:
                await work.rooms.provider.delete(work.state.instance_id)
                await work.record(InstanceDeleted())
            except ProviderError as error:
                await _wait_for_the_cloud(work, "the VM could not be deleted; trying again", error)


async def _resolve(work: Work) -> None:
    """Find out whether a create that was never answered made a VM."""
    intent = work.state.launch
    assert intent is not None
    since = work.rooms.clock.now()
    while work.state.launch_unresolved:
        try:
            found = [i for i in await work.rooms.provider.list() if i.tags.get(tags.TOKEN) == intent.token]
        except ProviderError as error:
            await _wait_for_the_cloud(work, "cannot find out whether a VM was created; trying again", error)
            continue
        if found:
            await work.record(LaunchAccepted(found[0].id, found[0].addresses))
        elif work.rooms.clock.now() - since >= _UNSEEN_PATIENCE:
            await work.record(LaunchRefused("never seen in the cloud"))
        else:
            await work.rooms.clock.sleep(_UNSEEN_PATIENCE / 10)


async def _wait_for_the_cloud(work: Work, message: str, error: ProviderError) -> None:
    work.log.error(message, instance=work.state.instance_id, error=str(error), kind=type(error).__name__)
    passing = isinstance(error, (Throttled, Transient))
    asked = error.retry_after if isinstance(error, Throttled) else None
    pause = 1.0 + secrets.randbelow(4000) / 1000 if passing else _STUBBORN_WAIT
    await work.rooms.clock.sleep(asked or pause)


async def reach_vm(work: Work) -> None:
    """Dial the VM until it answers, and have it prove that it is the one launched here."""
    addresses = work.state.addresses or await _addresses(work)
    with span(work.log, "guest.reach", instance=work.state.instance_id, address=addresses[0]) as note:
        dialled, nonce = await _dial(work, addresses)
        note.note(address=dialled.address, attempts=dialled.attempts)
    if work.rooms.guest.flavor == "own":
        _verify(work, dialled, nonce)
    await work.record(Reached(dialled.address, dialled.certificate_sha256.hex()))


async def _addresses(work: Work) -> tuple[str, ...]:
    """Where to reach a VM whose create did not tell; asked until the cloud knows."""
    instance_id = work.state.instance_id
    while work.rooms.clock.now() < work.deadline:
        try:
            instance = (await work.rooms.provider.get([instance_id])).get(instance_id)
        except (Throttled, Transient):
            instance = None
        except ProviderError as error:
            raise StartFailed(f"cannot look up the VM {instance_id}: {error}") from error
        if instance is not None and instance.addresses:
            return instance.addresses
        await work.rooms.clock.sleep(1.0)
    raise GuestUnreachable(f"the cloud has not told an address for the VM {instance_id} in time")


async def _dial(work: Work, addresses: tuple[str, ...]) -> tuple[Dialled, bytes]:
    rooms, spec = work.rooms, work.state.spec
    nonce = secrets.token_bytes(_NONCE_BYTES)
    trust = OwnGuest(nonce) if rooms.guest.flavor == "own" else UpstreamGuest(rooms.pki.ca_pem, launch.vm_name(spec))
    identity = Identity(rooms.pki.worker.certificate, rooms.pki.worker.key)
    dialled = await _unless_it_dies(
        work, rooms.relay.dial(spec.id, addresses, rooms.guest.port, work.time_left(), identity, trust)
    )
    return dialled, nonce


def _verify(work: Work, dialled: Dialled, nonce: bytes) -> None:
    intent = work.state.launch
    assert intent is not None
    hello = dialled.hello
    if hello.protocol != names.GUEST_PROTOCOL:
        raise StartFailed(
            f"the guest at {dialled.address} speaks protocol {hello.protocol}, this worker {names.GUEST_PROTOCOL}: "
            "pod VM image and adaptor are of versions that do not fit"
        )
    token = base64.b64decode(intent.launch_token)
    if not launch.verify_proof(hello.proof, token, nonce, dialled.certificate):
        raise StartFailed(
            f"the machine at {dialled.address} does not hold this launch's token: it is not the VM "
            f"{work.state.instance_id} that was started for this pod. Nothing was given to it"
        )
    if hello.bound:
        raise StartFailed(f"the VM {work.state.instance_id} already belongs to a pod")


async def bind_vm(work: Work) -> None:
    """Give the VM what only this pod's may have, once; its agent answers afterwards."""
    spec, guest = work.state.spec, work.rooms.guest
    bind = b""
    if guest.flavor == "own":
        bind = guest_pb2.BindRequest(
            sandbox_id=spec.id,
            pod_namespace=spec.pod_namespace,
            pod_name=spec.pod_name,
            initdata=(spec.initdata or guest.initdata or "").encode(),
            scratch_space=guest.scratch_space,
        ).SerializeToString()
    with span(work.log, "guest.bind", instance=work.state.instance_id):
        await _unless_it_dies(work, work.rooms.relay.bind(spec.id, bind, work.time_left()))
    await work.record(Bound())


async def _unless_it_dies(work: Work, doing: Awaitable[T]) -> T:
    """`doing`, or StartFailed with the cloud's reason when the VM ends first."""
    task = asyncio.ensure_future(doing)
    try:
        async with work.rooms.watch.death_of(work.state.instance_id) as death:
            waiting: set[asyncio.Future[Any]] = {task, death}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return _result(work, task)
            reason = death.result().reason or "the cloud gives no reason"
            raise StartFailed(f"the VM {work.state.instance_id} ended while it was starting: {reason}")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _result(work: Work, task: "asyncio.Future[T]") -> T:
    try:
        return task.result()
    except GuestUnreachable as error:  # the relay knows addresses only; its reader will look for the VM
        raise GuestUnreachable(f"the VM {work.state.instance_id}: {error}") from error


async def nothing(work: Work) -> None:
    """For a step whose undo is another's."""


CHAIN: Final = (
    Step("socket", open_socket, close_socket),
    Step("launch", launch_vm, delete_vm),
    Step("reach", reach_vm, close_socket),
    Step("bind", bind_vm, nothing),
)
