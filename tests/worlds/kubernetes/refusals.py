"""What an API server says no with: a Status of kind Failure, in Kubernetes' words."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

_REASONS: Final = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Named(Protocol):
    """As much of a kind as messages need."""

    @property
    def group(self) -> str: ...
    @property
    def plural(self) -> str: ...
    @property
    def kind(self) -> str: ...


class Refusal(Exception):
    """An answer that is not a success; `status()` is its body."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.reason = _REASONS.get(code, "") if reason is None else reason
        self.details = dict(details or {})
        self.retry_after = retry_after
        if retry_after is not None:
            self.details["retryAfterSeconds"] = retry_after

    def status(self) -> dict[str, Any]:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def resource(kind: Named) -> str:
    """`pods`, `peerpods.confidentialcontainers.org`."""
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def _details(kind: Named, name: str) -> dict[str, Any]:
    return {"name": name, "group": kind.group, "kind": kind.plural}


def not_found(kind: Named, name: str) -> Refusal:
    return Refusal(404, f'{resource(kind)} "{name}" not found', details=_details(kind, name))


def already_exists(kind: Named, name: str) -> Refusal:
    message = f'{resource(kind)} "{name}" already exists'
    return Refusal(409, message, reason="AlreadyExists", details=_details(kind, name))


def conflict(
    kind: Named,
    name: str,
    why: str = "the object has been modified; please apply your changes to the latest version and try again",
) -> Refusal:
    message = f'Operation cannot be fulfilled on {resource(kind)} "{name}": {why}'
    return Refusal(409, message, details=_details(kind, name))


def invalid(kind: Named, name: str, faults: Iterable[tuple[str, str]]) -> Refusal:
    """`faults` are (path, what is wrong with it)."""
    lines = [f"{path}: {what}" for path, what in faults]
    said = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    called = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    causes = [{"message": line.partition(": ")[2], "field": line.partition(": ")[0]} for line in lines]
    details = {"name": name, "group": kind.group, "kind": kind.kind, "causes": causes}
    return Refusal(422, f'{called} "{name}" is invalid: {said}', details=details)


def forbidden(kind: Named, name: str, why: str) -> Refusal:
    what = f'{resource(kind)} "{name}"' if name else resource(kind)
    return Refusal(403, f"{what} is forbidden: {why}", details=_details(kind, name))


def bad_request(message: str) -> Refusal:
    return Refusal(400, message)


def expired(message: str) -> Refusal:
    return Refusal(410, message)


def internal(message: str) -> Refusal:
    return Refusal(500, f"Internal error occurred: {message}", details={"causes": [{"message": message}]})
