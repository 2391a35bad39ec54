"""An API server in memory, for runs in virtual time: versions, finalizers, JSON patches, watches, and faults.

What it cannot do (schemas, admission, garbage collection, real sockets) the server in worlds.kubernetes does.
"""

import asyncio
import copy
import datetime as dt
from collections import Counter, defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from adaptor.clock import Clock
from adaptor.controller.api import Kind, Object, Operations
from adaptor.kube.errors import Absent, KubernetesError, Outdated, Rejected, Taken

T = TypeVar("T")
Key = tuple[str, str, str]  # kind, namespace, name


class Objects:
    """`away` refuses every call; `refuse[verb]` the next ones; `lose[verb]` does the deed and loses the reply."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.held: dict[Key, Object] = {}
        self.calls: Counter[str] = Counter()
        self.away = False
        self.hangs = False
        self.refuse: defaultdict[str, deque[Exception]] = defaultdict(deque)
        self.lose: Counter[str] = Counter()
        self.writes: list[tuple[float, str, Key]] = []
        self._events: list[tuple[int, str, Kind, Object]] = []
        self._version = 0
        self._news = asyncio.Event()

    # -- behind the API's back

    def put(self, kind: Kind, made: Object) -> Object:
        """Create or overwrite it, whatever is there."""
        metadata = made.setdefault("metadata", {})
        key = _key(kind, metadata["name"], metadata.get("namespace", ""))
        event = "MODIFIED" if key in self.held else "ADDED"
        metadata.setdefault("uid", f"uid-{key[2]}-{self._version}")
        metadata.setdefault("creationTimestamp", self._stamp())
        return self._store(kind, key, made, event)

    def drop(self, kind: Kind, name: str, namespace: str = "") -> None:
        """Gone, finalizers or not."""
        self._remove(kind, _key(kind, name, namespace))

    def at(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        return self.held.get(_key(kind, name, namespace))

    # -- Api

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        await self._call("get")
        return copy.deepcopy(self._found(kind, name, namespace))

    async def list(self, kind: Kind, keep: Callable[[Object], T | None], namespace: str = "") -> tuple[str, list[T]]:
        await self._call("list")
        found = [each for key, each in self.held.items() if key[0] == kind.name and namespace in ("", key[1])]
        return str(self._version), [kept for each in copy.deepcopy(found) if (kept := keep(each)) is not None]

    async def watch(self, kind: Kind, version: str) -> AsyncGenerator[tuple[str, Object], None]:
        await self._call("watch")
        seen = int(version)
        while True:
            self._news.clear()
            for number, event, whose, found in list(self._events):
                if number > seen and whose == kind:
                    seen = number
                    yield event, copy.deepcopy(found)
            if self.refuse["watch"]:
                raise self.refuse["watch"].popleft()
            await self._news.wait()

    async def create(self, kind: Kind, made: Object) -> Object:
        await self._call("create")
        metadata = made["metadata"]
        key = _key(kind, metadata["name"], metadata.get("namespace", ""))
        if key in self.held:
            raise Taken(f"{key} exists")
        stored = self.put(kind, copy.deepcopy(made))
        return self._answer("create", key, stored)

    async def replace(self, kind: Kind, changed: Object) -> Object:
        await self._call("replace")
        metadata = changed["metadata"]
        found = self._found(kind, metadata["name"], metadata.get("namespace", ""))
        if metadata.get("resourceVersion") != found["metadata"]["resourceVersion"]:
            raise Outdated(f"{metadata['name']} has changed")
        key = _key(kind, metadata["name"], metadata.get("namespace", ""))
        return self._answer("replace", key, self._store(kind, key, copy.deepcopy(changed), "MODIFIED"))

    async def patch(self, kind: Kind, name: str, operations: Operations, namespace: str = "") -> Object:
        await self._call("patch")
        key = _key(kind, name, namespace)
        changed = copy.deepcopy(self._found(kind, name, namespace))
        for each in operations:
            _apply(changed, each)
        return self._answer("patch", key, self._store(kind, key, changed, "MODIFIED"))

    async def delete(self, kind: Kind, name: str, namespace: str = "", *, foreground: bool = False) -> None:
        await self._call("delete")
        key = _key(kind, name, namespace)
        found = self._found(kind, name, namespace)
        if found["metadata"].get("finalizers"):
            found["metadata"].setdefault("deletionTimestamp", self._stamp())
            self._store(kind, key, found, "MODIFIED")
        else:
            self._remove(kind, key)
        self._answer("delete", key, found)

    # -- inside

    async def _call(self, verb: str) -> None:
        self.calls[verb] += 1
        await self.clock.sleep(0.01)
        if self.hangs:
            await asyncio.Event().wait()
        if self.away:
            raise KubernetesError("the API server is away")
        if verb != "watch" and self.refuse[verb]:
            raise self.refuse[verb].popleft()

    def _answer(self, verb: str, key: Key, stored: Object) -> Object:
        self.writes.append((self.clock.now(), verb, key))
        if self.lose[verb]:
            self.lose[verb] -= 1
            raise KubernetesError("the answer was lost")
        return copy.deepcopy(stored)

    def _found(self, kind: Kind, name: str, namespace: str) -> Object:
        if (found := self.at(kind, name, namespace)) is None:
            raise Absent(f"no {kind} {namespace}/{name}")
        return found

    def _store(self, kind: Kind, key: Key, changed: Object, event: str) -> Object:
        self._version += 1
        changed["metadata"]["resourceVersion"] = str(self._version)
        self.held[key] = changed
        if changed["metadata"].get("deletionTimestamp") and not changed["metadata"].get("finalizers"):
            self._remove(kind, key)
        else:
            self._tell(event, kind, changed)
        return changed

    def _remove(self, kind: Kind, key: Key) -> None:
        self._version += 1
        self._tell("DELETED", kind, self.held.pop(key))

    def _tell(self, event: str, kind: Kind, changed: Object) -> None:
        self._events.append((self._version, event, kind, copy.deepcopy(changed)))
        self._news.set()

    def _stamp(self) -> str:
        return dt.datetime.fromtimestamp(self.clock.wall(), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _key(kind: Kind, name: str, namespace: str) -> Key:
    return kind.name, namespace, name


def _apply(target: Any, operation: dict[str, Any]) -> None:
    *path, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    try:
        for part in path:
            target = target[int(part)] if isinstance(target, list) else target[part]
        place: Any = int(last) if isinstance(target, list) else last
        match operation["op"]:
            case "test":
                if target[place] != operation["value"]:
                    raise Rejected(f"{operation['path']} is not {operation['value']!r}")
            case "remove":
                del target[place]
            case "add":
                if isinstance(target, list):
                    target.insert(place, operation["value"])
                else:
                    target[place] = operation["value"]
            case other:
                raise Rejected(f"no such operation: {other}")
    except (KeyError, IndexError, ValueError) as error:
        raise Rejected(f"{operation['path']} is not there") from error


class Heard:
    """A `Voice` that keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, str]] = []  # (name, reason, message)

    def say(self, about: Any, reason: str, message: str, *, warning: bool = False) -> None:
        self.said.append((about.name, reason, message))


@asynccontextmanager
async def running(*deeds: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """They run for as long as the block does; one that ended before has failed the test."""
    tasks = [asyncio.ensure_future(deed()) for deed in deeds]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
