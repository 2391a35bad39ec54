"""kata's direct-volume records: the disk that a CSI driver wants mounted where a pod has one of its volumes. Pure.

Keys of mountInfo.json are kata's (`volume-type`, `device`, `fstype`, `metadata`, `options`), those of its metadata
kata's (`fsGroup`, `fsGroupChangePolicy`) and upstream's (`cloud-volume-path`, `encrypt-type`, `kbs-key-id`).
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from adaptor.errors import InvalidRequest

FS_TYPES: Final = ("ext4", "ext3", "xfs")
_ENCRYPT_TYPES: Final = ("luks", "luks2")
_POLICIES: Final = {"": False, "Always": False, "OnRootMismatch": True}
# Where kubelet has CSI drivers publish: <root>/pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount.
_PUBLISHED: Final = re.compile(r".*/pods/([^/]+)/volumes/kubernetes\.io~csi/([^/]+)(?:/mount)?")
_RAW_BLOCK: Final = re.compile(r".*/pods/([^/]+)/volumeDevices/.+")
# A cloud's id of a disk: vol-..., /subscriptions/.../disks/..., projects/.../disks/...
_DISK: Final = re.compile(r"[A-Za-z0-9/][A-Za-z0-9._:()/~-]{0,511}")
_KEY: Final = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+){2}")
_LAST_GID: Final = 2**32 - 2  # 2^32 - 1 means "leave it"


@dataclass(frozen=True, slots=True)
class DirectVolume:
    """One volume of a pod that is a disk of the cloud."""

    path: str  # on this node: what the shim gives as a mount's source
    disk: str  # the cloud's id
    fs_type: str = "ext4"
    read_only: bool = False
    fs_group: int | None = None
    fs_group_on_mismatch: bool = False  # change owners only where the volume's root has others
    key_id: str = ""  # repository/type/tag of the key it is encrypted with (LUKS2); empty: it is not
    device: str = ""  # the record's own `device`: a shim may give this as the source instead


def decode(name: str) -> str | None:
    """The path that a directory of records is named after; None for one that is no record's."""
    try:
        path = base64.b64decode(name + "=" * (-len(name) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return path if path.startswith("/") and "\0" not in path else None


def pod_of(path: str) -> str | None:
    """The uid of the pod whose volume this path is; None where it is no CSI volume."""
    found = _PUBLISHED.fullmatch(path) or _RAW_BLOCK.fullmatch(path)
    return found[1] if found else None


def volume_name(path: str) -> str:
    """What kubelet calls the volume; empty where the path is none of kubelet's."""
    found = _PUBLISHED.fullmatch(path)
    return found[2] if found else ""


def parse(text: bytes, path: str, where: str) -> DirectVolume:
    """The volume that a mountInfo.json describes, of the record for `path`.

    Raises: InvalidRequest, which begins with `where`.
    """
    try:
        return _volume(_record(text), path)
    except ValueError as error:
        raise InvalidRequest(f"{where}: {error}") from None


def check_together(volumes: tuple[DirectVolume, ...], where: str) -> None:
    """Raises InvalidRequest for volumes that one pod cannot have."""
    seen: dict[str, DirectVolume] = {}
    for volume in volumes:
        if other := seen.get(volume.disk):
            raise InvalidRequest(
                f"{where}: the volumes at {other.path} and {volume.path} are the same disk {volume.disk}"
            )
        seen[volume.disk] = volume


def _record(text: bytes) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError("is not a JSON object")
    return record


def _volume(record: dict[str, Any], path: str) -> DirectVolume:
    if _RAW_BLOCK.fullmatch(path):
        raise ValueError(
            "a raw block volume (volumeMode: Block) cannot be given to a pod VM; use volumeMode: Filesystem"
        )
    metadata = record.get("metadata") or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError('"metadata" is not an object of texts')
    options = record.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError('"options" is not a list of texts')
    device = _text(record, "device")
    fs_type = _text(record, "fstype") or "ext4"
    if fs_type not in FS_TYPES:
        raise ValueError(f'"fstype" is {fs_type[:40]!r}; a pod VM mounts {", ".join(FS_TYPES)}')
    gid = _gid(metadata.get("fsGroup", ""))
    policy = metadata.get("fsGroupChangePolicy", "")
    if policy not in _POLICIES:
        raise ValueError(f'"fsGroupChangePolicy" is {policy[:40]!r}; it is Always or OnRootMismatch')
    return DirectVolume(
        path=path,
        disk=_disk(metadata.get("cloud-volume-path") or device),
        fs_type=fs_type,
        read_only="ro" in options,
        fs_group=gid,
        fs_group_on_mismatch=_POLICIES[policy],
        key_id=_key(metadata.get("encrypt-type", ""), metadata.get("kbs-key-id", "")),
        device=device,
    )


def _text(record: dict[str, Any], key: str) -> str:
    value = record.get(key) or ""
    if not isinstance(value, str):
        raise ValueError(f'"{key}" is not a text')
    return value


def _disk(disk: str) -> str:
    if not disk:
        raise ValueError('names no disk: neither "cloud-volume-path" in its metadata nor "device"')
    if disk.startswith("/dev/"):
        raise ValueError(f"{disk[:80]} is a device of this node and no disk of the cloud: a pod VM cannot have it")
    if not _DISK.fullmatch(disk) or disk.endswith(":ro"):  # the suffix is the journal's own
        raise ValueError(f"{disk[:80]!r} cannot be a cloud's id of a disk")
    return disk


def _gid(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or int(text) > _LAST_GID:
        raise ValueError(f'"fsGroup" is {text[:40]!r}; it is a number up to {_LAST_GID}')
    return int(text)


def _key(encrypt_type: str, key_id: str) -> str:
    """The key's id. Half of the two would be a volume that somebody wants encrypted, and is not."""
    if not encrypt_type and not key_id:
        return ""
    if encrypt_type.lower() not in _ENCRYPT_TYPES:
        raise ValueError(f'"encrypt-type" is {encrypt_type[:40]!r} beside a "kbs-key-id"; it is luks2')
    key = key_id.removeprefix("kbs:///")
    if not _KEY.fullmatch(key) or ".." in key.split("/"):
        raise ValueError(f'"kbs-key-id" is {key_id[:80]!r}; encrypt-type needs one of the form repository/type/tag')
    return key
