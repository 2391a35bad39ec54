"""Which of our errors each of Google's is; every answer here is a real HTTP response object."""

import json
from typing import Any

import pytest
import requests
from google.api_core.exceptions import from_http_response
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
)
from providers.gcp.errors import of_operation, translate


def answer(status: int, body: Any, headers: dict[str, str] | None = None) -> Exception:
    response = requests.Response()
    response.status_code = status
    response._content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    response.headers.update(headers or {})
    response.request = requests.Request("POST", "https://compute.googleapis.com/x").prepare()
    error: Exception = from_http_response(response)
    return error


def refusal(status: int, reason: str, message: str = "no", **more: Any) -> Exception:
    return answer(status, {"error": {"code": status, "message": message, "errors": [{"reason": reason}], **more}})


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (403, "rateLimitExceeded", Throttled),
        (403, "quotaExceeded", Quota),
        (403, "forbidden", Denied),
        (401, "authError", Denied),
        (403, "accessNotConfigured", Denied),
        (404, "notFound", NotFound),
        (400, "invalid", InvalidSpec),
        (400, "required", InvalidSpec),
        (409, "alreadyExists", InvalidSpec),
        (400, "resourceNotReady", Transient),
        (400, "resourceInUseByAnotherResource", InvalidSpec),
        (503, "insufficientCapacity", Capacity),
        (503, "backendError", Transient),
        (500, "aNewWord", Transient),
        (429, "aNewWord", Throttled),
        (403, "aNewWord", ProviderError),
    ],
)
def test_a_refusal_is_told_by_its_reason(status: int, reason: str, kind: type[ProviderError]) -> None:
    made = translate(refusal(status, reason), "cannot launch x", "sent-id")
    assert type(made) is kind
    assert (made.code, made.request_id) == (reason, "sent-id")
    assert made.message.startswith("cannot launch x: no")


def test_googles_own_request_id_is_preferred() -> None:
    detail = {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": "google-7"}
    assert translate(refusal(403, "forbidden", details=[detail]), "x", "sent").request_id == "google-7"


@pytest.mark.parametrize(("status", "kind"), [(502, Transient), (503, Transient), (401, Denied), (418, ProviderError)])
def test_a_page_that_is_not_googles_is_told_by_its_status(status: int, kind: type[ProviderError]) -> None:
    made = translate(answer(status, "<html>nginx</html>"), "cannot list")
    assert type(made) is kind
    assert made.code == str(status)


def test_what_to_wait_is_what_the_answer_says() -> None:
    body = {"error": {"errors": [{"reason": "rateLimitExceeded"}]}}
    made = translate(answer(403, body, {"Retry-After": "7"}), "x")
    assert isinstance(made, Throttled)
    assert made.retry_after == 7.0


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", 503, Capacity),
        ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", 503, Capacity),
        ("QUOTA_EXCEEDED", 403, Quota),
        ("RESOURCE_OPERATION_RATE_EXCEEDED", 403, Throttled),
        ("UNSUPPORTED_OPERATION", 400, Unsupported),
        ("PERMISSIONS_ERROR", 403, Denied),
        ("IP_SPACE_EXHAUSTED", 400, Capacity),
        ("RESOURCE_NOT_FOUND", 404, NotFound),
        ("A_NEW_WORD", 400, ProviderError),
        ("A_NEW_WORD", 500, Transient),
    ],
)
def test_an_operation_that_failed_is_told_by_its_code(code: str, status: int, kind: type[ProviderError]) -> None:
    operation = {
        "name": "operation-1",
        "status": "DONE",
        "http_error_status_code": status,
        "error": {"errors": [{"code": code, "message": "the zone says no"}]},
    }
    made = of_operation(operation, "cannot launch x")
    assert type(made) is kind
    assert made is not None
    assert "the zone says no" in made.message
    assert made.request_id == "operation-1"


def test_an_operation_that_did_not_fail_says_so() -> None:
    assert of_operation({"name": "o", "status": "RUNNING"}, "x") is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (requests.ConnectionError("refused"), Transient),
        (requests.Timeout("slow"), Transient),
        (auth.DefaultCredentialsError("none found"), Denied),
        (auth.RefreshError("invalid_grant", retryable=False), Denied),
        (auth.RefreshError("try later", retryable=True), Transient),
        (auth.TransportError("metadata server away"), Transient),
        (FileNotFoundError(2, "No such file", "/key.json"), Denied),
        (KeyError("zone"), Transient),
        (RuntimeError("odd"), ProviderError),
    ],
)
def test_the_sdks_own_exceptions_are_told_apart(error: Exception, kind: type[ProviderError]) -> None:
    assert type(translate(error, "cannot list")) is kind


def test_the_text_is_without_the_librarys_insides() -> None:
    error = requests.ConnectionError("Failed: <urllib3.connection.HTTPConnection object at 0x7f00aa>: refused")
    assert "0x7f" not in translate(error, "x").message
