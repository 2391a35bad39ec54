"""Events about the objects that the controller looks after: what is wrong with a PeerPod, what a held pod waits for.

`kube.events` tells of sandboxes, on the node that has them; here nobody has one.
"""

import asyncio
import hashlib
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from adaptor import names
from adaptor.clock import Clock
from adaptor.controller.api import EVENT, Api, Kind, Object
from adaptor.kube import record
from adaptor.kube.errors import Absent, KubernetesError, Taken
from adaptor.telemetry import logs

# Events that wait, and those remembered for counting up: beyond that the oldest are dropped.
_WAITING: Final = 512
_REMEMBERED: Final = 4096
# Between tries while the API server is away; seconds. How often each is tried.
_PAUSE: Final = 2.0
_TRIES: Final = 3
_MESSAGE: Final = 1024  # characters that an event's message may have

log = logs.get("controller.events")


@dataclass(frozen=True, slots=True)
class About:
    """The object that an event is about, as an ObjectReference has it."""

    api_version: str
    kind: str
    namespace: str  # empty for what has none
    name: str
    uid: str


class Voice(Protocol):
    """Says it in an event. Never raises, never waits; the same again is counted rather than written anew."""

    def say(self, about: About, reason: str, message: str, *, warning: bool = False) -> None:
        """`reason` in CamelCase, `message` for the object's owner: what, why, what next."""
        ...


def about(kind: Kind, found: Object) -> About:
    """The reference of this object."""
    metadata = found.get("metadata") or {}
    return About(
        kind.api_version, kind.name, metadata.get("namespace", ""), metadata.get("name", ""), metadata.get("uid", "")
    )


class Events:
    """`Voice` over the API server. `run` sends."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._waiting: OrderedDict[str, Object] = OrderedDict()  # by the event's name
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._more = asyncio.Event()

    def say(self, about: About, reason: str, message: str, *, warning: bool = False) -> None:
        made = _event(about, reason, message, "Warning" if warning else "Normal", record.stamp(self._clock.wall()))
        name = made["metadata"]["name"]
        self._counts[name] = self._counts.get(name, 0) + 1
        self._counts.move_to_end(name)
        self._waiting[name] = made
        for kept, most in (self._waiting, _WAITING), (self._counts, _REMEMBERED):
            if len(kept) > most:
                kept.popitem(last=False)
        self._more.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
                await self._send(self._waiting.popitem(last=False)[1])

    async def _send(self, made: Object) -> None:
        for attempt in range(_TRIES):
            if attempt:
                await self._clock.sleep(_PAUSE)
            try:
                await self._write(made)
                return
            except KubernetesError as error:
                told = str(error)
        log.warning("an event is dropped", reason=made["reason"], about=made["involvedObject"]["name"], error=told)

    async def _write(self, made: Object) -> None:
        metadata = made["metadata"]
        count = self._counts.get(metadata["name"], 1)
        if count > 1:
            with suppress(Absent):  # the API server forgets events after an hour
                await self._count_up(made, count)
                return
        try:
            await self._api.create(EVENT, made)
        except Taken:
            await self._count_up(made, count + 1)

    async def _count_up(self, made: Object, count: int) -> None:
        operations = [
            {"op": "add", "path": "/count", "value": count},
            {"op": "add", "path": "/lastTimestamp", "value": made["lastTimestamp"]},
        ]
        await self._api.patch(EVENT, made["metadata"]["name"], operations, made["metadata"]["namespace"])


def _event(about: About, reason: str, message: str, severity: str, stamp: str) -> Object:
    """Its name says what it is about, so that the same again is the same event."""
    told = f"{about.kind}\0{about.namespace}\0{about.name}\0{about.uid}\0{reason}\0{message}"
    suffix = hashlib.sha256(told.encode()).hexdigest()[:16]
    where = {key: value for key, value in (("namespace", about.namespace), ("uid", about.uid)) if value}
    involved = {"apiVersion": about.api_version, "kind": about.kind, "name": about.name, **where}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        # Events of what has no namespace live in this one.
        "metadata": {"name": f"{about.name[:236].rstrip('-.')}.{suffix}", "namespace": about.namespace or "default"},
        "involvedObject": involved,
        "reason": reason,
        "message": message if len(message) <= _MESSAGE else f"{message[: _MESSAGE - 1]}…",
        "type": severity,
        "source": {"component": names.EVENT_SOURCE},
        "reportingComponent": names.EVENT_SOURCE,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
