"""Lists come in pages, the next one by a link."""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from providers.simcloud.arm.desk import Asked, Reply
from providers.simcloud.arm.errors import Refused

PAGE: Final = 200  # resources; small enough that whoever forgets nextLink is noticed


def page(asked: Asked, found: Sequence[Any], *, size: int = PAGE) -> Reply:
    """The page that `$skipToken` asks for. Raises Refused for a token that was never given."""
    token = asked.query.get("$skiptoken", "0")
    if not token.isdecimal():
        raise Refused("InvalidSkipToken", f"The skip token '{token}' is invalid.")
    start = int(token)
    body: dict[str, Any] = {"value": list(found[start : start + size])}
    if start + size < len(found):
        kept = {key: value for key, value in asked.query.items() if key != "$skiptoken"}
        kept["$skipToken"] = str(start + size)
        query = "&".join(f"{quote(key, safe='$')}={quote(value)}" for key, value in kept.items())
        body["nextLink"] = f"{asked.base}{asked.path}?{query}"
    return Reply(body=body)
