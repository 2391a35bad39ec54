"""Compute Engine's and the SDK's errors as ours: one table by vendor code, one by the SDK's own exceptions.

Google says no in two places: at once, with an HTTP status and a reason ("rateLimitExceeded"), or later in the
operation that an accepted call has begun, with a code ("ZONE_RESOURCE_POOL_EXHAUSTED").
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, Final

import requests.exceptions as http
from google.api_core import exceptions as sdk
from google.auth import exceptions as auth

from providers.errors import (
    Capacity,
    Denied,
    InvalidSpec,
    NotFound,
    ProviderError,
    Quota,
    Throttled,
    Transient,
    Unsupported,
    made,
    retry_after,
)

ALREADY_EXISTS: Final = "alreadyExists"

_BY_CLASS: Final[Mapping[type[ProviderError], tuple[str, ...]]] = {
    Capacity: (
        "ZONE_RESOURCE_POOL_EXHAUSTED",
        "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
        "STOCKOUT",
        "INSUFFICIENT_CAPACITY",
        "insufficientCapacity",
        "RESERVATION_CAPACITY_EXCEEDED",
        "IP_SPACE_EXHAUSTED",  # addresses come free as pods end
        "IP_SPACE_EXHAUSTED_WITH_DETAILS",
    ),
    Unsupported: ("UNSUPPORTED_OPERATION", "unsupportedOperation", "ZONE_NOT_SUPPORTED"),
    Quota: ("QUOTA_EXCEEDED", "quotaExceeded", "LIMIT_EXCEEDED", "limitExceeded"),
    Throttled: (
        "rateLimitExceeded",
        "userRateLimitExceeded",
        "RATE_LIMIT_EXCEEDED",
        "RESOURCE_OPERATION_RATE_EXCEEDED",
        "resourceOperationRateExceeded",
        "operationRateExceeded",
        "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED",
        "concurrentLimitExceeded",
        "RESOURCE_EXHAUSTED",
    ),
    Denied: (
        "authError",
        "forbidden",
        "required-login",
        "accessNotConfigured",
        "insufficientPermissions",
        "accountDisabled",
        "accountDeleted",
        "billingNotEnabled",
        "PERMISSIONS_ERROR",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "SERVICE_DISABLED",
        "ACCESS_TOKEN_EXPIRED",
        "CREDENTIALS_MISSING",
        "constraintViolated",
    ),
    InvalidSpec: (
        "invalid",
        "required",
        "badRequest",
        "parseError",
        "invalidParameter",
        "invalidUsage",
        "INVALID_USAGE",
        "INVALID_ARGUMENT",
        "conditionNotMet",
        "CONDITION_NOT_MET",
        ALREADY_EXISTS,
        "resourceInUseByAnotherResource",
        "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE",
        "RESOURCE_ALREADY_EXISTS",
    ),
    NotFound: ("notFound", "RESOURCE_NOT_FOUND", "NOT_FOUND"),
    Transient: (
        "backendError",
        "internalError",
        "INTERNAL_ERROR",
        "serviceUnavailable",
        "resourceNotReady",
        "RESOURCE_NOT_READY",
        "SERVICE_UNAVAILABLE",
    ),
}
_TABLE: Final = {code: cls for cls, codes in _BY_CLASS.items() for code in codes}

# The SDK's own exceptions, first match wins. Its text names endpoint or file, never a secret.
_SDK: Final[tuple[tuple[type[ProviderError], tuple[type[Exception], ...]], ...]] = (
    (Transient, (auth.TransportError, auth.TimeoutError)),
    (Denied, (auth.GoogleAuthError,)),
    (InvalidSpec, (http.InvalidURL, http.MissingSchema, http.InvalidSchema)),
    (Transient, (http.RequestException, sdk.RetryError)),  # whether the deed was done is unknown: the token finds out
)
_HINTS: Final = {
    "accessNotConfigured": "enable the Compute Engine API in this project",
    "SERVICE_DISABLED": "enable the Compute Engine API in this project",
    "IP_SPACE_EXHAUSTED": "use a larger subnetwork",
    "IP_SPACE_EXHAUSTED_WITH_DETAILS": "use a larger subnetwork",
    "resourceInUseByAnotherResource": "another machine has it",
    "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE": "another machine has it",
}
_CLASS_HINTS: Final = {
    Quota: "ask Google for a higher limit, or allow another machine family or zone",
    Denied: "check the credentials and permissions of this node",
}
_made: Final = functools.partial(made, hints=_HINTS, class_hints=_CLASS_HINTS)


def translate(error: Exception, doing: str, request_id: str = "") -> ProviderError:
    """The error of ours that stands for `error`, ready to be raised from it; `doing` is what failed, on what.

    `request_id`: the one sent with the call. Google's answers seldom have one of their own; its support finds the
    call by this.
    """
    if isinstance(error, sdk.GoogleAPICallError) and not isinstance(error, sdk.RetryError):
        return _from_answer(error, doing, request_id)
    for cls, kinds in _SDK:
        if isinstance(error, kinds):
            retryable = cls is Denied and getattr(error, "retryable", False)
            return _made(Transient if retryable else cls, f"{doing}: {_short(error)}", type(error).__name__, request_id)
    if isinstance(error, (KeyError, IndexError)):  # read in vain: a proxy's page parses as an answer without content
        return _made(Transient, f"{doing}: the answer is not Google's own, it lacks {error}", type(error).__name__)
    if type(error).__module__.startswith("google.protobuf"):  # or does not parse at all
        return _made(Transient, f"{doing}: the answer is not Google's own: {_short(error)}", type(error).__name__)
    if isinstance(error, OSError):  # a token or key file that cannot be read; the network's have been seen above
        return _made(Denied, f"{doing}: {error}", type(error).__name__)
    if isinstance(error, ValueError) and "Unknown field" in str(error):  # a request that this SDK cannot write
        return InvalidSpec(f"{doing}: the SDK refuses the request: {_short(error)}", code=type(error).__name__)
    return ProviderError(f"{doing}: {type(error).__name__}: {_short(error)}", code=type(error).__name__)


def of_operation(operation: Mapping[str, Any], doing: str) -> ProviderError | None:
    """What an operation failed of; None for one that has not."""
    faults = operation.get("error", {}).get("errors", [])
    if not faults and not int(operation.get("http_error_status_code", 0)) >= 400:
        return None
    first = faults[0] if faults else {}
    code = str(first.get("code", ""))
    text = first.get("message") or operation.get("http_error_message") or "the operation failed and does not say why"
    cls = _class_of(code, int(operation.get("http_error_status_code", 0)))
    return _made(cls, f"{doing}: {text}", code, operation.get("client_operation_id") or operation.get("name", ""))


def _from_answer(error: sdk.GoogleAPICallError, doing: str, request_id: str) -> ProviderError:
    said = _said(error)
    listed = said.get("errors") or [{}]
    code = str(listed[0].get("reason") or said.get("status") or "")
    status = int(error.code or 0)
    text = str(listed[0].get("message") or said.get("message") or f"HTTP status {status}")
    made = _made(_class_of(code, status), f"{doing}: {text}", code or str(status), _request_id(said) or request_id)
    if isinstance(made, Throttled):
        made.retry_after = retry_after(error.response.headers.get("retry-after", ""))
    return made


def _said(error: sdk.GoogleAPICallError) -> Mapping[str, Any]:
    """The `error` object of the answer; empty for a page that is not Google's."""
    try:
        found = error.response.json()["error"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def _request_id(said: Mapping[str, Any]) -> str:
    for detail in said.get("details", []):
        if str(detail.get("@type", "")).endswith("google.rpc.RequestInfo"):
            return str(detail.get("requestId", ""))
    return ""


def _class_of(code: str, status: int) -> type[ProviderError]:
    if code in _TABLE:
        return _TABLE[code]
    if status == 429:
        return Throttled
    if status == 401:
        return Denied
    return Transient if status >= 500 else ProviderError


def _short(error: Exception) -> str:
    """Its text, without the representations of connections that the HTTP library puts in."""
    return re.sub(r"<[\w.]+ object at 0x[0-9a-f]+>:? ?|\s+", " ", str(error))[:500].strip()
