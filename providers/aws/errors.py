"""EC2's and the SDK's errors as ours: one table by vendor code, one by the SDK's own exceptions."""

import functools
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
    made,
    retry_after,
)

UNAUTHORIZED: Final = ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException")  # the permission is missing
WOULD_SUCCEED: Final = "DryRunOperation"  # a dry run's good answer comes as an error
# Operations that are not EC2's own.
_IAM: Final = {
    "GetProducts": "pricing:GetProducts",
    "GetServiceQuota": "servicequotas:GetServiceQuota",
    "GetAWSDefaultServiceQuota": "servicequotas:GetAWSDefaultServiceQuota",
    "GetCallerIdentity": "sts:GetCallerIdentity",
    "StartSnapshot": "ebs:StartSnapshot",
    "PutSnapshotBlock": "ebs:PutSnapshotBlock",
    "CompleteSnapshot": "ebs:CompleteSnapshot",
}
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
        "InsufficientCapacityOnHost",
        "SpotMaxPriceTooLow",  # prices change; on demand there may be some
    ),
    Unsupported: (
        "Unsupported",  # this type is not sold in this zone
        "UnsupportedHostConfiguration",
        "UnsupportedTenancy",
        "UnavailableHostRequirements",
        "InstanceTypeNotSupported",
    ),
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
        "HostLimitExceeded",
        "AttachmentLimitExceeded",
        "ServiceQuotaExceededException",
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
        "ConcurrentLimitExceededException",
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
        "ValidationException",
        "ConflictException",  # a client token that was another call's
        "VPCIdNotSpecified",
        "VPCResourceNotSpecified",
        "IdempotentParameterMismatch",
        INSTANCE_TERMINATED,
        "InvalidCapacityReservationState",
        "InvalidHostState",
        "InvalidVolume.ZoneMismatch",
        "SecurityGroupsPerInstanceLimitExceeded",
        "SecurityGroupsPerInterfaceLimitExceeded",
        "VolumeInUse",
        "InvalidNetworkInterface.InUse",
        "InvalidIPAddress.InUse",
    ),
    NotFound: (  # and every code that ends in .NotFound
        "InvalidInstanceType",
        "InvalidAMIID.Unavailable",
        "InvalidSubnet",
        "InvalidLaunchTemplateName.NotFoundException",
        "InvalidLaunchTemplateId.VersionNotFound",
        "InvalidPlacementGroup.Unknown",
        "ResourceNotFoundException",
        "NoSuchResourceException",  # Service Quotas' word
    ),
    Transient: (
        "InternalError",
        "InternalFailure",
        "Unavailable",
        "ServiceUnavailable",
        "RequestTimeout",
        "IDPCommunicationError",
        "IncorrectState",  # the state will be another one in a moment: a machine that does not run yet
        "IncorrectInstanceState",
        "InvalidInstanceID",  # the same, as AssociateAddress says it
        "Resource.AlreadyAssociated",
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
    "SpotMaxPriceTooLow": "raise aws.spot_max_price, or leave it empty",
    "UnrecognizedClientException": "check the access key, and that aws.region is one of its account's regions",
    "InvalidClientTokenId": "check the access key, and that aws.region is one of its account's regions",
    "ExpiredToken": "the session has expired: renew it, or use a role that renews by itself",
    "ExpiredTokenException": "the session has expired: renew it, or use a role that renews by itself",
    "EndpointConnectionError": "if this lasts: does aws.region exist, and can this node reach its endpoint",
}
_CLASS_HINTS: Final = {
    Quota: "ask AWS for a higher limit, or allow another instance family",
    Denied: "check the credentials and permissions of this node",
}
_made: Final = functools.partial(made, hints=_HINTS, class_hints=_CLASS_HINTS)


def translate(error: Exception, doing: str) -> ProviderError:
    """The error of ours that stands for `error`, ready to be raised from it; `doing` is what failed, on what."""
    if isinstance(error, sdk.ClientError):
        return _from_answer(error.response, error.operation_name or "", doing)
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


def missing_action(text: str) -> str:
    """The permission that a refusal names: `ec2:RunInstances`; empty when it names none."""
    found = re.search(r"not authorized to perform: ([\w-]+:\w+)", text) or re.search(r"the call was ([\w-]+:\w+)", text)
    return found[1] if found else ""


def _from_answer(response: Mapping[str, Any], operation: str, doing: str) -> ProviderError:
    said, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, status = str(said.get("Code", "")), int(meta.get("HTTPStatusCode", 0))
    # EC2 appends an opaque blob of a thousand characters to "not authorized"; the request id finds the same.
    text, *blob = re.split(r"\s*Encoded authorization failure message", str(said.get("Message", "")))
    cls = _class_of(code, status)
    if code in UNAUTHORIZED and operation and not missing_action(text):
        text = f"{text} (the call was {_IAM.get(operation, 'ec2:' + operation)})"
    if blob:
        text = f"{text} The whole reason is in CloudTrail under this request: `aws sts decode-authorization-message`"
    made = _made(cls, f"{doing}: {text or f'HTTP status {status}'}", code, str(meta.get("RequestId", "")))
    if isinstance(made, Throttled):
        made.retry_after = retry_after(meta.get("HTTPHeaders", {}).get("retry-after", ""))
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
