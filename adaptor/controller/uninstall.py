"""`peerpods controller --uninstall`: leaves the cluster without a finalizer, gate or object of ours.

    stop what the caller names, and wait until its pods are gone
    ─► every PeerPod: VM deleted, gone, our finalizer dropped ─► gates lifted ─► Lease, Secret and ConfigMap deleted

What cannot be deleted is named, with what to do; it may be run again at any time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from adaptor import names
from adaptor.clock import Clock
from adaptor.controller import finisher, quota
from adaptor.controller.api import CONFIG_MAP, DAEMON_SET, DEPLOYMENT, LEASE, PEER_POD, SECRET, Api, Kind
from adaptor.controller.machines import Machines, NotOurs
from adaptor.errors import AdaptorError
from adaptor.kube import peerpod
from adaptor.kube.errors import Absent
from adaptor.kube.peerpod import PeerPod
from adaptor.telemetry import logs
from providers.errors import ProviderError

STOPPABLE: Final = {"daemonset": DAEMON_SET, "deployment": DEPLOYMENT}

# Seconds between rounds: a VM is gone after a minute or two.
_ROUND: Final = 5.0

log = logs.get("controller.uninstall")


@dataclass(slots=True)
class Left:
    """What came of it."""

    finished: int = 0
    abandoned: list[str] = field(default_factory=list)  # VMs that were left, with the reason; their PeerPods are free
    stuck: dict[str, str] = field(default_factory=dict)  # PeerPods that still have the finalizer: why
    running: list[str] = field(default_factory=list)  # what was to be stopped, and still runs


class Uninstall:
    """`seconds` is how long it may try."""

    def __init__(self, api: Api, machines: Machines, namespace: str, clock: Clock, seconds: float) -> None:
        self._api = api
        self._machines = machines
        self._namespace = namespace
        self._clock = clock
        self._until = clock.now() + seconds
        self._left = Left()

    async def run(self, stop: Sequence[tuple[Kind, str]]) -> Left:
        """Raises: KubernetesError when the API server cannot be asked at all."""
        for kind, name in stop:
            await self._delete(kind, name, foreground=True)
        self._left.running = await self._still_there(stop)
        while await self._release_all() and self._clock.now() < self._until:
            await self._clock.sleep(_ROUND)
        if not self._left.stuck:
            log.info("lifted the quota's gates", pods=await quota.lift_all(self._api))
            for kind, name in (LEASE, names.LEASE), (SECRET, names.WEBHOOK_TLS), (CONFIG_MAP, names.OFFERINGS):
                await self._delete(kind, name)
        return self._left

    async def _still_there(self, stop: Sequence[tuple[Kind, str]]) -> list[str]:
        """Deleted in the foreground, they stay until their pods are gone."""
        while True:
            left = [f"{kind} {name}" for kind, name in stop if await self._exists(kind, name)]
            if not left or self._clock.now() >= self._until:
                return left
            await self._clock.sleep(_ROUND)

    async def _release_all(self) -> bool:
        """One round; whether some PeerPod still has our finalizer."""
        _, found = await self._api.list(PEER_POD, peerpod.from_object)
        ours = [each for each in found if names.PEERPOD_FINALIZER in each.finalizers]
        self._left.stuck = {}
        for each in ours:
            key = f"{each.namespace}/{each.name}"
            try:
                if not await self._release(each):
                    self._left.stuck[key] = (
                        f"its VM {each.instance_id or f'with the token {each.token}'} is being deleted"
                    )
            except (AdaptorError, ProviderError) as error:
                log.warning("cannot release a PeerPod yet", peerpod=key, error=str(error))
                self._left.stuck[key] = str(error)
        return bool(self._left.stuck)

    async def _release(self, wanted: PeerPod) -> bool:
        reason = ""
        if wanted.cloud and wanted.cloud != self._machines.cloud:
            reason = f"it is at {wanted.cloud}, and {self._machines.cloud} is configured"
        else:
            try:
                if not await self._machines.end(wanted):
                    return False
            except NotOurs as error:
                reason = str(error)
        if not wanted.deleting:
            await finisher.delete(self._api, wanted)
        await finisher.drop_finalizer(self._api, wanted)
        if reason:
            self._left.abandoned.append(
                f"VM {wanted.instance_id} of PeerPod {wanted.namespace}/{wanted.name}: {reason}"
            )
        self._left.finished += 1
        return True

    async def _exists(self, kind: Kind, name: str) -> bool:
        try:
            await self._api.get(kind, name, self._namespace)
        except Absent:
            return False
        return True

    async def _delete(self, kind: Kind, name: str, *, foreground: bool = False) -> None:
        try:
            await self._api.delete(kind, name, self._namespace, foreground=foreground)
        except Absent:
            return
