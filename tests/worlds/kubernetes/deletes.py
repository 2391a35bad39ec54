"""Delete: preconditions, grace, finalizers and what becomes of dependents; garbage.py does the rest."""

from typing import Any, Final

from tests.worlds.kubernetes.admission import Attributes
from tests.worlds.kubernetes.calls import Call
from tests.worlds.kubernetes.kinds import Kind
from tests.worlds.kubernetes.reads import chosen
from tests.worlds.kubernetes.refusals import Refusal, bad_request, not_found
from tests.worlds.kubernetes.schema import stamp
from tests.worlds.kubernetes.store import Object, Stored, copied
from tests.worlds.kubernetes.writes import Core

FOREGROUND: Final = "foregroundDeletion"
ORPHAN: Final = "orphan"
_POLICIES: Final = {"Background": None, "Foreground": FOREGROUND, "Orphan": ORPHAN}


class Deletes:
    """Ends objects; an object with finalizers or grace only gets a deletionTimestamp."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def delete(self, call: Call) -> Object:
        stored = self._core.find(call.kind, call.namespace, call.name)
        return await self._delete(call, stored, _options(call))

    async def collection(self, call: Call) -> list[Object]:
        options = _options(call)
        return [await self._delete(call, stored, options) for stored in chosen(self._core.store, call)]

    async def _delete(self, call: Call, stored: Stored, options: dict[str, Any]) -> Object:
        obj, kind = stored.object, call.kind
        name = obj["metadata"]["name"]
        _preconditions(kind, obj["metadata"], options.get("preconditions") or {})
        attributes = Attributes(call, "DELETE", {}, obj)
        await self._core.admission.mutate(attributes)
        await self._core.admission.validate(attributes)
        stored_now = self._core.store.get(kind, call.namespace or obj["metadata"].get("namespace", ""), name)
        if stored_now is None:
            raise not_found(kind, name)
        if call.dry_run:
            return stored_now.object
        return self.begin(kind, stored_now, options.get("propagationPolicy"), options.get("gracePeriodSeconds"))

    def begin(self, kind: Kind, stored: Stored, policy: str | None = None, grace: int | None = None) -> Object:
        """Ends it, or marks it as ending. `grace` in seconds, for pods."""
        obj = copied(stored)
        meta = obj["metadata"]
        finalizers = meta.get("finalizers", [])
        if policy:
            finalizers = [one for one in finalizers if one not in (FOREGROUND, ORPHAN)]
            finalizers += [mark] if (mark := _POLICIES[policy]) else []
        meta["finalizers"] = finalizers
        if not finalizers:
            del meta["finalizers"]
        seconds = self._grace(kind, obj, grace)
        if kind.plural == "namespaces" and not meta.get("deletionTimestamp"):
            obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
        if not seconds and not finalizers and not _held(kind, obj):
            return self._core.store.remove(kind, obj)
        if meta.get("deletionTimestamp") and seconds >= meta.get("deletionGracePeriodSeconds", 0) and not policy:
            return stored.object  # it is ending already, and no sooner by this
        if not meta.get("deletionTimestamp") and kind.generation:
            meta["generation"] = meta.get("generation", 0) + 1
        if not meta.get("deletionTimestamp") or seconds < meta.get("deletionGracePeriodSeconds", 0):
            meta["deletionTimestamp"] = stamp(self._core.clock.wall() + seconds)
            meta["deletionGracePeriodSeconds"] = seconds
        return self._core.store.put(kind, obj, stored.owners)

    @staticmethod
    def _grace(kind: Kind, obj: Object, asked: int | None) -> int:
        if kind.plural != "pods":
            return 0
        if not obj["spec"].get("nodeName") or obj["status"].get("phase") in ("Succeeded", "Failed"):
            return 0  # no kubelet has to end anything
        return int(obj["spec"].get("terminationGracePeriodSeconds", 30) if asked is None else asked)

    def finish(self, kind: Kind, obj: Object) -> Object:
        """After a write: an object that was only waiting for its last finalizer goes."""
        meta = obj["metadata"]
        waits = meta.get("finalizers") or meta.get("deletionGracePeriodSeconds") or _held(kind, obj)
        if meta.get("deletionTimestamp") and not waits:
            return self._core.store.remove(kind, obj)
        return obj


def _preconditions(kind: Kind, meta: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key, what in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        if wanted.get(key) and wanted[key] != meta[key]:
            raise Refusal(
                409,
                f'Operation cannot be fulfilled on {kind.kind} "{meta["name"]}": the {what} in the precondition ({wanted[key]}) does not match the {what} in record ({meta[key]}). The object might have been deleted and then recreated',
                details={"name": meta["name"], "group": kind.group, "kind": kind.kind},
            )


def _held(kind: Kind, obj: Object) -> bool:
    return kind.plural == "namespaces" and bool(obj["spec"].get("finalizers"))


def _options(call: Call) -> dict[str, Any]:
    """DeleteOptions of the body, or else of the query; raises a Refusal."""
    options = call.decoded() if call.body else {}
    if not isinstance(options, dict):
        raise bad_request("the object provided is unrecognized (must be of type DeleteOptions)")
    for key in ("propagationPolicy", "gracePeriodSeconds"):
        if key in call.query:
            options.setdefault(key, int(call.query[key]) if key.startswith("grace") else call.query[key])
    policy, grace = options.get("propagationPolicy"), options.get("gracePeriodSeconds")
    if policy is not None and policy not in _POLICIES:
        raise Refusal(
            422,
            f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "{policy}": supported values: "Foreground", "Background", "Orphan", "nil"',
        )
    if grace is not None and grace < 0:
        raise Refusal(422, f'DeleteOptions.meta.k8s.io "" is invalid: gracePeriodSeconds: Invalid value: {grace}')
    return options
