"""Names, labels, annotations, finalizers and owners: what every object's metadata must be."""

import re
from collections.abc import Iterator
from typing import Any, Final

from tests.worlds.kubernetes.kinds import Kind

Faults = Iterator[tuple[str, str]]

_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_DNS_LABEL: Final = re.compile(_LABEL)
_QUALIFIED: Final = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_VALUE: Final = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_ANNOTATIONS_LIMIT: Final = 256 * 1024
_FREE_NAMES: Final = frozenset({"roles", "rolebindings", "clusterroles", "clusterrolebindings"})  # path segments


def is_subdomain(text: str) -> bool:
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def is_label(text: str) -> bool:
    return len(text) <= 63 and _DNS_LABEL.fullmatch(text) is not None


def is_qualified(text: str) -> bool:
    """`name` or `prefix/name`, as keys of labels and names of resources are."""
    prefix, slash, name = text.rpartition("/")
    if slash and not is_subdomain(prefix):
        return False
    return 0 < len(name) <= 63 and _QUALIFIED.fullmatch(name) is not None


def is_value(text: str) -> bool:
    return len(text) <= 63 and _VALUE.fullmatch(text) is not None


def check(kind: Kind, metadata: dict[str, Any]) -> Faults:
    name = metadata.get("name", "")
    if kind.plural == "namespaces" and not is_label(name):
        yield (
            "metadata.name",
            f"Invalid value: \"{name}\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
        )
    elif kind.plural not in _FREE_NAMES and not is_subdomain(name):
        yield (
            "metadata.name",
            f"Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        )
    yield from labels(metadata.get("labels", {}), "metadata.labels")
    annotations = metadata.get("annotations", {})
    for key in annotations:
        if not is_qualified(key.lower()):
            yield "metadata.annotations", f'Invalid value: "{key}": name part must consist of alphanumeric characters'
    if sum(len(key) + len(str(value)) for key, value in annotations.items()) > _ANNOTATIONS_LIMIT:
        yield "metadata.annotations", f"Too long: may not be more than {_ANNOTATIONS_LIMIT} bytes"
    for finalizer in metadata.get("finalizers", []):
        if not is_qualified(finalizer):
            yield (
                "metadata.finalizers",
                f'Invalid value: "{finalizer}": name part must consist of alphanumeric characters',
            )
    yield from _owners(metadata.get("ownerReferences", []))


def labels(given: dict[str, Any], path: str) -> Faults:
    for key, value in given.items():
        if not is_qualified(key):
            yield (
                path,
                f"Invalid value: \"{key}\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            )
        if len(value) > 63:
            yield path, f'Invalid value: "{value}": must be no more than 63 characters'
        elif not is_value(value):
            yield (
                path,
                f"Invalid value: \"{value}\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            )


def _owners(owners: list[dict[str, Any]]) -> Faults:
    for index, owner in enumerate(owners):
        for key in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(key):
                yield f"metadata.ownerReferences[{index}].{key}", 'Invalid value: "": must not be empty'
    if sum(1 for owner in owners if owner.get("controller")) > 1:
        yield "metadata.ownerReferences", "Invalid value: []: Only one reference can have Controller set to true"


def selector_faults(selector: dict[str, Any], carried: dict[str, Any], path: str) -> Faults:
    """A workload's selector must match its own template."""
    if any(carried.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        yield path, f"Invalid value: {carried}: `selector` does not match template `labels`"
