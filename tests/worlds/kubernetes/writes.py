"""Create, update, patch and apply: decode, admission, checks, versions, owners of fields, storage."""

import copy
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from adaptor.clock import Clock
from tests.worlds.kubernetes import calls, fields, patches, pods
from tests.worlds.kubernetes.access import Access, Wish
from tests.worlds.kubernetes.admission import Admission, Attributes
from tests.worlds.kubernetes.calls import Call
from tests.worlds.kubernetes.fields import Owner
from tests.worlds.kubernetes.kinds import Kind, Kinds
from tests.worlds.kubernetes.refusals import Refusal, already_exists, bad_request, conflict, invalid, not_found
from tests.worlds.kubernetes.schema import stamp
from tests.worlds.kubernetes.store import Object, Store, Stored, copied

_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"  # of generated names
_KEPT: Final = (
    "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "name", "namespace",
)  # fmt: skip
_VERSIONED: Final = frozenset(
    {
        "leases", "customresourcedefinitions", "poddisruptionbudgets", "runtimeclasses",
        "mutatingwebhookconfigurations", "validatingwebhookconfigurations",
    }
)  # fmt: skip  # no update without the version it is based on
APPLY: Final = "application/apply-patch+yaml"
_STATUS_AT_CREATION: Final = frozenset({"nodes", "persistentvolumes", "services"})
_TRIES: Final = 5  # of a patch that meets another write, as the API server tries

Change = Callable[[Object], Object]


@dataclass(frozen=True, slots=True)
class Core:
    """What the verbs work on."""

    store: Store
    kinds: Kinds
    access: Access
    admission: Admission
    clock: Clock

    def now(self) -> str:
        return stamp(self.clock.wall())

    def find(self, kind: Kind, namespace: str, name: str) -> Stored:
        stored = self.store.get(kind, namespace, name)
        if stored is None:
            raise not_found(kind, name)
        return stored

    def owner(self, call: Call, operation: str) -> Owner:
        part = call.subresource if call.subresource in call.kind.subresources else ""
        return Owner(call.manager, operation, part, call.kind.api_version, self.now(), frozenset())


class Writes:
    """Each returns the object as it is stored then, or would be with dryRun."""

    def __init__(self, core: Core, finish: Callable[[Kind, Object], Object]) -> None:
        self._core, self._finish = core, finish

    # -- create -----------------------------------------------------------------------------------

    async def create(self, call: Call) -> Object:
        given = calls.taken(self._core.kinds, call, call.decoded())
        return await self._create(call, given, "Update")

    async def _create(self, call: Call, obj: Object, operation: str) -> Object:
        core, kind, meta = self._core, call.kind, obj["metadata"]
        if meta.get("resourceVersion"):
            raise Refusal(500, "resourceVersion should not be set on objects to be created", reason="")
        self._same_place(call, obj)
        for key in (*_KEPT[:-2], "resourceVersion", "managedFields", "selfLink"):
            meta.pop(key, None)
        if "status" in kind.subresources and kind.plural not in _STATUS_AT_CREATION:
            obj.pop("status", None)
        attributes = Attributes(call, "CREATE", obj, None)
        await core.admission.mutate(attributes)
        obj = calls.pruned(core.kinds, kind, attributes.object)
        self._fill(kind, obj)
        calls.check(core.kinds, kind, obj, None)
        attributes.object = obj
        await core.admission.validate(attributes)
        name = obj["metadata"]["name"]
        if core.store.get(kind, call.namespace, name) is not None:
            raise already_exists(kind, name)
        owners = fields.updated((), core.owner(call, operation), {}, fields.leaves(core.kinds.schema(kind), obj))
        if call.dry_run:
            return obj
        core.admission.charge(attributes)
        return core.store.put(kind, obj, owners)

    @staticmethod
    def _same_place(call: Call, obj: Object) -> None:
        meta = obj["metadata"]
        if call.kind.namespaced and meta.setdefault("namespace", call.namespace) != call.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if not call.kind.namespaced:
            meta.pop("namespace", None)
        if call.name and meta.setdefault("name", call.name) != call.name:
            raise bad_request(
                f"the name of the object ({meta['name']}) does not match the name on the URL ({call.name})"
            )

    def _fill(self, kind: Kind, obj: Object) -> None:
        """What the server gives a new object."""
        meta = obj["metadata"]
        if not meta.get("name"):
            if not meta.get("generateName"):
                raise invalid(kind, "", [("metadata.name", "Required value: name or generateName is required")])
            tail = "".join(secrets.choice(_ALPHABET) for _ in range(5))
            meta["name"] = meta["generateName"][:58] + tail
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = self._core.now()
        if kind.generation:
            meta["generation"] = 1
        if kind.plural == "pods":
            pods.prepare(obj, self._core.now())
        if kind.plural == "namespaces":
            obj["spec"] = {"finalizers": ["kubernetes"]}
            obj["status"] = {"phase": "Active"}
            meta.setdefault("labels", {})["kubernetes.io/metadata.name"] = meta["name"]

    # -- update and patch -------------------------------------------------------------------------

    async def update(self, call: Call) -> Object:
        given = calls.taken(self._core.kinds, call, call.decoded())
        self._same_place(call, given)
        core, kind, version = self._core, call.kind, given["metadata"].get("resourceVersion")
        if kind.plural == "leases" and core.store.get(kind, call.namespace, call.name) is None:
            return await self._create(call, given, "Update")
        core.find(kind, call.namespace, call.name)
        if not version and (kind.custom or kind.plural in _VERSIONED):
            fault = ("metadata.resourceVersion", "Invalid value: 0x0: must be specified for an update")
            raise invalid(kind, call.name, [fault])
        return await self._change(call, lambda _: copy.deepcopy(given))

    async def patch(self, call: Call) -> Object:
        sort, patch = call.content_type.partition(";")[0].strip(), call.decoded()
        schema = self._core.kinds.schema(call.kind)
        if sort == APPLY:
            return await self.apply(call, patch)
        if call.query.get("force"):
            raise Refusal(
                422,
                'PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch',
            )
        if sort == "application/json-patch+json":
            return await self._change(call, lambda obj: patches.json_patch(obj, patch))
        if not isinstance(patch, dict):
            raise bad_request("error decoding patch: a patch of this type is an object")
        if sort == "application/merge-patch+json":
            return await self._change(call, lambda obj: patches.merge_patch(obj, patch))
        if sort == "application/strategic-merge-patch+json" and not call.kind.custom:
            return await self._change(call, lambda obj: patches.strategic_merge(obj, patch, schema))
        accepted = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
        raise Refusal(
            415,
            f"the body of the request was in an unknown format - accepted media types include: {accepted}",
        )

    async def _change(self, call: Call, change: Change) -> Object:
        for attempt in range(_TRIES):
            stored = self._core.find(call.kind, call.namespace, call.name)
            wanted: Any = change(copied(stored))
            if not isinstance(wanted, dict) or not isinstance(wanted.get("metadata"), dict):
                raise bad_request("the patch leaves no object")
            asked = wanted["metadata"].get("resourceVersion")
            if asked and asked != stored.object["metadata"]["resourceVersion"]:
                raise conflict(call.kind, call.name)
            self._same_uid(call, wanted["metadata"].get("uid"), stored.object["metadata"]["uid"])
            wanted = calls.taken(self._core.kinds, call, wanted)
            done = await self._written(call, stored, wanted, self._core.owner(call, "Update"))
            if done is not None:
                return done
            if attempt and call.verb == "update":
                break
        raise conflict(call.kind, call.name)

    @staticmethod
    def _same_uid(call: Call, asked: str | None, has: str) -> None:
        if asked and asked != has and call.verb == "patch":
            fault = ("metadata.uid", f'Invalid value: "{asked}": field is immutable')
            raise invalid(call.kind, call.name, [fault])
        if asked and asked != has:
            why = f"Precondition failed: UID in precondition: {asked}, UID in object meta: {has}"
            raise conflict(call.kind, call.name, why)

    async def _written(
        self, call: Call, stored: Stored, obj: Object, me: Owner, applied: list[Owner] | None = None
    ) -> Object | None:
        """The object as stored; None when another wrote meanwhile. `applied`: the owners that an apply has decided."""
        core, kind, old = self._core, call.kind, stored.object
        obj = self._kept(call, obj, old)
        attributes = Attributes(call, "UPDATE", obj, old)
        await core.admission.mutate(attributes)
        if attributes.object != obj:
            obj = self._kept(call, calls.pruned(core.kinds, kind, attributes.object), old)
        self._finalizers(kind, obj, old)
        calls.check(core.kinds, kind, obj, old, call.subresource)
        attributes.object = obj
        await core.admission.validate(attributes)
        if core.store.get(kind, call.namespace, call.name) is not stored:
            return None
        schema = core.kinds.schema(kind)
        before, after = fields.leaves(schema, old), fields.leaves(schema, obj)
        owners = applied if applied is not None else fields.updated(stored.owners, me, before, after)
        same = {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k != "managedFields"}}
        was = {**old, "metadata": {k: v for k, v in old["metadata"].items() if k != "managedFields"}}
        if same == was and (applied is None or [o.fields for o in owners] == [o.fields for o in stored.owners]):
            return old
        if kind.generation and _counted(obj) != _counted(old):
            obj["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        if call.dry_run:
            return obj
        return self._finish(kind, core.store.put(kind, obj, owners))

    def _kept(self, call: Call, obj: Object, old: Object) -> Object:
        """What no write can change: identity, and the other half of an object with a status of its own."""
        if obj["metadata"].get("name", call.name) != call.name:
            raise bad_request(
                f"the name of the object ({obj['metadata']['name']}) does not match the name on the URL ({call.name})"
            )
        if call.subresource == "status":
            meta = copy.deepcopy(old["metadata"]) if call.kind.custom else obj["metadata"]
            obj = {**copy.deepcopy(old), "metadata": meta, **({"status": obj["status"]} if "status" in obj else {})}
        elif call.subresource == "resize":
            obj = pods.resized(obj, old)
        elif "status" in call.kind.subresources:
            obj = {key: value for key, value in obj.items() if key != "status"}
            obj |= {"status": copy.deepcopy(old["status"])} if "status" in old else {}
        for key in _KEPT:
            obj["metadata"].pop(key, None)
            if key in old["metadata"]:
                obj["metadata"][key] = old["metadata"][key]
        obj["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if call.kind.plural == "namespaces":
            obj["spec"] = copy.deepcopy(old["spec"])
        return obj

    @staticmethod
    def _finalizers(kind: Kind, obj: Object, old: Object) -> None:
        held = old["metadata"].get("finalizers", [])
        new = [name for name in obj["metadata"].get("finalizers", []) if name not in held]
        if new and old["metadata"].get("deletionTimestamp"):
            listed = ", ".join(f'"{name}"' for name in new)
            fault = f"Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{listed}}}"
            raise invalid(kind, old["metadata"]["name"], [("metadata.finalizers", fault)])

    # -- server-side apply ------------------------------------------------------------------------

    async def apply(self, call: Call, config: Any) -> Object:
        """Raises 409 where another manager holds a field with another value, unless `force`."""
        core, kind = self._core, call.kind
        if not call.query.get("fieldManager"):
            raise Refusal(
                422, 'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'
            )
        if not isinstance(config, dict) or "apiVersion" not in config or "kind" not in config:
            raise bad_request("invalid object type: apiVersion and kind must be set")
        if config.get("metadata", {}).get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        for _ in range(_TRIES):
            stored = core.store.get(kind, call.namespace, call.name)
            if stored is None:
                if call.subresource:
                    raise not_found(kind, call.name)
                core.access.demand(call.user, Wish("create", kind, call.namespace, call.name))
                return await self._create(call, calls.taken(core.kinds, call, config), "Apply")
            wanted = copy.deepcopy(config)
            self._same_place(call, wanted)
            if (version := wanted["metadata"].get("resourceVersion")) and version != stored.object["metadata"][
                "resourceVersion"
            ]:
                raise conflict(kind, call.name)
            if (done := await self._applied(call, stored, wanted)) is not None:
                return done
        raise conflict(kind, call.name)

    async def _applied(self, call: Call, stored: Stored, config: Object) -> Object | None:
        core, schema = self._core, self._core.kinds.schema(call.kind)
        me = core.owner(call, "Apply")
        if call.subresource == "status":
            config = {key: value for key, value in config.items() if key != "spec"}
        elif "status" in call.kind.subresources:
            config.pop("status", None)
        walked = calls.walked(core.kinds, call, config)
        wanted, live = fields.leaves(schema, walked), fields.leaves(schema, stored.object)
        found = fields.conflicts(stored.owners, me, wanted, live)
        if found and call.query.get("force") != "true":
            raise fields.refusal(found)
        mine = next((owner.fields for owner in stored.owners if owner.key == me.key), frozenset())
        others = [owner for owner in stored.owners if owner.key != me.key]
        dropped = mine - wanted.keys() - {path for owner in others for path in owner.fields}
        obj = fields.without(schema, fields.merged(schema, copied(stored), walked), dropped)
        obj = calls.taken(core.kinds, call, obj)
        taken = {path for _, path in found}
        owners = [_less(owner, taken) for owner in others]
        owners = [owner for owner in owners if owner.fields]
        owners.append(_with(me, frozenset(wanted)))
        return await self._written(call, stored, obj, me, owners)


def _less(owner: Owner, taken: set[fields.Path]) -> Owner:
    return _with(owner, owner.fields - taken)


def _with(owner: Owner, held: frozenset[fields.Path]) -> Owner:
    return Owner(owner.manager, owner.operation, owner.subresource, owner.api_version, owner.time, held)


def _counted(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}
