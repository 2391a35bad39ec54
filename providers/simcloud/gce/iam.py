"""Who asks: tokens, permissions, and what resource manager tells of the project and its tags.

A call without credentials is taken for the owner's, so that SDKs can be used with anonymous ones; Google would refuse
it. A token that is sent must be one, and must not have expired.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final

from providers.simcloud.faults import Faults
from providers.simcloud.gce.asked import Asked, Verb
from providers.simcloud.gce.errors import Refused
from providers.simcloud.gce.project import ID, NUMBER, Json, Project

TTL: Final = 3599  # seconds that a token is good for
EXPIRED: Final = "ya29.expired"  # a token that has always expired, for tests
_PREFIX: Final = "ya29.simcloud-"  # of those that are issued here
_REALM: Final = 'Bearer realm="https://accounts.google.com/", error="invalid_token"'
_SINCE: Final = "2026-11-02T16:00:00Z"
TAG_KEY: Final = "tagKeys/281475000000001"
TAG_VALUE: Final = "tagValues/281475000000011"
# action -> what the caller must be allowed to; those that are not here follow from the action's name.
_PERMISSIONS: Final[Mapping[str, str]] = {
    "instances.insert": "compute.instances.create",
    "disks.insert": "compute.disks.create",
    "addresses.insert": "compute.addresses.create",
    "images.insert": "compute.images.create",
    "storage.uploads.begin": "storage.objects.create",
    "storage.uploads.write": "storage.objects.create",
    "storage.objects.get": "storage.objects.get",
    "storage.objects.delete": "storage.objects.delete",
    "images.getFromFamily": "compute.images.getFromFamily",
    "zoneOperations.wait": "compute.zoneOperations.get",
    "regionOperations.wait": "compute.regionOperations.get",
    "cloudresourcemanager.projects.get": "resourcemanager.projects.get",
    "cloudresourcemanager.tagKeys.get": "resourcemanager.tagKeys.get",
    "cloudresourcemanager.tagKeys.getNamespaced": "resourcemanager.tagKeys.get",
    "cloudresourcemanager.tagValues.get": "resourcemanager.tagValues.get",
    "cloudresourcemanager.tagValues.getNamespaced": "resourcemanager.tagValues.get",
}
_FREE: Final = frozenset(
    {"oauth2.token", "metadata.get", "instances.testIamPermissions", "cloudbilling.services.skus.list",
     "cloudresourcemanager.projects.testIamPermissions"}
)  # fmt: skip


class Iam:
    """Tokens, permissions and tags of the project. Everything is allowed that no fault denies."""

    def __init__(self, project: Project, faults: Faults) -> None:
        self._project = project
        self._faults = faults
        self._tokens: dict[str, float] = {}  # token -> when it ends
        project.tag_keys[TAG_KEY] = {
            "name": TAG_KEY,
            "parent": f"projects/{NUMBER}",
            "shortName": "team",
            "namespacedName": f"{ID}/team",
            "createTime": _SINCE,
        }
        project.tag_values[TAG_VALUE] = {
            "name": TAG_VALUE,
            "parent": TAG_KEY,
            "shortName": "blue",
            "namespacedName": f"{ID}/team/blue",
            "createTime": _SINCE,
        }

    def actions(self) -> Mapping[str, Verb]:
        return {
            "oauth2.token": lambda asked: self.issue(),
            "instances.testIamPermissions": self._test,
            "cloudresourcemanager.projects.testIamPermissions": self._test,
            "cloudresourcemanager.projects.get": lambda asked: _project(),
            "cloudresourcemanager.tagKeys.get": lambda asked: _one(self._project.tag_keys, "tagKeys", asked),
            "cloudresourcemanager.tagValues.get": lambda asked: _one(self._project.tag_values, "tagValues", asked),
            "cloudresourcemanager.tagKeys.getNamespaced": lambda asked: _named(self._project.tag_keys, asked),
            "cloudresourcemanager.tagValues.getNamespaced": lambda asked: _named(self._project.tag_values, asked),
        }

    def issue(self) -> Json:
        """A new token, as the token endpoint and the metadata server hand it out."""
        now = self._project.now()
        self._tokens = {token: end for token, end in self._tokens.items() if end > now}
        token = _PREFIX + secrets.token_urlsafe(24)
        self._tokens[token] = now + TTL
        return {"access_token": token, "expires_in": TTL, "token_type": "Bearer"}

    def expire(self) -> None:
        """Every token that was issued has had its time."""
        self._tokens.clear()

    def authenticate(self, headers: Mapping[str, str]) -> None:
        """Raises Refused for a token that is none, or not good any more."""
        given = headers.get("Authorization")
        if given is None:
            return
        scheme, _, token = given.partition(" ")
        stale = token == EXPIRED or (token.startswith(_PREFIX) and self._tokens.get(token, 0.0) <= self._project.now())
        if scheme.lower() != "bearer" or not token.strip() or stale:
            raise bad_token("ACCESS_TOKEN_EXPIRED" if stale else "ACCESS_TOKEN_TYPE_UNSUPPORTED")

    def authorize(self, asked: Asked) -> None:
        """Raises Refused for what the caller is not allowed to."""
        if asked.action in _FREE or not self._faults.denied:
            return
        for permission in needed(asked.action, asked.body):
            if permission in self._faults.denied:
                raise Refused("forbidden", f"Required '{permission}' permission for '{_what(asked)}'")

    def _test(self, asked: Asked) -> Json:
        allowed = [each for each in asked.body.get("permissions") or [] if each not in self._faults.denied]
        return {"permissions": allowed} if allowed else {}


def bad_token(reason: str, message: str = "") -> Refused:
    """The refusal of a call whose credentials are not good."""
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "compute.googleapis.com"},
    }
    headers = {"WWW-Authenticate": _REALM}
    return Refused("authError", message, details=[info], location="Authorization", headers=headers)


def needed(action: str, body: Json) -> list[str]:
    """The permissions that a call takes, the one it is named after first."""
    kind, _, verb = action.partition(".")
    verb = "list" if verb == "aggregatedList" else verb
    found = [_PERMISSIONS.get(action, f"compute.{kind}.{verb}")]
    if action != "instances.insert":
        return found
    wishes: list[tuple[Any, str]] = [
        (True, "compute.subnetworks.use"),
        (any(d.get("initializeParams") for d in body.get("disks") or []), "compute.disks.create"),
        (any(d.get("source") for d in body.get("disks") or []), "compute.disks.use"),
        (body.get("metadata"), "compute.instances.setMetadata"),
        (body.get("labels"), "compute.instances.setLabels"),
        (body.get("tags"), "compute.instances.setTags"),
        (body.get("serviceAccounts"), "compute.instances.setServiceAccount"),
        (body.get("serviceAccounts"), "iam.serviceAccounts.actAs"),
        ((body.get("params") or {}).get("resourceManagerTags"), "resourcemanager.tagValueBindings.create"),
        (any(n.get("accessConfigs") for n in body.get("networkInterfaces") or []), "compute.subnetworks.useExternalIp"),
    ]
    return found + [permission for wish, permission in wishes if wish]


def _what(asked: Asked) -> str:
    path = [f"projects/{ID}"]
    if asked.zone:
        path.append(f"zones/{asked.zone}")
    kind = asked.action.partition(".")[0]
    name = asked.names.get(kind.removesuffix("es" if kind == "addresses" else "s")) or asked.body.get("name")
    return "/".join([*path, kind, str(name)]) if name else path[0]


def _project() -> Json:
    return {
        "name": f"projects/{NUMBER}",
        "parent": "organizations/1000000000000",
        "projectId": ID,
        "state": "ACTIVE",
        "displayName": "simcloud",
        "createTime": _SINCE,
    }


def _one(known: Mapping[str, Json], kind: str, asked: Asked) -> Json:
    return _or_denied(known.get(f"{kind}/{asked.names['tag']}"))


def _named(known: Mapping[str, Json], asked: Asked) -> Json:
    name = asked.query.get("name", "").replace(f"{NUMBER}/", f"{ID}/", 1)
    return _or_denied(next((each for each in known.values() if each["namespacedName"] == name), None))


def _or_denied(found: Json | None) -> Json:
    if found is None:  # resource manager does not tell what is missing from what is not allowed
        raise Refused("forbidden", "The caller does not have permission")
    return found
