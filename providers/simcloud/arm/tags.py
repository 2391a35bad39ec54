"""Azure's limits on tags."""

from collections.abc import Mapping
from typing import Any, Final

from providers.simcloud.arm.errors import Refused

PER_RESOURCE: Final = 50
NAME_LENGTH: Final = 512
VALUE_LENGTH: Final = 256
_FORBIDDEN: Final = "<>%&\\?/"
_RESERVED: Final = ("microsoft", "azure", "windows")


def check(tags: Mapping[str, Any] | None) -> None:
    """Raises Refused for what Azure would refuse."""
    tags = tags or {}
    if len(tags) > PER_RESOURCE:
        raise Refused(
            "InvalidTags",
            f"The number of tags is {len(tags)}, which exceeds the limit of {PER_RESOURCE} tags per resource.",
        )
    seen = set()
    for name, value in tags.items():
        if not name or len(name) > NAME_LENGTH:
            raise Refused(
                "InvalidTagName",
                f"The tag name '{name}' is invalid: it must have between 1 and {NAME_LENGTH} characters.",
            )
        if name.lower().startswith(_RESERVED):
            raise Refused("InvalidTagName", f"The tag name '{name}' has a reserved prefix: {', '.join(_RESERVED)}.")
        if bad := [mark for mark in _FORBIDDEN if mark in name]:
            raise Refused(
                "InvalidTagNameCharacters", f"The tag name '{name}' has reserved characters '{','.join(bad)}'."
            )
        if len(str(value)) > VALUE_LENGTH:
            raise Refused(
                "InvalidTagValueLength",
                f"Tag value too large: '{name}' has {len(str(value))} characters; the maximum is {VALUE_LENGTH}.",
            )
        if name.lower() in seen:
            raise Refused("InvalidTags", f"The tag name '{name}' is given more than once; names ignore case.")
        seen.add(name.lower())
