"""Galleries, image definitions and versions that a subscription makes for itself."""

import re
from collections.abc import Mapping
from typing import Any, Final

from azure.mgmt.compute import models

from providers.simcloud.arm import schema
from providers.simcloud.arm.desk import Asked, Desk, Handlers, Reply
from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.nics import check_location
from providers.simcloud.arm.state import DISK, GALLERY, GALLERY_IMAGE, GALLERY_VERSION, Resource, id_of
from providers.simcloud.arm.tags import check as check_tags

_GALLERY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]{0,79}")
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,79}", re.ASCII)
_VERSION: Final = re.compile(r"\d{1,10}\.\d{1,10}\.\d{1,10}")
_SECURITY: Final = (
    "TrustedLaunch",
    "TrustedLaunchSupported",
    "ConfidentialVM",
    "ConfidentialVmSupported",
    "TrustedLaunchAndConfidentialVmSupported",
)
_FIXED: Final = ("osType", "osState", "hyperVGeneration", "architecture", "identifier")  # nobody changes these later


class Galleries:
    """The actions that make images."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._world = desk.world

    def handlers(self) -> Handlers:
        """By action."""
        return {
            "Galleries.CreateOrUpdate": self._gallery,
            "GalleryImages.CreateOrUpdate": self._definition,
            "GalleryImageVersions.CreateOrUpdate": self._version,
        }

    def _gallery(self, asked: Asked) -> Reply:
        body = schema.cleaned(models.Gallery, asked.body)
        if not _GALLERY_NAME.fullmatch(asked.name):
            raise Refused("InvalidParameter", f"The gallery name '{asked.name}' is invalid.", target="galleryName")
        return self._made(asked, GALLERY, (asked.name,), body)

    def _definition(self, asked: Asked) -> Reply:
        body = schema.cleaned(models.GalleryImage, asked.body)
        names = (asked.name, asked.names["image"])
        self._world.named(GALLERY, asked.group, asked.name)
        if not _NAME.fullmatch(names[1]):
            raise Refused("InvalidParameter", f"The name '{names[1]}' is invalid.", target="galleryImageName")
        wanted = body.get("properties") or {}
        for each in ("osType", "osState", "identifier"):
            if not wanted.get(each):
                raise Refused("InvalidParameter", f"Required parameter 'galleryImage.properties.{each}' is missing.")
        security = {each["name"]: each["value"] for each in wanted.get("features") or []}.get("SecurityType")
        if security and security.lower() not in (each.lower() for each in _SECURITY):
            raise Refused("InvalidParameter", f"SecurityType '{security}' is invalid.", target="features")
        if security and wanted.get("hyperVGeneration") != "V2":
            raise Refused("InvalidParameter", f"SecurityType '{security}' needs hyperVGeneration V2.")
        existing = self._world.find(id_of(GALLERY_IMAGE, asked.group, *names))
        if existing is not None:
            changed = [each for each in _FIXED if wanted.get(each) != existing.properties.get(each)]
            if changed:
                raise Refused("PropertyChangeNotAllowed", f"Changing property '{changed[0]}' is not allowed.")
        return self._made(asked, GALLERY_IMAGE, names, body)

    def _version(self, asked: Asked) -> Reply:
        body = schema.cleaned(models.GalleryImageVersion, asked.body)
        names = (asked.name, asked.names["image"], asked.names["version"])
        definition = self._world.named(GALLERY_IMAGE, asked.group, *names[:2])
        if not _VERSION.fullmatch(names[2]):
            raise Refused("InvalidParameter", f"'{names[2]}' is no version: MAJOR.MINOR.PATCH.", target="version")
        stored = (body.get("properties") or {}).get("storageProfile") or {}
        source = ((stored.get("osDiskImage") or {}).get("source") or {}).get("id", "")
        existing = self._world.find(id_of(GALLERY_VERSION, asked.group, *names))
        if existing is not None:
            known = existing.properties["storageProfile"]["osDiskImage"]["source"]["id"]
            if known.lower() != source.lower():
                raise Refused("PropertyChangeNotAllowed", "Changing property 'osDiskImage.source' is not allowed.")
            return self._made(asked, GALLERY_VERSION, names, body | {"properties": existing.properties})
        stored.setdefault("osDiskImage", {})["sizeInGB"] = self._suited(source, definition)
        return self._made(asked, GALLERY_VERSION, names, body)

    def _suited(self, source: str, definition: Resource) -> int:
        """The disk's size in GiB. Raises Refused for a disk that cannot be this definition's."""
        disk = self._world.find(source, DISK)
        if disk is None:
            raise Refused("NotFound", f"The source '{source}' was not found.", target="source", status=404)
        if disk.properties["diskState"] != "Unattached":
            raise Refused("OperationNotAllowed", f"The disk {disk.name} is {disk.properties['diskState']}.")
        for key in ("osType", "hyperVGeneration"):
            if disk.properties.get(key) != definition.properties.get(key):
                raise Refused(
                    "InvalidParameter", f"The disk's {key} {disk.properties.get(key)} is not the image definition's."
                )
        features = {each["name"]: each["value"] for each in definition.properties.get("features") or []}
        if features.get("SecurityType", "").lower() == "confidentialvm":
            raise Refused("InvalidParameter", f"{definition.name} takes images of confidential VMs, with guest state.")
        return int(disk.properties["diskSizeGB"])

    def _made(self, asked: Asked, kind: str, names: tuple[str, ...], body: Mapping[str, Any]) -> Reply:
        check_location(self._world, body, kind)
        check_tags(body.get("tags"))
        existed = self._world.find(id_of(kind, asked.group, *names)) is not None
        kept = {key: value for key, value in body.items() if key in ("location", "tags", "properties")}
        made = self._world.add(kind, asked.group, *names, **kept)
        operation = self._desk.operations.begin(made.id)
        headers = operation.headers(asked.base, asked.version, located=True)
        return Reply(200 if existed else 201, made.body, headers)
