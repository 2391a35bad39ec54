"""The create call: a seat in it, its intent written down, made until it is answered, its answer written down.

    seat (pods that start together share a call) ─► intent ─► create ─► answer

`create` launches one offering; `resolve` finds out what became of a call that was never answered.
"""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from adaptor.catalog import wishes
from adaptor.errors import StartFailed
from adaptor.sandbox import launch, network
from adaptor.sandbox.model import LaunchAccepted, LaunchIntended, LaunchRefused
from adaptor.sandbox.patience import whole
from adaptor.sandbox.work import Work
from adaptor.telemetry.spans import span
from providers.base import Instance, InstanceState, Offering, SupportsBatchCreate
from providers.errors import (
    Capacity,
    Denied,
    InvalidSpec,
    NotFound,
    ProviderError,
    Quota,
    Throttled,
    Transient,
    Unsupported,
)
from providers.retry import retrying, until

# What the cloud says for good: no VM exists for the token. Other errors leave that open.
_REFUSALS: Final = (Capacity, Quota, Unsupported, Denied, InvalidSpec, NotFound)
# Seconds that the end of a start waits for the answer of its create call. Clouds take 1 to 3; a call that is held up
# longer (throttling, a dead connection) is resolved by its token later.
_LAST_ANSWER: Final = 10.0


async def resolve(work: Work) -> None:
    """What became of a create that was never answered: the same call with the same token finds out."""
    intent = work.state.launch
    if intent is not None and work.state.launch_unresolved:
        with _told(work, intent):
            async with work.rooms.creates.turn(work.state.spec.pod_namespace):
                await _ask_for_it(work, intent, lost=True)


async def create(work: Work, offering: Offering, still: Callable[[], bool] = lambda: True) -> bool:
    """Launch this offering. False, with nothing done, when it is not `still` wanted once our turn has come.

    Raises Capacity, Quota, Unsupported, StartFailed.
    """
    rooms, spec = work.rooms, work.state.spec
    wish = wishes.parse(f";{spec.wishes}")
    shared = isinstance(rooms.provider, SupportsBatchCreate)
    launch_token = rooms.tokens.draw(rooms.clock.now(), shared=shared) if rooms.guest.flavor == "own" else b""
    user_data = await _user_data(work, launch_token)
    intent = LaunchIntended(
        token="",
        name=launch.vm_name(spec),
        instance_type=offering.instance_type,
        zone=offering.zone,
        tee=offering.tee.value,
        purchase=offering.purchase.value,
        user_data=base64.b64encode(user_data).decode(),
        launch_token=base64.b64encode(launch_token).decode(),
        sandbox=spec.id,
        root_volume_gib=wish.root_gib,
        scratch_gib=wish.scratch_gib,
        volumes=launch.volume_ids(spec),
        labels=launch.label_texts(await rooms.cluster.labels(spec)),
        price=offering.price,
    )
    with _told(work, intent):
        async with rooms.creates.turn(spec.pod_namespace):
            async for attempt in retrying(rooms.clock.sleep, until(rooms.clock.now, work.deadline)):
                with attempt:
                    return still() and await _launch(work, intent, still)
    raise AssertionError("the last attempt returns or raises")


async def _launch(work: Work, intent: LaunchIntended, still: Callable[[], bool]) -> bool:
    """One seat, and the call for it. Raises Throttled when nothing was made: a new seat may be one of more."""
    provider, owner = work.rooms.provider, work.rooms.owner
    token = launch.client_token(owner, work.state.spec.id, work.state.launches + 1)
    if isinstance(provider, SupportsBatchCreate):
        token = await provider.seat(launch.launch_spec(work.state.spec, replace(intent, token=token)), token)
    intent = replace(intent, token=token, at=work.rooms.clock.wall())
    try:
        if not still():  # it may have waited long for its seat
            return False
        await work.record(intent)
        await _ask_for_it(work, intent, lost=False)
    finally:
        if work.state.launch != intent:  # it was not written down, or is not open any more
            leave(work, intent)
    return True


def leave(work: Work, intent: LaunchIntended) -> None:
    """The create of this intent is not coming (again): if others share the call, what it makes is nobody's."""
    if isinstance(work.rooms.provider, SupportsBatchCreate):
        work.rooms.provider.leave(intent.token)


async def _ask_for_it(work: Work, intent: LaunchIntended, *, lost: bool) -> None:
    """Make the create call of the launch intended. `lost`: an earlier one was never answered. Raises ProviderError."""
    with span(work.log, "instance.create", type=intent.instance_type, zone=intent.zone) as note:
        instance = await _until_answered(work, intent, lost=lost)
        note.note(instance=instance.id)


@contextmanager
def _told(work: Work, intent: LaunchIntended) -> Iterator[None]:
    """The cloud's errors as those of a start; the ones that another offering may do without pass."""
    cloud = work.rooms.provider.name
    try:
        yield
    except (Capacity, Quota, Unsupported):
        raise
    except (Throttled, *_REFUSALS) as error:
        raise StartFailed(f"{cloud} refused the VM ({intent.instance_type}): {error}") from error
    except ProviderError as error:  # it may or may not exist: undo will find out
        raise StartFailed(f"{cloud} gave no usable answer to the create call: {error}") from error


async def _until_answered(work: Work, intent: LaunchIntended, *, lost: bool) -> Instance:
    """The create call, repeated with its token while repeating is right and there is time."""
    clock, shared = work.rooms.clock, isinstance(work.rooms.provider, SupportsBatchCreate)
    refused: Throttled | None = None  # the last word, and it says that nothing was made
    try:
        async for attempt in retrying(clock.sleep, until(clock.now, work.deadline)):
            if shared and refused is not None:
                raise refused
            with attempt:
                refused = None
                try:
                    # A call that was sent says whether there is a VM: an ended start waits for that, if not for long.
                    return await whole(_ask_once(work, intent, lost=lost), lambda: clock.sleep(_LAST_ANSWER))
                except Transient:
                    lost = True
                    raise
                except Throttled as error:
                    refused = None if lost else error
                    raise
    except (Throttled, Transient) as error:
        if lost:
            raise _unclear(error) from error
        raise
    finally:
        if refused is not None:  # and it is not asked again
            await work.record(LaunchRefused(str(refused)))
    raise AssertionError("the last attempt returns or raises")


async def _ask_once(work: Work, intent: LaunchIntended, *, lost: bool) -> Instance:
    """One create call, its answer written down whether it is yes or no."""
    try:
        instance = await work.rooms.provider.create(launch.launch_spec(work.state.spec, intent), intent.token)
    except (Throttled, Transient):
        raise
    except ProviderError as error:
        if lost:
            raise _unclear(error) from error
        if isinstance(error, _REFUSALS):
            await work.record(LaunchRefused(str(error)))
        raise
    await work.record(LaunchAccepted(instance.id, instance.addresses))
    if instance.state is InstanceState.GONE:
        reason = instance.reason or "the cloud gives no reason"
        raise StartFailed(f"the VM {instance.id} ended while it was starting: {reason}")
    return instance


def _unclear(error: ProviderError) -> ProviderError:
    """A refusal does not tell what became of the try that was lost."""
    return ProviderError(f"an earlier try was never answered, the last one: {error}")


async def _user_data(work: Work, launch_token: bytes) -> bytes:
    rooms, spec = work.rooms, work.state.spec
    registry_auth = b""
    if rooms.guest.flavor == "own":
        data = launch.own_user_data(launch_token, rooms.pki.ca_pem, rooms.guest.port)
    else:
        server = rooms.pki.issue_server(launch.vm_name(spec))
        apf = {
            "pod-network": await network.apf(work),
            "pod-namespace": spec.pod_namespace,
            "pod-name": spec.pod_name,
            "tls-server-key": server.key.decode(),
            "tls-server-cert": server.certificate.decode(),
            "tls-client-ca": rooms.pki.ca_pem.decode(),
        }
        scratch = rooms.guest.scratch_space or bool(wishes.parse(f";{spec.wishes}").scratch_gib)
        registry_auth = await rooms.cluster.registry_auth(work.state)
        initdata = spec.initdata or rooms.guest.initdata
        data = launch.upstream_user_data(apf, initdata, scratch=scratch, registry_auth=registry_auth)
    return launch.check_user_data(data, rooms.provider.user_data_limit, registry_auth)
