"""Which path and method is which action."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

_GROUP: Final = "/subscriptions/{subscription}/resourceGroups/{group}"
_IN: Final = _GROUP + "/providers/"
_SUB: Final = "/subscriptions/{subscription}"
_ALL: Final = _SUB + "/providers/"
_AT: Final = _ALL + "Microsoft.Compute/locations/{location}/"

_VM: Final = "Microsoft.Compute/virtualMachines"
_NETWORK: Final = "Microsoft.Network/"
_GALLERY: Final = _IN + "Microsoft.Compute/galleries/{name}"

# (method, path, action), the first that fits.
_TABLE: Final = (
    ("GET", "/metadata/identity/oauth2/token", "Identity.Token"),
    ("GET", "/api/retail/prices", "Prices.List"),
    ("PUT", _IN + _VM + "/{name}", "VirtualMachines.CreateOrUpdate"),
    ("PATCH", _IN + _VM + "/{name}", "VirtualMachines.Update"),
    ("GET", _IN + _VM + "/{name}", "VirtualMachines.Get"),
    ("DELETE", _IN + _VM + "/{name}", "VirtualMachines.Delete"),
    ("GET", _IN + _VM, "VirtualMachines.List"),
    ("GET", _ALL + _VM, "VirtualMachines.ListAll"),
    ("GET", _AT + "virtualMachines", "VirtualMachines.ListByLocation"),
    ("GET", _IN + _VM + "/{name}/instanceView", "VirtualMachines.InstanceView"),
    ("POST", _IN + _VM + "/{name}/start", "VirtualMachines.Start"),
    ("POST", _IN + _VM + "/{name}/restart", "VirtualMachines.Restart"),
    ("POST", _IN + _VM + "/{name}/powerOff", "VirtualMachines.PowerOff"),
    ("POST", _IN + _VM + "/{name}/deallocate", "VirtualMachines.Deallocate"),
    ("POST", _IN + _VM + "/{name}/attachDetachDataDisks", "VirtualMachines.AttachDetachDataDisks"),
    ("POST", _IN + _VM + "/{name}/simulateEviction", "VirtualMachines.SimulateEviction"),
    ("POST", _IN + _VM + "/{name}/retrieveBootDiagnosticsData", "VirtualMachines.RetrieveBootDiagnosticsData"),
    ("PUT", "/uploads/{blob}", "Pages.Put"),
    ("GET", "/uploads/{blob}", "Pages.List"),
    ("POST", _IN + "Microsoft.Compute/disks/{name}/beginGetAccess", "Disks.BeginGetAccess"),
    ("POST", _IN + "Microsoft.Compute/disks/{name}/endGetAccess", "Disks.EndGetAccess"),
    ("PUT", _GALLERY, "Galleries.CreateOrUpdate"),
    ("PUT", _GALLERY + "/images/{image}", "GalleryImages.CreateOrUpdate"),
    ("PUT", _GALLERY + "/images/{image}/versions/{version}", "GalleryImageVersions.CreateOrUpdate"),
    ("GET", "/bootdiagnostics/{blob}", "Blobs.Get"),
    ("HEAD", "/bootdiagnostics/{blob}", "Blobs.Get"),
    ("PUT", _IN + "Microsoft.Compute/disks/{name}", "Disks.CreateOrUpdate"),
    ("GET", _IN + "Microsoft.Compute/disks/{name}", "Disks.Get"),
    ("DELETE", _IN + "Microsoft.Compute/disks/{name}", "Disks.Delete"),
    ("PATCH", _IN + "Microsoft.Compute/disks/{name}", "Disks.Update"),
    ("GET", _IN + "Microsoft.Compute/disks", "Disks.ListByResourceGroup"),
    ("GET", _ALL + "Microsoft.Compute/disks", "Disks.List"),
    ("GET", _IN + "Microsoft.Compute/images/{name}", "Images.Get"),
    ("GET", _IN + "Microsoft.Compute/images", "Images.ListByResourceGroup"),
    ("GET", _GALLERY, "Galleries.Get"),
    ("GET", _GALLERY + "/images/{image}", "GalleryImages.Get"),
    ("GET", _GALLERY + "/images/{image}/versions/{version}", "GalleryImageVersions.Get"),
    ("GET", _GALLERY + "/images/{image}/versions", "GalleryImageVersions.ListByGalleryImage"),
    ("GET", _AT + "communityGalleries/{name}", "CommunityGalleries.Get"),
    ("GET", _AT + "communityGalleries/{name}/images/{image}", "CommunityGalleryImages.Get"),
    (
        "GET",
        _AT + "communityGalleries/{name}/images/{image}/versions/{version}",
        "CommunityGalleryImageVersions.Get",
    ),
    (
        "GET",
        _AT + "communityGalleries/{name}/images/{image}/versions",
        "CommunityGalleryImageVersions.List",
    ),
    (
        "GET",
        _AT + "publishers/{publisher}/artifacttypes/vmimage/offers/{offer}/skus/{sku}/versions",
        "VirtualMachineImages.List",
    ),
    (
        "GET",
        _AT + "publishers/{publisher}/artifacttypes/vmimage/offers/{offer}/skus/{sku}/versions/{version}",
        "VirtualMachineImages.Get",
    ),
    ("GET", _ALL + "Microsoft.Compute/skus", "ResourceSkus.List"),
    ("GET", _AT + "usages", "Usage.List"),
    ("GET", _AT + "vmSizes", "VirtualMachineSizes.List"),
    ("GET", _AT + "operations/{operation}", "Operations.Get"),
    (
        "GET",
        _ALL + _NETWORK + "locations/{location}/operations/{operation}",
        "NetworkOperations.Get",
    ),
    (
        "GET",
        _ALL + _NETWORK + "locations/{location}/operationResults/{operation}",
        "NetworkOperations.Get",
    ),
    ("GET", _IN + "Microsoft.Compute/proximityPlacementGroups/{name}", "ProximityPlacementGroups.Get"),
    ("GET", _IN + "Microsoft.Compute/capacityReservationGroups/{name}", "CapacityReservationGroups.Get"),
    ("GET", _IN + "Microsoft.Compute/hostGroups/{name}", "DedicatedHostGroups.Get"),
    ("GET", _IN + "Microsoft.Compute/hostGroups/{parent}/hosts/{name}", "DedicatedHosts.Get"),
    ("GET", _IN + "Microsoft.Compute/diskEncryptionSets/{name}", "DiskEncryptionSets.Get"),
    ("GET", _IN + "Microsoft.ManagedIdentity/userAssignedIdentities/{name}", "UserAssignedIdentities.Get"),
    ("PUT", _IN + _NETWORK + "networkInterfaces/{name}", "NetworkInterfaces.CreateOrUpdate"),
    ("GET", _IN + _NETWORK + "networkInterfaces/{name}", "NetworkInterfaces.Get"),
    ("DELETE", _IN + _NETWORK + "networkInterfaces/{name}", "NetworkInterfaces.Delete"),
    ("PATCH", _IN + _NETWORK + "networkInterfaces/{name}", "NetworkInterfaces.UpdateTags"),
    ("GET", _IN + _NETWORK + "networkInterfaces", "NetworkInterfaces.List"),
    ("GET", _ALL + _NETWORK + "networkInterfaces", "NetworkInterfaces.ListAll"),
    ("PUT", _IN + _NETWORK + "publicIPAddresses/{name}", "PublicIPAddresses.CreateOrUpdate"),
    ("GET", _IN + _NETWORK + "publicIPAddresses/{name}", "PublicIPAddresses.Get"),
    ("DELETE", _IN + _NETWORK + "publicIPAddresses/{name}", "PublicIPAddresses.Delete"),
    ("PATCH", _IN + _NETWORK + "publicIPAddresses/{name}", "PublicIPAddresses.UpdateTags"),
    ("GET", _IN + _NETWORK + "publicIPAddresses", "PublicIPAddresses.List"),
    ("GET", _ALL + _NETWORK + "publicIPAddresses", "PublicIPAddresses.ListAll"),
    ("GET", _IN + _NETWORK + "virtualNetworks/{name}", "VirtualNetworks.Get"),
    ("GET", _IN + _NETWORK + "virtualNetworks", "VirtualNetworks.List"),
    ("GET", _IN + _NETWORK + "virtualNetworks/{parent}/subnets/{name}", "Subnets.Get"),
    ("GET", _IN + _NETWORK + "virtualNetworks/{parent}/subnets", "Subnets.List"),
    ("GET", _IN + _NETWORK + "networkSecurityGroups/{name}", "NetworkSecurityGroups.Get"),
    ("GET", _IN + _NETWORK + "networkSecurityGroups", "NetworkSecurityGroups.List"),
    ("GET", _IN + _NETWORK + "networkSecurityGroups/{parent}/securityRules", "SecurityRules.List"),
    ("PUT", _IN + _NETWORK + "networkSecurityGroups/{parent}/securityRules/{name}", "SecurityRules.CreateOrUpdate"),
    ("GET", _IN + _NETWORK + "networkSecurityGroups/{parent}/securityRules/{name}", "SecurityRules.Get"),
    ("DELETE", _IN + _NETWORK + "networkSecurityGroups/{parent}/securityRules/{name}", "SecurityRules.Delete"),
    ("GET", _ALL + _NETWORK + "locations/{location}/usages", "NetworkUsages.List"),
    ("GET", _SUB, "Subscriptions.Get"),
    ("GET", _GROUP, "ResourceGroups.Get"),
    ("GET", _SUB + "/resources", "Resources.List"),
    ("GET", _GROUP + "/resources", "Resources.ListByResourceGroup"),
    ("GET", _IN + "Microsoft.Authorization/permissions", "Permissions.ListForResourceGroup"),
    ("GET", _ALL + "Microsoft.Authorization/permissions", "Permissions.ListForSubscription"),
    (
        "GET",
        _IN + "Microsoft.Network/virtualNetworks/{parent}/subnets/{name}/providers/Microsoft.Authorization/permissions",
        "Permissions.ListForResource",
    ),
    ("GET", _ALL + "{namespace}", "Providers.Get"),
)


@dataclass(frozen=True, slots=True)
class Match:
    """A request's action, and what its path says."""

    action: str
    names: Mapping[str, str]


def match(method: str, path: str) -> Match:
    """The action of a request; an empty one for what Azure does not know, with what can be read of the path."""
    for known, pattern, action in _COMPILED:
        if known == method and (found := pattern.fullmatch(path)):
            return Match(action, {name: unquote(value) for name, value in found.groupdict().items()})
    found = _ANY.match(path)
    return Match("", {k: unquote(v) for k, v in found.groupdict().items() if v} if found else {})


def _compiled(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path.replace(".", r"\.")) + "/?", re.IGNORECASE)


_COMPILED: Final[list[Any]] = [(method, _compiled(path), action) for method, path, action in _TABLE]
_ANY: Final = re.compile(r"/subscriptions/(?P<subscription>[^/]+)(/resourceGroups/(?P<group>[^/]+))?", re.IGNORECASE)
ACTIONS: Final = frozenset(action for _, _, action in _TABLE)


def _type(path: str) -> str:
    """The resource type that a path is about: Microsoft.Network/virtualNetworks/subnets."""
    rest = path.rpartition("/providers/")[2]
    if rest == path:
        return "Microsoft.Resources/subscriptions/resourceGroups" if "{group}" in path else ""
    words = [word for word in rest.split("/") if not word.startswith("{")]
    return "/".join(words)


TYPES: Final[Mapping[str, str]] = {
    action: _type(path.rpartition("/")[0] if method == "POST" else path) for method, path, action in _TABLE
}
