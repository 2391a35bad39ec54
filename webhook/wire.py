"""admission.k8s.io/v1: what the API server asks, and the answer's bytes."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from webhook.pods import Malformed, table

API_VERSION: Final = "admission.k8s.io/v1"
KIND: Final = "AdmissionReview"
_WARNING: Final = 256  # characters; the API server cuts at so many, and drops all beyond 4,096 together
_WARNINGS: Final = 8
_FORBIDDEN: Final = 403
_HEAD: Final = f'{{"apiVersion":"{API_VERSION}","kind":"{KIND}","response":{{"uid":'
_dumps: Final = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Review:
    """One question. `creates_pod`: it is about a pod being created, and not about anything else."""

    uid: str
    creates_pod: bool
    namespace: str
    dry_run: bool
    object: Any


def read(body: bytes) -> Review:
    """Raises: Malformed, saying what is wrong with the review."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {str(error)[:200]}") from None
    request = table(found, "request", "the review")
    if found.get("apiVersion") != API_VERSION or found.get("kind") != KIND:
        raise Malformed(f"not an {KIND} of {API_VERSION}, which is all that is answered here")
    uid = request.get("uid")
    if not isinstance(uid, str) or not uid:
        raise Malformed("request.uid is missing")
    resource = table(request, "resource", "request")
    creates = request.get("operation") == "CREATE" and not request.get("subResource")
    namespace = request.get("namespace")
    return Review(
        uid=uid,
        creates_pod=creates and resource.get("resource") == "pods" and resource.get("group", "") == "",
        namespace=namespace if isinstance(namespace, str) else "",
        dry_run=request.get("dryRun") is True,
        object=request.get("object"),
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer but for whom it is: the bytes around the review's uid."""

    behind: str

    def to(self, uid: str) -> bytes:
        """The answer to the review `uid`."""
        return f"{_HEAD}{_dumps(uid)},{self.behind}".encode()


def allowed(operations: Sequence[dict[str, Any]] = (), warnings: Sequence[str] = ()) -> Answer:
    """The pod may be made, with these changes."""
    response: dict[str, Any] = {"allowed": True}
    if operations:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(_dumps(operations).encode()).decode()
    return _answer(response, warnings)


def denied(message: str, warnings: Sequence[str] = ()) -> Answer:
    """The pod may not be made; kubectl shows `message` behind the webhook's name."""
    return _answer(
        {"allowed": False, "status": {"code": _FORBIDDEN, "reason": "Forbidden", "message": message}}, warnings
    )


def _answer(response: dict[str, Any], warnings: Sequence[str]) -> Answer:
    if warnings:
        response["warnings"] = [_cut(each) for each in warnings[:_WARNINGS]]
    return Answer(_dumps(response).removeprefix("{") + "}")


def _cut(text: str) -> str:
    return text if len(text) <= _WARNING else f"{text[: _WARNING - 3]}..."


ALLOWED: Final = allowed()
