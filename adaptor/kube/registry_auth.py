"""Image pull secrets merged into one auth.json, as the puller in the pod VM reads it. Pure.

The puller (image-rs) wants each entry's `auth`, in base64 with its padding, under the registry's plain name, and takes
the longest name that fits an image. Kubelet accepts more forms than that, so entries are brought into this one. Where
two secrets have the same name the first counts, in the order of the pod's list: kubelet tries it first, too.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

DOCKER_CONFIG_JSON: Final = "kubernetes.io/dockerconfigjson"
DOCKER_CONFIG: Final = "kubernetes.io/dockercfg"
_KEYS: Final = {DOCKER_CONFIG_JSON: ".dockerconfigjson", DOCKER_CONFIG: ".dockercfg"}


@dataclass(frozen=True, slots=True)
class PullSecret:
    """A Secret object: `data` as the API has it, in base64."""

    name: str
    type: str
    data: Mapping[str, str] = field(repr=False)


def merge(secrets: Iterable[PullSecret]) -> tuple[bytes, list[str]]:
    """(auth.json, notes on what could not be used); empty bytes where nothing can. No note shows any of a secret."""
    auths: dict[str, str] = {}
    notes: list[str] = []
    for secret in secrets:
        try:
            entries = _entries(secret)
        except ValueError as error:
            notes.append(f"the image pull secret {secret.name} cannot be used: {error}")
            continue
        for registry, entry in entries.items():
            name = _plain(registry)
            try:
                auth = _auth(entry)
            except ValueError as error:
                notes.append(f"the image pull secret {secret.name}: its entry for {registry} {error}")
                continue
            if auths.setdefault(name, auth) != auth:
                notes.append(f"the image pull secret {secret.name}: another one is used for {name}, which comes first")
            elif "*" in name:
                notes.append(
                    f"the image pull secret {secret.name}: {name} is a pattern; in a pod VM only whole names count"
                )
    if not auths:
        return b"", notes
    document = {"auths": {name: {"auth": auth} for name, auth in auths.items()}}
    return json.dumps(document, separators=(",", ":")).encode(), notes


def _entries(secret: PullSecret) -> Mapping[str, Any]:
    """Registry to entry. Raises ValueError, without anything of the content."""
    key = _KEYS.get(secret.type)
    if key is None:
        raise ValueError(f"its type is {secret.type!r}, and must be {DOCKER_CONFIG_JSON} or {DOCKER_CONFIG}")
    try:
        found = json.loads(base64.b64decode(secret.data[key], validate=True))
    except KeyError:
        raise ValueError(f"it has no {key}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"its {key} is not JSON") from None
    entries = found.get("auths") if isinstance(found, dict) and secret.type == DOCKER_CONFIG_JSON else found
    if not isinstance(entries, dict):
        raise ValueError(f"its {key} has no table of registries")
    return entries


def _auth(entry: Any) -> str:
    """base64("user:password"). Raises ValueError."""
    if not isinstance(entry, dict):
        raise ValueError("is no table")
    auth = entry.get("auth")
    if auth:  # before user and password, as kubelet has it
        if not isinstance(auth, str):
            raise ValueError("has an auth that is no text")
        pair = _decoded(auth)
    elif isinstance(entry.get("username"), str) and isinstance(entry.get("password"), str):
        pair = f"{entry['username']}:{entry['password']}"
    else:
        raise ValueError("has neither auth nor username and password")
    if ":" not in pair:
        raise ValueError("has an auth that is not user:password")
    return base64.b64encode(pair.encode()).decode()


def _decoded(auth: str) -> str:
    text = auth.strip().rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise ValueError("has an auth that is not base64") from None


def _plain(registry: str) -> str:
    """`https://index.docker.io/v1/` is `index.docker.io`, as kubelet reads it."""
    _, scheme, rest = registry.partition("://")
    host, _, path = (rest if scheme else registry).partition("/")
    if path in ("v1", "v2") or path.startswith(("v1/", "v2/")):
        path = path[3:]
    path = path.strip("/")
    return f"{host}/{path}" if path else host
