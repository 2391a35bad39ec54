"""How a cloud says no: one class per decision the caller makes.

    ProviderError
    ├── Capacity      none left of this type here now         -> another offering, remember for minutes
    ├── Quota         the account may not have more           -> another family or tell the admin
    ├── Unsupported   not sold this way here (zone, TEE, spot) -> another offering, remember for hours
    ├── Throttled     too many calls                          -> wait `retry_after`, then the same call
    ├── Denied        credentials or permissions              -> stop; a person must act
    ├── InvalidSpec   the cloud will never accept this        -> stop; the configuration or the pod is wrong
    ├── NotFound      something the spec names does not exist -> stop, as InvalidSpec
    └── Transient     no answer, or a server fault            -> the same call again with the same token

`Transient` promises that repeating is safe. A code that is not in a cloud's table raises ProviderError itself,
with everything the cloud said, and is never retried.
"""

import re
from collections.abc import Mapping


class ProviderError(Exception):
    """A cloud's refusal. `code` and `request_id` are the cloud's own, for whoever asks its support."""

    def __init__(self, message: str, *, code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.request_id = request_id

    def __str__(self) -> str:
        said = ", ".join(x for x in (self.code, self.request_id and f"request {self.request_id}") if x)
        return f"{self.message} ({said})" if said else self.message


class Capacity(ProviderError):
    """The cloud has none left of this type in this place."""


class Quota(ProviderError):
    """The account's limit is reached."""


class Unsupported(ProviderError):
    """The cloud does not sell this type in this zone, in this way or with this TEE; another offering may do."""


class Throttled(ProviderError):
    """Too many calls. `retry_after` in seconds, None when the cloud did not say."""

    def __init__(self, message: str, *, code: str = "", request_id: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, code=code, request_id=request_id)
        self.retry_after = retry_after


class Denied(ProviderError):
    """Credentials are missing, wrong or not allowed to do this."""


class InvalidSpec(ProviderError):
    """The cloud will never accept this request as it is."""


class NotFound(ProviderError):
    """Something the request names does not exist."""


class Transient(ProviderError):
    """No answer or a server fault; the same call with the same token is safe."""


def made(
    cls: type[ProviderError],
    text: str,
    code: str,
    request_id: str = "",
    *,
    hints: Mapping[str, str],
    class_hints: Mapping[type[ProviderError], str],
) -> ProviderError:
    """An error of this class that ends in what to do about it: the code's hint, else the class's."""
    hint = hints.get(code) or class_hints.get(cls)
    return cls(f"{text}; {hint}" if hint else text, code=code, request_id=request_id)


def retry_after(header: str) -> float | None:
    """A Retry-After header in seconds; its other form, a date, no cloud sends."""
    return float(header) if re.fullmatch(r"\d+(\.\d+)?", header) else None
