"""How things of ours are known at Google: names, labels, and the exact tags that do not fit into labels (pure).

A label is up to 63 of a-z, 0-9, _ and -; our tags hold tokens, pod names with dots, any cluster's name. So everything
carries its tags twice: as labels, in a form that fits, for Google to filter by and bills to be read by; and exactly,
as JSON, in the metadata of an instance and in the description of a disk or an address, which decide what is ours.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from providers import tags
from providers.base import LaunchSpec, Ownership
from providers.gcp.config import LABEL_KEY, LABEL_VALUE

METADATA_KEY: Final = "peerpods"  # of the instance's metadata item with the JSON
NAME: Final = "Name"  # the tag that people read, as on other clouds
_NAME_LABEL: Final = "peerpods-name"
DESCRIPTION_LIMIT: Final = 2048  # characters of a disk's or an address's description

_DIGEST: Final = 24  # hex digits: 96 bits, no two values meet
_SHORTENED: Final = re.compile(rf".*-[0-9a-f]{{{_DIGEST}}}")
_NAME_DIGEST: Final = 12  # hex digits of a name: 48 bits among the names that begin alike in one zone
_SPACE: Final = uuid.UUID("6f1e0d5c-3c55-5c1b-9a39-0c4b6b6a7d10")  # of our request ids; any constant would do
# What a disk or an address tells of itself: whose, for which call, for which pod. A description has room for these.
_OF_RESOURCES: Final = (NAME, tags.CLUSTER, tags.NODE, tags.TOKEN, tags.SANDBOX)
_OF_PODS: Final = (tags.POD_NAMESPACE, tags.POD_NAME)


def resource_name(spec_name: str, token: str) -> str:
    """What an instance is called at Google: readable, and one per token, so that a repeated create meets the first."""
    digest = hashlib.sha256(token.encode()).hexdigest()[:_NAME_DIGEST]
    start = spec_name if spec_name[:1].isalpha() else f"p{spec_name}"
    return f"{start[: 62 - _NAME_DIGEST].rstrip('-')}-{digest}"


def request_id(token: str, attempt: int = 0) -> str:
    """The UUID by which Google knows a repeated call. An attempt is a repeat after a failure that Google remembers."""
    return str(uuid.uuid5(_SPACE, f"{token}/{attempt}" if attempt else token))


def label_key(key: str) -> str:
    """`key` as a label's."""
    if key == NAME:
        return _NAME_LABEL
    if LABEL_KEY.fullmatch(key) and not _SHORTENED.fullmatch(key) and key != _NAME_LABEL:
        return key
    return _shortened("k", key)


def label_value(value: str) -> str:
    """`value` as a label's: itself where it fits, else a readable start and a digest. Different ones stay different."""
    if LABEL_VALUE.fullmatch(value) and not _SHORTENED.fullmatch(value):
        return value
    return _shortened("", value)


def _shortened(before: str, text: str) -> str:
    start = re.sub(r"[^a-z0-9_]+", "-", (before and f"{before}-") + text.lower())[: 62 - _DIGEST].strip("-")
    return f"{start}-{hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]}"


def labels(all_tags: Mapping[str, str]) -> dict[str, str]:
    """The labels that stand for these tags."""
    return {label_key(key): label_value(value) for key, value in sorted(all_tags.items())}


def of_resource(all_tags: Mapping[str, str]) -> dict[str, str]:
    """The labels of a disk or an address: whose it is, and which pod's, for bills to be read by."""
    return labels({key: all_tags[key] for key in (*_OF_RESOURCES, *_OF_PODS) if key in all_tags})


def of_owner(owner: Ownership) -> dict[str, str]:
    """The labels that everything of this node carries."""
    return labels(tags.ownership(owner))


def of_cluster(owner: Ownership) -> dict[str, str]:
    """The label that everything of the cluster carries."""
    return labels({tags.CLUSTER: owner.cluster})


def note(all_tags: Mapping[str, str], **more: str) -> str:
    """An instance's metadata item: its exact tags, and what else it must say of itself."""
    return json.dumps({"tags": dict(sorted(all_tags.items())), **more}, separators=(",", ":"), ensure_ascii=False)


def description(all_tags: Mapping[str, str]) -> str:
    """A disk's or an address's description."""
    kept = {key: all_tags[key] for key in _OF_RESOURCES if key in all_tags}
    return json.dumps({"peerpods": kept}, separators=(",", ":"), ensure_ascii=False)


def noted(text: str) -> dict[str, Any]:
    """What `note` wrote, or nothing for any other text: anybody may write metadata."""
    found = _json(text)
    return found if _is_tags(found.get("tags")) else {}


def is_of(note: Mapping[str, Any], token: str) -> bool:
    """Whether what was noted is of the launch with this token."""
    return bool(note.get("tags", {}).get(tags.TOKEN) == token)


def described(text: str) -> dict[str, str]:
    """The tags that `description` wrote, or none."""
    found = _json(text).get("peerpods")
    return dict(found) if isinstance(found, dict) and _is_tags(found) else {}


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_tags(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(value, str) for value in found.values())


def digest(spec: LaunchSpec) -> str:
    """What tells one launch from another under the same token. Of the wish only: settings may change meanwhile."""
    wish = asdict(spec) | {"user_data": hashlib.sha256(spec.user_data).hexdigest(), "tags": sorted(spec.tags.items())}
    return hashlib.sha256(json.dumps(wish, sort_keys=True, default=str).encode()).hexdigest()
