"""Managed disks: a VM's own, and those that are a pod's."""

import uuid
from collections.abc import Mapping
from typing import Any, Final

from azure.mgmt.compute import models

from providers.simcloud.arm import schema, skus, uploads
from providers.simcloud.arm.desk import Asked, Desk, Handlers, Reply, check_etag
from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.listing import page
from providers.simcloud.arm.nics import accepted, check_location
from providers.simcloud.arm.state import DISK, Resource, id_of
from providers.simcloud.arm.tags import check as check_tags

_NAME_LENGTH: Final = 80
_LARGEST: Final = 32767  # GiB
_BIGGER: Final = {"UltraSSD_LRS": 65536, "PremiumV2_LRS": 65536}
_SHAREABLE: Final = (
    "Premium_LRS",
    "StandardSSD_LRS",
    "UltraSSD_LRS",
    "PremiumV2_LRS",
    "Premium_ZRS",
    "StandardSSD_ZRS",
)


class Disks:
    """The disks and their actions."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._world = desk.world

    def handlers(self) -> Handlers:
        """By action."""
        return {
            "Disks.CreateOrUpdate": self._put,
            "Disks.Get": lambda asked: Reply(body=_seen(self._world.named(DISK, asked.group, asked.name))),
            "Disks.Delete": self._delete,
            "Disks.Update": self._update,
            "Disks.List": self._list,
            "Disks.ListByResourceGroup": self._list,
        }

    def _put(self, asked: Asked) -> Reply:
        body = schema.cleaned(models.Disk, asked.body)
        existing = self._world.find(id_of(DISK, asked.group, asked.name))
        check_etag(asked, existing)
        check_name(asked.name)
        check_location(self._world, body, DISK)
        check_tags(body.get("tags"))
        if existing is not None:
            self._change(existing, body)
            made = existing
        else:
            made = self._new(asked.group, asked.name, body)
        operation = self._desk.operations.begin(made.id)
        return Reply(200 if existing else 202, _seen(made), operation.headers(asked.base, asked.version, located=True))

    def _new(self, group: str, name: str, body: Mapping[str, Any]) -> Resource:
        properties = dict(body.get("properties") or {})
        option = (properties.get("creationData") or {}).get("createOption", "")
        if option == "Upload":
            properties = {**uploads.check_new(properties), "diskState": "ReadyToUpload"}
        elif option not in ("Empty", "FromImage", "Copy"):
            raise Refused("InvalidParameter", f"simcloud makes no disk with createOption '{option}'.", target="disk")
        if option == "Empty" and not properties.get("diskSizeGB"):
            raise Refused(
                "InvalidParameter", "Required parameter 'disk.diskSizeGB' is missing (null).", target="disk.diskSizeGB"
            )
        zones = body.get("zones") or []
        sku = {"name": "Standard_LRS", **(body.get("sku") or {})}
        _check_zones(zones, sku["name"])
        _check_size(properties.get("diskSizeGB", 8), sku["name"])
        if properties.get("maxShares", 1) > 1 and sku["name"] not in _SHAREABLE:
            raise Refused("InvalidParameter", f"Disks of type {sku['name']} cannot be shared.", target="maxShares")
        return self.make(group, name, body.get("tags") or {}, zones, sku["name"], properties)

    def make(
        self,
        group: str,
        name: str,
        tags: Mapping[str, str],
        zones: list[str],
        sku: str,
        properties: Mapping[str, Any],
        *,
        vm: str = "",
    ) -> Resource:
        """A disk that has passed every check; of a VM, if one is given."""
        resource = self._world.add(
            DISK,
            group,
            name,
            location=self._world.region,
            tags=dict(tags),
            sku={"name": sku, "tier": sku.partition("_")[0]},
            zones=list(zones),
            properties={
                "diskSizeGB": 8,
                **properties,
                "uniqueId": str(uuid.uuid4()),
                "diskState": properties.get("diskState", "Unattached"),
            },
        )
        resource.properties["timeCreated"] = resource.created.isoformat()
        resource.properties["diskSizeBytes"] = resource.properties["diskSizeGB"] << 30
        if vm:
            attach(resource, vm)
        return resource

    def _change(self, disk: Resource, body: Mapping[str, Any]) -> None:
        wanted = dict(body.get("properties") or {})
        size = wanted.get("diskSizeGB", disk.properties["diskSizeGB"])
        if size < disk.properties["diskSizeGB"]:
            raise Refused("ResizeDiskError", f"Shrinking disk {disk.name} is not supported.", target="diskSizeGB")
        if "zones" in body and list(body["zones"] or []) != disk.body["zones"]:
            raise Refused("PropertyChangeNotAllowed", "Changing property 'zones' is not allowed.", target="zones")
        origin = wanted.get("creationData", disk.properties["creationData"])
        if origin != disk.properties["creationData"]:
            raise Refused(
                "PropertyChangeNotAllowed", "Changing property 'creationData' is not allowed.", target="creationData"
            )
        disk.body["tags"] = body.get("tags") or {}
        disk.properties["diskSizeGB"] = size
        disk.revision += 1

    def _update(self, asked: Asked) -> Reply:
        disk = self._world.named(DISK, asked.group, asked.name)
        body = schema.cleaned(models.DiskUpdate, asked.body)
        check_tags(body.get("tags"))
        self._change(disk, {"tags": disk.tags, **body})
        headers = self._desk.operations.begin(disk.id).headers(asked.base, asked.version, located=True)
        return Reply(202, _seen(disk), headers)

    def _delete(self, asked: Asked) -> Reply:
        disk = self._world.find(id_of(DISK, asked.group, asked.name))
        if disk is None:
            return Reply(204)
        if users := holders(disk):
            raise Refused("OperationNotAllowed", f"Disk {disk.name} is attached to VM {users[0]}.")
        if disk.properties["diskState"] == "ActiveUpload":
            raise Refused("OperationNotAllowed", f"Disk {disk.name} has an active shared access signature.")
        self._world.remove(disk)
        return accepted(self._desk, asked, disk.id)

    def _list(self, asked: Asked) -> Reply:
        return page(asked, [_seen(each) for each in self._world.all(DISK, asked.group)])


def holders(disk: Resource) -> list[str]:
    """The ids of the VMs that have it."""
    return list(disk.body.get("managedByExtended") or ([disk.body["managedBy"]] if disk.body.get("managedBy") else []))


def attach(disk: Resource, vm: str) -> None:
    """It is this VM's, and others' that had it before."""
    have = [each for each in holders(disk) if each.lower() != vm.lower()] + [vm]
    disk.body["managedBy"] = have[0]
    if disk.properties.get("maxShares", 1) > 1:
        disk.body["managedByExtended"] = have
    disk.properties["diskState"] = "Attached"
    disk.revision += 1


def detach(disk: Resource, vm: str) -> None:
    """It is not this VM's any longer."""
    left = [each for each in holders(disk) if each.lower() != vm.lower()]
    disk.body.pop("managedBy", None)
    disk.body.pop("managedByExtended", None)
    if left:
        disk.body |= {"managedBy": left[0], "managedByExtended": left}
    disk.properties["diskState"] = "Attached" if left else "Unattached"
    disk.revision += 1


def check_name(name: str) -> None:
    """Raises Refused."""
    plain = name.replace("_", "").replace("-", "").replace(".", "")
    if not (plain.isascii() and plain.isalnum() and len(name) <= _NAME_LENGTH):
        raise Refused("InvalidParameter", f"The name '{name}' is no name for a disk.", target="disk.name")


def _check_zones(zones: list[str], sku: str) -> None:
    if bad := [zone for zone in zones if zone not in skus.ZONES]:
        raise Refused(
            "AvailabilityZoneNotSupported", f"The zone(s) '{','.join(bad)}' for resource 'disks' is not supported."
        )
    if len(zones) > 1 or (zones and sku.endswith("_ZRS")):
        raise Refused("InvalidParameter", "A disk is in one zone, or zone-redundant and in none.", target="zones")


def _check_size(size: int, sku: str) -> None:
    most = _BIGGER.get(sku, _LARGEST)
    if not 1 <= size <= most:
        raise Refused(
            "InvalidParameter",
            f"The value '{size}' of parameter 'disk.diskSizeGB' is out of range. The value must be between '1' and"
            f" '{most}', inclusive.",
            target="disk.diskSizeGB",
        )


def _seen(disk: Resource) -> dict[str, Any]:
    """Disks show no etag; absent zones are left out."""
    return {key: value for key, value in disk.body.items() if key != "zones" or value}
