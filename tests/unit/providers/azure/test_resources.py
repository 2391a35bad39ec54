"""What Azure's answers come to for the sweep, and what is known of images and disks."""

from dataclasses import replace
from typing import Any

import pytest

from providers import tags
from providers.azure import images, resources, volumes
from providers.azure.config import AzureConfig
from providers.base import Disk, Ownership, Resource, ResourceKind
from providers.errors import InvalidSpec

OWNER = Ownership("cluster-a", "node-1")
CONFIG = AzureConfig(subscription_id="S", resource_group="pods", region="eastus", subnet_id="n", image="i")
GROUP = "/subscriptions/S/resourceGroups/pods/providers"
VM = f"{GROUP}/Microsoft.Compute/virtualMachines/v"
TAGS = {tags.CLUSTER: "cluster-a", "Name": "podvm-web"}


def shape(name: str, **properties: Any) -> dict[str, Any]:
    return {"name": name, "location": "eastus", "tags": TAGS, "properties": properties}


def read(kind: ResourceKind, given: dict[str, Any]) -> Resource:
    seen = resources.DOORS[kind].read(given)
    assert seen is not None
    return seen


def test_every_kind_is_looked_for_in_the_resource_group_only() -> None:
    assert resources.path(ResourceKind.INTERFACE, CONFIG) == f"{GROUP}/Microsoft.Network/networkInterfaces"
    assert resources.path(ResourceKind.DISK, CONFIG, "d") == f"{GROUP}/Microsoft.Compute/disks/d"


@pytest.mark.parametrize(
    ("more", "holder"), [({}, ""), ({"virtualMachine": {"id": VM}}, "v"), ({"privateEndpoint": {"id": "/x/e"}}, "e")]
)
def test_an_interface_is_held_by_a_vm_or_by_a_service_of_azures(more: dict[str, Any], holder: str) -> None:
    place = {"properties": {"privateIPAddress": "10.0.0.7", "subnet": {"id": "/x/subnets/pods"}}}
    seen = read(ResourceKind.INTERFACE, shape("nic", ipConfigurations=[place], **more))
    assert (seen.attached_to, seen.name, seen.facts) == (holder, "podvm-web", "10.0.0.7 of pods")


def test_an_address_is_held_by_the_vm_of_its_interface() -> None:
    path = f"{GROUP}/Microsoft.Network/networkInterfaces/v-nic/ipConfigurations/primary"
    held = read(ResourceKind.ADDRESS, shape("v-ip", ipAddress="203.0.113.7", ipConfiguration={"id": path}))
    assert (held.attached_to, held.facts) == ("v", "public address 203.0.113.7")
    assert read(ResourceKind.ADDRESS, shape("v-ip")).facts == "idle public address not chosen yet"


def test_a_disk_says_what_it_costs_by_and_when_it_was_made() -> None:
    given = shape("d", diskSizeGB=8, timeCreated="2026-01-02T00:00:00+00:00") | {"sku": {"name": "Premium_LRS"}}
    seen = read(ResourceKind.DISK, {**given, "managedBy": VM})
    assert (seen.facts, seen.attached_to, seen.created_at) == ("8 GiB Premium_LRS in eastus", "v", 1767312000.0)


def test_what_is_being_deleted_is_gone() -> None:
    for kind in (ResourceKind.DISK, ResourceKind.ADDRESS):
        assert resources.DOORS[kind].read(shape("d", provisioningState="Deleting")) is None
    assert resources.DOORS[ResourceKind.INSTANCE].read(shape("v", provisioningState="Deleting")) is None


def test_only_what_is_this_nodes_and_free_passes_the_check() -> None:
    fine = Resource(ResourceKind.DISK, "d", tags=tags.ownership(OWNER))
    tags.check_removal(fine, OWNER)
    for wrong in (
        replace(fine, tags={tags.CLUSTER: OWNER.cluster}),
        replace(fine, tags={**fine.tags, tags.CLUSTER: "cluster-b"}),
        replace(fine, attached_to="v"),
    ):
        with pytest.raises(InvalidSpec, match="cannot delete the disk d"):
            tags.check_removal(wrong, OWNER)


# -- images -----------------------------------------------------------------------------------------------

GALLERY = f"{GROUP}/Microsoft.Compute/galleries/g/images/podvm"
AT = "/subscriptions/S/providers/Microsoft.Compute/locations/eastus"


@pytest.mark.parametrize(
    ("image", "definition", "version"),
    [
        (f"{GALLERY}/versions/1.0.0", GALLERY, f"{GALLERY}/versions/1.0.0"),
        (GALLERY, GALLERY, ""),
        (
            f"{GROUP}/Microsoft.Compute/images/i",
            f"{GROUP}/Microsoft.Compute/images/i",
            f"{GROUP}/Microsoft.Compute/images/i",
        ),
        (
            "/CommunityGalleries/c/Images/podvm/Versions/1.0.0",
            f"{AT}/communityGalleries/c/images/podvm",
            f"{AT}/communityGalleries/c/images/podvm/versions/1.0.0",
        ),
        ("/SharedGalleries/s/Images/podvm", f"{AT}/sharedGalleries/s/images/podvm", ""),
    ],
)
def test_each_kind_of_image_is_described_in_its_own_place(image: str, definition: str, version: str) -> None:
    assert images.paths(image, CONFIG) == (definition, version)


def test_an_image_is_what_definition_and_version_say_of_it() -> None:
    about = {
        "properties": {
            "hyperVGeneration": "V2",
            "architecture": "Arm64",
            "features": [{"name": "SecurityType", "value": "ConfidentialVmSupported"}],
        }
    }
    stored = {"properties": {"storageProfile": {"osDiskImage": {"sizeInGB": 30}}}}
    assert images.read(about, stored) == images.Image(30, "V2", "arm64", "ConfidentialVmSupported")
    managed = {"properties": {"hyperVGeneration": "V1", "storageProfile": {"osDisk": {"diskSizeGB": 8}}}}
    assert images.read(managed, managed) == images.Image(8, "V1")
    assert images.read({}, {}) == images.Image()


# -- disks ------------------------------------------------------------------------------------------------


def test_a_disk_is_in_its_zone_unless_it_is_in_all() -> None:
    given = {**shape("d", diskSizeGB=8), "zones": ["2"], "sku": {"name": "Premium_LRS"}}
    assert volumes.disk("D", given, "eastus") == Disk("D", "2", 8)
    assert volumes.disk("D", {**given, "sku": {"name": "Premium_ZRS"}}, "eastus").zone == ""


def test_a_shared_disk_names_all_who_have_it_once() -> None:
    given = {**shape("d", diskSizeGB=8, maxShares=2), "managedBy": VM, "managedByExtended": [VM, VM + "2"]}
    seen = volumes.disk("D", given, "eastus")
    assert (seen.attached_to, seen.shareable) == (("v", "v2"), True)
