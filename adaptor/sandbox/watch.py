"""Notices that a VM died while somebody waits for it: one describe for all who wait (D5)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from adaptor.clock import Clock
from adaptor.telemetry import logs
from providers.base import Instance, InstanceState, Provider
from providers.errors import ProviderError

# Seconds between describes. Readiness does not wait for it (the dial finds the guest); only bad news does.
INTERVAL: Final = 2.0

log = logs.get("watch")


class InstanceWatch:
    """Polls the provider while anybody waits, and not at all otherwise."""

    def __init__(self, provider: Provider, clock: Clock) -> None:
        self._provider = provider
        self._clock = clock
        self._waiting: dict[str, asyncio.Future[Instance]] = {}
        self._poll: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def death_of(self, instance_id: str) -> AsyncIterator["asyncio.Future[Instance]"]:
        """A future that yields the instance once the cloud calls it stopped or gone."""
        future: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()
        self._waiting[instance_id] = future
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._watch(), name="instance-watch")
        try:
            yield future
        finally:
            del self._waiting[instance_id]
            future.cancel()

    async def aclose(self) -> None:
        """Stop polling."""
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.gather(self._poll, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(INTERVAL)
            if not self._waiting:
                return
            try:
                found = await self._provider.get(tuple(self._waiting))
            except ProviderError as error:
                log.debug("instances could not be described", error=str(error))
                continue
            for instance_id, instance in found.items():
                future = self._waiting.get(instance_id)
                dead = instance.state in (InstanceState.STOPPED, InstanceState.GONE)
                if dead and future is not None and not future.done():
                    future.set_result(instance)
