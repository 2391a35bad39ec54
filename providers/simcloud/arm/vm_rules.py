"""Every reason to refuse a virtual machine before anything is made, in Azure's words where they are known."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from providers.simcloud.arm import images, skus, vm_disks, vm_login
from providers.simcloud.arm.disks import holders
from providers.simcloud.arm.errors import Refused, no_reference
from providers.simcloud.arm.images import Image
from providers.simcloud.arm.nics import Network, check_location
from providers.simcloud.arm.skus import Size
from providers.simcloud.arm.state import (
    DISK,
    ENCRYPTION_SET,
    HOST,
    HOST_GROUP,
    IDENTITY,
    NIC,
    PROXIMITY,
    RESERVATION_GROUP,
    VM,
    Resource,
    World,
    id_of,
)
from providers.simcloud.arm.tags import check as check_tags

_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?")
_CONFIDENTIAL_IMAGES: Final = ("ConfidentialVM", "ConfidentialVmSupported", images.BOTH)
_TRUSTED_IMAGES: Final = ("TrustedLaunch", "TrustedLaunchSupported", images.BOTH)
_OS_DISK_KINDS: Final = ("Premium_LRS", "StandardSSD_LRS", "Standard_LRS", "Premium_ZRS", "StandardSSD_ZRS")

Body = Mapping[str, Any]


@dataclass(slots=True)
class Plan:
    """A launch that has passed every check but room."""

    name: str
    group: str
    body: Body
    size: Size
    image: Image
    zone: str  # empty: the region chooses
    spot: bool
    nics: list[tuple[Resource, Body]] = field(default_factory=list)  # with what the VM says of each
    disks: list[Resource] = field(default_factory=list)  # that exist already

    @property
    def properties(self) -> Body:
        properties: Body = self.body["properties"]
        return properties

    @property
    def vm_id(self) -> str:
        return id_of(VM, self.group, self.name)


def check(name: str, group: str, body: Body, world: World, network: Network, region: str) -> Plan:
    """The launch that a PUT asks for. Raises Refused."""
    check_name(name)
    check_location(world, body, VM)
    check_tags(body.get("tags"))
    properties = body.get("properties")
    if not properties:
        raise _missing("properties")
    size = skus.size_of(str(_in(properties, "hardwareProfile", "vmSize") or _required("vmSize")), region)
    reference = _in(properties, "storageProfile", "imageReference") or _required("storageProfile.imageReference")
    image = images.resolve(world, reference)
    spot = properties.get("priority") in ("Spot", "Low")
    plan = Plan(name, group, body, size, image, _zone(name, body, size, region), spot)
    for rule in _RULES:
        rule(plan, world)
    vm_login.check(name, properties, image)
    plan.nics = _nics(plan, world, network)
    asked = _in(properties, "storageProfile", "dataDisks") or []
    plan.disks = vm_disks.check(asked, plan.size, plan.zone, plan.vm_id, world)
    return plan


def check_name(name: str) -> None:
    """Raises Refused."""
    if not _NAME.fullmatch(name):
        raise Refused(
            "InvalidParameter",
            "The entity name 'virtualMachineName' in the URL is invalid according to its validation rule: 1 to 64 letters,"
            " digits, '-', '_' and '.', beginning with a letter or digit and not ending with '.' or '-'.",
            target="virtualMachineName",
        )


def _zone(name: str, body: Body, size: Size, region: str) -> str:
    zones = body.get("zones") or []
    if not zones:
        return ""
    if len(zones) > 1:
        raise Refused("InvalidParameter", "Virtual machines can be in one availability zone only.", target="zones")
    zone = str(zones[0])
    if zone not in skus.ZONES:
        raise Refused(
            "AvailabilityZoneNotSupported",
            f"The zone(s) '{zone}' for resource '{VM}/{name}' is not supported. The supported zones for location"
            f" '{region}' are '{','.join(skus.ZONES)}'",
            target=name,
        )
    if zone not in size.zones:
        raise Refused(
            "SkuNotAvailable",
            f"The requested size for resource '{name}' is currently not available in location '{region}' zones '{zone}'"
            " for this subscription. Please try another size or deploy to a different location or zones. See"
            " https://aka.ms/azureskunotavailable for details.",
        )
    return zone


def no_room_here(size: Size, region: str, zone: str) -> Refused:
    """The size is not to be had in this place, which is known before anything is tried."""
    place = f"location '{region}'" + (f" zones '{zone}'" if zone else "")
    return Refused(
        "SkuNotAvailable",
        f"The requested VM size for resource 'Following SKUs have failed for Capacity Restrictions: {size.name}' is"
        f" currently not available in {place}. Please try another size or deploy to a different location or different"
        " zone. See https://aka.ms/azureskunotavailable for details.",
    )


# -- size and image -------------------------------------------------------------------------------


def _fits(plan: Plan, world: World) -> None:
    size, image = plan.size, plan.image
    if size.arm != image.arm:
        has, given = ("Arm64", "x64") if size.arm else ("x64", "Arm64")
        raise Refused(
            "InvalidParameter",
            f"Cannot create a VM of size '{size.name}' because this VM size only supports a CPU Architecture of '{has}',"
            f" but an image or disk with CPU Architecture '{given}' was given. Please check that the CPU Architecture of"
            " the image or disk is compatible with that of the VM size.",
            target="vmSize",
        )
    if image.generation not in size.generations.split(","):
        raise Refused(
            "BadRequest",
            f"The selected VM size '{size.name}' cannot boot Hypervisor Generation '{image.generation[1:]}'. If this was"
            " a Create operation please check that the Hypervisor Generation of the Image matches the Hypervisor"
            " Generation of the selected VM Size. For more information, see https://aka.ms/azuregen2vm",
        )


def _security(plan: Plan, world: World) -> None:
    security = plan.properties.get("securityProfile") or {}
    kind = security.get("securityType")
    encryption = _in(plan.properties, "storageProfile", "osDisk", "managedDisk", "securityProfile") or {}
    firmware = security.get("uefiSettings") or {}
    if kind == "Standard":  # only with a feature that is registered by hand
        raise Refused(
            "InvalidParameter",
            "The value 'Standard' of parameter 'securityProfile.securityType' is invalid: the subscription is not"
            " registered for the feature Microsoft.Compute/UseStandardSecurityType.",
            target="securityProfile.securityType",
        )
    if security.get("encryptionAtHost") and plan.size.tee:
        raise Refused(
            "InvalidParameter",
            f"The VM size '{plan.size.name}' does not support encryption at host.",
            target="securityProfile.encryptionAtHost",
        )
    if kind == "ConfidentialVM":
        _confidential(plan, firmware, encryption.get("securityEncryptionType"))
        return
    if encryption:
        raise Refused("BadRequest", "The parameter 'managedDisk.securityProfile' can only be set for Confidential VMs.")
    if plan.size.tee:
        raise Refused(
            "BadRequest",
            f"The VM size '{plan.size.name}' is not supported for creation of VMs and Virtual Machine Scale Set with"
            f" '{kind or '<NULL>'}' security type.",
        )
    if plan.image.security == "ConfidentialVM" or (kind and plan.image.security not in _TRUSTED_IMAGES):
        raise _incompatible(kind)
    if firmware and not kind:
        raise Refused(
            "BadRequest",
            "The parameter 'securityProfile.uefiSettings' can only be set for VMs with 'TrustedLaunch' or"
            " 'ConfidentialVM' security type.",
        )


def _confidential(plan: Plan, firmware: Body, encryption: str | None) -> None:
    if not plan.size.tee:
        shown = f" and managedDisk.securityProfile.securityEncryptionType set as '{encryption}'" if encryption else ""
        raise Refused(
            "BadRequest",
            f"The VM size '{plan.size.name}' is not supported for creation of VMs and Virtual Machine Scale Set with"
            f" 'ConfidentialVM' security type{shown}",
        )
    if plan.image.security not in _CONFIDENTIAL_IMAGES:
        raise _incompatible("ConfidentialVM")
    if not encryption:
        raise Refused(
            "BadRequest",
            "Required parameter for Confidential VMs 'managedDisk.securityProfile.securityEncryptionType' is missing"
            " (null).",
        )
    if not firmware.get("vTpmEnabled"):
        raise Refused(
            "BadRequest",
            "The parameter 'securityProfile.uefiSettings.vTpmEnabled' must be true for VMs with 'ConfidentialVM' security"
            f" type and securityEncryptionType '{encryption}'.",
        )
    if encryption == "DiskWithVMGuestState" and not firmware.get("secureBootEnabled"):
        raise Refused(
            "BadRequest",
            "The parameter 'securityProfile.uefiSettings.secureBootEnabled' must be true for VMs with securityEncryptionType"
            " 'DiskWithVMGuestState'.",
        )


def _incompatible(kind: str | None) -> Refused:
    if kind is None:
        return Refused(
            "BadRequest", "Security type of VM is not compatible with the security type of associated OS Image."
        )
    return Refused(
        "InvalidParameter",
        f"SecurityType '{kind}' is not supported by given image.",
        target="securityProfile.securityType",
    )


# -- the rest of the VM ---------------------------------------------------------------------------


def _spot(plan: Plan, world: World) -> None:
    policy, price = plan.properties.get("evictionPolicy"), _in(plan.properties, "billingProfile", "maxPrice")
    see = "For more information, see http://aka.ms/AzureSpot/errormessages."
    if not plan.spot:
        if policy:
            raise Refused(
                "InvalidParameter",
                f"Eviction policy can be set only on Azure Spot Virtual Machines. {see}",
                target="evictionPolicy",
            )
        if price is not None:
            raise Refused(
                "InvalidParameter",
                f"Max price can be set only on Azure Spot Virtual Machines. {see}",
                target="billingProfile",
            )
        return
    if not policy:
        raise _missing("evictionPolicy")
    if not plan.size.spot:
        raise Refused(
            "BadRequest", f"Azure Spot Virtual Machine is not supported for this VM size {plan.size.name}. {see}"
        )
    if price is not None and price != -1 and price <= 0:
        raise Refused(
            "InvalidParameter",
            f"The max price {price} must be -1 or more than 0. {see}",
            target="billingProfile.maxPrice",
        )
    if _in(plan.properties, "availabilitySet", "id"):
        raise Refused("BadRequest", f"Azure Spot Virtual Machines cannot be in an availability set. {see}")


def _os_disk(plan: Plan, world: World) -> None:
    disk = _in(plan.properties, "storageProfile", "osDisk") or _required("storageProfile.osDisk")
    if disk.get("createOption") != "FromImage":
        raise Refused(
            "InvalidParameter",
            f"simcloud makes no VM with osDisk.createOption '{disk.get('createOption')}'; use FromImage.",
            target="osDisk.createOption",
        )
    size = disk.get("diskSizeGB")
    if size is not None and size < plan.image.size_gb:
        raise Refused(
            "InvalidParameter",
            f"The specified disk size {size} GB is smaller than the size of the corresponding disk in the VM image:"
            f" {plan.image.size_gb} GB. This is not allowed. Please choose equal or greater size or do not specify an"
            " explicit size.",
            target="osDisk.diskSizeGB",
        )
    for each in [disk, *(_in(plan.properties, "storageProfile", "dataDisks") or [])]:
        if each["createOption"] != "Attach":
            _new_disk(plan, world, str(each.get("name") or ""))
    kind = _in(disk, "managedDisk", "storageAccountType")
    if kind is not None and kind not in _OS_DISK_KINDS:
        raise Refused(
            "InvalidParameter",
            f"Storage account type {kind} is not supported for an OS disk.",
            target="osDisk.managedDisk.storageAccountType",
        )
    if disk.get("diffDiskSettings"):
        _ephemeral(plan, disk)
    _exists(world, plan, _in(disk, "managedDisk", "diskEncryptionSet", "id"), ENCRYPTION_SET)
    _exists(world, plan, _in(disk, "managedDisk", "securityProfile", "diskEncryptionSet", "id"), ENCRYPTION_SET)


def _new_disk(plan: Plan, world: World, name: str) -> None:
    """A disk that is made with the VM takes nobody's place."""
    found = world.find(id_of(DISK, plan.group, name)) if name else None
    if found is not None and plan.vm_id.lower() not in [user.lower() for user in holders(found)]:
        raise Refused(
            "ConflictingUserInput",
            f"Disk {name} already exists in resource group {plan.group}. Only CreateOption.Attach is supported.",
            target=name,
        )


def _ephemeral(plan: Plan, disk: Body) -> None:
    if not plan.size.local:
        raise Refused(
            "NotSupported",
            f"OS disk of Ephemeral VM with size greater than 0 GB is not allowed for VM size {plan.size.name}.",
            status=409,
        )
    if disk.get("caching") != "ReadOnly":
        raise Refused(
            "InvalidParameter",
            "OS disk caching must be 'ReadOnly' for VMs with an ephemeral OS disk.",
            target="osDisk.caching",
        )


def _references(plan: Plan, world: World) -> None:
    it = plan.properties
    _exists(world, plan, _in(it, "proximityPlacementGroup", "id"), PROXIMITY)
    _exists(world, plan, _in(it, "capacityReservation", "capacityReservationGroup", "id"), RESERVATION_GROUP)
    _exists(world, plan, _in(it, "host", "id"), HOST)
    _exists(world, plan, _in(it, "hostGroup", "id"), HOST_GROUP)
    _exists(world, plan, _in(it, "availabilitySet", "id"), "Microsoft.Compute/availabilitySets")
    if _in(it, "host", "id") and _in(it, "hostGroup", "id"):
        raise Refused(
            "BadRequest", "A VM is in a host or in a host group, not in both: 'host' and 'hostGroup' are set."
        )
    if _in(it, "capacityReservation", "capacityReservationGroup", "id") and plan.spot:
        raise Refused("BadRequest", "Azure Spot Virtual Machines cannot use a capacity reservation group.")
    identity = plan.body.get("identity") or {}
    for each in identity.get("userAssignedIdentities") or {}:
        if world.find(each, IDENTITY) is None:
            raise Refused(
                "FailedIdentityOperation",
                f"Identity operation for resource '{plan.vm_id}' failed with error 'Failed to perform resource identity"
                f" operation. Status: 'NotFound'. Resource '{each}' was not found.'",
            )


def _exists(world: World, plan: Plan, resource_id: str | None, kind: str) -> None:
    if resource_id and world.find(resource_id, kind) is None:
        raise no_reference(resource_id, plan.vm_id)


_RULES: Final[tuple[Callable[[Plan, World], None], ...]] = (_fits, _security, _spot, _os_disk, _references)


# -- interfaces and disks -------------------------------------------------------------------------


def _nics(plan: Plan, world: World, network: Network) -> list[tuple[Resource, Body]]:
    profile = plan.properties.get("networkProfile") or _required("networkProfile")
    inline, asked = profile.get("networkInterfaceConfigurations") or [], profile.get("networkInterfaces") or []
    if inline and asked:
        raise Refused("BadRequest", "A VM has networkInterfaces or networkInterfaceConfigurations, not both.")
    if inline and not profile.get("networkApiVersion"):
        raise _missing("networkProfile.networkApiVersion")
    if not inline and not asked:
        raise _missing("networkProfile.networkInterfaces")
    if len(inline or asked) > plan.size.nics:
        raise Refused(
            "NetworkInterfaceCountExceeded",
            f"The number of network interfaces for virtual machine {plan.name} exceeds the maximum allowed for the"
            f" virtual machine size {plan.size.name}. The number of network interfaces is {len(inline or asked)} and the"
            f" maximum allowed is {plan.size.nics}.",
        )
    primaries = [each for each in inline or asked if (each.get("properties") or {}).get("primary")]
    if len(inline or asked) > 1 and len(primaries) != 1:
        raise Refused(
            "VirtualMachineMustHaveOneNetworkInterfaceAsPrimary",
            f"Virtual machine {plan.name} must have one network interface set as the primary.",
        )
    return [(_nic(plan, world, network, str(each.get("id") or "")), each.get("properties") or {}) for each in asked]


def _nic(plan: Plan, world: World, network: Network, nic_id: str) -> Resource:
    nic = world.find(nic_id, NIC)
    if nic is None:
        raise no_reference(nic_id, plan.vm_id)
    user = (nic.properties.get("virtualMachine") or {}).get("id", "")
    if user and user.lower() != plan.vm_id.lower():
        raise Refused("NicInUse", f"Network Interface {nic.id} is used by existing resource {user}.", details=[])
    network.check_reservation(nic, plan.vm_id)
    return nic


def _in(value: Any, *path: str) -> Any:
    """What is there; None when anything on the way is missing."""
    for key in path:
        value = (value or {}).get(key)
    return value


def _missing(what: str) -> Refused:
    return Refused("InvalidParameter", f"Required parameter '{what}' is missing (null).", target=what)


def _required(what: str) -> Any:
    raise _missing(what)
