"""The end of a VM: found if its create was never answered, deleted, and not forgotten before the cloud says it is gone."""

from typing import Final

from adaptor.sandbox.model import InstanceDeleted, LaunchAccepted, LaunchRefused
from adaptor.sandbox.patience import Backoff
from adaptor.sandbox.watch import UNSEEN
from adaptor.sandbox.work import Work
from adaptor.telemetry.spans import span
from providers import tags
from providers.errors import ProviderError, Throttled, Transient

# Seconds from an accepted deletion until it is asked for again: it may have met a VM that the cloud did not know yet.
_AGAIN: Final = 60.0
# Seconds until a person should look. Clouds finish in seconds, the slowest in two minutes.
_GONE_PATIENCE: Final = 300.0
# Seconds between tries after an error that a person must mend, a permission perhaps: bounds that grow, see Backoff.
_SELDOM: Final = (10.0, 60.0)


async def delete_vm(work: Work) -> None:
    """Delete the VM, whatever is known of it; try until the cloud accepts."""
    if work.state.launch is None or work.state.deletion_accepted:
        return
    with span(work.log, "instance.delete", instance=work.state.instance_id):
        if work.state.launch_unresolved:
            await _resolve(work)
        if work.state.instance_id:
            await _insist_on_delete(work)
            await work.record(InstanceDeleted())


async def vm_gone(work: Work) -> None:
    """Return once the cloud no longer has the VM whose deletion it accepted."""
    instance_id = work.state.instance_id
    if not instance_id:
        return
    since = work.rooms.clock.now()
    asked_at = work.state.launch.at if work.state.launch else 0.0
    while not await work.rooms.watch.gone(instance_id, _AGAIN, asked_at):
        waited = round(work.rooms.clock.now() - since)
        if waited >= _GONE_PATIENCE:
            work.log.error(
                "the cloud accepted the VM's deletion and still has it; deleting it again. Look for a termination "
                "protection, a lock or a policy on it",
                instance=instance_id,
                seconds=waited,
            )
        await _insist_on_delete(work)


async def _insist_on_delete(work: Work) -> None:
    """Until the cloud accepts: an error that passes is tried again soon, others seldom, for a person must act first."""
    soon, seldom = Backoff(1.0, 30.0), Backoff(*_SELDOM)
    while True:
        try:
            await work.rooms.provider.delete(work.state.instance_id)
        except ProviderError as error:
            await _wait_for_the_cloud(work, "the VM could not be deleted; trying again", error, soon, seldom)
        else:
            return


async def _resolve(work: Work) -> None:
    """Find out whether a create that was never answered made a VM."""
    intent = work.state.launch
    assert intent is not None
    since = work.rooms.clock.now()
    soon, seldom = Backoff(1.0, 30.0), Backoff(*_SELDOM)
    while work.state.launch_unresolved:
        try:
            found = [i for i in await work.rooms.provider.list() if i.tags.get(tags.TOKEN) == intent.token]
        except ProviderError as error:
            message = "cannot find out whether a VM was created; trying again"
            await _wait_for_the_cloud(work, message, error, soon, seldom)
            continue
        if found:
            await work.record(LaunchAccepted(found[0].id, found[0].addresses))
        elif work.rooms.clock.now() - since >= UNSEEN:
            await work.record(LaunchRefused("never seen in the cloud"))
        else:
            await work.rooms.clock.sleep(UNSEEN / 10)


async def _wait_for_the_cloud(work: Work, message: str, error: ProviderError, soon: Backoff, seldom: Backoff) -> None:
    work.log.error(message, instance=work.state.instance_id, error=str(error), kind=type(error).__name__)
    pause = (soon if isinstance(error, Throttled | Transient) else seldom).next()
    asked = error.retry_after if isinstance(error, Throttled) else None
    await work.rooms.clock.sleep(max(pause, asked or 0.0))
