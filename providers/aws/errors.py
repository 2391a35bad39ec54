"""EC2's and the SDK's errors as ours: one table by vendor code, one by the SDK's own exceptions."""

import re
from collections.abc import Mapping
from typing import Any, Final

from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError

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
)

INSTANCE_TERMINATED: Final = "IdempotentInstanceTerminated"  # the token's instance has died; it launches no other

_BY_CLASS: Final[Mapping[type[ProviderError], tuple[str, ...]]] = {
    Capacity: (
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientAddressCapacity",
        "InsufficientVolumeCapacity",
        "InsufficientCapacity",
        "ReservationCapacityExceeded",
        "UnfulfillableCapacity",
        "InsufficientFreeAddressesInSubnet",  # addresses come free as pods end; another subnet may have some
    ),
    Unsupported: ("Unsupported",),  # this type is not sold in this zone
    Quota: (
        "InstanceLimitExceeded",
        "VcpuLimitExceeded",
        "MaxSpotInstanceCountExceeded",
        "VolumeLimitExceeded",
        "MaxIOPSLimitExceeded",
        "NetworkInterfaceLimitExceeded",
        "PrivateIpAddressLimitExceeded",
        "AddressLimitExceeded",
        "ResourceLimitExceeded",
        "TagLimitExceeded",
    ),
    Throttled: (
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "EC2ThrottledException",
        "BandwidthLimitExceeded",
        "PriorRequestNotComplete",
        "SlowDown",
    ),
    Denied: (
        "UnauthorizedOperation",
        "OperationNotPermitted",
        "AuthFailure",
        "AccessDenied",
        "AccessDeniedException",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "UnrecognizedClientException",
        "SignatureDoesNotMatch",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "InvalidIdentityToken",
        "IDPRejectedClaim",
        "OptInRequired",
        "Blocked",
        "PendingVerification",
        "RegionDisabledException",
    ),
    InvalidSpec: (  # and every code that ends in .Malformed
        "InvalidParameter",
        "InvalidParameterValue",
        "InvalidParameterCombination",
        "InvalidParameterDependency",
        "InvalidRequest",
        "InvalidBlockDeviceMapping",
        "MissingParameter",
        "MissingInput",
        "UnknownParameter",
        "UnsupportedOperation",
        "UnsupportedInstanceAttribute",
        "ValidationError",
        "VPCIdNotSpecified",
        "VPCResourceNotSpecified",
        "IdempotentParameterMismatch",
        INSTANCE_TERMINATED,
        "VolumeInUse",
        "InvalidNetworkInterface.InUse",
        "InvalidIPAddress.InUse",
    ),
    NotFound: (  # and every code that ends in .NotFound
        "InvalidInstanceType",
        "InvalidAMIID.Unavailable",
        "InvalidSubnet",
    ),
    Transient: (
        "InternalError",
        "InternalFailure",
        "Unavailable",
        "ServiceUnavailable",
        "RequestTimeout",
        "IDPCommunicationError",
    ),
}
_TABLE: Final = {code: cls for cls, codes in _BY_CLASS.items() for code in codes}

# The SDK's own exceptions, first match wins. Its text names endpoint, profile or file, never a secret.
_SDK: Final[tuple[tuple[type[ProviderError], tuple[type[Exception], ...]], ...]] = (
    (
        Denied,
        (
            sdk.NoCredentialsError,
            sdk.PartialCredentialsError,
            sdk.CredentialRetrievalError,
            sdk.TokenRetrievalError,
            sdk.NoAuthTokenError,
            sdk.SSOError,
            sdk.LoginError,
            sdk.RefreshWithMFAUnsupportedError,
            sdk.ProfileNotFound,
        ),
    ),
    (
        InvalidSpec,
        (
            sdk.ParamValidationError,
            sdk.NoRegionError,
            sdk.InvalidRegionError,
            sdk.UnknownEndpointError,
            sdk.EndpointProviderError,
            sdk.ConfigParseError,
        ),
    ),
    (
        Transient,  # whether the deed was done is unknown: the token finds out
        (
            sdk.ConnectionError,
            sdk.HTTPClientError,
            sdk.IncompleteReadError,
            sdk.MetadataRetrievalError,
            ResponseParserError,
        ),
    ),
)

_HINTS: Final = {
    "AuthFailure": "check the access key, and that this node's clock is right",
    "RequestExpired": "check that this node's clock is right",
    "SignatureDoesNotMatch": "check the secret key, and that this node's clock is right",
    "IdempotentParameterMismatch": "this token was used for a launch with other parameters",
    "InsufficientFreeAddressesInSubnet": "use a larger subnet",
    "OptInRequired": "the account must subscribe to this image or region first",
}
_CLASS_HINTS: Final = {
    Quota: "ask AWS for a higher limit, or allow another instance family",
    Denied: "check the credentials and permissions of this node",
}


def translate(error: Exception, doing: str) -> ProviderError:
    """The error of ours that stands for `error`, ready to be raised from it; `doing` is what failed, on what."""
    if isinstance(error, sdk.ClientError):
        return _from_answer(error.response, doing)
    if isinstance(error, sdk.ParamValidationError):
        # The SDK's text repeats values, and one of those is the user data.
        named = ", ".join(sorted(set(re.findall(r"parameter(?: in input)?:? \"?(\w[\w.\[\]]*)", str(error)))))
        return InvalidSpec(f"{doing}: the SDK refuses the parameters {named}", code=type(error).__name__)
    for cls, kinds in _SDK:
        if isinstance(error, kinds):
            return _made(cls, f"{doing}: {error}", type(error).__name__)
    if isinstance(error, (KeyError, IndexError)):  # read in vain: a proxy's page parses as an answer without content
        return _made(Transient, f"{doing}: the answer is not EC2's own, it lacks {error}", type(error).__name__)
    if isinstance(error, OSError):  # a token or key file that cannot be read; the network's have been seen above
        return _made(Denied, f"{doing}: {error}", type(error).__name__)
    return ProviderError(f"{doing}: {type(error).__name__}: {error}", code=type(error).__name__)


def _from_answer(response: Mapping[str, Any], doing: str) -> ProviderError:
    said, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, status = str(said.get("Code", "")), int(meta.get("HTTPStatusCode", 0))
    # EC2 appends an opaque blob of a thousand characters to "not authorized"; the request id finds the same.
    text = re.split(r"\s*Encoded authorization failure message", str(said.get("Message", "")))[0]
    cls = _class_of(code, status)
    made = _made(cls, f"{doing}: {text or f'HTTP status {status}'}", code, str(meta.get("RequestId", "")))
    if isinstance(made, Throttled):
        made.retry_after = _seconds(meta.get("HTTPHeaders", {}).get("retry-after", ""))
    return made


def _class_of(code: str, status: int) -> type[ProviderError]:
    if code in _TABLE:
        return _TABLE[code]
    if code.endswith(".NotFound"):
        return NotFound
    if code.endswith(".Malformed"):
        return InvalidSpec
    if status == 429:
        return Throttled
    return Transient if status >= 500 else ProviderError


def _made(cls: type[ProviderError], text: str, code: str, request_id: str = "") -> ProviderError:
    hint = _HINTS.get(code) or _CLASS_HINTS.get(cls)
    return cls(f"{text}; {hint}" if hint else text, code=code, request_id=request_id)


def _seconds(header: str) -> float | None:
    """Retry-After as a number; its other form, a date, EC2 does not send."""
    return float(header) if re.fullmatch(r"\d+(\.\d+)?", header) else None
