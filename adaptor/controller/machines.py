"""Ends the machine that a PeerPod names, whichever node launched it. Every call may be repeated."""

import datetime as dt
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from adaptor.clock import Clock
from adaptor.controller import fate
from adaptor.errors import AdaptorError
from adaptor.kube.peerpod import PeerPod
from adaptor.telemetry import logs
from providers import tags
from providers.base import Instance, InstanceState, Provider

# A machine that a cloud does not show may be too new to be seen by all of it, or its create call under way: it counts
# as gone from this age of its PeerPod on. Seconds.
_NEWBORN: Final = 120.0

log = logs.get("controller.machines")


class NotOurs(AdaptorError):
    """The PeerPod names a machine that must not be deleted for it; says why."""


class Machines:
    """`provider` is open for the whole cluster, `settings` are its own."""

    def __init__(self, provider: Provider, settings: Any, cluster: str, clock: Clock) -> None:
        self.cloud = provider.name
        self._provider = provider
        self._settings = settings
        self._cluster = cluster
        self._clock = clock

    async def end(self, peerpod: PeerPod) -> bool:
        """Have it deleted; whether the cloud says that it is gone. Raises: NotOurs, ProviderError."""
        if not peerpod.instance_id and not peerpod.token:
            return True  # nothing was ever asked for
        found = await self._find(peerpod)
        alive = [each for each in found if each.state is not InstanceState.GONE]
        for instance in alive:
            if reason := fate.objection(peerpod, instance, self._cluster):
                raise NotOurs(reason)
        for instance in alive:
            log.info("deleting a machine", instance=instance.id, peerpod=f"{peerpod.namespace}/{peerpod.name}")
            await self._provider.delete(instance.id)
        return not alive and (bool(found) or self._age(peerpod) >= _NEWBORN)

    async def _find(self, peerpod: PeerPod) -> Sequence[Instance]:
        if peerpod.instance_id:
            return list((await self._provider.get(self._ids(peerpod.instance_id))).values())
        return [each for each in await self._provider.list() if each.tags.get(tags.TOKEN) == peerpod.token]

    def _ids(self, told: str) -> Sequence[str]:
        """Our provider's ids for it. cloud-api-adaptor wrote Azure's whole resource id, and Google's name without zone."""
        match self.cloud:
            case "azure" if told.startswith("/"):
                return [told.rpartition("/")[2]]
            case "gcp" if "/" not in told:
                return [f"{zone}/{told}" for zone in getattr(self._settings, "zones", ())]
        return [told]

    def _age(self, peerpod: PeerPod) -> float:
        with suppress(ValueError):
            return self._clock.wall() - dt.datetime.fromisoformat(peerpod.created).timestamp()
        return _NEWBORN
