"""Vendor code to class: the one place where a refusal gets its meaning."""

from typing import Any

import botocore.exceptions as sdk
import pytest
from botocore.parsers import ResponseParserError

from providers.aws.errors import missing_action, translate
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

DOING = "cannot launch podvm-nginx (m6a.large)"
CODES: list[tuple[str, int, type[ProviderError]]] = [
    ("InsufficientInstanceCapacity", 500, Capacity),  # EC2 calls it a server error: the code decides
    ("InsufficientFreeAddressesInSubnet", 400, Capacity),
    ("Unsupported", 400, Unsupported),
    ("InstanceLimitExceeded", 400, Quota),
    ("VcpuLimitExceeded", 400, Quota),
    ("MaxSpotInstanceCountExceeded", 400, Quota),
    ("VolumeLimitExceeded", 400, Quota),
    ("RequestLimitExceeded", 503, Throttled),  # so it does this
    ("Throttling", 400, Throttled),
    ("TooManyRequestsException", 429, Throttled),
    ("SomethingNew", 429, Throttled),
    ("UnauthorizedOperation", 403, Denied),
    ("AuthFailure", 401, Denied),
    ("ExpiredToken", 400, Denied),
    ("InvalidClientTokenId", 403, Denied),
    ("SignatureDoesNotMatch", 403, Denied),
    ("OptInRequired", 401, Denied),
    ("OperationNotPermitted", 400, Denied),
    ("InvalidParameterValue", 400, InvalidSpec),
    ("InvalidParameterCombination", 400, InvalidSpec),
    ("InvalidAMIID.Malformed", 400, InvalidSpec),
    ("IdempotentParameterMismatch", 400, InvalidSpec),
    ("IdempotentInstanceTerminated", 400, InvalidSpec),
    ("UnsupportedOperation", 400, InvalidSpec),
    ("InvalidAMIID.NotFound", 400, NotFound),
    ("InvalidAMIID.Unavailable", 400, NotFound),
    ("InvalidSubnetID.NotFound", 400, NotFound),
    ("InvalidGroup.NotFound", 400, NotFound),
    ("InvalidKeyPair.NotFound", 400, NotFound),
    ("InvalidInstanceType", 400, NotFound),
    ("InternalError", 500, Transient),
    ("Unavailable", 503, Transient),
    ("503", 503, Transient),
    ("SomethingNew", 502, Transient),
    ("SomethingNew", 400, ProviderError),
    ("", 400, ProviderError),
]


def answer(code: str, status: int = 400, message: str = "the cloud's words", **headers: str) -> sdk.ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"RequestId": "req-1", "HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return sdk.ClientError(response, "RunInstances")


@pytest.mark.parametrize(("code", "status", "kind"), CODES)
def test_a_code_is_exactly_one_class_and_keeps_what_the_cloud_said(
    code: str, status: int, kind: type[ProviderError]
) -> None:
    error = translate(answer(code, status), DOING)
    assert type(error) is kind
    assert (error.code, error.request_id) == (code, "req-1")
    assert error.message.startswith(f"{DOING}: the cloud's words")


SDKS_OWN: list[tuple[Exception, type[ProviderError], str]] = [
    (sdk.NoCredentialsError(), Denied, "credentials"),
    (sdk.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), Denied, "AWS_SECRET_ACCESS_KEY"),
    (sdk.CredentialRetrievalError(provider="role", error_msg="no answer"), Denied, "no answer"),
    (sdk.ProfileNotFound(profile="ops"), Denied, "ops"),
    (FileNotFoundError(2, "No such file", "/var/run/secrets/token"), Denied, "/var/run/secrets/token"),
    (sdk.NoRegionError(), InvalidSpec, "region"),
    (sdk.EndpointConnectionError(endpoint_url="http://ec2"), Transient, "http://ec2"),
    (sdk.ConnectTimeoutError(endpoint_url="http://ec2"), Transient, "timeout"),
    (sdk.ReadTimeoutError(endpoint_url="http://ec2"), Transient, "timeout"),
    (sdk.ConnectionClosedError(endpoint_url="http://ec2"), Transient, "closed"),
    (sdk.SSLError(endpoint_url="https://ec2", error="certificate"), Transient, "certificate"),
    (sdk.ProxyConnectionError(proxy_url="http://proxy"), Transient, "http://proxy"),
    (sdk.IncompleteReadError(actual_bytes=1, expected_bytes=2), Transient, "1"),
    (ResponseParserError("not XML"), Transient, "not XML"),
    (KeyError("Reservations"), Transient, "lacks 'Reservations'"),
    (RuntimeError("surprise"), ProviderError, "surprise"),
]


@pytest.mark.parametrize(("raised", "kind", "told"), SDKS_OWN, ids=lambda value: type(value).__name__)
def test_the_sdks_own_exceptions_are_classes_of_ours(raised: Exception, kind: type[ProviderError], told: str) -> None:
    error = translate(raised, DOING)
    assert type(error) is kind
    assert error.message.startswith(DOING)
    assert told in error.message
    assert error.code == type(raised).__name__


def test_the_hint_says_what_a_person_can_do() -> None:
    assert "clock" in translate(answer("AuthFailure"), DOING).message
    assert "permissions" in translate(answer("UnauthorizedOperation"), DOING).message
    assert "higher limit" in translate(answer("VcpuLimitExceeded"), DOING).message


def test_the_encoded_blob_of_a_denial_is_cut() -> None:
    told = "You are not authorized. Encoded authorization failure message: " + "A1b2" * 300
    error = translate(answer("UnauthorizedOperation", 403, told), DOING)
    assert "You are not authorized." in error.message
    assert "A1b2" not in error.message


def test_a_denial_names_the_permission_that_is_missing_and_how_to_learn_more() -> None:
    said = (
        "You are not authorized to perform this operation. User: arn:aws:iam::1:user/ci is not authorized to perform:"
        " ec2:CreateTags on resource: arn:aws:ec2:*:*:instance/* Encoded authorization failure message: A1b2"
    )
    told = translate(answer("UnauthorizedOperation", 403, said), DOING).message
    assert missing_action(told) == "ec2:CreateTags"
    assert "decode-authorization-message" in told
    assert missing_action(translate(answer("UnauthorizedOperation", 403), DOING).message) == "ec2:RunInstances"
    response: Any = {"Error": {"Code": "AccessDeniedException", "Message": "no"}, "ResponseMetadata": {}}
    told = translate(sdk.ClientError(response, "GetProducts"), DOING).message
    assert missing_action(told) == "pricing:GetProducts"
    assert missing_action(translate(answer("ExpiredToken"), DOING).message) == ""


@pytest.mark.parametrize("code", ["ExpiredToken", "UnrecognizedClientException", "SpotMaxPriceTooLow"])
def test_a_code_that_people_can_cure_says_how(code: str) -> None:
    told = translate(answer(code), DOING).message
    assert told.startswith(f"{DOING}: the cloud's words; ")
    assert len(told) > len(f"{DOING}: the cloud's words; ") + 20


def test_an_answer_without_words_tells_its_status() -> None:
    assert "HTTP status 502" in translate(answer("", 502, message=""), DOING).message


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("1.5", 1.5), ("Wed, 21 Oct 2026 07:28:00 GMT", None)])
def test_a_throttle_keeps_the_wait_that_the_cloud_asks_for(header: str, seconds: float | None) -> None:
    error = translate(answer("RequestLimitExceeded", 503, **{"retry-after": header}), DOING)
    assert isinstance(error, Throttled)
    assert error.retry_after == seconds


def test_user_data_is_not_in_the_error_of_a_parameter_the_sdk_refuses() -> None:
    report = "Invalid type for parameter UserData, value: {'launch_token': 'c2VjcmV0'}, type: <class 'dict'>"
    error = translate(sdk.ParamValidationError(report=report), DOING)
    assert type(error) is InvalidSpec
    assert "c2VjcmV0" not in str(error)
    assert "UserData" in error.message
