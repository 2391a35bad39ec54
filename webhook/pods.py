"""A pod as far as the webhook looks at it. Whatever an API server would not send is Malformed, never a crash."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from adaptor import names
from adaptor.errors import InvalidRequest

# Of a spec, besides its containers.
_DECIDED_BY: Final = ("resources", "overhead", "nodeName", "schedulingGates", "hostNetwork", "hostPID", "hostIPC")
# Of a pod's annotations.
_OURS: Final = (names.MACHINE_TYPE.rpartition(".")[0] + ".", names.WISH_PREFIX, names.SIZED.partition("/")[0] + "/")
_NOTHING: Final[Mapping[str, Any]] = {}


class Malformed(InvalidRequest):
    """Not what an API server sends: the caller's mistake, not the pod's owner's."""


@dataclass(frozen=True, slots=True)
class Container:
    """One container, or an init container; `sidecar`: one that keeps running (restartPolicy Always)."""

    path: str  # JSON pointer
    name: str
    sidecar: bool
    resources: Mapping[str, Any]  # as it stands in the pod; empty when it has none
    limits: Mapping[str, Any]
    requests: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """`own`: its resources as a whole (spec.resources), None when it has none."""

    annotations: Mapping[str, str]
    spec: Mapping[str, Any]
    containers: tuple[Container, ...]
    inits: tuple[Container, ...]
    own: Container | None

    def every(self) -> Iterator[Container]:
        """Containers first, then init containers."""
        yield from self.containers
        yield from self.inits


def runtime_class(raw: Any) -> str:
    """Of a pod that need not be read any further when it is not ours. Raises: Malformed."""
    found = table(raw, "spec", "object").get("runtimeClassName") or ""
    if not isinstance(found, str):
        raise Malformed("object.spec.runtimeClassName is not a text")
    return found


def called(raw: Mapping[str, Any], namespace: str) -> str:
    """`namespace/name` as people write it; `namespace` is the review's, which the object itself may leave out."""
    metadata = raw["metadata"]
    name = _text(metadata, "name") or f"{_text(metadata, 'generateName')}..."
    return f"{namespace or _text(metadata, 'namespace')}/{name}"


def likeness(raw: Mapping[str, Any]) -> str:
    """A text that two pods share only if they are alike in everything that is decided by. Raises: Malformed."""
    annotations, spec = _annotations(raw), raw["spec"]
    ours = [(key, value) for key, value in annotations.items() if key.startswith(_OURS)]
    try:
        said = [spec.get(key) for key in _DECIDED_BY]
        containers = [
            [(each.get("name"), each.get("resources"), each.get("restartPolicy")) for each in spec.get(key) or ()]
            for key in ("containers", "initContainers")
        ]
        return repr((bool(annotations), ours, said, containers))
    except (AttributeError, TypeError, RecursionError):
        read(raw)  # says what it is
        raise Malformed("object is nested too deeply") from None


def read(raw: Any) -> Pod:
    """A Pod object. Raises: Malformed."""
    spec, annotations = table(raw, "spec", "object"), _annotations(raw)
    for key, value in annotations.items():
        if key.startswith(_OURS) and not isinstance(value, str):
            raise Malformed(f"object.metadata.annotations[{key[:80]!r}] is not a text")
    own = spec.get("resources")
    return Pod(
        annotations=annotations,
        spec=spec,
        containers=_containers(spec, "containers"),
        inits=_containers(spec, "initContainers"),
        own=_container(spec, "/spec", "object.spec") if own else None,
    )


def _annotations(raw: Any) -> Mapping[str, Any]:
    metadata = table(raw, "metadata", "object")
    if metadata is _NOTHING:
        raise Malformed("object has no metadata: not a pod")
    return table(metadata, "annotations", "object.metadata")


def table(holder: Any, key: str, where: str) -> Mapping[str, Any]:
    """`holder[key]`, empty when it is absent or null. Raises: Malformed."""
    if not isinstance(holder, dict):
        raise Malformed(f"{where} is not a table")
    found = holder.get(key)
    if found is None:
        return _NOTHING
    if not isinstance(found, dict):
        raise Malformed(f"{where}.{key} is not a table")
    return found


def rows(holder: Mapping[str, Any], key: str, where: str) -> list[Any]:
    """`holder[key]` as a list, empty when it is absent or null. Raises: Malformed."""
    found = holder.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise Malformed(f"{where}.{key} is not a list")
    return found


def _containers(spec: Mapping[str, Any], key: str) -> tuple[Container, ...]:
    found = rows(spec, key, "object.spec")
    return tuple(
        _container(each, f"/spec/{key}/{index}", f"object.spec.{key}[{index}]") for index, each in enumerate(found)
    )


def _container(found: Any, path: str, where: str) -> Container:
    resources = table(found, "resources", where)
    return Container(
        path=path,
        name=str(found.get("name", "")),
        sidecar=found.get("restartPolicy") == "Always",
        resources=resources,
        limits=table(resources, "limits", where) if resources else _NOTHING,
        requests=table(resources, "requests", where) if resources else _NOTHING,
    )


def _text(holder: Mapping[str, Any], key: str) -> str:
    found = holder.get(key)
    return found if isinstance(found, str) else ""
