"""What is kept of a VM's PUT, with Azure's defaults filled in; and what a later PUT may not change."""

import copy
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.state import DISK, TENANT, id_of
from providers.simcloud.arm.vm_rules import Plan

# Never shown again.
_SECRET: Final = ("adminPassword", "customData")
# A path in the VM -> the target that Azure names when it changes.
_FIXED: Final = {
    ("zones",): "zones",
    ("properties", "storageProfile", "imageReference"): "imageReference",
    ("properties", "storageProfile", "osDisk", "name"): "osDisk.name",
    ("properties", "storageProfile", "osDisk", "createOption"): "osDisk.createOption",
    ("properties", "storageProfile", "osDisk", "managedDisk", "securityProfile"): "managedDisk.securityProfile",
    ("properties", "osProfile", "computerName"): "osProfile.computerName",
    ("properties", "osProfile", "adminUsername"): "osProfile.adminUsername",
    ("properties", "osProfile", "linuxConfiguration", "ssh"): "linuxConfiguration.ssh.publicKeys",
    ("properties", "osProfile", "linuxConfiguration", "disablePasswordAuthentication"): (
        "linuxConfiguration.disablePasswordAuthentication"
    ),
    ("properties", "osProfile", "linuxConfiguration", "provisionVMAgent"): "linuxConfiguration.provisionVMAgent",
    ("properties", "securityProfile", "securityType"): "securityProfile.securityType",
    ("properties", "priority"): "priority",
    ("properties", "evictionPolicy"): "evictionPolicy",
    ("properties", "proximityPlacementGroup"): "proximityPlacementGroup",
    ("properties", "availabilitySet"): "availabilitySet.id",
}


def body(plan: Plan, vm_id: str, interfaces: list[dict[str, Any]]) -> dict[str, Any]:
    """A new VM's, as it is shown; `interfaces` are those that it really has."""
    asked = copy.deepcopy(dict(plan.body))
    properties = asked["properties"]
    properties.pop("userData", None)
    profile = properties.get("osProfile")
    if profile is not None:
        for secret in _SECRET:
            profile.pop(secret, None)
        profile.setdefault("computerName", plan.name)
        linux = profile.setdefault("linuxConfiguration", {})
        linux.setdefault("disablePasswordAuthentication", False)
        linux.setdefault("provisionVMAgent", True)
        linux.setdefault("patchSettings", {"patchMode": "ImageDefault", "assessmentMode": "ImageDefault"})
        profile |= {"secrets": [], "allowExtensionOperations": profile.get("allowExtensionOperations", True)}
        profile["requireGuestProvisionSignal"] = True
    _storage(plan, properties["storageProfile"])
    properties["networkProfile"] = {"networkInterfaces": interfaces}
    properties |= {"vmId": vm_id, "timeCreated": datetime.now(UTC).isoformat()}
    made: dict[str, Any] = {key: asked[key] for key in ("tags", "zones", "plan", "extendedLocation") if key in asked}
    if identity := asked.get("identity"):
        made["identity"] = _identity(identity)
    return {**made, "properties": properties}


def _storage(plan: Plan, storage: dict[str, Any]) -> None:
    disk = storage["osDisk"]
    disk.setdefault("name", f"{plan.name}_OsDisk_1_{uuid4().hex}")
    disk.setdefault("osType", "Linux")
    disk.setdefault("caching", "ReadWrite")
    disk.setdefault("deleteOption", "Detach")
    disk.setdefault("diskSizeGB", plan.image.size_gb)
    managed = disk.setdefault("managedDisk", {})
    managed.setdefault("storageAccountType", "Premium_LRS")
    managed["id"] = id_of(DISK, plan.group, disk["name"])
    data = storage.setdefault("dataDisks", [])
    for number, each in enumerate(data, start=2):
        each.setdefault("caching", "None")
        each.setdefault("deleteOption", "Detach")
        each.setdefault("toBeDetached", False)
        inner = each.setdefault("managedDisk", {})
        if each["createOption"] == "Empty":
            each.setdefault("name", f"{plan.name}_DataDisk_{number}_{uuid4().hex}")
            inner.setdefault("storageAccountType", "Premium_LRS")
            inner["id"] = id_of(DISK, plan.group, each["name"])
        each.setdefault("name", str(inner.get("id", "")).rpartition("/")[2])


def _identity(asked: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"type": asked.get("type", "None")}
    if "SystemAssigned" in made["type"]:
        made |= {"principalId": str(uuid4()), "tenantId": TENANT}
    if users := asked.get("userAssignedIdentities"):
        made["userAssignedIdentities"] = {
            each: {"principalId": str(uuid4()), "clientId": str(uuid4())} for each in users
        }
    return made


def refuse_change(known: Mapping[str, Any], asked: Mapping[str, Any], custom_data: str | None) -> None:
    """Raises Refused when a PUT would change what is fixed. What it leaves out is left as it is."""
    if custom_data is not None:
        raise _fixed("customData")
    for path, target in _FIXED.items():
        wanted, has = _at(asked, path), _at(known, path)
        if wanted is not None and not _same(wanted, has):
            raise _fixed(target)


def _fixed(target: str) -> Refused:
    return Refused("PropertyChangeNotAllowed", f"Changing property '{target}' is not allowed.", target=target)


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _same(wanted: Any, has: Any) -> bool:
    """Everything that is wanted is so; ids do not mind case."""
    if isinstance(wanted, Mapping):
        return isinstance(has, Mapping) and all(_same(value, has.get(key)) for key, value in wanted.items())
    if isinstance(wanted, str) and isinstance(has, str):
        return wanted.lower() == has.lower()
    if isinstance(wanted, list) and isinstance(has, list):
        return len(wanted) == len(has) and all(map(_same, wanted, has))
    return bool(wanted == has)
