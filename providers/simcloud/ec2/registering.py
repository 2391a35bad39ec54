"""RegisterImage: what EC2 looks at before a snapshot becomes an image. moto keeps nothing but the name."""

import re
from collections.abc import Mapping
from typing import Any, Final

from moto.ec2.utils import random_ami_id

from providers.simcloud.ec2 import tags
from providers.simcloud.ec2.account import Account, Image
from providers.simcloud.ec2.errors import Refused

_NAME: Final = re.compile(r"[\w ()\[\]./\-'@]{3,128}", re.ASCII)
_ALLOWED: Final = {
    "Architecture": ("i386", "x86_64", "arm64"),
    "BootMode": ("legacy-bios", "uefi", "uefi-preferred"),
    "TpmSupport": ("v2.0",),
    "ImdsSupport": ("v2.0",),
    "VirtualizationType": ("hvm", "paravirtual"),
}


def check(account: Account, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The image's volumes. Raises Refused."""
    name = params.get("Name") or ""
    if not _NAME.fullmatch(name):
        raise Refused("InvalidAMIName.Malformed", f"AMI names have 3 to 128 letters, digits and ()[] ./-'@_: '{name}'")
    for known in account.amis.values():
        if known.name == name and known.owner_id == account.account_id:
            raise Refused("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {known.id}")
    for parameter, allowed in _ALLOWED.items():
        if params.get(parameter) not in (None, *allowed):
            raise Refused("InvalidParameterValue", f"Value ({params[parameter]}) for parameter {parameter} is invalid.")
    if params.get("TpmSupport") and params.get("BootMode") != "uefi":
        raise Refused("InvalidParameterCombination", "TpmSupport needs an image whose boot mode is uefi")
    volumes = [
        {**each, "Ebs": {"DeleteOnTermination": True, **_of_snapshot(account, each["Ebs"])}}
        for each in params.get("BlockDeviceMappings") or []
        if each.get("Ebs")
    ]
    root = params.get("RootDeviceName") or "/dev/sda1"
    if root not in [each["DeviceName"] for each in volumes]:
        raise Refused("InvalidBlockDeviceMapping", f"No snapshot is mapped to the root device {root}")
    return volumes


def register(account: Account, params: Mapping[str, Any], volumes: list[dict[str, Any]]) -> Image:
    """The new image."""
    architecture = params.get("Architecture") or "i386"  # EC2's own default, good for nothing
    root, mode = params.get("RootDeviceName") or "/dev/sda1", params.get("BootMode")
    image = account.add_image(random_ami_id(), params["Name"], architecture, root, mode)
    image.description, image.volumes = params.get("Description"), volumes
    image.tpm_support, image.imds_support = params.get("TpmSupport"), params.get("ImdsSupport")
    image.ena_support = bool(params.get("EnaSupport"))
    for specification in params.get("TagSpecifications") or []:
        if specification.get("ResourceType") == "image":
            image.add_tags(tags.check(specification.get("Tags") or []))
    for each in volumes:
        if snapshot := account.snapshots.get(each["Ebs"].get("SnapshotId", "")):
            snapshot.from_ami = image.id  # it cannot be deleted while the image is there
    return image


def _of_snapshot(account: Account, ebs: Mapping[str, Any]) -> dict[str, Any]:
    """A volume as large as its snapshot, unless it says otherwise. Raises Refused for one that cannot be used."""
    if not ebs.get("SnapshotId"):
        return dict(ebs)
    snapshot = account.snapshots.get(ebs["SnapshotId"])
    if snapshot is None:
        raise Refused("InvalidSnapshot.NotFound", f"The snapshot '{ebs['SnapshotId']}' does not exist.")
    if snapshot.status != "completed":
        raise Refused("IncorrectState", f"The snapshot '{snapshot.id}' is {snapshot.status}, not completed")
    return {"VolumeSize": snapshot.volume.size, **ebs}
