"""Events on pods: what `kubectl describe pod` shows its owner of the VM.

As Kubernetes' own recorder does it: the same reason and message again count up one event, a pod has a budget, and
nobody waits for any of it. What cannot be sent in time is dropped and counted: the log has it, too.
"""

import asyncio
import hashlib
import random
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from lightkube import AsyncClient
from lightkube.resources.core_v1 import Event as Resource
from lightkube.types import PatchType

from adaptor import names
from adaptor.clock import Clock
from adaptor.kube.client import told
from adaptor.kube.errors import Absent, Forbidden, KubernetesError, Rejected, Taken
from adaptor.kube.reasons import Note
from adaptor.kube.record import stamp
from adaptor.sandbox.model import SandboxSpec
from adaptor.telemetry import logs, metrics

# A pod's budget, as client-go's: so many at once, then one in so many seconds.
BURST: Final = 25
_REFILL: Final = 300.0
# Events that wait, and those remembered for counting up.
_QUEUE: Final = 256
_REMEMBERED: Final = 1024
# Tries of one event, and seconds between them.
_TRIES: Final = 5
_PAUSE: Final = 2.0
# API servers forget events after an hour: one that is older cannot be counted up.
_LIFE: Final = 1800.0

Key = tuple[str, str, str]  # pod, reason, message

log = logs.get("kube.events")


@dataclass(frozen=True, slots=True)
class _Heard:
    """Something to tell. `uid`: the pod's, by which its events are found; `at` in wall seconds."""

    spec: SandboxSpec
    note: Note
    uid: Callable[[], Awaitable[str]]
    at: float


@dataclass(slots=True)
class _Told:
    """An event that was sent, or is about to be. Times are wall seconds."""

    spec: SandboxSpec
    note: Note
    uid: str
    first: float
    last: float
    count: int = 1
    sent: bool = False


@dataclass(slots=True)
class Bucket:
    """A pod's budget: `tokens` at the time `at`, in monotonic seconds."""

    tokens: float
    at: float

    def take(self, now: float) -> bool:
        self.tokens = min(BURST, self.tokens + (now - self.at) / _REFILL)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Recorder:
    """`tell` returns at once and raises nothing; `run` sends."""

    def __init__(self, client: AsyncClient, node: str, clock: Clock) -> None:
        self._client = client
        self._node = node
        self._clock = clock
        self._told: OrderedDict[Key, _Told] = OrderedDict()
        self._queue: deque[_Heard] = deque()
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._refusing = False
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """Events that wait."""
        return len(self._queue)

    def tell(self, spec: SandboxSpec, note: Note, uid: Callable[[], Awaitable[str]]) -> None:
        """Have the pod's owner know. `uid` finds the pod's; it raises nothing."""
        now = self._clock.now()
        bucket = self._buckets.setdefault(spec.pod, Bucket(BURST, now))
        self._buckets.move_to_end(spec.pod)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        if not bucket.take(now):
            metrics.KUBERNETES_DROPPED_EVENTS.labels(cause="limit").inc()
            return
        self._queue.append(_Heard(spec, note, uid, self._clock.wall()))
        if len(self._queue) > _QUEUE:
            self._queue.popleft()
            metrics.KUBERNETES_DROPPED_EVENTS.labels(cause="queue").inc()
        self._idle.clear()
        self._more.set()

    async def run(self) -> None:
        """For ever: send what there is to tell."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._queue:
                heard = self._queue.popleft()
                await self._send(self._counted(heard, await heard.uid()))
            self._idle.set()

    async def idle(self) -> None:
        """Return once everything was sent, or dropped."""
        await self._idle.wait()

    def _counted(self, heard: _Heard, uid: str) -> _Told:
        """The event for it: a new one, or the last that said the same of the pod, also of another sandbox of it."""
        key = f"{heard.spec.pod}/{uid or heard.spec.id}", heard.note.reason.name, heard.note.message
        known = self._told.get(key)
        if known is None or heard.at - known.last > _LIFE:
            known = self._told[key] = _Told(heard.spec, heard.note, uid, heard.at, heard.at)
        else:
            known.count += 1
            known.last = heard.at
        self._told.move_to_end(key)
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        return known

    async def _send(self, event: _Told) -> None:
        for attempt in range(1, _TRIES + 1):
            try:
                await self._write(event)
            except (Forbidden, Rejected, Absent) as error:  # the right is missing, or the namespace is going
                self._refused(event, error)
                return
            except KubernetesError as error:
                if attempt == _TRIES:
                    self._refused(event, error)
                    return
                await self._clock.sleep(max(error.retry_after or 0.0, _PAUSE * attempt * random.uniform(0.5, 1.0)))  # noqa: S311
            except Exception:  # a bug must not end the telling for good, nor pass unseen
                log.exception("an event could not be written", pod=event.spec.pod)
                return
            else:
                self._refusing = False
                return

    async def _write(self, event: _Told) -> None:
        body = to_object(event.spec, event.note, event.uid, self._node, event.first, event.last, event.count)
        made: Any = Resource.from_dict(body)
        doing = f"tell of {event.note.reason.name} in an event on the pod {event.spec.pod}"
        if not event.sent:
            try:
                with _counted("create"), told(doing):
                    await self._client.create(made)
            except Taken:  # the answer to the first try was lost
                event.sent = True
            else:
                event.sent = True
                return
        patch = {"count": event.count, "lastTimestamp": stamp(event.last)}
        name, namespace = body["metadata"]["name"], event.spec.pod_namespace
        try:
            with _counted("patch"), told(doing):
                await self._client.patch(Resource, name, patch, namespace=namespace, patch_type=PatchType.MERGE)
        except Absent:  # the API server has forgotten it
            with _counted("create"), told(doing):
                await self._client.create(made)

    def _refused(self, event: _Told, error: KubernetesError) -> None:
        metrics.KUBERNETES_DROPPED_EVENTS.labels(cause="refused").inc()
        say = log.debug if self._refusing else log.warning  # the first says it for all until one is taken again
        self._refusing = True
        say("an event was dropped", pod=event.spec.pod, reason=event.note.reason.name, error=str(error))


def to_object(
    spec: SandboxSpec, note: Note, uid: str, node: str, first: float, last: float, count: int
) -> dict[str, Any]:
    """The event. Its name says what it is about, so that a create may be repeated; times are wall seconds."""
    about = f"{spec.id}\0{uid}\0{note.reason.name}\0{note.message}\0{first}"
    suffix = hashlib.sha256(about.encode()).hexdigest()[:16]
    involved = {"apiVersion": "v1", "kind": "Pod", "name": spec.pod_name, "namespace": spec.pod_namespace}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{spec.pod_name[:236].rstrip('-.')}.{suffix}", "namespace": spec.pod_namespace},
        "involvedObject": {**involved, "uid": uid} if uid else involved,
        "type": "Warning" if note.reason.warning else "Normal",
        "reason": note.reason.name,
        "message": note.message,
        "source": {"component": names.EVENT_SOURCE, "host": node},
        "reportingComponent": names.EVENT_SOURCE,
        "reportingInstance": node,
        "firstTimestamp": stamp(first),
        "lastTimestamp": stamp(last),
        "count": count,
    }


@contextmanager
def _counted(verb: str) -> Iterator[None]:
    outcome = "error"
    try:
        yield
        outcome = "ok"
    except (Taken, Absent):
        outcome = "stale"
        raise
    finally:
        metrics.KUBERNETES_WRITES.labels(kind="Event", verb=verb, outcome=outcome).inc()
