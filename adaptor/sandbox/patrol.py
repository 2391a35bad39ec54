"""Notices that the VM of a running sandbox has died or was deleted behind our back, so that its pod fails at once and
with the cloud's reason.

    every minute     one describe for all, also while their links look fine; and has a shim come for each? (`Unclaimed`)
                     is there a VM of a shared create call that no sandbox has a seat for? (`recovery.unseated`)
    link broken      every two seconds (`InstanceWatch`, shared with all who wait) until it is back or the VM is dead
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from adaptor.clock import Clock
from adaptor.relay.client import Session
from adaptor.sandbox import recovery
from adaptor.sandbox.model import Phase, SandboxState
from adaptor.sandbox.rooms import Rooms
from adaptor.sandbox.watch import INTERVAL, UNSEEN
from adaptor.telemetry import logs
from providers.base import Instance, SupportsBatchCreate
from providers.errors import ProviderError

# Seconds between looks at all. One call per 200 VMs on EC2: nothing beside what starts and stops cost.
EVERY: Final = 60.0
# Looks in a row, INTERVAL apart, that do not know the VM of a running sandbox until it counts as gone: clouds have
# been seen to forget for a moment what they know.
_UNKNOWN_LOOKS: Final = 6

# Seconds until a shim must have dialled the agent socket of a sandbox that runs. kata's gives up after 30.
CLAIM: Final = 45.0

log = logs.get("patrol")


class Patrol:
    """`sandboxes` are all there are now; `condemn(sandbox_id, reason)` is called for one whose VM is dead."""

    def __init__(
        self,
        rooms: Rooms,
        sandboxes: Callable[[], Mapping[str, SandboxState]],
        condemn: Callable[[str, str], None],
    ) -> None:
        self._rooms = rooms
        self._sandboxes = sandboxes
        self._condemn = condemn
        self._cut_off: Collection[str] = ()
        self._suspects: dict[str, asyncio.Task[None]] = {}
        self._strays: Collection[str] = ()  # as the last look found them

    def cut_off(self, sandbox_ids: Collection[str]) -> None:
        """The sandboxes whose link is broken now."""
        self._cut_off = sandbox_ids
        for sandbox_id in sandbox_ids:
            self._suspect(sandbox_id)

    async def look(self) -> None:
        """Once at every VM that is a running pod's, or kept for one, and at those that are nobody's."""
        held = {
            state.instance_id: sandbox_id
            for sandbox_id, state in self._sandboxes().items()
            if state.instance_id and state.phase in (Phase.RUNNING, Phase.KEPT)
        }
        try:
            listed = await self._listed()
            missing = held.keys() - listed.keys()  # the list leaves out what is gone
            found = {**listed, **(await self._rooms.provider.get(missing) if missing else {})}
        except ProviderError as error:
            log.warning("the running VMs could not be looked at; the next look will", vms=len(held), error=str(error))
            return
        for instance_id, sandbox_id in held.items():
            seen = found.get(instance_id)
            if seen is None:
                self._suspect(sandbox_id)
            elif reason := recovery.death(seen):
                self._report(sandbox_id, instance_id, reason)
        await self._clear(recovery.unseated(listed.values(), self._sandboxes()))

    async def _listed(self) -> Mapping[str, Instance]:
        """Of a cloud whose create calls are shared: every VM of this node. Else there is nothing to find among them."""
        provider = self._rooms.provider
        if not isinstance(provider, SupportsBatchCreate):
            return {}
        return {each.id: each for each in await provider.list()}

    async def _clear(self, strays: Sequence[Instance]) -> None:
        """Delete those that were nobody's at the last look already: a seat may be written down just now."""
        for stray in strays:
            if stray.id in self._strays:
                log.warning("deleting a VM that was launched with others and is no sandbox's", instance=stray.id)
                try:
                    await self._rooms.provider.delete(stray.id)
                except ProviderError as error:
                    log.warning("it could not be deleted; the next look will", instance=stray.id, error=str(error))
        self._strays = {stray.id for stray in strays}

    async def aclose(self) -> None:
        """Stop looking."""
        suspects = list(self._suspects.values())
        for task in suspects:
            task.cancel()
        await asyncio.gather(*suspects, return_exceptions=True)

    def _suspect(self, sandbox_id: str) -> None:
        state = self._sandboxes().get(sandbox_id)
        if state is None or state.phase is not Phase.RUNNING or sandbox_id in self._suspects:
            return
        task = asyncio.create_task(self._look_closely(sandbox_id, state.instance_id), name="look-closely")
        self._suspects[sandbox_id] = task
        task.add_done_callback(lambda _: self._suspects.pop(sandbox_id, None))

    async def _look_closely(self, sandbox_id: str, instance_id: str) -> None:
        """Until it is dead for certain, or neither cut off nor unknown any more."""
        unknown = 0
        while (state := self._sandboxes().get(sandbox_id)) and state.phase is Phase.RUNNING:
            seen = await self._rooms.watch.look(instance_id, INTERVAL)
            young = state.launch is not None and self._rooms.clock.wall() < state.launch.at + UNSEEN
            unknown = 0 if seen or young else unknown + 1
            reason = recovery.death(seen) if seen else None
            if unknown == _UNKNOWN_LOOKS:
                reason = f"the VM {instance_id} is gone: the cloud no longer knows it"
            if reason:
                self._report(sandbox_id, instance_id, reason)
                return
            if seen and sandbox_id not in self._cut_off:
                return

    def _report(self, sandbox_id: str, instance_id: str, reason: str) -> None:
        state = self._sandboxes().get(sandbox_id)
        if state is None or state.phase not in (Phase.RUNNING, Phase.KEPT):  # taken down meanwhile, and so is its VM
            return
        if state.instance_id == instance_id:  # else it was adopted meanwhile
            log.warning("a pod's VM has died", sandbox=sandbox_id, pod=state.spec.pod, reason=reason)
            self._condemn(sandbox_id, reason)


class Unclaimed:
    """Running sandboxes whose agent socket no shim has dialled: StartVM was answered to nobody, or its shim died at
    once. Nothing will ever end them from outside."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def overdue(self, sandboxes: Mapping[str, SandboxState], sessions: Sequence[Session]) -> Sequence[tuple[str, str]]:
        """(sandbox id, reason) of those that have been seen so for CLAIM seconds."""
        lonely = {
            each.sandbox_id
            for each in sessions
            if not each.shim_connected
            and each.state in recovery.LIVING
            and (state := sandboxes.get(each.sandbox_id))
            and state.phase is Phase.RUNNING
        }
        now = self._clock.now()
        self._since = {sandbox_id: self._since.get(sandbox_id, now) for sandbox_id in lonely}
        return [
            (sandbox_id, f"no shim has connected to its agent socket for {now - since:.0f} s after StartVM")
            for sandbox_id, since in self._since.items()
            if now - since >= CLAIM
        ]
