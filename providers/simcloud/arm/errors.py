"""Azure's refusals: codes, the HTTP status that goes with each, and how they look on the wire."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

# Everything that is not here is 400.
_STATUS: Final = {
    "AuthenticationFailed": 401,
    "InvalidAuthenticationToken": 401,
    "InvalidAuthenticationTokenAudience": 401,
    "InvalidAuthenticationTokenTenant": 401,
    "ExpiredAuthenticationToken": 401,
    "AuthorizationFailed": 403,
    "LinkedAuthorizationFailed": 403,
    "RequestDisallowedByPolicy": 403,
    "SubscriptionNotFound": 404,
    "ResourceGroupNotFound": 404,
    "ResourceNotFound": 404,
    "ParentResourceNotFound": 404,
    "NotFound": 404,
    "GalleryImageNotFound": 404,
    "InvalidResourceType": 404,
    "MethodNotAllowed": 405,
    "Conflict": 409,
    "OperationNotAllowed": 409,
    "QuotaExceeded": 409,
    "SkuNotAvailable": 409,
    "AllocationFailed": 409,
    "ZonalAllocationFailed": 409,
    "OverconstrainedAllocationRequest": 409,
    "OverconstrainedZonalAllocationRequest": 409,
    "PropertyChangeNotAllowed": 409,
    "ConflictingUserInput": 409,
    "AttachDiskWhileBeingDetached": 409,
    "SubscriptionNotRegistered": 409,
    "AnotherOperationInProgress": 409,
    "ReadOnlyDisabledSubscription": 409,
    "PreconditionFailed": 412,
    "TooManyRequests": 429,
    "SubscriptionRequestsThrottled": 429,
    "OperationTimedOut": 500,
    "InternalServerError": 500,
    "InternalExecutionError": 500,
    "InternalOperationError": 500,
    "RetryableError": 500,
    "InternalError": 500,
    "ServerTimeout": 503,
    "ServiceUnavailable": 503,
    "GatewayTimeout": 504,
}

_ALLOCATION: Final = "Read more about improving likelihood of allocation success at https://aka.ms/allocation-guidance"
# What Azure says when a fault is injected without words of its own.
_USUAL: Final = {
    "AuthorizationFailed": "The client 'peerpods' with object id '00000000-0000-4000-8000-0000000000aa' does not have"
    " authorization to perform this action or the scope is invalid. If access was recently granted, please refresh"
    " your credentials.",
    "AllocationFailed": "Allocation failed. We do not have sufficient capacity for the requested VM size in this"
    f" region. {_ALLOCATION}",
    "ZonalAllocationFailed": "Allocation failed. We do not have sufficient capacity for the requested VM size in this"
    f" zone. {_ALLOCATION}",
    "SkuNotAvailable": "The requested VM size for resource 'Following SKUs have failed for Capacity Restrictions: ...'"
    " is currently not available in this location. Please try another size or deploy to a different location or"
    " different zone. See https://aka.ms/azureskunotavailable for details.",
    "TooManyRequests": "The request is being throttled as the limit has been reached for this operation type.",
    "SubscriptionRequestsThrottled": "Number of requests for this subscription has been exceeded. Please try again"
    " after the time in the Retry-After header.",
    "InternalServerError": "The server encountered an unexpected condition.",
    "InternalExecutionError": "An internal execution error occurred. Please retry later.",
    "ExpiredAuthenticationToken": "The access token expiry UTC time is earlier than current UTC time.",
    "OSProvisioningTimedOut": "OS Provisioning for VM did not finish in the allotted time. The VM may still finish"
    " provisioning successfully. Please check provisioning state later.",
}
_CHALLENGE: Final = 'Bearer authorization_uri="https://login.windows.net/", error="invalid_token"'


class Refused(Exception):
    """Azure says no."""

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        target: str = "",
        status: int = 0,
        details: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message or usual(code)
        self.target = target
        self.status = status or _STATUS.get(code, 400)
        self.details = details
        self.headers = dict(headers or {})
        if self.status == 401:
            self.headers.setdefault("WWW-Authenticate", _CHALLENGE)

    def body(self) -> bytes:
        """On the wire."""
        return json.dumps({"error": self.plain()}).encode()

    def plain(self) -> dict[str, Any]:
        """The error object; an operation that failed later shows the same."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.target:
            error["target"] = self.target
        if self.details:
            error["details"] = list(self.details)
        return error


def usual(code: str) -> str:
    """Azure's words for a code."""
    return _USUAL.get(code, f"The request was refused: {code}")


def no_resource(kind: str, name: str, group: str) -> Refused:
    """Something that a path names does not exist."""
    return Refused(
        "ResourceNotFound",
        f"The Resource '{kind}/{name}' under resource group '{group}' was not found. For more details please go to"
        " https://aka.ms/ARMResourceNotFoundFix",
    )


def no_reference(resource_id: str, by: str) -> Refused:
    """Something that a body names does not exist."""
    return Refused(
        "InvalidResourceReference",
        f"Resource {resource_id} referenced by resource {by} was not found. Please make sure that the referenced"
        " resource exists, and that both resources are in the same region.",
    )
