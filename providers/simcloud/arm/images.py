"""Images: what there is, how a VM names one, and what it may be used for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from providers.simcloud.arm.desk import Asked, Desk, Handlers, Reply
from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.state import (
    GALLERY,
    GALLERY_IMAGE,
    GALLERY_VERSION,
    GROUP,
    IMAGE,
    Resource,
    ResourceId,
    World,
    id_of,
    shown,
)

GALLERY_NAME: Final = "peerpods"
COMMUNITY: Final = "peerpods-051c10ad-0000-4000-8000-051c10ad0003"
VERSION: Final = "1.0.0"
BOTH: Final = "TrustedLaunchAndConfidentialVmSupported"
_SIZE_GB: Final = 8
_COMMUNITY_ID: Final = re.compile(r"/CommunityGalleries/([^/]+)/Images/([^/]+)(?:/Versions/([^/]+))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Image:
    """What matters of an image to whoever launches from it."""

    id: str
    generation: str = "V2"
    arm: bool = False
    security: str = ""  # the definition's SecurityType feature; empty: it has none
    size_gb: int = _SIZE_GB
    specialized: bool = False


# A definition's name -> what it is. The same ones in the account's gallery and in the community's.
_DEFINITIONS: Final = {
    "podvm": Image("", security=BOTH),
    "podvm-cvm": Image("", security="ConfidentialVM"),
    "podvm-plain": Image(""),
    "podvm-arm64": Image("", arm=True),
    "podvm-gen1": Image("", generation="V1"),
}
_MARKETPLACE: Final = {
    ("canonical", "ubuntu-24_04-lts", "server"): Image("", security="TrustedLaunchSupported", size_gb=30),
    ("canonical", "ubuntu-24_04-lts", "cvm"): Image("", security="ConfidentialVmSupported", size_gb=30),
    ("canonical", "ubuntu-24_04-lts", "server-arm64"): Image("", arm=True, size_gb=30),
}
_MARKETPLACE_VERSION: Final = "24.04.202610010"


def stock(world: World) -> None:
    """The images that every simulated subscription has."""
    at = {"location": world.region}
    world.add(GALLERY, GROUP, GALLERY_NAME, **at, properties={"identifier": {"uniqueName": COMMUNITY}})
    for name, image in _DEFINITIONS.items():
        world.add(GALLERY_IMAGE, GROUP, GALLERY_NAME, name, **at, properties=_definition(name, image))
        world.add(GALLERY_VERSION, GROUP, GALLERY_NAME, name, VERSION, **at, properties=_version(world, image))
    managed = {
        "hyperVGeneration": "V2",
        "storageProfile": {"osDisk": {"osType": "Linux", "osState": "Generalized", "diskSizeGB": _SIZE_GB}},
    }
    world.add(IMAGE, GROUP, "podvm-managed", **at, properties=managed)


def facts() -> dict[str, str]:
    """The ids that people launch with."""
    return {
        "image": id_of(GALLERY_VERSION, GROUP, GALLERY_NAME, "podvm", VERSION),
        "arm_image": id_of(GALLERY_VERSION, GROUP, GALLERY_NAME, "podvm-arm64", VERSION),
        "community_image": f"/CommunityGalleries/{COMMUNITY}/Images/podvm/Versions/{VERSION}",
    }


def resolve(world: World, reference: Mapping[str, Any]) -> Image:
    """What `imageReference` names. Raises Refused."""
    named = [key for key in ("id", "communityGalleryImageId", "sharedGalleryImageId") if reference.get(key)]
    marketplace = any(reference.get(key) for key in ("publisher", "offer", "sku", "version"))
    if len(named) + marketplace != 1:
        raise Refused(
            "InvalidParameter",
            "The imageReference must have exactly one of id, communityGalleryImageId, sharedGalleryImageId, or"
            " publisher, offer, sku and version.",
            target="imageReference",
        )
    if marketplace:
        return _from_marketplace(reference)
    text = str(reference[named[0]])
    if named[0] == "communityGalleryImageId":
        return _from_community(text)
    if named[0] == "sharedGalleryImageId":
        raise Refused("GalleryImageNotFound", f"The gallery image {text} is not available in {world.region} region.")
    return _from_id(world, text)


def _from_id(world: World, text: str) -> Image:
    parsed = ResourceId.parse(text)
    if parsed is None or parsed.type.lower() not in (each.lower() for each in (IMAGE, GALLERY_IMAGE, GALLERY_VERSION)):
        raise Refused(
            "InvalidParameter",
            f"The value '{text}' of parameter 'imageReference.id' is not the id of an image.",
            target="imageReference.id",
        )
    latest = parsed.names[-1].lower() == "latest"
    found = world.find(text.rpartition("/versions")[0] if latest else text)
    if found is None:
        code = "NotFound" if parsed.type.lower() == IMAGE.lower() else "GalleryImageNotFound"
        raise Refused(
            code, f"The image '{text}' cannot be found in '{world.region}' region.", target="imageReference", status=404
        )
    if found.type == IMAGE:
        made: Mapping[str, Any] = found.properties
        return Image(found.id, made.get("hyperVGeneration", "V1"))
    return _described(world, found)


def _described(world: World, found: Resource) -> Image:
    """A definition or version of one of the subscription's galleries."""
    definition = world.find(found.id.partition("/versions/")[0], GALLERY_IMAGE)
    assert definition is not None, "a version has a definition"
    about = definition.properties
    features = {each["name"]: each["value"] for each in about.get("features") or []}
    stored = (found.properties.get("storageProfile") or {}).get("osDiskImage") or {}
    return Image(
        found.id,
        about.get("hyperVGeneration", "V1"),
        about.get("architecture", "x64") == "Arm64",
        features.get("SecurityType", ""),
        int(stored.get("sizeInGB", _SIZE_GB)),
        about["osState"] == "Specialized",
    )


def _from_community(text: str) -> Image:
    found = _COMMUNITY_ID.fullmatch(text)
    if found is None:
        raise Refused(
            "InvalidParameter",
            f"The value '{text}' of parameter 'imageReference.communityGalleryImageId' is not valid.",
            target="imageReference.communityGalleryImageId",
        )
    gallery, name, version = found.groups()
    known = gallery.lower() == COMMUNITY and name.lower() in _DEFINITIONS and version in (None, VERSION, "latest")
    if not known:
        raise Refused(
            "GalleryImageNotFound",
            f"The gallery image {text} is not available in this region. Please contact image owner to replicate to this"
            " region, or change your requested region.",
            target="imageReference",
            status=404,
        )
    return _with_id(_DEFINITIONS[name.lower()], text)


def _from_marketplace(reference: Mapping[str, Any]) -> Image:
    words = tuple(str(reference.get(key, "")) for key in ("publisher", "offer", "sku"))
    known = _MARKETPLACE.get(tuple(word.lower() for word in words))  # type: ignore[arg-type]
    version = str(reference.get("version", ""))
    if known is None or version.lower() not in ("latest", _MARKETPLACE_VERSION):
        raise Refused(
            "PlatformImageNotFound",
            f"The platform image '{':'.join((*words, version))}' is not available. Verify that all fields in the storage"
            " profile are correct. For more details about storage profile information, please refer to"
            " https://aka.ms/storageprofile",
            target="imageReference",
            status=404,
        )
    return known


def _with_id(image: Image, image_id: str) -> Image:
    return Image(image_id, image.generation, image.arm, image.security, image.size_gb, image.specialized)


def _definition(name: str, image: Image) -> dict[str, Any]:
    features = [{"name": "SecurityType", "value": image.security}] if image.security else []
    return {
        "hyperVGeneration": image.generation,
        "architecture": "Arm64" if image.arm else "x64",
        "osType": "Linux",
        "osState": "Specialized" if image.specialized else "Generalized",
        "identifier": {"publisher": "peerpods", "offer": "podvm", "sku": name},
        "recommended": {},
        "features": features,
    }


def _version(world: World, image: Image) -> dict[str, Any]:
    return {
        "publishingProfile": {
            "targetRegions": [{"name": world.region, "regionalReplicaCount": 1, "storageAccountType": "Standard_LRS"}],
            "replicaCount": 1,
            "excludeFromLatest": False,
            "storageAccountType": "Standard_LRS",
        },
        "storageProfile": {"osDiskImage": {"sizeInGB": image.size_gb, "hostCaching": "ReadWrite", "source": {}}},
        "safetyProfile": {"reportedForPolicyViolation": False, "allowDeletionOfReplicatedLocations": False},
    }


class Images:
    """The actions that read images."""

    def __init__(self, desk: Desk) -> None:
        self._world = desk.world

    def handlers(self) -> Handlers:
        """By action."""
        return {
            "Images.Get": lambda asked: self._one(IMAGE, asked, "name"),
            "Images.ListByResourceGroup": lambda asked: self._list(IMAGE, asked),
            "Galleries.Get": lambda asked: self._one(GALLERY, asked, "name"),
            "GalleryImages.Get": lambda asked: self._one(GALLERY_IMAGE, asked, "name", "image"),
            "GalleryImageVersions.Get": lambda asked: self._one(GALLERY_VERSION, asked, "name", "image", "version"),
            "GalleryImageVersions.ListByGalleryImage": self._versions,
            "CommunityGalleries.Get": lambda asked: self._community(asked, {}),
            "CommunityGalleryImages.Get": self._community_image,
            "CommunityGalleryImageVersions.Get": self._community_version,
            "CommunityGalleryImageVersions.List": self._community_versions,
            "VirtualMachineImages.Get": self._marketplace,
            "VirtualMachineImages.List": self._marketplace_versions,
        }

    def _one(self, kind: str, asked: Asked, *names: str) -> Reply:
        if kind == IMAGE or len(names) == 1:
            return Reply(body=shown(self._world.named(kind, asked.group, *(asked.names[n] for n in names))))
        self._parent(kind, asked, names)
        return Reply(body=shown(self._world.named(kind, asked.group, *(asked.names[n] for n in names))))

    def _parent(self, kind: str, asked: Asked, names: tuple[str, ...]) -> None:
        parents = [asked.names[name] for name in names[:-1]]
        parent = id_of(kind.rpartition("/")[0], asked.group, *parents)
        if self._world.find(parent) is None:
            raise Refused(
                "ParentResourceNotFound",
                f"Can not perform requested operation on nested resource. Parent resource '{'/'.join(parents)}' not"
                " found.",
            )

    def _list(self, kind: str, asked: Asked) -> Reply:
        return Reply(body={"value": [shown(each) for each in self._world.all(kind, asked.group)]})

    def _versions(self, asked: Asked) -> Reply:
        definition = self._world.named(GALLERY_IMAGE, asked.group, asked.name, asked.names["image"])
        found = [
            shown(each)
            for each in self._world.all(GALLERY_VERSION, asked.group)
            if each.id.lower().startswith(definition.id.lower() + "/")
        ]
        return Reply(body={"value": found})

    def _community(self, asked: Asked, more: dict[str, Any]) -> Reply:
        if asked.name.lower() != COMMUNITY:
            raise Refused("NotFound", f"The community gallery {asked.name} was not found.", status=404)
        unique = "/CommunityGalleries/" + COMMUNITY
        for part in ("image", "version"):
            if part in asked.names:
                unique += f"/{part.title()}s/{asked.names[part]}"
        name = unique.rpartition("/")[2]
        body = {"name": name, "location": self._world.region, "identifier": {"uniqueId": unique}, **more}
        return Reply(body=body)

    def _community_image(self, asked: Asked) -> Reply:
        image = _DEFINITIONS.get(asked.names["image"].lower())
        if image is None:
            raise Refused("NotFound", f"The gallery image {asked.names['image']} was not found.", status=404)
        return self._community(asked, {"properties": _definition(asked.names["image"], image)})

    def _community_version(self, asked: Asked) -> Reply:
        if asked.names["image"].lower() not in _DEFINITIONS or asked.names["version"] != VERSION:
            raise Refused("NotFound", f"The gallery image version {asked.names['version']} was not found.", status=404)
        properties = {"excludeFromLatest": False, "storageProfile": {"osDiskImage": {"diskSizeGB": _SIZE_GB}}}
        return self._community(asked, {"properties": properties})

    def _community_versions(self, asked: Asked) -> Reply:
        self._community_image(asked)
        names = {**asked.names, "version": VERSION}
        one = Asked(asked.action, names, asked.query, asked.headers)
        return Reply(body={"value": [self._community_version(one).body]})

    def _marketplace_versions(self, asked: Asked) -> Reply:
        if self._sku(asked) is None:
            raise Refused("NotFound", f"Artifact: VMImage was not found: {asked.names['sku']}.", status=404)
        return Reply(body=[{"name": _MARKETPLACE_VERSION, "location": self._world.region}])

    def _marketplace(self, asked: Asked) -> Reply:
        image = self._sku(asked)
        if image is None or asked.names["version"] not in ("latest", _MARKETPLACE_VERSION):
            raise Refused("NotFound", f"Artifact: VMImage was not found: {asked.names['version']}.", status=404)
        properties = {
            "hyperVGeneration": image.generation,
            "architecture": "Arm64" if image.arm else "x64",
            "osDiskImage": {"operatingSystem": "Linux", "sizeInGb": image.size_gb},
            "dataDiskImages": [],
            "features": [{"name": "SecurityType", "value": image.security}] if image.security else [],
        }
        return Reply(body={"name": _MARKETPLACE_VERSION, "location": self._world.region, "properties": properties})

    def _sku(self, asked: Asked) -> Image | None:
        words = (asked.names["publisher"].lower(), asked.names["offer"].lower(), asked.names["sku"].lower())
        return _MARKETPLACE.get(words)
