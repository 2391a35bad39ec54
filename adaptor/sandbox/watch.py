"""What has become of a VM: whoever waits for news asks here, and the cloud is asked once for all of them (D5)."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from adaptor.clock import Clock
from adaptor.sandbox.model import Phase, SandboxState
from adaptor.sandbox.patience import within
from adaptor.telemetry import logs
from providers.base import Instance, InstanceState, Provider
from providers.errors import ProviderError
from providers.retry import insisting

# Seconds between describes while somebody waits for news of a VM that should be there.
INTERVAL: Final = 2.0
# Seconds between describes while a start waits. Its readiness does not (the dial finds the guest); only bad news does,
# and a boot of 25 s then costs a node five calls, however many pods start on it.
BOOTING: Final = 5.0
# Seconds between describes of a VM whose deletion was accepted. Clouds take from seconds to minutes, and nobody waits.
GONE_INTERVAL: Final = 10.0
# Looks in a row, GONE_INTERVAL apart, that do not know the VM until it counts as gone: one may come too early for an
# eventually consistent cloud, which has not heard of a VM yet and so deleted nothing.
_UNKNOWN_LOOKS: Final = 2
# Seconds since its create was asked for during which a VM may be unknown to the cloud and exist all the same. EC2
# documents "seconds"; a minute is ample.
UNSEEN: Final = 60.0

log = logs.get("watch")


@dataclass(slots=True, eq=False)
class _Asked:
    instance_id: str
    due: float  # the clock's time
    answer: "asyncio.Future[Instance | None]"


class InstanceWatch:
    """Describes what anybody waits for, in one call for all, and does nothing while nobody waits."""

    def __init__(self, provider: Provider, clock: Clock) -> None:
        self._provider = provider
        self._clock = clock
        self._asked: set[_Asked] = set()
        self._poll: asyncio.Task[None] | None = None

    async def look(self, instance_id: str, after: float) -> Instance | None:
        """What the cloud says in `after` seconds, or as soon then as it says anything; None: it knows no such VM."""
        answer: asyncio.Future[Instance | None] = asyncio.get_running_loop().create_future()
        asked = _Asked(instance_id, self._clock.now() + after, answer)
        self._asked.add(asked)
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._watch(), name="instance-watch")
        try:
            return await answer
        finally:
            self._asked.discard(asked)

    async def death(self, instance_id: str, every: float = INTERVAL) -> Instance:
        """Return once the cloud calls the VM stopped or gone; it is asked so often, in seconds."""
        while True:
            seen = await self.look(instance_id, every)
            if seen is not None and seen.state in (InstanceState.STOPPED, InstanceState.GONE):
                return seen

    async def gone(self, instance_id: str, patience: float, asked_at: float = 0.0) -> bool:
        """After an accepted deletion: True once the VM is gone, False if it is still there after `patience` seconds,
        or shows up only now, so that the deletion cannot have met it. `asked_at`: its create, by the wall clock."""
        deadline = self._clock.now() + patience
        unknown, missed = 0, False
        pause = INTERVAL
        while self._clock.now() < deadline:
            seen = await self.look(instance_id, pause)
            pause = GONE_INTERVAL
            if seen is None:
                missed = True
                unknown += self._clock.wall() >= asked_at + UNSEEN
                if unknown == _UNKNOWN_LOOKS:
                    return True
            elif seen.state is InstanceState.GONE:
                log.info("the VM is gone", instance=instance_id, reason=seen.reason)
                return True
            elif missed:
                return False
        return False

    async def aclose(self) -> None:
        """Stop polling."""
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.gather(self._poll, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(INTERVAL)
            if not self._asked:
                return
            async for attempt in insisting(self._clock.sleep, _tell):
                with attempt:
                    await self._describe()

    async def _describe(self) -> None:
        soon = self._clock.now() + INTERVAL / 2  # what is nearly due shares the call
        due = [asked for asked in self._asked if asked.due <= soon]
        if not due:
            return
        found = await self._provider.get({asked.instance_id for asked in due})
        for asked in due:
            if not asked.answer.done():
                asked.answer.set_result(found.get(asked.instance_id))


def _tell(error: BaseException) -> None:
    log.debug("instances could not be described; trying again", error=str(error))


async def survey(
    provider: Provider, clock: Clock, states: Mapping[str, SandboxState], patience: float
) -> Mapping[str, Instance] | None:
    """The cloud's side of a recovery plan: every instance of this node, by id, also those of `states` that are gone
    but still known. None when the cloud does not say within `patience` seconds."""
    if not states:
        return {}
    try:
        return await within(clock, patience, instances_of(provider, states))
    except (ProviderError, TimeoutError) as error:
        log.warning("the cloud cannot be asked what became of the VMs; going on without", error=str(error))
        return None


async def instances_of(provider: Provider, states: Mapping[str, SandboxState]) -> Mapping[str, Instance]:
    """What `survey` returns. Raises ProviderError."""
    found = {instance.id: instance for instance in await provider.list()}
    wanted = {state.instance_id for state in states.values() if state.phase is not Phase.STOPPING} - {""}
    if missing := wanted - found.keys():  # the list leaves out what is gone
        found |= await provider.get(missing)
    return found
