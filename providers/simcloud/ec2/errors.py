"""EC2's refusals: codes, the HTTP status that goes with each, and how they look on the wire."""

from typing import Final
from xml.sax.saxutils import escape

from moto.core.exceptions import ServiceException

# Everything that is not here is 400. Capacity is Amazon's fault, hence 500: SDKs repeat such calls by themselves.
_STATUS: Final = {
    "InsufficientInstanceCapacity": 500,
    "InsufficientHostCapacity": 500,
    "InsufficientAddressCapacity": 500,
    "InternalError": 500,
    "InternalFailure": 500,
    "InternalServerException": 500,
    "RequestLimitExceeded": 503,
    "ServiceUnavailable": 503,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
    "Blocked": 403,
    "PendingVerification": 403,
    "AuthFailure": 401,
    "DryRunOperation": 412,
}

# What EC2 says when a fault is injected without words of its own.
_USUAL: Final = {
    "RequestLimitExceeded": "Request limit exceeded.",
    "UnauthorizedOperation": "You are not authorized to perform this operation.",
    "AuthFailure": "AWS was not able to validate the provided access credentials",
    "InternalError": "An internal error has occurred",
    "Unavailable": "The service is unavailable. Please try again shortly.",
    "InsufficientInstanceCapacity": "There is no Spot or On-Demand capacity available that matches your request.",
}


class Refused(ServiceException):
    """EC2 says no; moto's own refusals are its siblings."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code, message or _USUAL.get(code, f"The request was refused: {code}"))


def status(code: str) -> int:
    """The HTTP status EC2 answers this code with."""
    return _STATUS.get(code, 400)


def xml(code: str, message: str, request_id: str) -> bytes:
    """The body of a refusal."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Response><Errors><Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error></Errors>"
        f"<RequestID>{request_id}</RequestID></Response>"
    ).encode()
