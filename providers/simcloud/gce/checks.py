"""Every reason why Google refuses an instance as it stands, in its own reasons and, where known, its words.

Each check takes the plan and raises Refused. What depends on the moment (capacity, quota, addresses) is in launch.py.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from providers.simcloud.gce import machine_types, tees
from providers.simcloud.gce.errors import Refused, in_use, invalid, not_found, required
from providers.simcloud.gce.machine_types import ACCELERATORS
from providers.simcloud.gce.paths import NAME
from providers.simcloud.gce.project import ID, Project
from providers.simcloud.gce.request import DiskPlan, Plan

LABELS: Final = 64  # per resource
VALUE_LIMIT: Final = 262_144  # bytes of one metadata value
METADATA_LIMIT: Final = 524_288  # bytes of all of an instance's metadata
NETWORK_TAGS: Final = 64
CONFIDENTIAL_DISKS: Final = 40
DISKS: Final = 128
_LABEL_KEY: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE: Final = re.compile(r"[a-z0-9_-]{0,63}")
_METADATA_KEY: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_DEVICE: Final = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_TAG_KEY: Final = re.compile(r"tagKeys/\d+|[^/\s]+/[^/\s]+")
_ACCOUNT: Final = re.compile(r"[^@\s]+@([a-z0-9-]+\.iam|developer)\.gserviceaccount\.com")
_RESERVATION: Final = "compute.googleapis.com/reservation-name"
_SPECIFIC: Final = "SPECIFIC_RESERVATION"

Check = Callable[[Plan, Project], None]


def refuse_if_wrong(plan: Plan, project: Project) -> None:
    """All checks, in a fixed order: a call that is wrong twice is refused for the same reason each time."""
    for check in CHECKS:
        check(plan, project)


# -- what every resource may have -----------------------------------------------------------------


def check_labels(labels: Mapping[str, str], field: str) -> None:
    """Raises Refused for too many, or one with characters that a label has not."""
    if len(labels) > LABELS:
        raise invalid(field, len(labels), f"Resource cannot have more than {LABELS} labels.")
    for key, value in labels.items():
        if not _is_label(_LABEL_KEY, key) or not key:
            raise invalid(
                f"{field}", key, "Label keys must start with a lowercase letter and can only contain lowercase letters,"
                " numeric characters, underscores and dashes. Keys must be between 1 and 63 characters."
            )  # fmt: skip
        if not _is_label(_LABEL_VALUE, value):
            raise invalid(
                f"{field}.{key}", value, "Label values can only contain lowercase letters, numeric characters,"
                " underscores and dashes, and must be 63 characters at most."
            )  # fmt: skip


def _is_label(pattern: re.Pattern[str], text: str) -> bool:
    """International letters that have no case count as lower case."""
    plain = "".join("a" if not c.isascii() and c.isalpha() and c == c.lower() else c for c in text)
    return pattern.fullmatch(plain) is not None


def check_metadata(metadata: Mapping[str, Any], field: str = "resource.metadata") -> None:
    """Raises Refused for keys that cannot be, come twice, or values that are too long."""
    seen: set[str] = set()
    total = 0
    for n, item in enumerate(metadata.get("items") or []):
        key, value = item.get("key") or "", item.get("value") or ""
        if not _METADATA_KEY.fullmatch(key):
            raise invalid(f"{field}.items[{n}].key", key, "Must be a match of regex '[a-zA-Z0-9-_]{1,128}'")
        if key in seen:
            raise Refused("invalid", f"Metadata has duplicate keys: {key}")
        seen.add(key)
        size = len(value.encode())
        if size > VALUE_LIMIT:
            why = f"Value for field '{field}.items[{n}].value' is too large: maximum size {VALUE_LIMIT} character(s);"
            raise Refused("fieldSizeTooLarge", f"{why} actual size {size}.")
        total += size + len(key)
    if total > METADATA_LIMIT:
        why = f"Metadata is too large: maximum size {METADATA_LIMIT} bytes; actual size {total}."
        raise Refused("fieldSizeTooLarge", why)


def check_network_tags(items: list[str], field: str = "resource.tags.items") -> None:
    if len(items) > NETWORK_TAGS:
        raise invalid(field, len(items), f"An instance cannot have more than {NETWORK_TAGS} tags.")
    for n, tag in enumerate(items):
        if not re.fullmatch(NAME, tag):
            raise invalid(f"{field}[{n}]", tag, f"Must be a match of regex '{NAME}'")
        if tag in items[:n]:
            raise invalid(field, tag, "Duplicate tag.")


def check_free(plan: DiskPlan, zone: str, project: Project) -> None:
    """Raises Refused for a disk that another instance has, unless both only read it."""
    users = (plan.existing or {}).get("users") or []
    reading = (plan.asked.get("mode") or "READ_WRITE") == "READ_ONLY"
    for user in users:
        vm = next((vm for vm in project.instances.values() if vm.body["selfLink"] == user), None)
        modes = [d["mode"] for d in vm.body["disks"] if d.get("source", "").endswith(f"/{plan.name}")] if vm else []
        if not reading or "READ_WRITE" in modes:
            path = f"projects/{ID}/zones/{zone}/disks/{plan.name}"
            raise in_use("disk", path, user.partition("/v1/")[2])


def check_size(plan: DiskPlan, field: str) -> None:
    """A new disk's size. Raises Refused."""
    least, most = machine_types.DISK_TYPES[plan.kind]
    if plan.image is not None and plan.gib < int(plan.image["diskSizeGb"]):
        size = plan.image["diskSizeGb"]
        raise invalid(field, plan.gib, f"Requested disk size cannot be smaller than the image size ({size} GB)")
    if not least <= plan.gib <= most:
        raise invalid(field, plan.gib, f"Disk size must be between {least} GB and {most} GB for {plan.kind}.")


# -- an instance's own ----------------------------------------------------------------------------


def _labels(plan: Plan, project: Project) -> None:
    check_labels(plan.body.get("labels") or {}, "resource.labels")
    for disk in plan.disks:
        params = disk.asked.get("initializeParams") or {}
        check_labels(params.get("labels") or {}, f"{disk.at}.initializeParams.labels")


def _metadata(plan: Plan, project: Project) -> None:
    check_metadata(plan.body.get("metadata") or {})


def _network_tags(plan: Plan, project: Project) -> None:
    check_network_tags((plan.body.get("tags") or {}).get("items") or [])


def _hostname(plan: Plan, project: Project) -> None:
    name = plan.body.get("hostname")
    if name and not re.fullmatch(rf"{NAME}(\.{NAME})+", name):
        raise invalid("resource.hostname", name, "Must be a fully qualified domain name.")


def _disk_shapes(plan: Plan, project: Project) -> None:
    devices = [disk.device for disk in plan.disks]
    names = [disk.name for disk in plan.disks if not disk.scratch]
    for n, disk in enumerate(plan.disks):
        if not _DEVICE.fullmatch(disk.device):
            raise invalid(f"{disk.at}.deviceName", disk.device, "Must be a match of regex '" + _DEVICE.pattern + "'")
        if disk.device in devices[:n]:
            raise invalid(f"{disk.at}.deviceName", disk.device, "Device name is used by more than one disk.")
        if not disk.scratch and disk.name in names[: names.index(disk.name)]:
            raise invalid(disk.at, disk.name, "The same disk is attached more than once.")
        if disk.existing is None and not disk.scratch:
            size_field = f"{disk.at}.initializeParams.diskSizeGb"
            check_size(disk, size_field)
        if disk.boot and disk.asked.get("mode") == "READ_ONLY":
            raise invalid(f"{disk.at}.mode", "READ_ONLY", "Boot disk must be in READ_WRITE mode.")
    if len(set(names)) != len(names):
        raise invalid("resource.disks", "", "The same disk is attached more than once.")
    if len(plan.disks) > DISKS:
        raise Refused("limitExceeded", f"Exceeded limit 'maximum_persistent_disks' on resource. Limit: {DISKS}.0")


def _disk_types(plan: Plan, project: Project) -> None:
    for disk in plan.disks:
        if not disk.scratch and disk.kind not in plan.machine_type.family.disks:
            raise Refused(
                "badRequest", f"{disk.kind} disk type cannot be used by {plan.machine_type.name} machine type."
            )


def _disks_free(plan: Plan, project: Project) -> None:
    for disk in plan.disks:
        check_free(disk, plan.zone, project)


def _architecture(plan: Plan, project: Project) -> None:
    wanted, boot = plan.machine_type.family.architecture, plan.boot
    if boot.architecture and boot.architecture != wanted:
        raise Refused(
            "badRequest",
            f"Requested boot disk architecture ({boot.architecture}) is not compatible with machine type architecture"
            f" ({wanted}).",
        )
    if plan.machine_type.family.gvnic and "GVNIC" not in boot.features:
        raise Refused(
            "badRequest", f"{plan.machine_type.name} needs a boot disk image with the guest OS feature GVNIC."
        )


def _platform(plan: Plan, project: Project) -> None:
    wanted, family = plan.body.get("minCpuPlatform"), plan.machine_type.family
    if wanted and len(family.platforms) == 1 and wanted != family.platforms[0]:
        raise Refused(
            "badRequest",
            f"The selected machine type ({plan.machine_type.name}) has a required CPU platform of"
            f" {family.platforms[0]}. The minimum CPU platform must match this, but was {wanted}.",
        )
    if wanted and wanted not in family.platforms:
        raise invalid(
            "resource.minCpuPlatform",
            wanted,
            f"CPU platform is not available for machine type {plan.machine_type.name} in zone {plan.zone};"
            f" it can be {' or '.join(family.platforms)}.",
        )


def _confidential(plan: Plan, project: Project) -> None:
    tee, kind = plan.tee, plan.machine_type.name
    config = plan.body.get("confidentialInstanceConfig") or {}
    if not tee:
        return
    if config.get("enableConfidentialCompute") and tee != tees.SEV:
        raise invalid(
            "resource.confidentialInstanceConfig",
            tee,
            "enableConfidentialCompute is for SEV only; leave it out with another confidentialInstanceType.",
        )
    if not tees.has(tee, kind):
        raise Refused(
            "badRequest",
            f"Confidential Instance Config of type {tee} is only supported for compatible machine types"
            f" ({tees.families(tee)}), {kind} is not one.",
        )
    if tee == tees.SNP and plan.body.get("minCpuPlatform") != "AMD Milan":
        raise Refused("badRequest", f"{tee} on {kind} requires minCpuPlatform to be AMD Milan.")
    if (feature := tees.IMAGE_FEATURE[tee]) not in plan.boot.features:
        raise Refused(
            "badRequest", f"The boot disk's image does not support {tee}: its guestOsFeatures lack {feature}."
        )
    if len(plan.disks) > CONFIDENTIAL_DISKS:
        raise Refused("badRequest", f"A Confidential VM takes {CONFIDENTIAL_DISKS} disks at most.")
    for disk in plan.disks:
        if disk.asked.get("interface") == "SCSI":
            raise invalid(f"{disk.at}.interface", "SCSI", "Confidential VMs take disks with the interface NVME only.")


def _maintenance(plan: Plan, project: Project) -> None:
    asked = plan.scheduling.get("onHostMaintenance") or ("TERMINATE" if plan.spot else "MIGRATE")
    if asked == "TERMINATE":
        return
    why = ""
    if plan.tee and not tees.migrates(plan.tee, plan.machine_type.name):
        why = "Instances with confidential compute enabled do not support live migration."
    elif plan.gpus:
        why = "Instances with guest accelerators do not support live migration."
    elif plan.spot:
        why = "Scheduling must have onHostMaintenance TERMINATE for preemptible and spot instances."
    elif not plan.machine_type.family.migrates:
        why = f"{plan.machine_type.name} does not support live migration."
    if why:
        raise Refused("badRequest", f"{why} Set onHostMaintenance to TERMINATE.")


def _scheduling(plan: Plan, project: Project) -> None:
    asked = plan.scheduling
    if plan.spot and asked.get("automaticRestart"):
        raise invalid(
            "resource.scheduling.automaticRestart", "true", "Scheduling must have automaticRestart false for spot."
        )
    model = asked.get("provisioningModel")
    if asked.get("preemptible") and model not in (None, "", "SPOT"):
        raise invalid("resource.scheduling.provisioningModel", model, "A preemptible instance must be SPOT.")
    if asked.get("instanceTerminationAction") and not plan.spot and not asked.get("maxRunDuration"):
        raise invalid(
            "resource.scheduling.instanceTerminationAction",
            asked["instanceTerminationAction"],
            "It can be given for SPOT instances, or with maxRunDuration, only.",
        )
    if model in ("FLEX_START", "RESERVATION_BOUND"):
        raise invalid("resource.scheduling.provisioningModel", model, "simcloud plays STANDARD and SPOT.")


def _accelerators(plan: Plan, project: Project) -> None:
    kind = plan.machine_type
    if plan.built_in or not plan.gpus:
        return
    if kind.gpus or kind.series != "n1":
        raise Refused(
            "badRequest",
            f"[{', '.join(plan.gpus)}] features are not compatible for creating instance: {kind.name} takes no such"
            " accelerators, N1 machine types do.",
        )
    if len(plan.gpus) > 1:
        raise Refused("badRequest", "An instance takes accelerators of one type only.")
    ((name, count),) = plan.gpus.items()
    most = ACCELERATORS[name].counts
    if not most:
        raise Refused("badRequest", f"{name} comes with machine types of its own; it cannot be added to {kind.name}.")
    if count not in most:
        raise invalid(
            "resource.guestAccelerators[0].acceleratorCount",
            count,
            f"The number of accelerators of type {name} must be one of {sorted(most)}.",
        )
    if kind.vcpus > most[count]:
        raise Refused("badRequest", f"{count} {name} can be used with {most[count]} vCPUs at most, not {kind.vcpus}.")


def _service_account(plan: Plan, project: Project) -> None:
    accounts = plan.body.get("serviceAccounts") or []
    if len(accounts) > 1:
        raise invalid("resource.serviceAccounts", "", "At most one service account can be specified.")
    for account in accounts:
        email = account.get("email") or "default"
        if email != "default" and not _ACCOUNT.fullmatch(email):
            raise invalid("resource.serviceAccounts[0].email", email, "Must be a service account's email or 'default'.")
        if email != "default" and email not in project.service_accounts:
            raise not_found(f"projects/{ID}/serviceAccounts/{email}")
        if not account.get("scopes"):
            raise required("resource.serviceAccounts[0].scopes")


def _resource_tags(plan: Plan, project: Project) -> None:
    """Resource manager's tags, by ids or by names; they must be there."""
    tags = (plan.body.get("params") or {}).get("resourceManagerTags") or {}
    for key, value in tags.items():
        field = "resource.params.resourceManagerTags"
        if not _TAG_KEY.fullmatch(key):
            raise invalid(field, key, "A tag key must be tagKeys/{id} or {parent}/{key}.")
        known_key = project.tag_key(key)
        if known_key is None:
            raise invalid(field, key, f"Tag key {key} does not exist, or permission is denied on it.")
        if not any(t["parent"] == known_key["name"] and value in (t["name"], t["shortName"]) for t in project.tags()):
            raise invalid(field, value, f"Tag value {value} of {key} does not exist, or permission is denied on it.")


def _reservation(plan: Plan, project: Project) -> None:
    affinity = plan.body.get("reservationAffinity") or {}
    if affinity.get("consumeReservationType") != _SPECIFIC:
        if affinity.get("key") or affinity.get("values"):
            raise invalid("resource.reservationAffinity", "", f"key and values are for {_SPECIFIC} only.")
        return
    if affinity.get("key") != _RESERVATION or len(affinity.get("values") or []) != 1:
        raise invalid("resource.reservationAffinity.key", affinity.get("key"), f"Must be '{_RESERVATION}', one value.")
    raise not_found(f"projects/{ID}/zones/{plan.zone}/reservations/{affinity['values'][0]}")


def _interfaces(plan: Plan, project: Project) -> None:
    if len(plan.nics) > 1:
        raise Refused("invalid", "Networks must be distinct for NICs attached to a VM.")
    for nic in plan.nics:
        configs = nic.asked.get("accessConfigs") or []
        if len(configs) > 1:
            raise invalid(f"{nic.at}.accessConfigs", "", "At most one access config currently supported.")
        for config in configs:
            if config.get("type") not in (None, "ONE_TO_ONE_NAT"):
                raise invalid(f"{nic.at}.accessConfigs[0].type", config["type"], "Must be ONE_TO_ONE_NAT.")
        card = nic.asked.get("nicType")
        needs = plan.machine_type.family.gvnic or plan.tee == tees.TDX
        if needs and card not in (None, "GVNIC", "IDPF", ""):
            raise invalid(f"{nic.at}.nicType", card, f"{plan.machine_type.name} requires GVNIC.")
        if card == "GVNIC" and "GVNIC" not in plan.boot.features:
            raise Refused("badRequest", "The nicType GVNIC needs a boot disk image with the guest OS feature GVNIC.")


def _shielded(plan: Plan, project: Project) -> None:
    config = plan.body.get("shieldedInstanceConfig") or {}
    on = config.get("enableSecureBoot") or config.get("enableVtpm") or config.get("enableIntegrityMonitoring")
    if on and "UEFI_COMPATIBLE" not in plan.boot.features:
        raise Refused("badRequest", "Shielded VM Config can only be set when using a UEFI-compatible disk.")
    if config.get("enableIntegrityMonitoring") and config.get("enableVtpm") is False:
        raise Refused("badRequest", "Integrity monitoring can only be enabled with vTPM.")


CHECKS: Final[tuple[Check, ...]] = (
    _labels, _metadata, _network_tags, _hostname, _disk_shapes, _disk_types, _interfaces, _architecture, _platform,
    _confidential, _accelerators, _scheduling, _maintenance, _shielded, _service_account, _resource_tags,
    _reservation, _disks_free,
)  # fmt: skip
