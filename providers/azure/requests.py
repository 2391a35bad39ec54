"""What is asked of Azure, and how its answers read: pure functions between our values and the API's bodies."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from providers import tags
from providers.azure.config import AzureConfig, is_image, tag_problem
from providers.base import Instance, InstanceState, LaunchSpec, Ownership, Purchase, Tee
from providers.errors import InvalidSpec, Unsupported

USER_DATA_LIMIT: Final = 49_152  # bytes, so that their base64 has 65,536: Azure's own limit
TOKEN_LIMIT: Final = 64  # ASCII characters: it is a tag's value, and as long as EC2's
TAGS_LIMIT: Final = 50  # per resource
DISKS_LIMIT: Final = 64  # LUNs 0 to 63
NAME_TAG: Final = "Name"
SPEC_TAG: Final = "peerpods-spec"  # what the token was first used for
ADDRESS_TAG: Final = "peerpods-address"  # the interface's, best first: a VM's own description does not tell it

_STATES: Final = {
    "Creating": InstanceState.PENDING,
    "Updating": InstanceState.RUNNING,
    "Succeeded": InstanceState.RUNNING,
    "Migrating": InstanceState.RUNNING,
    "Failed": InstanceState.STOPPED,  # unless its power state says otherwise
    "Deleting": InstanceState.GONE,
}
_POWERED: Final = ("PowerState/running", "PowerState/starting")
_DOWN: Final = ("PowerState/stopped", "PowerState/stopping", "PowerState/deallocated", "PowerState/deallocating")

Body = dict[str, Any]
Shape = Mapping[str, Any]


def check(spec: LaunchSpec, token: str, config: AzureConfig) -> None:
    """Refuse what Azure would refuse, before a call is spent on it. Raises: InvalidSpec."""
    problem = _problem(spec, token, config)
    if problem:
        raise InvalidSpec(f"cannot launch {spec.name or 'a VM'}: {problem}")


def _problem(spec: LaunchSpec, token: str, config: AzureConfig) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,63}", spec.name):
        return f"the name {spec.name!r} is not 1 to 63 of a-z, 0-9 and '-'"
    if not re.fullmatch(rf"[!-~]{{1,{TOKEN_LIMIT}}}", token):
        return f"the token is not 1 to {TOKEN_LIMIT} visible ASCII characters"
    if spec.instance_type not in config.allowed_types:
        return f"{spec.instance_type} is not among the sizes allowed here: {', '.join(config.allowed_types)}"
    if len(spec.user_data) > USER_DATA_LIMIT:
        return f"its user data has {len(spec.user_data)} bytes; Azure takes {USER_DATA_LIMIT} (65536 in base64)"
    if spec.image and not is_image(spec.image):
        return f"its image {spec.image!r} is not an id that Azure could know"
    if spec.zone and spec.zone not in (config.zones or (spec.zone,)):
        return f"zone {spec.zone} is not among those allowed here: {', '.join(config.zones)}"
    if spec.purchase is Purchase.SPOT and not config.spot:
        return "the settings allow no spot VMs: set azure.spot = true"
    if spec.tee is Tee.SEV:
        return f"Azure has no sizes with {spec.tee}; it has some with {Tee.SNP} and {Tee.TDX}"
    if len(spec.volumes) > DISKS_LIMIT:
        return f"it has {len(spec.volumes)} volumes; Azure attaches {DISKS_LIMIT} at most"
    if bad := [volume.id for volume in spec.volumes if not is_disk(volume.id)]:
        return f"its volume {bad[0]!r} is no managed disk's id: /subscriptions/.../Microsoft.Compute/disks/D"
    return _tags_problem({**dict(config.tags), **spec.tags})


def is_disk(text: str) -> bool:
    pattern = r"(?i:/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Compute/disks/[^/]+)"
    return re.fullmatch(pattern, text) is not None


def _tags_problem(asked: Mapping[str, str]) -> str:
    for key, value in asked.items():
        if problem := tag_problem(key, value):
            return f"its tag {key[:40]!r} {problem}"
    ours = {NAME_TAG, SPEC_TAG, ADDRESS_TAG, tags.CLUSTER, tags.NODE, tags.TOKEN}
    if len({key.lower() for key in ours | asked.keys()}) < len(ours | asked.keys()):
        return "it would carry two tags that differ in case only; to Azure they are one"
    if len(ours | asked.keys()) > TAGS_LIMIT:
        return f"it would carry {len(ours | asked.keys())} tags; Azure takes {TAGS_LIMIT}"
    return ""


def vm_name(spec: LaunchSpec, token: str, owner: Ownership) -> str:
    """The VM's name, and its id here: the same for a token whatever happens, which makes creating it once-only."""
    mark = hashlib.sha256(f"{owner.cluster}\0{owner.node}\0{token}".encode()).hexdigest()[:12]
    return f"{spec.name.strip('-')[:51].rstrip('-') or 'podvm'}-{mark}"


def nic_name(vm: str) -> str:
    return f"{vm}-nic"


def address_name(vm: str) -> str:
    return f"{vm}-ip"


def disk_name(vm: str) -> str:
    return f"{vm}-os"


def fingerprint(spec: LaunchSpec) -> str:
    """Equal for equal specs: what a token stands for."""
    said = {
        "name": spec.name,
        "instance_type": spec.instance_type,
        "user_data": hashlib.sha256(spec.user_data).hexdigest(),
        "image": spec.image,
        "tags": dict(spec.tags),
        "tee": spec.tee,
        "zone": spec.zone,
        "purchase": spec.purchase,
        "root_volume_gib": spec.root_volume_gib,
        "scratch_gib": spec.scratch_gib,
        "volumes": [[volume.id, volume.read_only] for volume in spec.volumes],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def all_tags(spec: LaunchSpec, token: str, config: AzureConfig, owner: Ownership) -> dict[str, str]:
    """What every resource of this launch carries; Azure gives the OS disk those of its VM."""
    ours = {NAME_TAG: spec.name, SPEC_TAG: fingerprint(spec), tags.TOKEN: token, **tags.of_new(owner)}
    return {**dict(config.tags), **spec.tags, **ours}


def public_address(vm: str, marks: Mapping[str, str], zone: str, config: AzureConfig) -> Body:
    """The PUT of a public address."""
    body: Body = {
        "location": config.region,
        "tags": dict(marks),
        "sku": {"name": "Standard"},
        "properties": {
            "publicIPAllocationMethod": "Static",
            "publicIPAddressVersion": "IPv4",
            "deleteOption": "Delete",
        },
    }
    if zone:
        body["zones"] = [zone]
    return body


def interface(vm: str, marks: Mapping[str, str], config: AzureConfig) -> Body:
    """The PUT of the interface: made first, so that the address is known before the VM is."""
    place: Body = {"subnet": {"id": config.subnet_id}, "privateIPAllocationMethod": "Dynamic", "primary": True}
    if config.public_ip:
        place["publicIPAddress"] = {
            "id": resource_id(config, "Microsoft.Network/publicIPAddresses", address_name(vm)),
            "properties": {"deleteOption": "Delete"},
        }
    properties: Body = {"ipConfigurations": [{"name": "primary", "properties": place}]}
    if config.security_group_id:
        properties["networkSecurityGroup"] = {"id": config.security_group_id}
    return {"location": config.region, "tags": dict(marks), "properties": properties}


def machine(
    vm: str,
    spec: LaunchSpec,
    marks: Mapping[str, str],
    *,
    config: AzureConfig,
    tee: Tee,
    root_gib: int | None,
    public_key: str,
) -> Body:
    """The PUT of the VM itself, with everything that is to be deleted with it marked so."""
    properties: Body = {
        "hardwareProfile": {"vmSize": spec.instance_type},
        "storageProfile": {
            "imageReference": image_reference(spec.image or config.image),
            "osDisk": _os_disk(vm, config, tee, root_gib),
            "dataDisks": _data_disks(spec),
        },
        "osProfile": _os_profile(spec, config, public_key),
        "networkProfile": {
            "networkInterfaces": [
                {
                    "id": resource_id(config, "Microsoft.Network/networkInterfaces", nic_name(vm)),
                    "properties": {"primary": True, "deleteOption": "Delete"},
                }
            ]
        },
        "diagnosticsProfile": {"bootDiagnostics": {"enabled": config.boot_diagnostics}},
        "userData": base64.b64encode(spec.user_data).decode(),
        **_security(config, tee),
        **_purchase(spec, config),
        **_placement(config),
    }
    body: Body = {"location": config.region, "tags": dict(marks), "properties": properties}
    if spec.zone:
        body["zones"] = [spec.zone]
    if config.identity_ids:
        body["identity"] = {"type": "UserAssigned", "userAssignedIdentities": {id: {} for id in config.identity_ids}}
    return body


def _os_disk(vm: str, config: AzureConfig, tee: Tee, root_gib: int | None) -> Body:
    managed: Body = {"storageAccountType": config.disk_type}
    own_key = {"id": config.disk_encryption_set_id} if config.disk_encryption_set_id else None
    whole = tee is not Tee.NONE and config.disk_encryption == "DiskWithVMGuestState"
    if tee is not Tee.NONE:
        managed["securityProfile"] = {"securityEncryptionType": config.disk_encryption}
    if own_key and whole:  # the key of what the confidential VM itself encrypts
        managed["securityProfile"]["diskEncryptionSet"] = own_key
    elif own_key:
        managed["diskEncryptionSet"] = own_key
    disk: Body = {
        "name": disk_name(vm),
        "osType": "Linux",
        "createOption": "FromImage",
        "caching": "ReadWrite",
        "deleteOption": "Delete",
        "managedDisk": managed,
    }
    if root_gib is not None:
        disk["diskSizeGB"] = root_gib
    return disk


def _data_disks(spec: LaunchSpec) -> list[Body]:
    """A pod's disks, never deleted with the VM. Azure attaches none read-only: the guest mounts it so."""
    return [
        {
            "lun": lun,
            "createOption": "Attach",
            "deleteOption": "Detach",
            "caching": "None",  # what was written is on the disk, also when the VM is deleted by force
            "managedDisk": {"id": volume.id},
        }
        for lun, volume in enumerate(spec.volumes)
    ]


def _os_profile(spec: LaunchSpec, config: AzureConfig, public_key: str) -> Body:
    key = {"path": f"/home/{config.ssh_user}/.ssh/authorized_keys", "keyData": public_key}
    return {
        "computerName": spec.name,
        "adminUsername": config.ssh_user,
        # No agent in the guest: nothing but the pod's own worker shall be able to run things in it.
        "allowExtensionOperations": False,
        "linuxConfiguration": {
            "disablePasswordAuthentication": True,
            "provisionVMAgent": False,
            "ssh": {"publicKeys": [key]},
        },
    }


def _security(config: AzureConfig, tee: Tee) -> Body:
    if tee is Tee.NONE and not config.secure_boot:
        return {}
    kind = "TrustedLaunch" if tee is Tee.NONE else "ConfidentialVM"
    uefi = {"secureBootEnabled": config.secure_boot, "vTpmEnabled": True}
    return {"securityProfile": {"securityType": kind, "uefiSettings": uefi}}


def _purchase(spec: LaunchSpec, config: AzureConfig) -> Body:
    if spec.purchase is not Purchase.SPOT:
        return {}
    most = -1.0 if config.spot_max_price is None else config.spot_max_price  # -1: up to the on-demand price
    return {"priority": "Spot", "evictionPolicy": "Delete", "billingProfile": {"maxPrice": most}}


def _placement(config: AzureConfig) -> Body:
    wishes = {
        "proximityPlacementGroup": config.proximity_placement_group_id,
        "hostGroup": config.host_group_id,
        "host": config.host_id,
    }
    body: Body = {name: {"id": id} for name, id in wishes.items() if id}
    if config.capacity_reservation_group_id:
        body["capacityReservation"] = {"capacityReservationGroup": {"id": config.capacity_reservation_group_id}}
    return body


def image_reference(image: str) -> Body:
    """An image's id where Azure wants one of its kind."""
    lowered = image.lower()
    if lowered.startswith("/communitygalleries/"):
        return {"communityGalleryImageId": image}
    return {"sharedGalleryImageId": image} if lowered.startswith("/sharedgalleries/") else {"id": image}


def resource_id(config: AzureConfig, kind: str, name: str) -> str:
    return f"{config.group_id}/providers/{kind}/{name}"


def is_name(text: str) -> bool:
    """Whether a VM could be called so: what could not has never been one."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", text) is not None


# Readers of answers. What an answer of Azure's always has is demanded: a proxy's page must not read as "no machines".


def addresses(nic: Shape, public: str = "") -> tuple[str, ...]:
    """An interface's, the private one first."""
    configurations = nic["properties"]["ipConfigurations"]
    private = [each["properties"].get("privateIPAddress", "") for each in configurations]
    return tuple(address for address in (*private, public) if address)


def instance(shape: Shape) -> Instance:
    """A VM as GET, PUT and List describe it; with an instance view it is known why one has stopped."""
    properties = shape["properties"]
    found: dict[str, str] = dict(shape.get("tags") or {})
    made = properties.get("timeCreated")
    state, reason = _state(properties)
    image = properties.get("storageProfile", {}).get("imageReference") or {}
    return Instance(
        id=shape["name"],
        state=state,
        addresses=tuple(address for address in found.get(ADDRESS_TAG, "").split(" ") if address),
        name=found.get(NAME_TAG) or shape["name"],
        instance_type=properties.get("hardwareProfile", {}).get("vmSize", ""),
        zone=next(iter(shape.get("zones") or []), ""),
        image=image.get("communityGalleryImageId") or image.get("sharedGalleryImageId") or image.get("id") or "",
        tags=found,
        launched_at=seconds(made) if made else None,
        reason=reason,
    )


def creation(view: Shape) -> tuple[Mapping[str, str] | None, bool]:
    """Of an instance view: the error object of a creation that has failed, and whether the VM has a place."""
    statuses = view["statuses"]
    for status in statuses:
        before, _, code = status["code"].partition("/failed/")
        if before == "ProvisioningState" and code:
            return {"code": code, "message": status.get("message") or status.get("displayStatus") or ""}, False
    return None, any(status["code"] in _POWERED for status in statuses)


def has_failed(shape: Shape) -> bool:
    """Whether its creation, or a later deed, went wrong: that says nothing yet of whether it runs."""
    return bool(shape["properties"].get("provisioningState") == "Failed")


def _state(properties: Shape) -> tuple[InstanceState, str]:
    # A state Azure has not had until now is not proof of death: nothing may be given up for it.
    state = _STATES.get(properties.get("provisioningState", ""), InstanceState.PENDING)
    statuses = (properties.get("instanceView") or {}).get("statuses") or []
    power = [each.get("code", "") for each in statuses if each.get("code", "").startswith("PowerState/")]
    told = [each.get("message") or each.get("displayStatus") or "" for each in statuses if _is_bad(each)]
    if properties.get("provisioningState") == "Failed":
        # A guest that never reports to Azure is "failed" after twenty minutes, and runs.
        alive = bool(set(power) & set(_POWERED)) or not statuses
        return (InstanceState.RUNNING, "") if alive else (state, next(filter(None, told), "its creation failed"))
    if state is InstanceState.RUNNING and set(power) & set(_DOWN):
        return InstanceState.STOPPED, next(filter(None, told), f"Azure says {power[0].partition('/')[2]}")
    return state, ""


def _is_bad(status: Shape) -> bool:
    return status.get("level") == "Error" or status.get("code", "").startswith(("ProvisioningState/failed", *_DOWN))


def seconds(text: str) -> float:
    """Azure's timestamps, with up to seven digits of a second, since the epoch."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp()


def match(shape: Shape, spec: LaunchSpec, token: str) -> Instance:
    """The machine that the token's name has, if it was made of this spec. Raises: InvalidSpec."""
    found = shape.get("tags") or {}
    if found.get(tags.TOKEN) != token or found.get(SPEC_TAG) != fingerprint(spec):
        raise InvalidSpec(f"cannot launch {spec.name}: this token was used for a launch with other parameters")
    return instance(shape)


def check_offer(spec: LaunchSpec, given: frozenset[Tee], config: AzureConfig) -> Tee:
    """What the guest is to get from a size that gives `given`. Raises: InvalidSpec, Unsupported."""
    if spec.tee is not None and spec.tee not in given:
        wanted = "run without a TEE" if spec.tee is Tee.NONE else f"give its guest {spec.tee}"
        raise InvalidSpec(f"cannot launch {spec.name}: {spec.instance_type} does not {wanted}")
    if spec.tee is not None:
        return spec.tee
    wishes = (Tee.SNP, Tee.TDX) if config.confidential else (Tee.NONE,)
    for tee in wishes:
        if tee in given:
            return tee
    raise Unsupported(f"cannot launch {spec.name}: {spec.instance_type} is not sold so here")
