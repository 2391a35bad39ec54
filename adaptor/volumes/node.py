"""What this node's disk tells: which pod a sandbox is, and the direct volumes of that pod.

kata's shim tells no pod uid with CreateVM. CRI-O's sandbox name carries it; containerd writes it into the sandbox's
bundle before it starts the shim.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adaptor import names
from adaptor.errors import InvalidRequest
from adaptor.telemetry import logs
from adaptor.volumes import records
from adaptor.volumes.records import DirectVolume

_FILE: Final = "mountInfo.json"
# A record has some hundred bytes, a sandbox's config.json some ten thousand.
_RECORD_LIMIT: Final = 64 << 10
_BUNDLE_LIMIT: Final = 4 << 20
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
# Kubernetes' are UUIDs or, for static pods, 32 hex digits; tests of CRI tools take what they like.
_UID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")

log = logs.get("volumes")


@dataclass(frozen=True, slots=True)
class Found:
    """What CreateVM does not say of a pod."""

    uid: str = ""  # empty: nothing here tells it
    volumes: tuple[DirectVolume, ...] = ()
    unknown: bool = False  # this node has direct volumes, and it cannot be told whether they are this pod's


class NodeVolumes:
    """Looks into kata's `directory` of direct volumes and containerd's `bundles`, as they are at each call."""

    def __init__(self, directory: str, bundles: str) -> None:
        self._directory = Path(directory)
        self._bundles = Path(bundles)

    def found(self, sandbox_id: str, pod: str, annotations: Mapping[str, str]) -> Found:
        """The sandbox's pod and its volumes, numbered as upstream numbers them: by the names of their records.

        Raises: InvalidRequest, naming pod and file, for a record of this pod that cannot be used.
        """
        uid = self._uid(sandbox_id, annotations)
        paths = self._paths()
        if not uid:
            if paths:
                log.warning(
                    "the pod's uid is not known, so it can be given no direct volume",
                    sandbox=sandbox_id,
                    pod=pod,
                    looked_in=str(self._bundles / sandbox_id),
                )
            return Found(unknown=bool(paths))
        volumes = tuple(self._read(name, path, pod) for name, path in paths if records.pod_of(path) == uid)
        records.check_together(volumes, f"pod {pod}")
        return Found(uid, volumes)

    def _uid(self, sandbox_id: str, annotations: Mapping[str, str]) -> str:
        told = annotations.get(names.CRI_SANDBOX_UID) or _crio_uid(annotations.get(names.CRIO_SANDBOX_NAME, ""))
        uid = told or self._bundle_uid(sandbox_id)
        return uid if _UID.fullmatch(uid) else ""

    def _bundle_uid(self, sandbox_id: str) -> str:
        if not _ID.fullmatch(sandbox_id):
            return ""
        try:
            config = json.loads(_content(self._bundles / sandbox_id / "config.json", _BUNDLE_LIMIT))
            uid: Any = config["annotations"][names.CRI_SANDBOX_UID]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return ""
        return uid if isinstance(uid, str) else ""

    def _paths(self) -> list[tuple[str, str]]:
        """(directory's name, the path it is for) of every CSI volume's record."""
        try:
            entries = sorted(entry.name for entry in os.scandir(self._directory) if entry.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InvalidRequest(
                f"the direct volumes in {self._directory} cannot be listed: {error.strerror}"
            ) from error
        decoded = [(name, records.decode(name)) for name in entries]
        return [(name, path) for name, path in decoded if path is not None and records.pod_of(path)]

    def _read(self, name: str, path: str, pod: str) -> DirectVolume:
        file = self._directory / name / _FILE
        where = f"the direct volume of pod {pod} at {path} cannot be used ({file})"
        try:
            text = _content(file, _RECORD_LIMIT)
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"{where}: {getattr(error, 'strerror', None) or error}") from error
        return records.parse(text, path, where)


def _content(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        text = file.read(limit + 1)
    if len(text) > limit:
        raise ValueError(f"it is longer than {limit} bytes")
    return text


def _crio_uid(name: str) -> str:
    match name.split("_"):  # k8s_POD_<pod>_<namespace>_<uid>_<attempt>, or without POD
        case ["k8s", "POD", _, _, uid, _] | ["k8s", _, _, uid, _]:
            return uid
    return ""
