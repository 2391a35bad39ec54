"""Who calls, by bearer token, and what RBAC objects let them do."""

import base64
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from adaptor.clock import Clock
from tests.worlds.kubernetes.kinds import Kind, Kinds
from tests.worlds.kubernetes.refusals import Refusal, bad_request, forbidden
from tests.worlds.kubernetes.schema import stamp
from tests.worlds.kubernetes.store import Object, Store

_EXTRA: Final = "authentication.kubernetes.io/"
ISSUER: Final = "https://kubernetes.default.svc.cluster.local"


@dataclass(frozen=True, slots=True)
class User:
    """As a token or the world itself names it."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def review(self) -> dict[str, Any]:
        info: dict[str, Any] = {"username": self.name, "groups": list(self.groups)}
        info |= {"uid": self.uid} if self.uid else {}
        return info | ({"extra": {key: list(value) for key, value in self.extra.items()}} if self.extra else {})


ADMIN: Final = User("kubernetes-admin", ("system:masters", "system:authenticated"))
SYSTEM: Final = User("system:apiserver", ("system:masters",))


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request would do."""

    verb: str
    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class _Token:
    user: User
    expires: float  # wall seconds
    bound: tuple[str, str, str] | None = None  # kind, name, uid in the user's namespace
    namespace: str = ""


class Access:
    """Tokens of users and service accounts, and the evaluation of roles; `always` lets everyone do everything."""

    def __init__(self, store: Store, kinds: Kinds, clock: Clock) -> None:
        self.always = False
        self._store, self._kinds, self._clock = store, kinds, clock
        self._tokens: dict[str, _Token] = {}

    def token(self, user: User) -> str:
        """A token that never expires."""
        text = secrets.token_urlsafe(24)
        self._tokens[text] = _Token(user, float("inf"))
        return text

    def who(self, authorization: str) -> User:
        """Raises 401 for a token that is unknown, expired, or bound to what is gone."""
        sort, _, text = authorization.partition(" ")
        held = self._tokens.get(text) if sort.lower() == "bearer" else None
        if not authorization:
            return User("system:anonymous", ("system:unauthenticated",))
        if held is None or held.expires <= self._clock.wall() or not self._lives(held):
            raise Refusal(401, "Unauthorized")
        return held.user

    def _lives(self, held: _Token) -> bool:
        if held.namespace:
            account = self._get("v1", "ServiceAccount", held.namespace, held.user.name.rpartition(":")[2])
            if account is None or account["metadata"]["uid"] != held.user.uid:
                return False
        if held.bound is None:
            return True
        kind, name, uid = held.bound
        bound = self._get("v1", kind, held.namespace, name)
        return bound is not None and bound["metadata"]["uid"] == uid

    def _get(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None:
        found = self._kinds.called(api_version, kind)
        assert found is not None
        stored = self._store.get(found, namespace, name)
        return stored.object if stored else None

    def request(self, account: Object, spec: Mapping[str, Any]) -> tuple[str, str]:
        """A TokenRequest's token and when it expires; a pod it is bound to tells its node."""
        namespace, name = account["metadata"]["namespace"], account["metadata"]["name"]
        seconds = spec.get("expirationSeconds", 3600)
        if seconds < 600:
            raise bad_request("spec.expirationSeconds: Invalid value: may not specify a duration less than 10 minutes")
        extra: dict[str, Sequence[str]] = {f"{_EXTRA}credential-id": [f"JTI={secrets.token_hex(16)}"]}
        bound = None
        if ref := spec.get("boundObjectRef"):
            bound = (ref["kind"], ref["name"], self._bound(ref, namespace, name, extra))
        user = service_account(namespace, name, account["metadata"]["uid"], extra)
        expires = self._clock.wall() + seconds
        audiences: Sequence[str] = spec.get("audiences") or [ISSUER]
        claims = {"iss": ISSUER, "sub": user.name, "aud": audiences, "exp": int(expires)}
        text = ".".join(
            base64.urlsafe_b64encode(part).rstrip(b"=").decode()
            for part in (b'{"alg":"none"}', msgspec.json.encode(claims), secrets.token_bytes(24))
        )
        if ISSUER in audiences:  # for another audience it is no credential here
            self._tokens[text] = _Token(user, expires, bound, namespace)
        return text, stamp(expires)

    def _bound(self, ref: Mapping[str, Any], namespace: str, account: str, extra: dict[str, Sequence[str]]) -> str:
        obj = self._get("v1", ref["kind"], namespace, ref["name"])
        if obj is None:
            raise Refusal(404, f'{ref["kind"].lower()}s "{ref["name"]}" not found')
        uid: str = obj["metadata"]["uid"]
        if ref.get("uid", uid) != uid:
            raise Refusal(409, f"the UID in the bound object reference ({ref['uid']}) does not match the UID in record")
        if ref["kind"] == "Pod":
            if obj["spec"].get("serviceAccountName", "default") != account:
                raise bad_request(
                    f'cannot bind token for serviceaccount "{account}" to pod running with different serviceaccount name.'
                )
            extra |= {f"{_EXTRA}pod-name": [ref["name"]], f"{_EXTRA}pod-uid": [uid]}
            if node := obj["spec"].get("nodeName"):
                extra[f"{_EXTRA}node-name"] = [node]
        return uid

    # -- RBAC -------------------------------------------------------------------------------------

    def allowed(self, user: User, wish: Wish) -> bool:
        if self.always or "system:masters" in user.groups:
            return True
        return any(_permits(rule, wish) for rule in self._rules(user, wish.namespace))

    def demand(self, user: User, wish: Wish) -> None:
        """Raises 403 in Kubernetes' words."""
        if self.allowed(user, wish):
            return
        asked = wish.kind.plural + (f"/{wish.subresource}" if wish.subresource else "")
        where = f'in the namespace "{wish.namespace}"' if wish.namespace else "at the cluster scope"
        raise forbidden(
            wish.kind,
            wish.name,
            f'User "{user.name}" cannot {wish.verb} resource "{asked}" in API group "{wish.kind.group}" {where}',
        )

    def _rules(self, user: User, namespace: str) -> Iterator[Mapping[str, Any]]:
        for plural in ("clusterrolebindings", "rolebindings") if namespace else ("clusterrolebindings",):
            kind = self._kinds.at("rbac.authorization.k8s.io", "v1", plural)
            assert kind is not None
            for stored in self._store.all(kind, namespace if plural == "rolebindings" else ""):
                binding = stored.object
                if any(_is(subject, user, namespace) for subject in binding.get("subjects", ())):
                    ref = binding["roleRef"]
                    role = self._get("rbac.authorization.k8s.io/v1", ref["kind"], namespace, ref["name"])
                    yield from self._role_rules(role) if role else ()

    def _role_rules(self, role: Object) -> Iterable[Mapping[str, Any]]:
        yield from role.get("rules") or ()


def service_account(namespace: str, name: str, uid: str = "", extra: Mapping[str, Sequence[str]] | None = None) -> User:
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return User(f"system:serviceaccount:{namespace}:{name}", groups, uid, extra or {})


def _is(subject: Mapping[str, Any], user: User, namespace: str) -> bool:
    if subject["kind"] == "ServiceAccount":
        return user.name == f"system:serviceaccount:{subject.get('namespace', namespace)}:{subject['name']}"
    return bool(subject["name"] == user.name if subject["kind"] == "User" else subject["name"] in user.groups)


def _permits(rule: Mapping[str, Any], wish: Wish) -> bool:
    asked = wish.kind.plural + (f"/{wish.subresource}" if wish.subresource else "")
    resources = rule.get("resources") or ()
    return (
        bool({"*", wish.verb} & set(rule.get("verbs") or ()))
        and bool({"*", wish.kind.group} & set(rule.get("apiGroups") or ()))
        and bool({"*", asked, f"*/{wish.subresource}"} & set(resources))
        and (not rule.get("resourceNames") or wish.name in rule["resourceNames"])
    )
