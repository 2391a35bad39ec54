"""Google's refusals: reasons, the HTTP status that goes with each, and how they look on the wire.

Compute Engine's own refusals carry no `status`; those of the front end before it (credentials, JSON, rates) do.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from providers.simcloud.exchange import Answer

JSON: Final = "application/json; charset=UTF-8"
GLOBAL: Final = "global"
USAGE: Final = "usageLimits"

# reason -> HTTP status; everything that is not here is 400.
_HTTP: Final = {
    "authError": 401,
    "forbidden": 403,
    "accessNotConfigured": 403,
    "quotaExceeded": 403,
    "rateLimitExceeded": 403,
    "notFound": 404,
    "methodNotAllowed": 405,
    "alreadyExists": 409,
    "conflict": 409,
    "conditionNotMet": 412,
    "internalError": 500,
    "backendError": 503,
    "InternalError": 500,  # a fault of simcloud's own
}
# What Google says when a fault is injected without words of its own.
_USUAL: Final = {
    "rateLimitExceeded": "Rate Limit Exceeded",
    "quotaExceeded": "Quota 'CPUS' exceeded.  Limit: 24.0 in region us-central1.",
    "forbidden": "Required 'compute.instances.create' permission for 'projects/peerpods-simcloud'",
    "authError": "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other"
    " valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
    "backendError": "Backend Error",
    "internalError": "Internal error. Please try again or contact Google Support.",
    "notFound": "The resource was not found",
}
_STATUS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    429: "RESOURCE_EXHAUSTED",
}
# A fault's code in capitals is one of an operation's; the HTTP status is what the operation states with it.
OPERATION_HTTP: Final = {
    "ZONE_RESOURCE_POOL_EXHAUSTED": (503, "SERVICE UNAVAILABLE"),
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": (503, "SERVICE UNAVAILABLE"),
    "QUOTA_EXCEEDED": (403, "FORBIDDEN"),
    "PERMISSIONS_ERROR": (403, "FORBIDDEN"),
    "CONFLICT": (409, "CONFLICT"),  # an insert whose instance has been deleted meanwhile
    "INTERNAL_ERROR": (500, "INTERNAL SERVER ERROR"),
    "RESOURCE_NOT_FOUND": (404, "NOT FOUND"),
    "IP_SPACE_EXHAUSTED": (400, "BAD REQUEST"),
    "IP_SPACE_EXHAUSTED_WITH_DETAILS": (400, "BAD REQUEST"),
    "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE": (400, "BAD REQUEST"),
}


class Refused(Exception):
    """Compute Engine says no: at once, with an HTTP status and a reason."""

    def __init__(
        self,
        reason: str,
        message: str = "",
        *,
        http: int = 0,
        domain: str = GLOBAL,
        details: Sequence[Mapping[str, Any]] = (),
        location: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.reason = reason
        self.message = message or _USUAL.get(reason, f"The request was refused: {reason}")
        super().__init__(self.message)
        self.http = http or _HTTP.get(reason, 400)
        self.domain = USAGE if reason in ("rateLimitExceeded", "quotaExceeded") else domain
        self.details = details
        self.location = location
        self.headers = headers or {}

    def answer(self) -> Answer:
        entry: dict[str, Any] = {"message": self.message, "domain": self.domain, "reason": self.reason}
        if self.location:
            entry |= {"location": self.location, "locationType": "header"}
        error: dict[str, Any] = {"code": self.http, "message": self.message, "errors": [entry]}
        if self.details:  # only the front end has them
            error |= {"status": _STATUS.get(self.http, "UNKNOWN"), "details": list(self.details)}
        return Answer(self.http, body({"error": error}), JSON, self.headers, self.reason)


class Failed(Exception):
    """Compute Engine says no in the operation: the call was accepted, the deed did not come about."""

    def __init__(self, code: str, message: str, details: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def shown(self) -> dict[str, Any]:
        """One of an operation's `error.errors`."""
        shown: dict[str, Any] = {"code": self.code, "message": self.message}
        return {**shown, "errorDetails": list(self.details)} if self.details else shown


def body(answered: Mapping[str, Any]) -> bytes:
    """As Google writes it: indented, and with a line's end."""
    return (json.dumps(answered, indent=2, ensure_ascii=False) + "\n").encode()


def invalid(field: str, value: Any, why: str) -> Refused:
    """A field's value that cannot be; `field` as in "resource.name"."""
    return Refused("invalid", f"Invalid value for field '{field}': '{value}'. {why}")


def required(field: str) -> Refused:
    return Refused("required", f"Required field '{field}' not specified")


def not_found(path: str) -> Refused:
    """`path` is a resource's, from "projects/" on."""
    return Refused("notFound", f"The resource '{path}' was not found")


def exists(path: str) -> Refused:
    return Refused("alreadyExists", f"The resource '{path}' already exists")


def in_use(what: str, path: str, user: str) -> Refused:
    """`what` is "disk" or "address"."""
    return Refused("resourceInUseByAnotherResource", f"The {what} resource '{path}' is already being used by '{user}'")


def not_ready(path: str) -> Refused:
    return Refused("resourceNotReady", f"The resource '{path}' is not ready")
