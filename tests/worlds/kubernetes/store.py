"""The objects, one counter of versions, and what happened since when. Whoever takes an object out must not change it."""

import asyncio
import bisect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.worlds.kubernetes.fields import Owner
from tests.worlds.kubernetes.kinds import Kind

Object = dict[str, Any]
Place = tuple[str, str]  # namespace ("" for the cluster's), name
_Shelf = tuple[str, str]  # group, plural: versions of a resource share it


@dataclass(slots=True)
class Stored:
    """An object, who owns its fields, and its JSON."""

    object: Object
    owners: list[Owner]
    data: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """One change: ADDED, MODIFIED or DELETED."""

    version: int
    kind: Kind
    type: str
    object: Object
    data: bytes
    before: Object | None

    @property
    def place(self) -> Place:
        return place(self.object)


def place(obj: Object) -> Place:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


class Store:
    """`listeners` are told of every change at once; `changed` waits for the next."""

    def __init__(self) -> None:
        self.version = 1
        self.floor = 0  # what happened up to here is forgotten
        self.listeners: list[Callable[[Event], None]] = []
        self._shelves: defaultdict[_Shelf, dict[Place, Stored]] = defaultdict(dict)
        self._history: defaultdict[_Shelf, list[Event]] = defaultdict(list)
        self._waiting: set[asyncio.Future[None]] = set()

    def get(self, kind: Kind, namespace: str, name: str) -> Stored | None:
        return self._shelves[_shelf(kind)].get((namespace if kind.namespaced else "", name))

    def all(self, kind: Kind, namespace: str = "") -> Iterator[Stored]:
        """In the order of their places, as etcd has them."""
        shelf = self._shelves[_shelf(kind)]
        for where in sorted(shelf):
            if not namespace or where[0] == namespace:
                yield shelf[where]

    def put(self, kind: Kind, obj: Object, owners: Sequence[Owner]) -> Object:
        """Stores the object, which gets a version; it is the store's from now on."""
        self.version += 1
        shelf, where = self._shelves[_shelf(kind)], place(obj)
        obj["metadata"]["resourceVersion"] = str(self.version)
        obj["metadata"]["managedFields"] = [owner.render() for owner in owners]
        before = shelf.get(where)
        shelf[where] = Stored(obj, list(owners), msgspec.json.encode(obj))
        self._tell(kind, "MODIFIED" if before else "ADDED", shelf[where], before)
        return obj

    def remove(self, kind: Kind, obj: Object) -> Object:
        """The object's last form, with the version of its end."""
        self.version += 1
        before = self._shelves[_shelf(kind)].pop(place(obj))
        last = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        self._tell(kind, "DELETED", Stored(last, [], msgspec.json.encode(last)), before)
        return last

    def _tell(self, kind: Kind, what: str, stored: Stored, before: Stored | None) -> None:
        event = Event(self.version, kind, what, stored.object, stored.data, before.object if before else None)
        self._history[_shelf(kind)].append(event)
        for listener in self.listeners:
            listener(event)
        self.wake()

    def since(self, kind: Kind, version: int) -> Sequence[Event]:
        history = self._history[_shelf(kind)]
        return history[bisect.bisect_right(history, version, key=lambda event: event.version) :]

    def forget(self) -> None:
        """Compacts: watches and continued lists from before now end with 410."""
        self.version += 1
        self.floor = self.version
        self._history.clear()
        self.wake()

    def wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def changed(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)


def _shelf(kind: Kind) -> _Shelf:
    return kind.group, kind.plural


def copied(stored: Stored) -> Object:
    """One's own copy of the object."""
    fresh: Object = msgspec.json.decode(stored.data)
    return fresh
