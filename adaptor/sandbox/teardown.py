"""The end of a VM: found if its create was never answered, deleted, and not forgotten before the cloud says it is gone."""

from collections.abc import Sequence
from typing import Final

from adaptor.sandbox import create
from adaptor.sandbox.model import InstanceDeleted, LaunchAccepted, LaunchRefused
from adaptor.sandbox.watch import UNSEEN
from adaptor.sandbox.work import Work
from adaptor.telemetry.spans import span
from providers import tags
from providers.base import Instance
from providers.retry import Tell, insisting

# Seconds from an accepted deletion until it is asked for again: it may have met a VM that the cloud did not know yet.
_AGAIN: Final = 60.0
# Seconds until a person should look. Clouds finish in seconds, the slowest in two minutes.
_GONE_PATIENCE: Final = 300.0


async def delete_vm(work: Work) -> None:
    """Delete the VM, whatever is known of it; try until the cloud accepts."""
    if work.state.launch is None or work.state.deletion_accepted:
        return
    with span(work.log, "instance.delete", instance=work.state.instance_id):
        if work.state.launch_unresolved:
            await _resolve(work)
        if work.state.instance_id:
            if work.rooms.consoles is not None:
                await work.rooms.consoles.keep_if_slow(work.state)
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
    async for attempt in insisting(work.rooms.clock.sleep, _tell(work, "the VM could not be deleted; trying again")):
        with attempt:
            await work.rooms.provider.delete(work.state.instance_id)


async def _resolve(work: Work) -> None:
    """Find out whether a create that was never answered made a VM."""
    intent = work.state.launch
    assert intent is not None
    create.leave(work, intent)  # what a call that is still held back makes for it later
    since = work.rooms.clock.now()
    tell = _tell(work, "cannot find out whether a VM was created; trying again")
    while work.state.launch_unresolved:
        found: Sequence[Instance] = ()
        async for attempt in insisting(work.rooms.clock.sleep, tell):
            with attempt:
                found = await work.rooms.provider.list()
        made = [each for each in found if each.tags.get(tags.TOKEN) == intent.token]
        if made:
            await work.record(LaunchAccepted(made[0].id, made[0].addresses))
        elif work.rooms.clock.now() - since >= UNSEEN:
            await work.record(LaunchRefused("never seen in the cloud"))
        else:
            await work.rooms.clock.sleep(UNSEEN / 10)


def _tell(work: Work, message: str) -> Tell:
    def tell(error: BaseException) -> None:
        work.log.error(message, instance=work.state.instance_id, error=str(error), kind=type(error).__name__)

    return tell
