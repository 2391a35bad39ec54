"""Get, list with pages, and watch."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import msgspec

from tests.worlds.kubernetes import selectors
from tests.worlds.kubernetes.calls import Call
from tests.worlds.kubernetes.refusals import bad_request, expired
from tests.worlds.kubernetes.store import Event, Store, Stored

BOOKMARKS: Final = 0.25  # seconds between them; a real one sends them about once a minute


def _test(call: Call) -> selectors.Test:
    labels = selectors.by_labels(call.query.get("labelSelector", ""))
    fields = selectors.by_fields(call.kind, call.query.get("fieldSelector", ""))
    named = call.name  # a watch of one object by its path
    return lambda obj: (not named or obj["metadata"]["name"] == named) and labels(obj) and fields(obj)


def chosen(store: Store, call: Call) -> list[Stored]:
    test = _test(call)
    return [stored for stored in store.all(call.kind, call.namespace) if test(stored.object)]


def listed(store: Store, call: Call) -> bytes:
    """The list's JSON; `continue` goes on where the last page ended, as long as its version is remembered."""
    found, version = chosen(store, call), store.version
    limit = int(call.query.get("limit") or 0)
    start = ""
    if token := call.query.get("continue"):
        try:
            given = msgspec.json.decode(base64.urlsafe_b64decode(token))
            version, start = int(given["rv"]), str(given["start"])
        except (ValueError, KeyError, TypeError) as error:
            raise bad_request(f"invalid continue token: continue key is not valid: {error}") from error
        if version < store.floor:
            raise expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results."
            )
    rest = [stored for stored in found if _key(stored) > start]
    page = rest[:limit] if limit else rest
    meta: dict[str, Any] = {"resourceVersion": str(version)}
    if len(page) < len(rest):
        token = base64.urlsafe_b64encode(msgspec.json.encode({"rv": version, "start": _key(page[-1])})).decode()
        meta |= {"continue": token, "remainingItemCount": len(rest) - len(page)}
    head = {"kind": f"{call.kind.kind}List", "apiVersion": call.kind.api_version, "metadata": meta}
    return msgspec.json.encode(head)[:-1] + b',"items":[' + b",".join(stored.data for stored in page) + b"]}"


def _key(stored: Stored) -> str:
    meta = stored.object["metadata"]
    return f"{meta.get('namespace', '')}/{meta['name']}"


async def watched(store: Store, call: Call) -> AsyncIterator[bytes]:
    """Lines of events; the caller ends it. A version that is forgotten gives one ERROR and the end."""
    test = _test(call)
    asked, bookmarks = call.query.get("resourceVersion", ""), call.query.get("allowWatchBookmarks") == "true"
    initial = call.query.get("sendInitialEvents") == "true"
    if asked and not asked.isdigit():
        raise bad_request(
            f'resourceVersion: Invalid value: "{asked}": strconv.ParseUint: parsing "{asked}": invalid syntax'
        )
    version = int(asked or 0)
    if not version or initial:
        version = store.version
        for stored in chosen(store, call):
            yield _line("ADDED", stored.data)
        if initial and bookmarks:
            yield _bookmark(call, version, ended=True)
    while True:
        if version < store.floor:
            status = expired(f"too old resource version: {version} ({store.version})").status()
            yield _line("ERROR", msgspec.json.encode(status))
            return
        events = store.since(call.kind, version)
        for line in _lines(events, call, test):
            yield line
        version = events[-1].version if events else max(version, 0)
        if not events:
            try:
                async with asyncio.timeout(BOOKMARKS):
                    await store.changed()
            except TimeoutError:
                if bookmarks:
                    version = max(version, store.version)
                    yield _bookmark(call, version)


def _lines(events: Sequence[Event], call: Call, test: selectors.Test) -> Iterator[bytes]:
    """As the watcher sees them: what comes to match is added, what no longer does is deleted."""
    for event in events:
        if call.namespace and event.object["metadata"].get("namespace") != call.namespace:
            continue
        was = event.before is not None and test(event.before)
        now = event.type != "DELETED" and test(event.object)
        if event.type == "DELETED" and was:
            yield _line("DELETED", event.data)
        elif now:
            yield _line("MODIFIED" if was else "ADDED", event.data)
        elif was and event.before is not None:
            yield _line("DELETED", event.data)


def _line(what: str, data: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (what.encode(), data)


def _bookmark(call: Call, version: int, *, ended: bool = False) -> bytes:
    meta: dict[str, Any] = {"resourceVersion": str(version)}
    if ended:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    obj = {"kind": call.kind.kind, "apiVersion": call.kind.api_version, "metadata": meta}
    return _line("BOOKMARK", msgspec.json.encode(obj))
