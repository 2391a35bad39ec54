"""Runs the duties side by side: one that fails is logged, counted and begun again; the others go on."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from adaptor.clock import Clock
from adaptor.errors import AdaptorError
from adaptor.telemetry import logs, metrics
from providers.errors import ProviderError

Duty = Callable[[], Awaitable[None]]

# Seconds before a failed duty begins again: the first, and the longest. One that ran this long has recovered.
_PAUSE: Final = 1.0
_LONGEST: Final = 60.0

log = logs.get("controller")


async def perform(duties: Mapping[str, Duty], clock: Clock) -> None:
    """For ever. Only cancelling ends it."""
    async with asyncio.TaskGroup() as tasks:
        for name, duty in duties.items():
            tasks.create_task(_again_and_again(name, duty, clock), name=name)


async def _again_and_again(name: str, duty: Duty, clock: Clock) -> None:
    pause = _PAUSE
    while True:
        began = clock.now()
        try:
            await duty()
            log.error("a duty ended by itself", duty=name)
        except (AdaptorError, ProviderError) as error:
            log.error("a duty failed", duty=name, error=str(error), kind=type(error).__name__)
        except Exception:  # a bug in one duty must not end the others, nor pass unseen
            log.exception("a duty failed unexpectedly", duty=name)
        metrics.CONTROLLER_FAILURES.labels(duty=name).inc()
        pause = _PAUSE if clock.now() - began >= _LONGEST else min(2 * pause, _LONGEST)
        await clock.sleep(pause)
