"""What a frame's payload holds: the ttrpc Request and Response envelopes, and their status."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from adaptor.errors import Code, StatusError
from adaptor.protos.ttrpc_pb2 import KeyValue, Request, Response

Metadata = tuple[tuple[str, str], ...]

# Pairs of one request. kata sends one, tracing adds two or three; four million bytes of tiny pairs would unfold into
# a hundred times that.
_MAX_METADATA: Final = 256

_NANO: Final = 1_000_000_000
_LAST_NANO: Final = (1 << 63) - 1  # timeout_nano is an int64: some 292 years; beyond that is "no timeout"


class RequestEnvelope(NamedTuple):
    """A decoded Request. `timeout` is seconds left when it was sent: None = no deadline, 0.0 = already past."""

    service: str
    method: str
    payload: bytes
    timeout: float | None
    metadata: Metadata


def encode_request(
    service: str, method: str, payload: bytes, timeout: float | None, metadata: Iterable[tuple[str, str]]
) -> bytes:
    """The payload of a request frame; `timeout` as in RequestEnvelope."""
    pairs = [KeyValue(key=key, value=value) for key, value in metadata]
    return Request(
        service=service, method=method, payload=payload, timeout_nano=_to_nano(timeout), metadata=pairs
    ).SerializeToString()


def decode_request(data: bytes) -> RequestEnvelope:
    """Raises StatusError: INVALID_ARGUMENT for bytes that are no Request, RESOURCE_EXHAUSTED for too much metadata."""
    try:
        request = Request.FromString(data)
    except DecodeError as error:
        raise StatusError(Code.INVALID_ARGUMENT, f"the request's {len(data)} bytes are no ttrpc Request") from error
    if len(request.metadata) > _MAX_METADATA:
        raise StatusError(
            Code.RESOURCE_EXHAUSTED, f"{len(request.metadata)} metadata pairs are over the limit of {_MAX_METADATA}"
        )
    return RequestEnvelope(
        request.service,
        request.method,
        request.payload,
        max(0.0, request.timeout_nano / _NANO) if request.timeout_nano else None,
        tuple((pair.key, pair.value) for pair in request.metadata),
    )


def encode_response(payload: bytes) -> bytes:
    """The payload of a response frame for a call that went well (no status at all, as containerd sends it)."""
    return Response(payload=payload).SerializeToString()


def encode_failure(error: StatusError) -> bytes:
    """The payload of a response frame for a call that failed.

    A failure must not read as a success, so code OK travels as UNKNOWN; and it must not get lost, so text that is not
    UTF-8 (a file name in an OSError) is made so, and a detail that is no google.protobuf.Any is left out.
    """
    status = Status(code=error.code or Code.UNKNOWN, message=error.message.encode("utf-8", "replace").decode())
    for detail in error.details:
        try:
            status.details.append(Any.FromString(detail))
        except DecodeError:
            continue
    return Response(status=status).SerializeToString()


def decode_response(data: bytes) -> bytes:
    """The answer's payload; raises the StatusError that it carries, or INTERNAL for bytes that are no Response."""
    try:
        response = Response.FromString(data)
    except DecodeError as error:
        raise StatusError(Code.INTERNAL, f"the answer's {len(data)} bytes are no ttrpc Response") from error
    status = response.status
    if status.code != Code.OK:
        raise StatusError(status.code, status.message, tuple(detail.SerializeToString() for detail in status.details))
    return response.payload


def _to_nano(timeout: float | None) -> int:
    if timeout is None or timeout * _NANO >= _LAST_NANO:
        return 0
    return max(1, round(timeout * _NANO))  # 0 would mean "none" where "none left" is meant
