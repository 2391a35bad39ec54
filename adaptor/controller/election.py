"""One leader at a time: takes the Lease, keeps it while the work runs, and ends the work before another may begin.

contend ──taken──► work + renew every 2 s ──not renewed for 10 s, or another's──► work cancelled ──► contend
"""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Collection
from enum import Enum
from typing import Final

from adaptor.clock import Clock
from adaptor.controller import tenure
from adaptor.controller.api import LEASE, Api, Object
from adaptor.controller.tenure import Record, Sighting
from adaptor.errors import AdaptorError, Unavailable
from adaptor.kube.errors import Absent, KubernetesError, Outdated, Taken
from adaptor.telemetry import logs, metrics

# For the release at the end: whoever waits for it can also wait for the Lease to run out. Seconds.
_RELEASE: Final = 2.0

log = logs.get("controller.election")


class _Outcome(Enum):
    """Of one look at the Lease."""

    MINE = "mine"
    ANOTHERS = "another's"
    UNCLEAR = "unclear"  # the next look tells


class Election:
    """`me` must be this process's alone: a restarted one is another."""

    def __init__(self, api: Api, namespace: str, name: str, me: str, duration: float, clock: Clock) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._me = me
        self._duration = duration
        self._clock = clock
        self._sighting: Sighting | None = None
        self._held: Object = {}  # the Lease as we wrote it last
        self._said = ""  # whom we wait for; said once
        self.memory: dict[str, str] = {}  # annotations of the Lease: what one leader leaves to the next
        self.leading = False
        self.trouble = ""  # why the Lease cannot be read or written

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """For ever: `work` runs while, and only while, this process leads. Cancelling it releases the Lease."""
        while True:
            since = await self._acquire()
            metrics.CONTROLLER_LEADS.set(1)
            log.info("leading", me=self._me)
            try:
                await self._reign(work, since)
            finally:
                metrics.CONTROLLER_LEADS.set(0)
                await self._release()
            log.warning("no longer leading", me=self._me, reason=self.trouble or "another has taken the lease")

    async def _acquire(self) -> float:
        """When the call that took the Lease was made."""
        while True:
            began = self._clock.now()
            try:
                async with asyncio.timeout(self._duration * tenure.DEADLINE):
                    if await self._take() is _Outcome.MINE:
                        self.trouble = ""
                        return began
            except (AdaptorError, TimeoutError) as error:
                self._complain(error)
            await self._clock.sleep(self._duration * tenure.RETRY)

    async def _reign(self, work: Callable[[], Awaitable[None]], since: float) -> None:
        working = asyncio.ensure_future(work())
        keeping = asyncio.create_task(self._keep(since), name="lease")
        self.leading = True
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.leading = False
            left = {each for each in (working, keeping) if not each.done()}
            for each in left:
                each.cancel()
            if left:
                await self._ended(left)
        if not working.cancelled():
            working.result()

    async def _ended(self, left: "Collection[asyncio.Future[None]]") -> None:
        _, late = await asyncio.wait(left, timeout=self._duration * (1 - tenure.DEADLINE) / 2)
        if late:  # somebody else may lead in a moment: better no process than two that act
            raise Unavailable("the controller's work does not end, and its lease does")

    async def _keep(self, since: float) -> None:
        """Until the Lease is lost."""
        good_until = since + self._duration * tenure.DEADLINE
        while self._clock.now() < good_until:
            await self._clock.sleep(min(self._duration * tenure.RETRY, good_until - self._clock.now()))
            began = self._clock.now()
            try:
                async with asyncio.timeout(max(0.0, good_until - began)):
                    outcome = await self._take()
            except (AdaptorError, TimeoutError) as error:
                self._complain(error)
                continue
            if outcome is _Outcome.ANOTHERS:
                return
            if outcome is _Outcome.MINE:
                good_until, self.trouble = began + self._duration * tenure.DEADLINE, ""

    async def _take(self) -> "_Outcome":
        """Take or renew it if that is ours to do. Raises: KubernetesError; what was done then shows at the next look."""
        lease = await self._read()
        record = tenure.read(lease)
        self._sighting = tenure.seen(self._sighting, record, self._clock.now())
        if not tenure.may_take(self._sighting, self._me, self._clock.now()):
            if self._said != record.holder:
                self._said = record.holder
                log.info("waiting; another leads", leader=record.holder)
            return _Outcome.ANOTHERS
        if record.holder != self._me or not self._held:
            self.memory.clear()
            self.memory.update((lease.get("metadata") or {}).get("annotations") or {})
        try:
            self._held = await self._write(lease, record)
        except (Outdated, Taken):
            return _Outcome.UNCLEAR  # somebody wrote to it just now
        self._said = ""
        return _Outcome.MINE

    async def _read(self) -> Object:
        try:
            return await self._api.get(LEASE, self._name, self._namespace)
        except Absent:
            return {}

    async def _write(self, lease: Object, record: Record) -> Object:
        spec = {**(lease.get("spec") or {}), **tenure.spec(record, self._me, self._duration, self._stamp())}
        if lease:
            annotations = {**(lease["metadata"].get("annotations") or {}), **self.memory}
            metadata = {**lease["metadata"], "annotations": annotations}
            return await self._api.replace(LEASE, {**lease, "metadata": metadata, "spec": spec})
        metadata = {"name": self._name, "namespace": self._namespace}
        return await self._api.create(
            LEASE, {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": metadata, "spec": spec}
        )

    async def _release(self) -> None:
        """Only as we wrote it last: another's is left alone."""
        if tenure.read(self._held).holder != self._me:
            return
        held, self._held = self._held, {}
        try:
            async with asyncio.timeout(_RELEASE):
                await self._api.replace(LEASE, {**held, "spec": {**held["spec"], **tenure.released(self._stamp())}})
        except (KubernetesError, TimeoutError) as error:
            log.info("the lease is left to run out", error=str(error) or "the API server did not answer in time")

    def _stamp(self) -> str:
        return dt.datetime.fromtimestamp(self._clock.wall(), dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def _complain(self, error: Exception) -> None:
        text = str(error) or "the API server did not answer in time"
        if text != self.trouble:
            log.warning("cannot take or renew the lease", error=text)
        self.trouble = text
