"""Azure's and the SDK's errors as ours: one table by vendor code, one by the SDK's own exceptions."""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from azure.core import exceptions as sdk

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

EXISTS: Final = "PreconditionFailed"  # If-None-Match: * met a VM of that name
NIC_RESERVED: Final = "NicReservedForAnotherVm"  # for 180 s after a VM's failed creation

_BY_CLASS: Final[Mapping[type[ProviderError], tuple[str, ...]]] = {
    Capacity: (
        "AllocationFailed",
        "ZonalAllocationFailed",
        "OverconstrainedAllocationRequest",
        "OverconstrainedZonalAllocationRequest",
        "AllocationTimeout",
        "ReservationCapacityExceeded",
        "SubnetIsFull",  # addresses come free as pods end
        "SubnetWithNoIPs",
    ),
    Unsupported: (
        "SkuNotAvailable",  # not sold in this region or zone, or not to this subscription
        "LocationNotSupportAvailabilityZones",
        "VMSizeDoesntSupportSpot",
        "ZoneNotSupported",
        "AvailabilityZoneNotSupported",
        "UnsupportedVmSize",
        "VMSizeIsNotPermittedToEnableEncryptionAtHost",
    ),
    Quota: (
        "QuotaExceeded",
        "PublicIPCountLimitReached",
        "NetworkInterfaceCountLimitReached",
        "ResourceQuotaExceeded",
        "ResourceGroupQuotaExceeded",
        "SpotQuotaExceeded",
    ),
    Throttled: (
        "TooManyRequests",
        "SubscriptionRequestsThrottled",
        "TenantRequestsThrottled",
        "ResourceCollectionRequestsThrottled",
        "OperationNotAllowedDueToThrottling",
    ),
    Denied: (
        "AuthenticationFailed",
        "AuthorizationFailed",
        "LinkedAuthorizationFailed",
        "LinkedAccessCheckFailed",
        "InvalidAuthenticationToken",
        "InvalidAuthenticationTokenTenant",
        "InvalidAuthenticationTokenAudience",
        "ExpiredAuthenticationToken",
        "AuthenticationFailedInvalidHeader",
        "RequestDisallowedByPolicy",
        "ScopeLocked",
        "ReadOnlyDisabledSubscription",
        "DisallowedOperation",
        "SubscriptionNotRegistered",
        "MissingSubscriptionRegistration",
        "MarketplacePurchaseEligibilityFailed",
    ),
    InvalidSpec: (
        "BadRequest",
        "InvalidParameter",
        "InvalidParameterValue",
        "InvalidRequestContent",
        "InvalidRequestFormat",
        "InvalidRequestParameter",
        "InvalidTemplate",
        "InvalidTemplateDeployment",
        "InvalidResourceReference",
        "InvalidResourceName",
        "InvalidResourceLocation",
        "InvalidTags",
        "InvalidTagName",
        "InvalidTagNameCharacters",
        "InvalidTagValueLength",
        "InvalidLocation",
        "LocationRequired",
        "LocationNotAvailableForResourceType",
        "LocationNotAvailableForResourceGroup",
        "InvalidUserData",
        "InvalidApiVersionParameter",
        "LinkedInvalidPropertyId",
        "MissingApiVersionParameter",
        "PropertyChangeNotAllowed",
        "ConflictingUserInput",
        "AttachDiskWhileBeingDetached",
        "DiskAlreadyAttached",
        "NicInUse",
        "InUseNetworkInterfaceCannotBeDeleted",
        "PublicIPAddressCannotBeDeleted",
        "PublicIPAddressInUse",
        EXISTS,
    ),
    NotFound: (
        "ResourceNotFound",
        "ResourceGroupNotFound",
        "SubscriptionNotFound",
        "InvalidSubscriptionId",
        "ParentResourceNotFound",
        "NotFound",
        "ImageNotFound",
        "GalleryImageNotFound",
        "PlatformImageNotFound",
        "InvalidImageReference",
        "DiskNotFound",
    ),
    Transient: (
        "InternalServerError",
        "InternalExecutionError",
        "InternalOperationError",
        "InternalError",
        "OperationTimedOut",
        "OperationPreempted",
        "RetryableError",
        "RetryableErrorDueToAnotherOperation",
        "AnotherOperationInProgress",
        "ReferencedResourceNotProvisioned",
        "ServerTimeout",
        "ServiceUnavailable",
        "GatewayTimeout",
        "NetworkingInternalOperationError",
        "VMStartTimedOut",
        NIC_RESERVED,
    ),
}
_TABLE: Final = {code: cls for cls, codes in _BY_CLASS.items() for code in codes}

# One code of Azure's for many refusals: its words say which. The first that is found; else the code's own class.
_BY_WORDS: Final[Mapping[str, tuple[tuple[str, type[ProviderError]], ...]]] = {
    "OperationNotAllowed": (
        ("quota", Quota),
        ("exceeding approved", Quota),
        ("throttl", Throttled),
        ("spot", Quota),
        ("", InvalidSpec),
    ),
    # What is wrong with the image is wrong with every size.
    "BadRequest": (
        ("os image", InvalidSpec),
        ("hypervisor generation", InvalidSpec),
        ("security type", Unsupported),
        ("does not support", Unsupported),
    ),
    "InvalidParameter": (
        ("cpu architecture", InvalidSpec),
        ("image", InvalidSpec),
        ("vm size", Unsupported),
        ("vmsize", Unsupported),
        ("security type", Unsupported),
    ),
    "SkuNotAvailable": (("capacity restrictions", Capacity),),  # this size, here and now; other words: not for us
    "Conflict": (("quota", Quota), ("", Transient)),
}

# The SDK's own exceptions, first match wins. Its text names endpoint or credential, never a secret.
_SDK: Final[tuple[tuple[type[ProviderError], tuple[type[Exception], ...]], ...]] = (
    (Denied, (sdk.ClientAuthenticationError,)),
    (
        Transient,  # whether the deed was done is unknown: the token finds out
        (
            sdk.ServiceRequestError,
            sdk.ServiceResponseError,
            sdk.DecodeError,
            sdk.StreamClosedError,
            sdk.StreamConsumedError,
            sdk.ResponseNotReadError,
        ),
    ),
)

_HINTS: Final = {
    "AuthorizationFailed": "give this node's identity a role with that action on the resource group",
    "LinkedAuthorizationFailed": "give this node's identity a role with that action on what is named",
    "ExpiredAuthenticationToken": "check that this node's clock is right",
    "RequestDisallowedByPolicy": "an Azure policy forbids it",
    "SubscriptionNotRegistered": "register the resource provider: az provider register -n Microsoft.Compute",
    "MissingSubscriptionRegistration": "register the resource provider: az provider register -n Microsoft.Compute",
    "SubnetIsFull": "use a larger subnet",
    "SkuNotAvailable": "allow another size or zone, or ask Azure to open it for this subscription",
    "ScopeLocked": "take the lock off the resource group",
}
_CLASS_HINTS: Final = {
    Quota: "ask Azure for a higher limit, or allow another size family",
    Denied: "check the credentials and permissions of this node",
}
_made: Final = functools.partial(made, hints=_HINTS, class_hints=_CLASS_HINTS)


def translate(error: Exception, doing: str) -> ProviderError:
    """The error of ours that stands for `error`, ready to be raised from it; `doing` is what failed, on what."""
    if isinstance(error, sdk.HttpResponseError) and error.response is not None:
        said = _said(error)
        return refused(said, doing, status=error.response.status_code, headers=error.response.headers)
    for cls, kinds in _SDK:
        if isinstance(error, kinds):
            return _made(cls, f"{doing}: {error}", type(error).__name__)
    if isinstance(error, (KeyError, IndexError, ValueError, TypeError)):  # a proxy's page, or JSON of somebody else's
        return _made(Transient, f"{doing}: the answer is not Azure's own: {error}", type(error).__name__)
    if isinstance(error, TimeoutError):
        return _made(Transient, f"{doing}: no answer in time", type(error).__name__)
    if isinstance(error, OSError):  # a token or key file that cannot be read
        return _made(Denied, f"{doing}: {error}", type(error).__name__)
    return ProviderError(f"{doing}: {type(error).__name__}: {error}", code=type(error).__name__)


def refused(
    said: Mapping[str, Any], doing: str, *, status: int = 0, headers: Mapping[str, str] | None = None
) -> ProviderError:
    """The error of ours for an error object of Azure's, a response's or a failed operation's."""
    headers = headers or {}
    code, text = _deepest(said)
    cls = _class_of(code, text, status)
    made = _made(
        cls, f"{doing}: {text or f'HTTP status {status}'}", code or str(status), headers.get("x-ms-request-id", "")
    )
    if isinstance(made, Throttled):
        made.retry_after = retry_after(headers.get("Retry-After", ""))
    return made


def _said(error: sdk.HttpResponseError) -> Mapping[str, Any]:
    """The error object of a response, in either of its two forms; empty for a page that is not Azure's."""
    response: Any = error.response
    try:
        body = json.loads(response.text())
    except (ValueError, sdk.AzureError):
        return {}
    found = body.get("error", body) if isinstance(body, dict) else {}
    return found if isinstance(found, dict) else {}


def _deepest(said: Mapping[str, Any]) -> tuple[str, str]:
    """The code that says most: a wrapper's own is "Conflict" or "InvalidTemplateDeployment"."""
    candidates = list(_with_details(said))
    for code, text in reversed(candidates):
        if code in _TABLE and _TABLE[code] is not InvalidSpec:
            return code, text
    return candidates[0]


def _with_details(said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield str(said.get("code") or ""), str(said.get("message") or "")
    for each in said.get("details") or []:
        if isinstance(each, dict):
            yield from _with_details(each)


def _class_of(code: str, text: str, status: int) -> type[ProviderError]:
    for words, cls in _BY_WORDS.get(code, ()):
        if words in text.lower():
            return cls
    if code in _TABLE:
        return _TABLE[code]
    if code.endswith("NotFound"):
        return NotFound
    if status == 429:
        return Throttled
    if status in (401, 403):
        return Denied
    return Transient if status >= 500 else ProviderError
