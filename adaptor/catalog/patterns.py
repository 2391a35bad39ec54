"""Names with wildcards, and the families that a cloud's type names belong to. Case never matters."""

import fnmatch
import re
from functools import lru_cache
from typing import Final

# Azure's size names carry the vCPU count inside, and where cores are held back a second one: Standard_E4-2ds_v5.
_AZURE: Final = re.compile(r"(standard_[a-z]+)\d+(?:-\d+)?(.*)")


@lru_cache(maxsize=16_384)  # a thousand types against the few lists of a cluster; 3 MiB when full
def matches(patterns: tuple[str, ...], text: str) -> bool:
    """Whether any of `patterns` is `text`; `*` stands for any characters, `?` for one."""
    return any(_compiled(pattern.lower()).fullmatch(text.lower()) for pattern in patterns)


def is_wild(pattern: str) -> bool:
    """Whether it may stand for several names."""
    return "*" in pattern or "?" in pattern


@lru_cache(maxsize=4096)
def in_family(families: tuple[str, ...], instance_type: str) -> bool:
    """Whether the type belongs to one of these, which may have wildcards: see `families_of`."""
    return any(matches(families, name) for name in families_of(instance_type))


@lru_cache(maxsize=4096)
def families_of(instance_type: str) -> tuple[str, ...]:
    """What people call the family of a type, as each cloud builds its names; lower case.

    m6a.large: m6a (EC2). Standard_DC4as_v5: standard_dcas_v5, dcas_v5 (Azure). n2d-standard-4: n2d, n2d-standard (GCP).
    """
    name = instance_type.lower()
    if azure := _AZURE.fullmatch(name):
        series = azure[1] + azure[2]
        return series, series.removeprefix("standard_")
    if "." in name:
        return (name.partition(".")[0],)
    parts = name.split("-")
    return tuple("-".join(parts[:count]) for count in range(1, len(parts))) or (name,)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]")))  # brackets are no wildcards here
