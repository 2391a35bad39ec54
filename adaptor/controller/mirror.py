"""All objects of one kind as the API server has them: a list, then a watch from there, and again.

A mirror shows one moment of the server's, some milliseconds old. Whoever must not act on that asks the server itself.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Final, Generic, TypeVar

from adaptor.clock import Clock
from adaptor.controller.api import WATCH, Api, Kind, Object
from adaptor.kube.errors import KubernetesError, Outdated
from adaptor.telemetry import logs

T = TypeVar("T")
Changed = Callable[[str], None]

# Seconds before a list that failed is asked again: the first, and the longest.
_PAUSE: Final = 1.0
_LONGEST: Final = 30.0
# Seconds past the end of a watch until its connection counts as dead.
_PATIENCE: Final = 30.0

log = logs.get("controller.mirror")


def key_of(found: Object) -> str:
    """`namespace/name`, or the name alone."""
    metadata = found["metadata"]
    return f"{metadata.get('namespace') or ''}/{metadata['name']}".lstrip("/")


class Mirror(Generic[T]):
    """`read` makes what is kept of an object; None: nothing is."""

    def __init__(self, api: Api, kind: Kind, read: Callable[[Object], T | None], clock: Clock) -> None:
        self._api = api
        self.kind = kind
        self._read = read
        self._clock = clock
        self._items: dict[str, T] = {}
        self._listeners: list[Changed] = []
        self.synced = asyncio.Event()  # there was a list

    @property
    def items(self) -> Mapping[str, T]:
        """By `key_of`."""
        return self._items

    def listen(self, changed: Changed) -> None:
        """Have `changed` called with the key of whatever comes, changes or goes; from a list with every key."""
        self._listeners.append(changed)

    async def run(self) -> None:
        """For ever. Errors are logged, and what is there stays as it was."""
        pause = _PAUSE
        while True:
            try:
                version = await self._relist()
                pause = _PAUSE
                await self._follow(version)
            except KubernetesError as error:
                if not isinstance(error, Outdated):  # which happens to every watch now and then
                    log.warning("cannot follow", what=self.kind.plural, error=str(error))
                await self._clock.sleep(pause)
                pause = min(2 * pause, _LONGEST)

    async def _relist(self) -> str:
        version, found = await self._api.list(self.kind, self._entry)
        fresh = dict(found)
        gone = self._items.keys() - fresh.keys()
        self._items = fresh
        self.synced.set()
        for key in (*gone, *fresh):
            self._tell(key)
        return version

    async def _follow(self, version: str) -> None:
        """Until the server ends the watch: then a list, for watches have lost events before."""
        try:
            async with asyncio.timeout(WATCH + _PATIENCE), aclosing(self._api.watch(self.kind, version)) as events:
                async for event, found in events:
                    if event in ("ADDED", "MODIFIED", "DELETED"):  # not BOOKMARK
                        self._change(event, found)
        except TimeoutError:
            return

    def _change(self, event: str, found: Object) -> None:
        key = key_of(found)
        kept = None if event == "DELETED" else self._kept(found)
        if kept is not None:
            self._items[key] = kept
        elif self._items.pop(key, None) is None:
            return  # not kept before either
        self._tell(key)

    def _entry(self, found: Object) -> tuple[str, T] | None:
        kept = self._kept(found)
        return None if kept is None else (key_of(found), kept)

    def _kept(self, found: Object) -> T | None:
        try:
            return self._read(found)
        except Exception:  # one object that cannot be read must not hide all others
            log.exception("an object cannot be read", what=self.kind.plural, object=key_of(found))
            return None

    def _tell(self, key: str) -> None:
        for changed in self._listeners:
            changed(key)
