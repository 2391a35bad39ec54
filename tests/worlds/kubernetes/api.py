"""Every verb on every resource, for callers on the wire and in this process: authorisation, then the verb."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tests.worlds.kubernetes.access import ADMIN, User, Wish
from tests.worlds.kubernetes.actions import SUCCESS, Actions
from tests.worlds.kubernetes.calls import JSON, Call
from tests.worlds.kubernetes.deletes import Deletes
from tests.worlds.kubernetes.kinds import Kind
from tests.worlds.kubernetes.reads import listed
from tests.worlds.kubernetes.refusals import Refusal
from tests.worlds.kubernetes.store import Object
from tests.worlds.kubernetes.writes import Core, Writes

_PATH: Final = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[^/]+))?/?"
)
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch"}
_SHOWN: Final = ("pods", "services", "serviceaccounts", "persistentvolumeclaims", "persistentvolumes", "resourcequotas")
_ACTIONS: Final = ("binding", "eviction", "token")
_SUBRESOURCES_OF_NAMESPACES: Final = ("status", "finalize")


class Api:
    """`call` reads a request's path, `do` does it."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.deletes = Deletes(core)
        self.writes = Writes(core, self.deletes.finish)
        self.actions = Actions(core, self.deletes)

    def call(self, method: str, path: str, query: Mapping[str, str], user: User) -> Call:
        """Raises 404 for a path that serves nothing, 405 for a method that it has not."""
        match = _PATH.fullmatch(path)
        kind, parts = None, {}
        if match is not None:
            parts = {key: value or "" for key, value in match.groupdict().items()}
            if parts["namespace"] and parts["plural"] in _SUBRESOURCES_OF_NAMESPACES and not parts["name"]:
                parts |= {
                    "plural": "namespaces",
                    "name": parts["namespace"],
                    "subresource": parts["plural"],
                    "namespace": "",
                }
            kind = self.core.kinds.at(parts["group"], parts["core"] or parts["version"], parts["plural"])
        if kind is None or (parts["subresource"] and parts["subresource"] not in kind.subresources):
            raise Refusal(404, "the server could not find the requested resource")
        name = parts["name"]
        if parts["namespace"] and not kind.namespaced:
            raise Refusal(404, "the server could not find the requested resource")
        verb = _VERBS.get(method, "")
        if method == "GET":
            verb = "watch" if query.get("watch") in ("true", "1") else "get" if name else "list"
        elif method == "DELETE":
            verb = "delete" if name else "deletecollection"
        action = parts["subresource"] in _ACTIONS
        if not verb or (verb == "create" and bool(name) != action) or (verb in ("update", "patch") and not name):
            raise Refusal(405, "the server does not allow this method on the requested resource")
        if kind.namespaced and not parts["namespace"] and verb not in ("list", "watch"):
            raise Refusal(405, "the server does not allow this method on the requested resource")
        if verb == "watch" and not name:
            named = re.search(r"(?:^|,)metadata\.name==?([^,]+)", query.get("fieldSelector", ""))
            self_named = named[1] if named else ""
            return Call(verb, kind, user, parts["namespace"], self_named, parts["subresource"], query)
        return Call(verb, kind, user, parts["namespace"], name, parts["subresource"], query)

    def demand(self, call: Call) -> None:
        """Raises 403."""
        wish = Wish(call.verb, call.kind, call.namespace, call.name, call.subresource)
        self.core.access.demand(call.user, wish)

    async def do(self, call: Call) -> tuple[int, bytes]:
        """Status and body of anything but a watch; raises a Refusal."""
        self.demand(call)
        if call.verb == "get":
            return 200, self.core.find(call.kind, call.namespace, call.name).data
        if call.verb == "list":
            return 200, listed(self.core.store, call)
        if call.verb == "create":
            done = await (self.actions.do(call) if call.subresource else self.writes.create(call))
            return 201, msgspec.json.encode(done)
        if call.verb == "update":
            return 200, msgspec.json.encode(await self.writes.update(call))
        if call.verb == "patch":
            existed = self.core.store.get(call.kind, call.namespace, call.name) is not None
            return 200 if existed else 201, msgspec.json.encode(await self.writes.patch(call))
        if call.verb == "delete":
            return 200, msgspec.json.encode(self._deleted(call, await self.deletes.delete(call)))
        await self.deletes.collection(call)
        return 200, msgspec.json.encode(SUCCESS | {"code": 200})

    def _deleted(self, call: Call, obj: Object) -> Object:
        """The object while it still ends, or of some kinds; else a Status that names it."""
        kind, meta = call.kind, obj["metadata"]
        ending = self.core.store.get(kind, call.namespace, call.name)
        if call.dry_run or kind.plural in _SHOWN or (ending and ending.object["metadata"]["uid"] == meta["uid"]):
            return obj
        details = {"name": meta["name"], "kind": kind.plural, "uid": meta["uid"]}
        details |= {"group": kind.group} if kind.group else {}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    # -- for the world's own hands ----------------------------------------------------------------

    async def direct(
        self,
        verb: str,
        kind: Kind,
        namespace: str = "",
        name: str = "",
        body: Any = None,
        *,
        subresource: str = "",
        content_type: str = JSON,
        user: User = ADMIN,
        query: Mapping[str, str] | None = None,
    ) -> Object:
        """The same without a wire; raises a Refusal."""
        data = msgspec.json.encode(body) if body is not None else b""
        call = Call(verb, kind, user, namespace, name, subresource, query or {}, data, content_type)
        answer: Object = msgspec.json.decode((await self.do(call))[1])
        return answer
