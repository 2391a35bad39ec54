"""Bearer tokens: made by the managed-identity endpoint, looked at on every call."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.state import TENANT

LIFETIME: Final = 86400  # seconds; what a managed identity's token lives
_AUDIENCES: Final = ("https://management.azure.com", "https://management.core.windows.net")
CLIENT_ID: Final = "00000000-0000-4000-8000-0000000000cc"
OBJECT_ID: Final = "00000000-0000-4000-8000-0000000000aa"


class Issuer:
    """Makes tokens and knows its own. `clock` is seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)

    def token(self, resource: str, lifetime: float = LIFETIME, client_id: str = CLIENT_ID) -> str:
        """A JWT for this audience. Its signature means something to this cloud only."""
        now = int(self._clock())
        issuer = f"https://sts.windows.net/{TENANT}/"
        claims = {
            "aud": resource, "iss": issuer, "iat": now, "nbf": now, "exp": int(now + lifetime), "appid": client_id,
            "oid": OBJECT_ID, "sub": OBJECT_ID, "tid": TENANT, "ver": "1.0",
        }  # fmt: skip
        text = f"{_packed({'typ': 'JWT', 'alg': 'HS256'})}.{_packed(claims)}"
        return f"{text}.{self._signature(text)}"

    def answer(self, query: Mapping[str, str], headers: Mapping[str, str]) -> dict[str, Any]:
        """What the managed-identity endpoint answers. Raises Refused in that endpoint's own terms."""
        if headers.get("Metadata", "").lower() != "true":
            raise Refused("invalid_request", "Required metadata header not specified")
        if "X-Forwarded-For" in headers:
            raise Refused("invalid_request", "Requests through a proxy are refused: X-Forwarded-For")
        if not query.get("resource"):
            raise Refused("invalid_request", "Required query variable 'resource' is missing")
        client = query.get("client_id") or CLIENT_ID
        now = int(self._clock())
        return {
            "access_token": self.token(query["resource"], client_id=client),
            "client_id": client,
            "expires_in": str(LIFETIME),
            "expires_on": str(now + LIFETIME),
            "ext_expires_in": str(LIFETIME),
            "not_before": str(now),
            "resource": query["resource"],
            "token_type": "Bearer",
        }

    def check(self, authorization: str) -> None:
        """Who asks. Raises Refused."""
        if not authorization:
            raise Refused("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refused(
                "AuthenticationFailedInvalidHeader",
                "Authentication failed. The 'Authorization' header is provided in an invalid format.",
                status=401,
            )
        text, _, signature = token.strip().rpartition(".")
        if not text or not hmac.compare_digest(signature, self._signature(text)):
            raise Refused("InvalidAuthenticationToken", "The access token is invalid.")
        claims = _unpacked(text.partition(".")[2])
        if claims["exp"] <= self._clock():
            ended = datetime.fromtimestamp(claims["exp"], UTC).strftime("%m/%d/%Y %I:%M:%S %p")
            now = datetime.fromtimestamp(self._clock(), UTC).strftime("%m/%d/%Y %I:%M:%S %p")
            raise Refused(
                "ExpiredAuthenticationToken",
                f"The access token expiry UTC time '{ended}' is earlier than current UTC time '{now}'.",
            )
        if str(claims["aud"]).rstrip("/") not in _AUDIENCES:
            raise Refused(
                "InvalidAuthenticationTokenAudience",
                f"The access token has been obtained for wrong audience or resource '{claims['aud']}'. It should exactly"
                f" match with one of the allowed audiences '{', '.join(_AUDIENCES)}'.",
            )

    def _signature(self, text: str) -> str:
        return _url64(hmac.digest(self._key, text.encode(), hashlib.sha256))


def _packed(value: Mapping[str, Any]) -> str:
    return _url64(json.dumps(value, separators=(",", ":")).encode())


def _unpacked(text: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return made


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
