"""images.insert: an archive of the project's own bucket becomes an image."""

import io
import re
import tarfile
from typing import Final

from providers.simcloud.gce.asked import Asked
from providers.simcloud.gce.errors import Refused, exists, invalid, required
from providers.simcloud.gce.images import Images
from providers.simcloud.gce.operations import Operations
from providers.simcloud.gce.paths import check_name, link
from providers.simcloud.gce.project import ID, Json, Project, fingerprint, timestamp
from providers.simcloud.gce.storage import Storage

_SOURCE: Final = re.compile(r"(?:https://storage\.googleapis\.com/|gs://)([^/]+)/(.+)")
_GIB: Final = 1 << 30
_FEATURES: Final = frozenset(
    {"UEFI_COMPATIBLE", "GVNIC", "VIRTIO_SCSI_MULTIQUEUE", "MULTI_IP_SUBNET", "WINDOWS", "SECURE_BOOT", "SEV_CAPABLE",
     "SEV_LIVE_MIGRATABLE", "SEV_LIVE_MIGRATABLE_V2", "SEV_SNP_CAPABLE", "TDX_CAPABLE", "IDPF", "SUSPEND_RESUME_COMPATIBLE"}
)  # fmt: skip


def insert(asked: Asked, project: Project, images: Images, storage: Storage, operations: Operations) -> Json:
    """The operation. Raises Refused."""
    body = asked.body
    name, source = body.get("name") or "", (body.get("rawDisk") or {}).get("source") or ""
    path = f"projects/{ID}/global/images/{name}"
    if known := operations.known(asked.action, path, asked.request_id):
        return known.shown()
    if not name:
        raise required("resource.name")
    check_name(name)
    if path in images.by_path:
        raise exists(path)
    if not source:
        raise required("resource.rawDisk.source")
    for feature in body.get("guestOsFeatures") or []:
        if feature.get("type") not in _FEATURES:
            raise invalid("resource.guestOsFeatures", feature.get("type"), "It is none that Compute Engine has.")
    data = _archive(source, storage)
    inside = _disk_size(data, source) // _GIB
    size = int(body.get("diskSizeGb") or inside)
    if size < inside:
        raise invalid("resource.diskSizeGb", size, f"The disk in the archive has {inside} GB.")
    image: Json = {
        "kind": "compute#image",
        "id": project.new_id(),
        "creationTimestamp": timestamp(),
        "name": name,
        "status": "READY",
        "sourceType": "RAW",
        "archiveSizeBytes": str(len(data)),
        "diskSizeGb": str(size),
        "selfLink": link(path),
        "labelFingerprint": fingerprint(body.get("labels") or {}),
        **{key: body[key] for key in ("description", "labels", "family") if body.get(key)},
        "architecture": body.get("architecture") or "X86_64",
        "guestOsFeatures": [{"type": each["type"]} for each in body.get("guestOsFeatures") or []],
    }
    images.by_path[path] = image
    return operations.at_once(asked.action, "global", path, image["id"], asked.request_id)


def _archive(source: str, storage: Storage) -> bytes:
    found = _SOURCE.fullmatch(source)
    held = storage.buckets.get(found[1], {}).get(found[2]) if found else None
    if held is None:
        raise invalid(
            "resource.rawDisk.source", source, "The referenced object was not found, or the URL is malformed."
        )
    return held


def _disk_size(data: bytes, source: str) -> int:
    """Of the disk inside, in bytes: one file, disk.raw, of whole GiB."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            members = archive.getmembers()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise Refused("invalid", f"The tar archive {source} cannot be read: {error}") from None
    if [each.name for each in members] != ["disk.raw"]:
        raise Refused("invalid", f"The tar archive {source} must contain one file, disk.raw.")
    size = members[0].size
    if not size or size % _GIB:
        raise Refused("invalid", f"The disk in {source} has {size} bytes; it must be a multiple of 1 GB.")
    return size
