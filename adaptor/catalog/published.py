"""What the cloud sells, as the controller tells the webhook: one JSON document, small enough for a ConfigMap.

    {"version": 1, "cloud": "aws", "offerings": [{"instance_type": "m6a.large", "vcpus": 2, "memory_mib": 8192, ...}]}

An offering has the fields of `providers.base.Offering`, those at their default left out; the first is the default type.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from adaptor.errors import InvalidRequest
from providers.base import Offering, Purchase, Tee

VERSION: Final = 1
# Bytes of a document; a ConfigMap holds no more. Some 8,000 offerings.
LIMIT: Final = 1 << 20

_FIELDS: Final = {field.name: field for field in dataclasses.fields(Offering)}
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    **dict.fromkeys(("instance_type", "gpu_model", "architecture", "zone", "tee", "purchase"), (str,)),
    **dict.fromkeys(("vcpus", "memory_mib", "gpus"), (int,)),
    "price": (int, float),
}


def to_json(cloud: str, offerings: Sequence[Offering]) -> str:
    """The document. Raises: InvalidRequest when it is larger than a ConfigMap."""
    told = [
        {name: value for name, field in _FIELDS.items() if (value := getattr(each, name)) != field.default}
        for each in offerings
    ]
    text = json.dumps({"version": VERSION, "cloud": cloud, "offerings": told}, separators=(",", ":"))
    if len(text) > LIMIT:
        raise InvalidRequest(
            f"{len(offerings)} offerings are {len(text)} bytes, more than a ConfigMap holds ({LIMIT}): allow fewer "
            "instance types in the cloud's settings"
        )
    return text


def from_json(text: str) -> tuple[Offering, ...]:
    """The offerings, in their order. Raises: InvalidRequest, saying what is wrong where."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise InvalidRequest(f'not a document with "version": {VERSION}')
    found = document.get("offerings")
    if not isinstance(found, list):
        raise InvalidRequest('"offerings" is not a list')
    return tuple(_offering(index, each) for index, each in enumerate(found))


def _offering(index: int, found: Any) -> Offering:
    where = f"offerings[{index}]"
    if not isinstance(found, dict):
        raise InvalidRequest(f"{where} is not a table")
    known = {key: value for key, value in found.items() if key in _FIELDS}  # a later release may tell more
    for key, value in known.items():
        if isinstance(value, bool) or not isinstance(value, _KINDS[key]):
            raise InvalidRequest(f"{where}.{key} is {str(value)[:40]!r}, which is not of its kind")
    try:
        if "tee" in known:
            known["tee"] = Tee(known["tee"])
        if "purchase" in known:
            known["purchase"] = Purchase(known["purchase"])
        return Offering(**known)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{where}: {error}") from None
