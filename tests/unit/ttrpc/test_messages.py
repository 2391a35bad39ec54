"""messages: the Request and Response envelopes."""

import math

import pytest
from google.protobuf.any_pb2 import Any

from adaptor.errors import Code, StatusError
from adaptor.protos.ttrpc_pb2 import Request, Response
from adaptor.ttrpc import messages
from adaptor.ttrpc.messages import RequestEnvelope

# StopVM of sandbox "a" with five seconds left and one metadata pair, put together by hand.
GOLDEN = (
    b"\x0a\x15hypervisor.Hypervisor"
    b"\x12\x06StopVM"
    b"\x1a\x03\x0a\x01a"
    b"\x20\x80\xe4\x97\xd0\x12"  # 5,000,000,000 ns
    b"\x2a\x06\x0a\x01k\x12\x01v"
)
STOP_A = ("hypervisor.Hypervisor", "StopVM", b"\x0a\x01a", 5.0, (("k", "v"),))


def test_a_request_has_the_bytes_that_were_worked_out_by_hand() -> None:
    assert messages.encode_request(*STOP_A) == GOLDEN
    assert messages.decode_request(GOLDEN) == RequestEnvelope(*STOP_A)


def test_a_success_carries_no_status_and_an_empty_one_no_bytes_at_all() -> None:
    assert messages.encode_response(b"\x0a\x01a") == b"\x12\x03\x0a\x01a"
    assert messages.encode_response(b"") == b""
    assert messages.decode_response(b"") == b""


def test_a_status_with_code_ok_is_a_success_too() -> None:
    assert messages.decode_response(b"\x0a\x00\x12\x01x") == b"x"


def test_a_failure_has_the_bytes_that_were_worked_out_by_hand() -> None:
    assert messages.encode_failure(StatusError(5, "no")) == b"\x0a\x06\x08\x05\x12\x02no"


def test_a_status_travels_with_code_message_and_details() -> None:
    details = (Any(type_url="t/x", value=b"1").SerializeToString(), Any(type_url="t/y").SerializeToString())
    with pytest.raises(StatusError) as caught:
        messages.decode_response(messages.encode_failure(StatusError(5, "no such sandbox", details)))
    assert (caught.value.code, caught.value.message, caught.value.details) == (5, "no such sandbox", details)


def test_a_detail_that_is_none_does_not_cost_the_status() -> None:
    good = Any(type_url="t/x").SerializeToString()
    with pytest.raises(StatusError, match="no") as caught:
        messages.decode_response(messages.encode_failure(StatusError(5, "no", (b"\xff", good))))
    assert caught.value.details == (good,)


def test_a_failure_never_reads_as_a_success() -> None:
    with pytest.raises(StatusError, match="odd") as caught:
        messages.decode_response(messages.encode_failure(StatusError(Code.OK, "odd")))
    assert caught.value.code == Code.UNKNOWN


def test_a_message_that_is_not_utf8_still_arrives() -> None:
    assert Response.FromString(messages.encode_failure(StatusError(13, "file \udcff"))).status.message == "file ?"


@pytest.mark.parametrize(
    ("timeout", "nano"),
    [(None, 0), (math.inf, 0), (1e12, 0), (1.5, 1_500_000_000), (1e-12, 1), (0.0, 1), (-3.0, 1)],
    ids=str,
)
def test_no_time_left_is_never_sent_as_no_deadline_nor_the_other_way_round(timeout: float | None, nano: int) -> None:
    assert Request.FromString(messages.encode_request("s", "m", b"", timeout, ())).timeout_nano == nano


@pytest.mark.parametrize(("nano", "timeout"), [(0, None), (-5, 0.0), (250_000_000, 0.25)])
def test_a_deadline_that_is_past_on_arrival_is_no_time_left(nano: int, timeout: float | None) -> None:
    assert messages.decode_request(Request(timeout_nano=nano).SerializeToString()).timeout == timeout


@pytest.mark.parametrize("data", [b"\xff", GOLDEN[:-1], b"\x0a\x02\xff\xfe"], ids=["tag", "truncated", "not utf-8"])
def test_bytes_that_are_no_request_are_an_invalid_argument(data: bytes) -> None:
    with pytest.raises(StatusError, match="no ttrpc Request") as caught:
        messages.decode_request(data)
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_bytes_that_are_no_response_are_an_internal_error() -> None:
    with pytest.raises(StatusError, match="no ttrpc Response") as caught:
        messages.decode_response(b"\xff")
    assert caught.value.code == Code.INTERNAL


def test_metadata_without_end_is_refused() -> None:
    pairs = [("k", "v")] * 257
    assert len(messages.decode_request(messages.encode_request("s", "m", b"", None, pairs[1:])).metadata) == 256
    with pytest.raises(StatusError, match="257 metadata pairs") as caught:
        messages.decode_request(messages.encode_request("s", "m", b"", None, pairs))
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
