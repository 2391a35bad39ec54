"""Pods' labels as tags of their VMs: whoever writes a label must not be able to fail a launch (pure).

Of LaunchSpec.tags, those under a key of `aws.tag_labels` come from labels; the others are the adaptor's, and are held
to EC2's rules as they are.
"""

import re
from collections.abc import Mapping
from typing import Final

from providers.aws.config import RESERVED_TAGS, TAG_KEY_LIMIT, TAG_VALUE_LIMIT, AwsConfig

# EC2 takes any character, but billing, IAM conditions and instance metadata do not: these pass everywhere.
_STRANGE: Final = re.compile(r"[^\w .:/=+@-]")


def plain(given: Mapping[str, str], config: AwsConfig) -> dict[str, str]:
    """Those that are no labels; a label cannot take the place of what says whose the instance is."""
    return {key: value for key, value in given.items() if key not in config.tag_labels or _is_ours(key)}


def fitting(given: Mapping[str, str], config: AwsConfig, room: int) -> dict[str, str]:
    """At most `room` labels as tags that EC2 takes, in the order of `aws.tag_labels`."""
    made: dict[str, str] = {}
    for label in config.tag_labels:
        key = _STRANGE.sub("_", label)[:TAG_KEY_LIMIT]
        if label in given and key.strip() and not key.lower().startswith(RESERVED_TAGS) and not _is_ours(key):
            made.setdefault(key, _STRANGE.sub("_", given[label])[:TAG_VALUE_LIMIT])
    return dict(list(made.items())[: max(0, room)])


def _is_ours(key: str) -> bool:
    return key == "Name" or key.startswith("peerpods-")
