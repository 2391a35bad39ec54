"""The chain that makes a pod's VM, and its inverse: CHAIN's `do`s run in order, its `undo`s in reverse.

    socket   the agent socket listens            undo: relay.close
    inspect  the pod's tunnel has its number     undo: network's
    launch   a VM exists                         undo: the VM is deleted, also one whose create was never answered
    attach   it has the pod's disks              undo: nothing; they are let go of with the VM
    reach    the VM answers and proved itself    undo: relay.close
    network  this node's end of the tunnel       undo: it is taken away
    bind     the VM is this pod's, end to end    undo: nothing; it dies with the VM

A step writes its events through `Work.record` (journal first, then state) and may be cancelled anywhere; `undo` is
idempotent, needs nothing but the state, and does not return before it is done or cancelled.
"""

import asyncio
import base64
import secrets
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from adaptor import names
from adaptor.errors import GuestUnreachable, StartFailed
from adaptor.protos import guest_pb2
from adaptor.relay.client import Dialled, Identity, OwnGuest, UpstreamGuest
from adaptor.sandbox import create, disks, launch, network, placing, recovery
from adaptor.sandbox.model import Bound, Reached
from adaptor.sandbox.teardown import delete_vm
from adaptor.sandbox.watch import BOOTING
from adaptor.sandbox.work import Step, Work
from adaptor.telemetry.spans import span
from providers.errors import ProviderError
from providers.retry import retrying, until

T = TypeVar("T")

_NONCE_BYTES: Final = 32


async def open_socket(work: Work) -> None:
    """Have the relay listen where the shim will dial."""
    spec = work.state.spec
    await work.rooms.relay.open(
        spec.id,
        str(_pod_directory(work) / names.AGENT_SOCKET),
        all_gpus=bool(spec.gpus),
        volumes=disks.for_relay(work.rooms, spec),
        volumes_unknown=spec.volumes_unknown,
    )


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
    """Adopt the VM that the pod's last attempt left, or create one: offerings in the order of their rank, the next
    one where the cloud has no room."""
    if work.state.launch is not None or await work.adopt():
        return await create.resolve(work)
    pins = await disks.pins(work)
    try:
        offerings = await work.rooms.provider.offerings()
    except ProviderError as error:
        raise StartFailed(f"cannot find out what {work.rooms.provider.name} offers: {error}") from error
    if await work.adopt():  # the last attempt's end was noticed meanwhile
        return await create.resolve(work)
    return await placing.place(work, offerings, pins)


async def attach_volumes(work: Work) -> None:
    """Have the cloud give the VM the pod's disks. They are let go of when it is deleted, and never deleted with it."""
    if work.state.spec.volumes:
        await _unless_it_dies(work, disks.attach(work))


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
    clock = work.rooms.clock
    while clock.now() < work.deadline:
        instance = None
        try:
            async for attempt in retrying(clock.sleep, until(clock.now, work.deadline)):
                with attempt:
                    instance = (await work.rooms.provider.get([instance_id])).get(instance_id)
        except ProviderError as error:
            raise StartFailed(f"cannot look up the VM {instance_id}: {error}") from error
        if instance is not None and (reason := recovery.death(instance)):
            raise StartFailed(reason)
        if instance is not None and instance.addresses:
            return instance.addresses
        await clock.sleep(1.0)
    raise GuestUnreachable(f"the cloud has not told an address for the VM {instance_id} in time")


async def _dial(work: Work, addresses: tuple[str, ...]) -> tuple[Dialled, bytes]:
    rooms, spec = work.rooms, work.state.spec
    nonce = secrets.token_bytes(_NONCE_BYTES)
    trust = OwnGuest(nonce) if rooms.guest.flavor == "own" else UpstreamGuest(rooms.pki.ca_pem, launch.vm_name(spec))
    identity = Identity(rooms.pki.worker.certificate, rooms.pki.worker.key)
    dialled = await _unless_it_dies(
        work,
        rooms.relay.dial(
            spec.id, addresses, rooms.guest.port, work.time_left(), identity, trust, rooms.guest.link_grace
        ),
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
    if work.state.spec.volumes and not hello.volumes:
        raise StartFailed(f"the pod has volumes, and the pod VM image ({hello.version}) is too old to mount any")
    network.check_guest(work, hello)


async def bind_vm(work: Work) -> None:
    """Give the VM what only this pod's may have, once; its agent answers afterwards, and the pod's network ends there."""
    own = work.rooms.guest.flavor == "own"
    bind = await _bind_request(work) if own else b""
    with span(work.log, "guest.bind", instance=work.state.instance_id):
        answer = await _unless_it_dies(work, work.rooms.relay.bind(work.state.spec.id, bind, work.time_left()))
    if own:
        await _unless_it_dies(work, network.join(work, answer))
    await work.record(Bound())


async def _bind_request(work: Work) -> bytes:
    spec, guest = work.state.spec, work.rooms.guest
    registry_auth = await work.rooms.cluster.registry_auth(work.state)
    request = guest_pb2.BindRequest(
        sandbox_id=spec.id,
        pod_namespace=spec.pod_namespace,
        pod_name=spec.pod_name,
        initdata=(spec.initdata or guest.initdata or "").encode(),
        registry_auth=registry_auth,
        network=await network.plan(work),
        scratch_space=guest.scratch_space or launch.scratch(work.state),
        volumes=disks.for_guest(work.rooms, spec),
    )
    return launch.check_bind(request.SerializeToString(), registry_auth)


async def _unless_it_dies(work: Work, doing: Awaitable[T]) -> T:
    """`doing`, or StartFailed with the cloud's reason when the VM ends first."""
    task = asyncio.ensure_future(doing)
    death = asyncio.create_task(work.rooms.watch.death(work.state.instance_id, BOOTING))
    waiting: set[asyncio.Future[Any]] = {task, death}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return _result(work, task)
        reason = death.result().reason or "the cloud gives no reason"
        raise StartFailed(f"the VM {work.state.instance_id} ended while it was starting: {reason}")
    finally:
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _result(work: Work, task: "asyncio.Future[T]") -> T:
    try:
        return task.result()
    except GuestUnreachable as error:  # the relay knows addresses only; its reader will look for the VM
        raise GuestUnreachable(f"the VM {work.state.instance_id}: {error}") from error


async def nothing(work: Work) -> None:
    """For a step whose undo is another's."""


CHAIN: Final = (
    Step("socket", open_socket, close_socket),
    Step("inspect", network.inspect, nothing),
    Step("launch", launch_vm, delete_vm),
    Step("attach", attach_volumes, nothing),
    Step("reach", reach_vm, close_socket),
    Step("network", network.open_tunnel, network.remove_tunnel),
    Step("bind", bind_vm, nothing),
)
