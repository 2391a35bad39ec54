"""Where Azure tells about an image, and what of it shapes a launch (pure)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from providers.azure.config import AzureConfig

_SHARED: Final = re.compile(r"(?i)/(Community|Shared)Galleries/([^/]+)/Images/([^/]+)(?:/Versions/([^/]+))?")

_GALLERY: Final = re.compile(r"(?i)(.*/galleries/[^/]+/images/[^/]+)(/versions/[^/]+)?")


@dataclass(frozen=True, slots=True)
class Image:
    """What is known of one; empty or None: Azure does not tell."""

    size_gib: int | None = None
    generation: str = ""  # V1 or V2
    architecture: str = ""  # x86_64 or arm64
    security: str = (
        ""  # the definition's SecurityType: ConfidentialVmSupported, TrustedLaunchAndConfidentialVmSupported
    )


def paths(image: str, config: AzureConfig) -> tuple[str, str]:
    """Where its definition and its version are described; an empty one: nowhere.

    An id without a version means the latest, whose size is not known beforehand.
    """
    if found := _SHARED.fullmatch(image):
        kind, gallery, name, version = found.groups()
        at = f"/subscriptions/{config.subscription_id}/providers/Microsoft.Compute/locations/{config.region}"
        definition = f"{at}/{kind.lower()}Galleries/{gallery}/images/{name}"
        return definition, f"{definition}/versions/{version}" if version else ""
    if found := _GALLERY.fullmatch(image):
        return found[1], image if found[2] else ""
    return image, image


def read(definition: Mapping[str, Any], version: Mapping[str, Any]) -> Image:
    """The answers of `paths`, empty where there was none to ask."""
    about, stored = definition.get("properties") or {}, (version.get("properties") or {}).get("storageProfile") or {}
    disk = stored.get("osDiskImage") or stored.get("osDisk") or {}
    size = disk.get("sizeInGB") or disk.get("diskSizeGB")
    features = {each.get("name"): each.get("value", "") for each in about.get("features") or []}
    return Image(
        size_gib=int(size) if size else None,
        generation=about.get("hyperVGeneration", ""),
        architecture={"x64": "x86_64", "Arm64": "arm64"}.get(about.get("architecture", ""), ""),
        security=features.get("SecurityType", ""),
    )
