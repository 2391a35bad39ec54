"""A virtual machine's data disks: what may be attached, and how the list of them changes."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from providers.simcloud.arm import disks
from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.skus import Size
from providers.simcloud.arm.state import DISK, Resource, World
from providers.simcloud.arm.vm_view import Vm

_LUNS: Final = range(64)

Body = Mapping[str, Any]


def check(asked: Sequence[Body], size: Size, zone: str, vm_id: str, world: World) -> list[Resource]:
    """The disks among them that exist already. Raises Refused."""
    luns: set[int] = set()
    for each in asked:
        lun = each["lun"]
        if lun not in _LUNS:
            raise Refused(
                "InvalidParameter",
                f"The value '{lun}' of parameter 'dataDisk.lun' is out of range. The value must be between"
                f" '{_LUNS[0]}' and '{_LUNS[-1]}', inclusive.",
                target="dataDisk.lun",
            )
        if lun in luns:
            raise Refused("InvalidParameter", f"A disk at LUN {lun} already exists.", target="dataDisk.lun")
        luns.add(lun)
    if len(asked) > size.disks:
        raise Refused(
            "OperationNotAllowed",
            f"The maximum number of data disks allowed to be attached to a VM of this size is {size.disks}.",
            target="dataDisks",
        )
    return [found for each in asked if (found := _existing(each, zone, vm_id, world))]


def _existing(asked: Body, zone: str, vm_id: str, world: World) -> Resource | None:
    """None for one that is made with the VM. Raises Refused."""
    disk_id = str((asked.get("managedDisk") or {}).get("id") or "")
    if asked["createOption"] == "Empty":
        if not asked.get("diskSizeGB"):
            raise _missing("dataDisk.diskSizeGB")
        return None
    if asked["createOption"] != "Attach":
        raise Refused(
            "InvalidParameter", f"simcloud makes no data disk with '{asked['createOption']}'.", target="dataDisk"
        )
    if not disk_id:
        raise _missing("dataDisk.managedDisk.id")
    disk = world.find(disk_id, DISK)
    if disk is None:
        name = disk_id.rpartition("/")[2]
        raise Refused("NotFound", f"Disk {name} is not found.", target="dataDisks", status=404)
    others = [user for user in disks.holders(disk) if user.lower() != vm_id.lower()]
    if others and len(others) >= disk.properties.get("maxShares", 1):
        raise Refused(
            "ConflictingUserInput",
            f"Disk '{disk.id}' cannot be attached as the disk is already owned by VM '{others[0]}'.",
            target=disk.id,
        )
    home = (disk.body.get("zones") or [""])[0]
    if home != zone and not disk.body["sku"]["name"].endswith("_ZRS"):
        raise Refused(
            "BadRequest",
            f"Disk {disk.id} cannot be attached to the VM because it is not in the same zone as the VM. VM zone:"
            f" '{zone or 'None'}'. Disk zone: '{home or 'None'}'.",
        )
    return disk


def replace(vm: Vm, asked: Sequence[Body], world: World) -> None:
    """The VM has these from now on, and no others. Raises Refused, having done nothing."""
    have = vm.resource.properties["storageProfile"]["dataDisks"]
    known = {_id(each): each for each in have}
    fresh = [each for each in asked if _id(each) not in known]
    if made := [each for each in fresh if each["createOption"] != "Attach"]:
        raise Refused(
            "InvalidParameter",
            f"simcloud attaches disks to a VM that exists, and makes none for it: LUN {made[0]['lun']}.",
            target="dataDisks",
        )
    found = check([*fresh, *(known.get(_id(each), each) for each in asked if each not in fresh)], vm.size, vm.zone, vm.resource.id, world)  # fmt: skip
    kept = {_id(each) for each in asked}
    for each in have:
        if _id(each) not in kept and (disk := world.find(each["managedDisk"]["id"])):
            disks.detach(disk, vm.resource.id)
    for disk in found:
        disks.attach(disk, vm.resource.id)
    vm.resource.properties["storageProfile"]["dataDisks"] = [known.get(_id(each)) or _shown(each) for each in asked]


def attach_and_detach(vm: Vm, attach: Iterable[Body], detach: Iterable[Body], world: World) -> None:
    """`attachDetachDataDisks`. Raises Refused, having done nothing."""
    have = vm.resource.properties["storageProfile"]["dataDisks"]
    going = {str(each["diskId"]).lower() for each in detach}
    if unknown := going - {_id(each) for each in have}:
        raise Refused("NotFound", f"Disk {min(unknown)} is not attached to VM '{vm.resource.name}'.", status=404)
    wanted = [each for each in have if _id(each) not in going]
    for each in attach:
        used = {other["lun"] for other in wanted}
        lun = each.get("lun", next(number for number in _LUNS if number not in used))
        more = {key: each[key] for key in ("caching", "deleteOption") if key in each}
        wanted.append({"lun": lun, "createOption": "Attach", "managedDisk": {"id": each["diskId"]}, **more})
    replace(vm, wanted, world)


def _shown(asked: Body) -> dict[str, Any]:
    made = copy.deepcopy(dict(asked))
    name = made["managedDisk"]["id"].rpartition("/")[2]
    return {"caching": "None", "deleteOption": "Detach", "toBeDetached": False, "name": name, **made}


def _id(asked: Body) -> str:
    return str((asked.get("managedDisk") or {}).get("id") or asked.get("name") or "").lower()


def _missing(what: str) -> Refused:
    return Refused("InvalidParameter", f"Required parameter '{what}' is missing (null).", target=what)
