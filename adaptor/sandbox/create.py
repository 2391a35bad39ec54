"""The create call: its intent written down, made until it is answered, its answer written down.

`create` launches one offering; `resolve` finds out what became of a call that was never answered.
"""

import base64
import secrets
from collections.abc import Callable
from typing import Final

from adaptor.catalog import wishes
from adaptor.errors import StartFailed
from adaptor.sandbox import launch
from adaptor.sandbox.model import LaunchAccepted, LaunchIntended, LaunchRefused
from adaptor.sandbox.patience import Backoff, whole
from adaptor.sandbox.work import Work
from adaptor.telemetry.spans import span
from providers.base import Instance, Offering
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

# What the cloud says for good: no VM exists for the token. Other errors leave that open.
_REFUSALS: Final = (Capacity, Quota, Unsupported, Denied, InvalidSpec, NotFound)
# Seconds that the end of a start waits for the answer of its create call. Clouds take 1 to 3; a call that is held up
# longer (throttling, a dead connection) is resolved by its token later.
_LAST_ANSWER: Final = 10.0
_TOKEN_BYTES: Final = 32


async def resolve(work: Work) -> None:
    """What became of a create that was never answered: the same call with the same token finds out."""
    if work.state.launch_unresolved:
        async with work.rooms.creates.turn(work.state.spec.pod_namespace):
            await _ask_for_it(work, lost=True)


async def create(work: Work, offering: Offering, still: Callable[[], bool] = lambda: True) -> bool:
    """Launch this offering. False, with nothing done, when it is not `still` wanted once our turn has come.

    Raises Capacity, Quota, Unsupported, StartFailed.
    """
    rooms, spec = work.rooms, work.state.spec
    wish = wishes.parse(f";{spec.wishes}")
    launch_token = secrets.token_bytes(_TOKEN_BYTES) if rooms.guest.flavor == "own" else b""
    user_data = await _user_data(work, launch_token)
    async with rooms.creates.turn(spec.pod_namespace):
        if not still():
            return False
        await work.record(
            LaunchIntended(
                token=launch.client_token(rooms.owner, spec.id, work.state.launches + 1),
                name=launch.vm_name(spec),
                instance_type=offering.instance_type,
                zone=offering.zone,
                tee=offering.tee.value,
                purchase=offering.purchase.value,
                user_data=base64.b64encode(user_data).decode(),
                launch_token=base64.b64encode(launch_token).decode(),
                sandbox=spec.id,
                volumes=launch.volume_ids(spec),
                at=rooms.clock.wall(),
                root_volume_gib=wish.root_gib,
                scratch_gib=wish.scratch_gib,
            )
        )
        await _ask_for_it(work, lost=False)
    return True


async def _ask_for_it(work: Work, *, lost: bool) -> None:
    """Make the create call of the launch intended. `lost`: an earlier one was never answered.

    Raises Capacity, Quota, Unsupported, StartFailed.
    """
    cloud, intent = work.rooms.provider.name, work.state.launch
    assert intent is not None
    with span(work.log, "instance.create", type=intent.instance_type, zone=intent.zone) as note:
        try:
            instance = await _until_answered(work, intent, lost=lost)
        except (Capacity, Quota, Unsupported):
            raise
        except (Throttled, *_REFUSALS) as error:
            raise StartFailed(f"{cloud} refused the VM ({intent.instance_type}): {error}") from error
        except ProviderError as error:  # it may or may not exist: undo will find out
            raise StartFailed(f"{cloud} gave no usable answer to the create call: {error}") from error
        note.note(instance=instance.id)


async def _until_answered(work: Work, intent: LaunchIntended, *, lost: bool) -> Instance:
    """The create call, repeated with its token while repeating is right and there is time."""
    backoff = Backoff(0.5, 20.0)
    while True:
        try:
            # A call that was sent says whether there is a VM: a start that is ended waits for that, if not for long.
            return await whole(_ask_once(work, intent, lost=lost), lambda: work.rooms.clock.sleep(_LAST_ANSWER))
        except (Throttled, Transient) as error:
            lost |= isinstance(error, Transient)
            asked = error.retry_after if isinstance(error, Throttled) else None
            pause = max(backoff.next(), asked or 0.0)
            try:
                if work.rooms.clock.now() + pause >= work.deadline:
                    raise _unclear(error) if lost else error
                await work.rooms.clock.sleep(pause)
            except BaseException:
                if not lost:
                    await work.record(LaunchRefused(str(error)))
                raise


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
    return instance


def _unclear(error: ProviderError) -> ProviderError:
    """A refusal does not tell what became of the try that was lost."""
    return ProviderError(f"an earlier try was never answered, the last one: {error}")


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
        scratch = rooms.guest.scratch_space or bool(wishes.parse(f";{spec.wishes}").scratch_gib)
        data = launch.upstream_user_data(apf, spec.initdata or rooms.guest.initdata, scratch=scratch)
    return launch.check_user_data(data, rooms.guest.user_data_limit)
