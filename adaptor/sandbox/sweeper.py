"""Finds and removes what has leaked, from time to time (the daemon) or when asked (`peerpods gc`).

    look    list the cloud's resources, then read what this node knows, then judge (`sweep`)
    remove  what a second look confirms is judged once more by itself, and removed

Whatever cannot be read (cloud, journal, relay) ends a look with its error: what is not known is not leaked.
"""

import json
import os
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from adaptor.clock import Clock
from adaptor.errors import AdaptorError
from adaptor.sandbox import sweep
from adaptor.sandbox.sweep import Standing, Verdict
from adaptor.telemetry import logs, metrics
from providers.base import ResourceKind, SupportsSweep
from providers.errors import ProviderError
from providers.retry import attempts, retrying

# Of the first look after a start, at the earliest: recovery's own deletes come first. Seconds.
_SETTLING: Final = 60.0
# Between a look that found something and the second one: a cloud shows what was just deleted for a while. Seconds.
_DOUBT: Final = 10.0
# Parts of the interval by which looks are spread: many nodes share one account's API limits.
_JITTER: Final = 0.1
# Tries of one removal that meets an error which passes.
_TRIES: Final = 5

FIRST_SEEN: Final = "first-seen.json"  # in state_dir

log = logs.get("sweep")


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of one verdict: `outcome` is removed, spared (it is not leaked any more) or failed; `note` says why."""

    verdict: Verdict
    outcome: str
    note: str = ""


class FirstSeen(Protocol):
    """When each resource that has no creation time was first seen; seconds since the epoch."""

    problem: str  # why the last look could not be kept

    def read(self) -> dict[str, float]: ...

    def write(self, first_seen: dict[str, float]) -> None: ...


class Sightings:
    """When this node first saw each resource that has no creation time. In a file, so that `peerpods gc` and the
    adaptor share it and restarts do not begin anew; losing it makes resources younger, never older."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.problem = ""  # why the last look could not be kept

    def read(self) -> dict[str, float]:
        with suppress(OSError, ValueError):
            found = json.loads(self._path.read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return {key: float(at) for key, at in found.items() if isinstance(at, int | float)}
        return {}

    def write(self, first_seen: dict[str, float]) -> None:
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            fresh.write_text(json.dumps(first_seen), encoding="utf-8")
            fresh.replace(self._path)
            self.problem = ""
        except OSError as error:
            self.problem = f"{self._path} cannot be written: {error.strerror}"


class Sweeper:
    """`known` is read anew for every judgement, and `judge` takes it; it raises AdaptorError for what it cannot read."""

    def __init__(
        self,
        cloud: SupportsSweep,
        known: Callable[[], Awaitable[object]],
        sightings: FirstSeen,
        clock: Clock,
        grace: float,
        judge: Callable[..., list[Verdict]] = sweep.judge,
    ) -> None:
        self._cloud = cloud
        self._known = known
        self._sightings = sightings
        self._clock = clock
        self._grace = grace
        self._judge = judge

    async def look(self) -> list[Verdict]:
        """A verdict for every resource of the cluster. Raises: ProviderError, AdaptorError."""
        found = await self._cloud.resources()
        known = await self._known()  # after the list: an intent is written down before what it makes can be listed
        now = self._clock.wall()
        seen = self._sightings.read()
        first_seen = sweep.sighted(found, now, seen)
        if first_seen != seen:
            self._sightings.write(first_seen)
        return self._judge(found, known, now=now, grace=self._grace, first_seen=first_seen)

    async def confirmed(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Those that a second look finds leaked too, in the order to remove them in. A pod that ended during the first
        one is not among them. Raises as `look`."""
        wanted = {verdict.resource.id for verdict in sweep.leaked(verdicts)}
        if not wanted:
            return []
        return [verdict for verdict in sweep.leaked(await self.look()) if verdict.resource.id in wanted]

    async def remove(self, verdict: Verdict) -> Removal:
        """Remove this resource, unless it is not leaked any more by what the node knows now."""
        try:
            (last,) = self._judge(
                [verdict.resource],
                await self._known(),
                now=self._clock.wall(),
                grace=self._grace,
                first_seen=self._sightings.read(),
            )
            if verdict.standing is not Standing.LEAKED or last.standing is not Standing.LEAKED:
                return Removal(verdict, "spared", last.reason)
            await self._insist(verdict)
        except (AdaptorError, ProviderError) as error:
            return Removal(verdict, "failed", str(error))
        return Removal(verdict, "removed")

    async def run(self, interval: float, *, delete: bool) -> None:
        """For ever: look, log and count what has leaked, remove it if `delete`."""
        # From a settled recovery on, and not all nodes of a cluster that was restarted at the same moment.
        await self._clock.sleep(min(interval, _SETTLING) + _fraction() * max(0.0, interval - _SETTLING))
        while True:
            try:
                await self.sweep(delete=delete)
            except Exception:  # a bug here must not end the looks for good, nor pass unseen
                log.exception("looking for leaked resources failed unexpectedly")
            await self._clock.sleep(interval * (1 - _JITTER + 2 * _JITTER * _fraction()))

    async def sweep(self, *, delete: bool) -> None:
        """One look, a second one if it found anything, and what follows. Errors are logged: the next may succeed."""
        try:
            found = sweep.leaked(await self.look())
            if found:
                await self._clock.sleep(_DOUBT)
                found = await self.confirmed(found)
        except (AdaptorError, ProviderError) as error:
            metrics.SWEEPS.labels(outcome="error").inc()
            log.error("cannot look for leaked resources", error=str(error), kind=type(error).__name__)
            return
        metrics.SWEEPS.labels(outcome="ok").inc()
        left = Counter(verdict.resource.kind for verdict in found)
        for verdict in found:
            log.warning("leaked", **_fields(verdict), facts=verdict.resource.facts, reason=verdict.reason)
            if delete:
                removal = await self.remove(verdict)
                log.info("swept", **_fields(verdict), outcome=removal.outcome, note=removal.note)
                metrics.SWEPT.labels(kind=verdict.resource.kind, outcome=removal.outcome).inc()
                left[verdict.resource.kind] -= removal.outcome != "failed"
        for kind in ResourceKind:
            metrics.LEAKED.labels(kind=kind).set(left[kind])
        if self._sightings.problem:
            log.warning("resources without a creation time stay too young", reason=self._sightings.problem)

    async def _insist(self, verdict: Verdict) -> None:
        async for attempt in retrying(self._clock.sleep, attempts(_TRIES)):
            with attempt:
                await self._cloud.remove(verdict.resource)


def _fraction() -> float:
    return secrets.randbelow(1000) / 1000


def _fields(verdict: Verdict) -> dict[str, object]:
    return {
        "resource": verdict.resource.kind,
        "id": verdict.resource.id,
        "age": None if verdict.age is None else round(verdict.age),
    }
