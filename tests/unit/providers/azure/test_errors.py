"""Vendor code to class: the one place where a refusal gets its meaning."""

import json
from typing import Any

import pytest
from azure.core import exceptions as sdk

from providers.azure.errors import refused, translate
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

DOING = "cannot launch podvm-nginx (Standard_DC2as_v5)"
CODES: list[tuple[str, str, int, type[ProviderError]]] = [
    ("AllocationFailed", "", 409, Capacity),
    ("ZonalAllocationFailed", "", 409, Capacity),
    ("OverconstrainedAllocationRequest", "", 409, Capacity),
    ("SubnetIsFull", "", 400, Capacity),
    ("SkuNotAvailable", "Following SKUs have failed for Capacity Restrictions: ...", 409, Capacity),
    ("SkuNotAvailable", "not available for this subscription", 409, Unsupported),
    ("QuotaExceeded", "", 409, Quota),
    (
        "OperationNotAllowed",
        "Operation could not be completed as it results in exceeding approved Cores quota",
        409,
        Quota,
    ),
    ("OperationNotAllowed", "The server is throttling this request", 409, Throttled),
    ("OperationNotAllowed", "not allowed on VM 'v' since the VM is marked for deletion", 409, InvalidSpec),
    ("Conflict", "quota", 409, Quota),
    ("Conflict", "Another operation is in progress", 409, Transient),
    ("TooManyRequests", "", 429, Throttled),
    ("SubscriptionRequestsThrottled", "", 429, Throttled),
    ("Novelty", "", 429, Throttled),
    ("AuthorizationFailed", "", 403, Denied),
    ("ExpiredAuthenticationToken", "", 401, Denied),
    ("RequestDisallowedByPolicy", "", 403, Denied),
    ("Novelty", "", 401, Denied),
    ("InvalidParameter", "The value of osDisk.name is invalid", 400, InvalidSpec),
    ("InvalidParameter", "The value Standard_X provided for the VM size is not valid", 400, Unsupported),
    ("BadRequest", "size 'X' is not supported for creation with 'ConfidentialVM' security type", 400, Unsupported),
    ("BadRequest", "not compatible with the security type of associated OS Image", 400, InvalidSpec),
    ("InvalidParameter", "SecurityType 'ConfidentialVM' is not supported by given image", 400, InvalidSpec),
    ("InvalidParameter", "this VM size only supports a CPU Architecture of 'Arm64'", 400, InvalidSpec),
    ("PropertyChangeNotAllowed", "", 409, InvalidSpec),
    ("ResourceGroupNotFound", "", 404, NotFound),
    ("GalleryImageNotFound", "", 404, NotFound),
    ("SomethingNotFound", "", 404, NotFound),
    ("NicReservedForAnotherVm", "", 400, Transient),
    ("InternalExecutionError", "", 500, Transient),
    ("Novelty", "", 502, Transient),
    ("Novelty", "", 400, ProviderError),
]


class Response:
    """As much of azure-core's as its exceptions and ours look at."""

    reason = "a reason"

    def __init__(self, status: int, body: str, headers: dict[str, str] | None = None) -> None:
        self.status_code, self._body = status, body
        self.headers = {"x-ms-request-id": "req-1", "Content-Type": "application/json", **(headers or {})}

    def text(self) -> str:
        return self._body

    def body(self) -> bytes:
        return self._body.encode()


def answer(said: Any, status: int = 400, **headers: str) -> sdk.HttpResponseError:
    text = said if isinstance(said, str) else json.dumps(said)
    return sdk.HttpResponseError(response=Response(status, text, headers))  # type: ignore[arg-type,unused-ignore]


@pytest.mark.parametrize(("code", "words", "status", "kind"), CODES)
def test_a_code_is_exactly_one_class_and_keeps_what_azure_said(
    code: str, words: str, status: int, kind: type[ProviderError]
) -> None:
    message = words or "the cloud's words"
    error = translate(answer({"error": {"code": code, "message": message}}, status), DOING)
    assert type(error) is kind
    assert (error.code, error.request_id) == (code, "req-1")
    assert error.message.startswith(f"{DOING}: {message}")


def test_what_a_wrapper_hides_decides() -> None:
    inner = {"code": "QuotaExceeded", "message": "no more cores"}
    said = {"error": {"code": "InvalidTemplateDeployment", "message": "see inner", "details": [inner]}}
    error = translate(answer(said), DOING)
    assert (type(error), error.code) == (Quota, "QuotaExceeded")
    assert "no more cores" in error.message


def test_a_failed_operations_error_reads_like_a_refusal() -> None:
    error = refused({"code": "AllocationFailed", "message": "no capacity"}, DOING)
    assert (type(error), error.code) == (Capacity, "AllocationFailed")


@pytest.mark.parametrize(
    ("page", "status", "kind"), [("<html>", 503, Transient), ("<html>", 403, Denied), ("[]", 418, ProviderError)]
)
def test_a_page_that_is_not_azures_tells_its_status(page: str, status: int, kind: type[ProviderError]) -> None:
    error = translate(answer(page, status), DOING)
    assert type(error) is kind
    assert str(status) in str(error)
    assert error.code


SDKS_OWN: list[tuple[Exception, type[ProviderError], str]] = [
    (sdk.ClientAuthenticationError("no managed identity"), Denied, "no managed identity"),
    (sdk.ServiceRequestError("cannot connect"), Transient, "cannot connect"),
    (sdk.ServiceRequestTimeoutError("slow"), Transient, "slow"),
    (sdk.ServiceResponseError("disconnected"), Transient, "disconnected"),
    (sdk.ServiceResponseTimeoutError("slow"), Transient, "slow"),
    (sdk.IncompleteReadError("short"), Transient, "short"),
    (sdk.DecodeError("no JSON"), Transient, "no JSON"),
    (KeyError("value"), Transient, "'value'"),
    (json.JSONDecodeError("no JSON", "", 0), Transient, "no JSON"),
    (TimeoutError(), Transient, "in time"),
    (FileNotFoundError(2, "No such file", "/var/run/token"), Denied, "/var/run/token"),
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
    for code, told in (("AuthorizationFailed", "role"), ("QuotaExceeded", "higher limit"), ("ScopeLocked", "lock")):
        assert told in translate(answer({"error": {"code": code, "message": "m"}}, 403), DOING).message


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("1.5", 1.5), ("Wed, 21 Oct 2026 07:28:00 GMT", None)])
def test_a_throttle_keeps_the_wait_that_azure_asks_for(header: str, seconds: float | None) -> None:
    said = {"error": {"code": "TooManyRequests", "message": "m"}}
    error = translate(answer(said, 429, **{"Retry-After": header}), DOING)
    assert isinstance(error, Throttled)
    assert error.retry_after == seconds
