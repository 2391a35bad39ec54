"""Images: the project's own two for pod VMs, and some that Google's projects publish."""

from collections.abc import Mapping
from typing import Final

from providers.simcloud.gce import listing
from providers.simcloud.gce.asked import Asked, Verb
from providers.simcloud.gce.errors import Refused, invalid, not_found
from providers.simcloud.gce.machine_types import ARM, X86
from providers.simcloud.gce.paths import Reference, link
from providers.simcloud.gce.project import ID, NUMBER, Json

IMAGE: Final = "peerpods-podvm-x86-64"
ARM_IMAGE: Final = "peerpods-podvm-arm64"
FAMILY: Final = "peerpods-podvm"
_CONFIDENTIAL: Final = ("SEV_CAPABLE", "SEV_SNP_CAPABLE", "SEV_LIVE_MIGRATABLE_V2", "TDX_CAPABLE", "IDPF")
_UEFI: Final = ("UEFI_COMPATIBLE", "VIRTIO_SCSI_MULTIQUEUE", "GVNIC")
_SINCE: Final = "2026-11-02T08:00:00.000-08:00"


def _image(project: str, name: str, family: str, architecture: str, size: int, *features: str) -> tuple[str, Json]:
    path = f"projects/{project}/global/images/{name}"
    return path, {
        "kind": "compute#image",
        "id": str(4_000_000_000_000_000_000 + sum(map(ord, name)) * 10**9),
        "creationTimestamp": _SINCE,
        "name": name,
        "family": family,
        "status": "READY",
        "sourceType": "RAW",
        "archiveSizeBytes": str(size * 2**27),
        "diskSizeGb": str(size),
        "architecture": architecture,
        "guestOsFeatures": [{"type": each} for each in features],
        "selfLink": link(path),
        "labelFingerprint": "42WmSpB8rSM=",
    }


# By path: the projects are others' too.
IMAGES: Final[Mapping[str, Json]] = dict(
    (
        _image(ID, IMAGE, FAMILY, X86, 10, *_UEFI, *_CONFIDENTIAL),
        _image(ID, ARM_IMAGE, f"{FAMILY}-arm64", ARM, 10, *_UEFI),
        _image("debian-cloud", "debian-12-bookworm-v20261103", "debian-12", X86, 10, *_UEFI, "SEV_CAPABLE"),
        _image("debian-cloud", "debian-12-bookworm-arm64-v20261103", "debian-12-arm64", ARM, 10, *_UEFI),
        _image("debian-cloud", "debian-10-buster-v20240515", "debian-10", X86, 10, "VIRTIO_SCSI_MULTIQUEUE"),
        _image(
            "ubuntu-os-cloud", "ubuntu-2404-noble-amd64-v20261029", "ubuntu-2404-lts-amd64", X86, 10,
            *_UEFI, *_CONFIDENTIAL,
        ),
    )
)  # fmt: skip


class Images:
    """Actions on images. Everybody's are read here, as Google's public projects let everybody."""

    def __init__(self) -> None:
        self.by_path: dict[str, Json] = dict(IMAGES)

    def actions(self) -> Mapping[str, Verb]:
        return {"images.get": self.get, "images.list": self.some, "images.getFromFamily": self.from_family}

    def get(self, asked: Asked) -> Json:
        path = f"projects/{_named(asked)}/global/images/{asked.names['image']}"
        if path not in self.by_path:
            raise not_found(path)
        return self.by_path[path]

    def some(self, asked: Asked) -> Json:
        of = f"projects/{_named(asked)}/global/images"
        return listing.page([i for p, i in self.by_path.items() if p.startswith(of + "/")], asked.query, "image", of)

    def from_family(self, asked: Asked) -> Json:
        found = self._newest(_named(asked), asked.names["family"])
        if found is None:
            raise not_found(f"projects/{_named(asked)}/global/images/family/{asked.names['family']}")
        return found

    def remove(self, asked: Asked) -> str:
        """Its path. Raises Refused."""
        path = f"projects/{_named(asked)}/global/images/{asked.names['image']}"
        if path not in self.by_path:
            raise not_found(path)
        del self.by_path[path]
        return path

    def resolve(self, wanted: Reference, text: str, field: str) -> Json:
        """The image that a request names. Raises Refused."""
        project = ID if wanted.project == NUMBER else wanted.project
        if wanted.name.startswith("family/"):
            found = self._newest(project, wanted.name.removeprefix("family/"))
        else:
            found = self.by_path.get(f"projects/{project}/global/images/{wanted.name}")
        if found is None:
            raise invalid(field, text, "The referenced image resource cannot be found.")
        if found["status"] != "READY":
            raise Refused("resourceNotReady", f"The resource '{wanted.path}' is not ready")
        return found

    def _newest(self, project: str, family: str) -> Json | None:
        of = f"projects/{project}/global/images/"
        found = [i for p, i in self.by_path.items() if p.startswith(of) and i.get("family") == family]
        return max(found, key=lambda image: str(image["creationTimestamp"]), default=None)


def _named(asked: Asked) -> str:
    project = asked.names["project"]
    return ID if project == NUMBER else project
