"""What the preflight's answers mean: findings, each with its fix (pure)."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from providers.base import Finding, Grade, Headroom, Offering, Tee
from providers.gcp import requests, tees
from providers.gcp.config import GcpConfig

Shape = Mapping[str, Any]

# What a permission is for; without a launch's pods do not start, without the sweep's leaks stay.
_LAUNCH: Final = (
    "compute.instances.create",
    "compute.instances.get",
    "compute.instances.list",
    "compute.instances.delete",
    "compute.instances.setMetadata",
    "compute.instances.setLabels",
    "compute.disks.create",
    "compute.disks.setLabels",
    "compute.subnetworks.use",
    "compute.machineTypes.list",
    "compute.zones.get",
    "compute.zoneOperations.get",
)
_SWEEP: Final = (
    "compute.disks.list",
    "compute.disks.get",
    "compute.disks.delete",
    "compute.addresses.list",
    "compute.addresses.get",
    "compute.addresses.delete",
)
_CHECK: Final = ("compute.regions.get", "compute.subnetworks.get", "compute.firewalls.list")
# Of a limit; beyond that a burst of pods meets it.
_NEARLY: Final = 0.9


def permissions(config: GcpConfig) -> dict[str, tuple[Grade, str]]:
    """Every permission that this configuration needs, how its lack weighs, and what it is for."""
    wanted = dict.fromkeys(_CHECK, (Grade.WARNING, "this check"))
    wanted |= dict.fromkeys(_SWEEP, (Grade.WARNING, "finding and removing what leaked"))
    wanted |= dict.fromkeys(_LAUNCH, (Grade.FAULT, "launching pod VMs"))
    needed = {
        "compute.instances.setTags": (bool(config.network_tags), "network_tags"),
        "compute.subnetworks.useExternalIp": (config.public_ip, "public_ip"),
        "compute.instances.setServiceAccount": (bool(config.service_account), "service_account"),
        "compute.addresses.createInternal": (config.reserve_address, "reserve_address"),
        "compute.addresses.useInternal": (config.reserve_address, "reserve_address"),
        "compute.acceleratorTypes.list": (bool(config.gpu_type), "gpu_type"),
        "compute.instances.createTagBinding": (bool(config.resource_tags), "resource_tags"),
    }
    return wanted | {name: (Grade.FAULT, f"gcp.{why}") for name, (is_on, why) in needed.items() if is_on}


def of_permissions(wanted: Mapping[str, tuple[Grade, str]], held: Collection[str]) -> list[Finding]:
    """Those that are missing, or that none is."""
    missing = [name for name in wanted if name not in held]
    if not missing:
        return [Finding("permissions", Grade.OK, f"all {len(wanted)} that are needed are there")]
    return [
        Finding(
            f"permission {name}",
            wanted[name][0],
            f"is missing; needed for {wanted[name][1]}",
            f"grant this node's service account a role with {name}",
        )
        for name in missing
    ]


def of_image(config: GcpConfig, image: requests.Image, offered: Sequence[Offering]) -> list[Finding]:
    """Whether the image can boot what is offered."""
    subject, faults = f"image {config.image}", list(_image_faults(config, image, offered))
    if faults:
        return [Finding(subject, grade, message, fix) for grade, message, fix in faults]
    return [Finding(subject, Grade.OK, f"is {image.link}, {image.size_gib} GiB")]


def _image_faults(
    config: GcpConfig, image: requests.Image, offered: Sequence[Offering]
) -> Iterator[tuple[Grade, str, str]]:
    for tee in dict.fromkeys(offer.tee for offer in offered if offer.tee is not Tee.NONE):
        feature, is_default = tees.IMAGE_FEATURES[tee], tee is config.tee
        if feature not in image.features:
            yield (
                Grade.FAULT if is_default else Grade.WARNING,
                f"does not say {feature} among its guest OS features: it cannot be launched with {tee}",
                f"make the image with --guest-os-features={feature},UEFI_COMPATIBLE,GVNIC",
            )
    if (config.confidential or config.secure_boot) and "UEFI_COMPATIBLE" not in image.features:
        fix = "make the image with --guest-os-features=UEFI_COMPATIBLE"
        yield Grade.FAULT, "does not say UEFI_COMPATIBLE, which confidential and shielded VMs need", fix
    mine = image.architecture.lower()
    for offer in offered[:1]:
        if mine and mine != offer.architecture:
            fix = "choose an image or a machine type of the other's architecture"
            yield Grade.FAULT, f"is for {mine}; {offer.instance_type} is {offer.architecture}", fix


def subnetwork_of(config: GcpConfig) -> tuple[str, str, str]:
    """Project, region and name of the subnetwork."""
    path = requests.subnetwork(config)
    found = re.search(r"(?:projects/([^/]+)/)?regions/([^/]+)/subnetworks/([^/]+)$", path)
    assert found, path  # the settings' form says so
    return found[1] or config.project, found[2], found[3]


def network_of(config: GcpConfig) -> tuple[str, str]:
    """Project and name of the network."""
    found = re.search(r"projects/([^/]+)/", requests.network(config))
    return found[1] if found else config.project, requests.last(requests.network(config))


def of_subnetwork(config: GcpConfig, shape: Shape) -> list[Finding]:
    """Whether pod VMs can be in it."""
    subject, region = f"subnetwork {shape['name']}", requests.last(shape.get("region", ""))
    if region != config.region:
        message = f"is in {region}, gcp.zones are in {config.region}"
        return [Finding(subject, Grade.FAULT, message, "choose zones and subnetwork of one region")]
    found = [Finding(subject, Grade.OK, f"{shape.get('ip_cidr_range', '')} in {region}")]
    if not config.public_ip and not shape.get("private_ip_google_access"):
        message = "has no Private Google Access: pod VMs reach Google's registries only through a NAT"
        found.append(Finding(subject, Grade.WARNING, message, "switch it on, if pods use Google's APIs"))
    return found


def of_firewall(config: GcpConfig, network: str, rules: Sequence[Shape], ports: Mapping[str, int]) -> list[Finding]:
    """Whether workers reach pod VMs. Which addresses workers have is not known here: a rule's sources are shown."""
    mine = [rule for rule in rules if requests.last(rule.get("network", "")) == network and _applies(rule, config)]
    return [_of_port(network, mine, protocol, port, config) for protocol, port in ports.items()]


def _of_port(network: str, rules: Sequence[Shape], protocol: str, port: int, config: GcpConfig) -> Finding:
    subject = f"firewall of {network}, {protocol.upper()} {port}"
    # A deny of the same priority goes before an allow.
    order = sorted(rules, key=lambda rule: (int(rule.get("priority", 1000)), not rule.get("denied")))
    for rule in order:
        sources = ", ".join([*rule.get("source_ranges", []), *rule.get("source_tags", [])]) or "anywhere"
        if _covers(rule.get("denied", []), protocol, port):
            message, fix = (
                f"the rule {rule['name']} denies it from {sources}",
                "give an allowing rule a higher priority",
            )
            return Finding(subject, Grade.WARNING, message, fix)
        if _covers(rule.get("allowed", []), protocol, port):
            return Finding(subject, Grade.OK, f"the rule {rule['name']} allows it from {sources}")
    target = f" --target-tags={config.network_tags[0]}" if config.network_tags else ""
    fix = (
        f"gcloud compute firewall-rules create peerpods-{protocol} --network={network} --allow={protocol}:{port}"
        f" --source-ranges=WORKERS{target}; or allow it in a firewall policy, which is not looked at here"
    )
    return Finding(subject, Grade.FAULT, "no rule lets it in", fix)


def _applies(rule: Shape, config: GcpConfig) -> bool:
    if rule.get("disabled") or rule.get("direction", "INGRESS") != "INGRESS":
        return False
    tags, accounts = set(rule.get("target_tags", [])), set(rule.get("target_service_accounts", []))
    if not tags and not accounts:
        return True
    return bool(tags & set(config.network_tags)) or config.service_account in accounts


def _covers(entries: Sequence[Shape], protocol: str, port: int) -> bool:
    numbers = {"tcp": "6", "udp": "17"}
    for entry in entries:
        if entry.get("I_p_protocol", "").lower() not in ("all", protocol, numbers[protocol]):
            continue
        ranges = [each.partition("-") for each in entry.get("ports", [])]
        if not ranges or any(int(low) <= port <= int(high or low) for low, _, high in ranges):
            return True
    return False


def of_quotas(limits: Sequence[Headroom], offered: Sequence[Offering]) -> list[Finding]:
    """Whether one more of the default fits, and how many."""
    found: list[Finding] = []
    for limit in limits:
        default = offered[0] if offered else None
        used, one = limit.used or 0.0, 1.0
        if default and limit.unit == "vCPU" and default.instance_type in limit.types:
            one = float(default.vcpus)
        left = limit.limit - used
        message = f"{used:g} of {limit.limit:g} {limit.unit} used"
        grade = Grade.OK
        if left < one:
            grade = Grade.FAULT if default and default.instance_type in limit.types else Grade.WARNING
        elif used > limit.limit * _NEARLY:
            grade = Grade.WARNING
        fix = "" if grade is Grade.OK else f"ask Google for a higher {limit.name} in this region"
        found.append(Finding(f"quota {limit.name}", grade, message, fix))
    return found


def of_offerings(config: GcpConfig, offered: Sequence[Offering]) -> list[Finding]:
    """Where the default can be had, and whether its TEE is known to be sold there."""
    subject = f"machine type {config.machine_type}"
    mine = [each for each in offered if each.instance_type == config.machine_type and each.tee is config.tee]
    found = [Finding(subject, Grade.OK, f"with {config.tee} in {', '.join(dict.fromkeys(o.zone for o in mine))}")]
    for zone in config.zones:
        if zone not in {offer.zone for offer in mine}:
            message = f"is not sold with {config.tee} in {zone}"
            found.append(Finding(subject, Grade.WARNING, message, f"take {zone} out of gcp.zones"))
    unknown = [zone for zone in config.zones if not tees.known_in(config.machine_type, config.tee, zone)]
    if config.tee is not Tee.NONE and unknown:
        message = f"{config.tee} is not known to be sold in {', '.join(unknown)}"
        found.append(Finding(subject, Grade.WARNING, message, "look it up at Google: its list of places grows"))
    missing = [name for name in config.allowed_types if name not in {offer.instance_type for offer in offered}]
    for name in missing:
        message = f"is allowed, and not sold in {', '.join(config.zones)} as configured"
        found.append(Finding(f"machine type {name}", Grade.WARNING, message, "take it out of gcp.machine_types"))
    return found
