"""The garbage collector, and what ends with a namespace or a CRD; one task that works off what writes have left."""

import asyncio
from collections import deque
from typing import Any

from tests.worlds.kubernetes.deletes import FOREGROUND, ORPHAN, Deletes
from tests.worlds.kubernetes.kinds import Kind
from tests.worlds.kubernetes.store import Event, Object, Stored, copied
from tests.worlds.kubernetes.writes import Core


class Collector:
    """`delay`: seconds from a write to what follows of it; a real one takes up to some seconds."""

    def __init__(self, core: Core, deletes: Deletes, delay: float = 0.0) -> None:
        self.delay = delay
        self._core, self._deletes, self._clock = core, deletes, core.clock
        self._changes: deque[Event] = deque()
        self._more = asyncio.Event()
        core.store.listeners.append(self._noticed)

    def _noticed(self, event: Event) -> None:
        meta = event.object["metadata"]
        marks = {FOREGROUND, ORPHAN} & set(meta.get("finalizers", ()))
        ending = meta.get("deletionTimestamp") and (marks or event.kind.plural == "namespaces")
        if event.type == "DELETED" or meta.get("ownerReferences") or ending or event.kind.plural == "namespaces":
            self._changes.append(event)
            self._more.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._more.wait()
            self._more.clear()
            await self._clock.sleep(self.delay)
            while self._changes:
                self._follow(self._changes.popleft())

    def _follow(self, event: Event) -> None:
        kind, obj = event.kind, event.object
        if event.type == "DELETED":
            for owned_kind, owned in self._dependents(obj):
                self._abandoned(owned_kind, owned)
            self._released(obj)
            if kind.plural == "customresourcedefinitions":
                self._core.kinds.remove_crd(obj["metadata"]["name"])
            if namespace := obj["metadata"].get("namespace"):
                self._emptied(namespace)
            return
        stored = self._core.store.get(kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        if stored is None:
            return
        if obj["metadata"].get("deletionTimestamp"):
            self._ending(kind, stored)
        self._abandoned(kind, stored)
        if kind.plural == "namespaces":
            self._namespace(kind, stored)

    # -- owners -----------------------------------------------------------------------------------

    def _dependents(self, owner: Object) -> list[tuple[Kind, Stored]]:
        uid = owner["metadata"]["uid"]
        return [
            (kind, stored)
            for kind in self._core.kinds
            for stored in self._core.store.all(kind)
            if any(ref["uid"] == uid for ref in stored.object["metadata"].get("ownerReferences", ()))
        ]

    def _owner(self, namespace: str, ref: dict[str, Any]) -> Object | None:
        """The owner that a reference means, if it lives: in the same namespace or the cluster's, with that uid."""
        kind = self._core.kinds.called(ref["apiVersion"], ref["kind"])
        stored = self._core.store.get(kind, namespace, ref["name"]) if kind else None
        return stored.object if stored and stored.object["metadata"]["uid"] == ref["uid"] else None

    def _abandoned(self, kind: Kind, stored: Stored) -> None:
        """Deletes what has owners of which none is left; loses the references to those that went."""
        meta = stored.object["metadata"]
        stored_now = self._core.store.get(kind, meta.get("namespace", ""), meta["name"])
        refs = meta.get("ownerReferences", [])
        if not refs or stored_now is not stored or meta.get("deletionTimestamp"):
            return
        left = [ref for ref in refs if self._owner(meta.get("namespace", ""), ref) is not None]
        if not left:
            self._deletes.begin(kind, stored, None if ORPHAN in meta.get("finalizers", ()) else "Background")
        elif len(left) < len(refs):
            obj = copied(stored)
            obj["metadata"]["ownerReferences"] = left
            self._core.store.put(kind, obj, stored.owners)

    def _ending(self, kind: Kind, stored: Stored) -> None:
        """An owner that waits for its dependents, or wants to leave them behind."""
        marks = stored.object["metadata"].get("finalizers", ())
        dependents = self._dependents(stored.object) if {FOREGROUND, ORPHAN} & set(marks) else []
        uid = stored.object["metadata"]["uid"]
        if ORPHAN in marks:
            for owned_kind, owned in dependents:
                obj = copied(owned)
                refs = [ref for ref in obj["metadata"]["ownerReferences"] if ref["uid"] != uid]
                obj["metadata"]["ownerReferences"] = refs
                if not refs:
                    del obj["metadata"]["ownerReferences"]
                self._core.store.put(owned_kind, obj, owned.owners)
            self._unmark(kind, stored, ORPHAN)
        elif FOREGROUND in marks:
            for owned_kind, owned in dependents:
                if not owned.object["metadata"].get("deletionTimestamp"):
                    more = "Foreground" if self._dependents(owned.object) else "Background"
                    self._deletes.begin(owned_kind, owned, more)
            if not any(_blocks(owned.object, uid) for _, owned in self._dependents(stored.object)):
                self._unmark(kind, stored, FOREGROUND)

    def _unmark(self, kind: Kind, stored: Stored, mark: str) -> None:
        obj = copied(stored)
        obj["metadata"]["finalizers"] = [one for one in obj["metadata"]["finalizers"] if one != mark]
        if not obj["metadata"]["finalizers"]:
            del obj["metadata"]["finalizers"]
        self._deletes.finish(kind, self._core.store.put(kind, obj, stored.owners))

    def _released(self, gone: Object) -> None:
        """Owners that waited in the foreground for what is gone now."""
        for ref in gone["metadata"].get("ownerReferences", ()):
            owner = self._owner(gone["metadata"].get("namespace", ""), ref)
            if owner is not None and FOREGROUND in owner["metadata"].get("finalizers", ()):
                kind = self._core.kinds.called(ref["apiVersion"], ref["kind"])
                assert kind is not None
                self._ending(kind, self._core.find(kind, owner["metadata"].get("namespace", ""), ref["name"]))

    # -- namespaces -------------------------------------------------------------------------------

    def _namespace(self, kind: Kind, stored: Stored) -> None:
        name = stored.object["metadata"]["name"]
        if stored.object["metadata"].get("deletionTimestamp"):
            for inner in self._core.kinds:
                for one in list(self._core.store.all(inner, name)) if inner.namespaced else ():
                    self._deletes.begin(inner, one, "Background")
            self._emptied(name)
            return
        for plural, what in (("serviceaccounts", "default"), ("configmaps", "kube-root-ca.crt")):
            inner_kind = self._core.kinds.at("", "v1", plural)
            assert inner_kind is not None
            if self._core.store.get(inner_kind, name, what) is None:
                self._core.store.put(inner_kind, self._given(inner_kind, name, what), [])

    def _given(self, kind: Kind, namespace: str, name: str) -> Object:
        meta = {
            "name": name,
            "namespace": namespace,
            "uid": f"{kind.plural}-{namespace}-{self._core.store.version}",
            "creationTimestamp": self._core.now(),
        }
        return {"apiVersion": "v1", "kind": kind.kind, "metadata": meta}

    def _emptied(self, name: str) -> None:
        """A namespace that was ending goes when the last object in it has gone."""
        kind = self._core.kinds.at("", "v1", "namespaces")
        assert kind is not None
        stored = self._core.store.get(kind, "", name)
        if stored is None or not stored.object["metadata"].get("deletionTimestamp"):
            return
        if any(True for inner in self._core.kinds if inner.namespaced for _ in self._core.store.all(inner, name)):
            return
        obj = copied(stored)
        obj["spec"]["finalizers"] = []
        self._deletes.finish(kind, self._core.store.put(kind, obj, stored.owners))


def _blocks(obj: Object, uid: str) -> bool:
    return any(
        ref["uid"] == uid and ref.get("blockOwnerDeletion") for ref in obj["metadata"].get("ownerReferences", ())
    )
