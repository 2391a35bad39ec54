"""Every reason why EC2 refuses a RunInstances call as it stands, in EC2's own codes and, where known, its words.

Each check takes the plan and raises Refused. What depends on the moment (capacity, quota) is in launch.py.
"""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any, Final

from providers.simcloud.ec2 import bought, catalog, tags
from providers.simcloud.ec2.account import Account
from providers.simcloud.ec2.errors import Refused
from providers.simcloud.ec2.request import Plan

USER_DATA_LIMIT: Final = 16 * 1024  # bytes, before base64
TOKEN_LIMIT: Final = 64  # ASCII characters
GROUPS_LIMIT: Final = 5  # per network interface
VOLUME_LIMIT: Final = 16384  # GiB: gp3
# SNP guests start from UEFI firmware; an image that says nothing boots as its type prefers, which is not UEFI.
_SNP_BOOT_MODES: Final = ("uefi", "uefi-preferred")

Check = Callable[[Plan, Account], None]


def refuse_if_wrong(plan: Plan, account: Account) -> None:
    """All checks, in a fixed order: a call that is wrong twice is refused for the same reason each time."""
    for check in CHECKS:
        check(plan, account)


def _counts(plan: Plan, account: Account) -> None:
    for name, value in (("MinCount", plan.least), ("MaxCount", plan.most)):
        if value < 1:
            raise Refused("InvalidParameterValue", f"Invalid value '{value}' for {name}. Must be at least 1.")
    if plan.least > plan.most:
        raise Refused("InvalidParameterCombination", "MaxCount must be greater than or equal to MinCount")


def _token(plan: Plan, account: Account) -> None:
    token = plan.params.get("ClientToken") or ""
    if len(token) > TOKEN_LIMIT or not token.isascii():
        raise Refused("InvalidParameterValue", f"Value ({token}) for parameter clientToken is invalid. Invalid token.")


def _user_data(plan: Plan, account: Account) -> None:
    encoded = plan.params.get("UserData") or ""
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from None
    if len(raw) > USER_DATA_LIMIT:
        raise Refused("InvalidParameterValue", f"User data is limited to {USER_DATA_LIMIT} bytes")


def _key_pair(plan: Plan, account: Account) -> None:
    name = plan.params.get("KeyName")
    if name and name not in account.key_pairs:
        raise Refused("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist")


def _architecture(plan: Plan, account: Account) -> None:
    supported = plan.kind["ProcessorInfo"]["SupportedArchitectures"]
    if plan.image.architecture not in supported:
        raise Refused(
            "InvalidParameterValue",
            f"The architecture '{','.join(supported)}' of the specified instance type does not match the architecture"
            f" '{plan.image.architecture}' of the specified AMI. Specify an instance type and an AMI that have"
            " matching architectures, and try again. You can use 'describe-instance-types' or 'describe-images' to"
            " discover the architecture of the instance type or AMI.",
        )


def _sold_here(plan: Plan, account: Account) -> None:
    zone = plan.subnets[0].availability_zone
    sold_in = sorted(catalog.zones_of(account.region_name)[plan.type_name])
    if zone not in sold_in:
        raise Refused(
            "Unsupported",
            f"Your requested instance type ({plan.type_name}) is not supported in your requested Availability Zone"
            f" ({zone}). Please retry your request by not specifying an Availability Zone or choosing"
            f" {', '.join(sold_in)}.",
        )


def _placement(plan: Plan, account: Account) -> None:
    zone = (plan.params.get("Placement") or {}).get("AvailabilityZone")
    if zone and zone != plan.subnets[0].availability_zone:
        raise Refused(
            "InvalidParameterCombination",
            f"The subnet '{plan.subnets[0].id}' is not in the Availability Zone '{zone}' that was asked for",
        )


def _cpu_options(plan: Plan, account: Account) -> None:
    cpu = plan.params.get("CpuOptions") or {}
    cores, threads, snp = cpu.get("CoreCount"), cpu.get("ThreadsPerCore"), cpu.get("AmdSevSnp")
    known = plan.kind["VCpuInfo"]
    if (cores is None) != (threads is None):
        raise Refused(
            "InvalidParameterCombination",
            "You must specify values for both CPU cores and threads per core in the request",
        )
    if cores is not None and cores not in known.get("ValidCores", [known["DefaultCores"]]):
        raise Refused("InvalidParameterValue", f"CPU core count {cores} is not valid for {plan.type_name}")
    if threads is not None and threads not in known.get("ValidThreadsPerCore", [known.get("DefaultThreadsPerCore", 1)]):
        raise Refused("InvalidParameterValue", f"CPU threads per core {threads} is not valid for {plan.type_name}")
    if snp not in (None, "enabled", "disabled"):
        raise Refused("InvalidParameterValue", f"Invalid value '{snp}' for CpuOptions.AmdSevSnp.")
    if snp == "enabled" and catalog.SNP not in catalog.features(plan.kind):
        raise Refused(
            "InvalidParameterCombination",
            f"The instance type {plan.type_name} does not support AMD SEV-SNP. Choose one whose"
            " ProcessorInfo.SupportedFeatures lists amd-sev-snp",
        )
    if snp == "enabled" and plan.image.boot_mode not in _SNP_BOOT_MODES:
        raise Refused(
            "InvalidParameterCombination",
            f"AMD SEV-SNP needs an AMI with the boot mode uefi or uefi-preferred; {plan.image.id} has"
            f" {plan.image.boot_mode or 'none'}",
        )


def _interfaces(plan: Plan, account: Account) -> None:
    asked = plan.params.get("NetworkInterfaces") or []
    if not asked:
        if plan.params.get("SecurityGroups") and plan.params.get("SubnetId"):
            raise Refused(
                "InvalidParameterCombination", "The parameter groupName cannot be used with the parameter subnet"
            )
        return
    for name, what in (("SubnetId", "subnet ID"), ("SecurityGroupIds", "security groups")):
        if plan.params.get(name):
            raise Refused(
                "InvalidParameterCombination",
                f"Network interfaces and an instance-level {what} may not be specified on the same request",
            )
    if any("DeviceIndex" not in nic for nic in asked):
        raise Refused("MissingParameter", "Each network interface requires a device index.")
    indexes = [int(nic["DeviceIndex"]) for nic in asked]
    if len(set(indexes)) != len(indexes) or 0 not in indexes:
        raise Refused("InvalidParameterValue", f"Device indexes must differ, and one must be 0: {indexes}")
    if len(asked) > 1 and any(nic.get("AssociatePublicIpAddress") is not None for nic in asked):
        raise Refused(
            "InvalidParameterCombination",
            "The associatePublicIPAddress parameter cannot be specified when launching with multiple network interfaces.",
        )
    zones = {account.subnet_of(nic["SubnetId"]).availability_zone for nic in asked if nic.get("SubnetId")}
    if len(zones) > 1:
        raise Refused(
            "InvalidParameterCombination",
            f"The network interfaces of an instance must be in one Availability Zone, not in {', '.join(sorted(zones))}",
        )
    if len(asked) > (most := plan.kind["NetworkInfo"]["MaximumNetworkInterfaces"]):
        raise Refused("AttachmentLimitExceeded", f"{plan.type_name} takes {most} network interfaces at most")


def _groups(plan: Plan, account: Account) -> None:
    if len(plan.groups) > GROUPS_LIMIT:
        raise Refused(
            "SecurityGroupsPerInterfaceLimitExceeded", f"A network interface takes {GROUPS_LIMIT} security groups"
        )
    subnet = plan.subnets[0]
    for group in plan.groups:
        if group.vpc_id != subnet.vpc_id:
            raise Refused(
                "InvalidParameter", f"Security group {group.id} and subnet {subnet.id} belong to different networks."
            )


def _metadata_options(plan: Plan, account: Account) -> None:
    check_metadata_options(plan.params.get("MetadataOptions") or {})


def check_metadata_options(options: dict[str, Any]) -> None:
    """The values of MetadataOptions, at launch and later. Raises Refused."""
    allowed = {
        "HttpTokens": ("optional", "required"),
        "HttpEndpoint": ("enabled", "disabled"),
        "InstanceMetadataTags": ("enabled", "disabled"),
    }
    for name, values in allowed.items():
        if (value := options.get(name)) not in (None, *values):
            raise Refused("InvalidParameterValue", f"Invalid value '{value}' for MetadataOptions.{name}.")
    hops = options.get("HttpPutResponseHopLimit")
    if hops is not None and not 1 <= int(hops) <= 64:
        raise Refused(
            "InvalidParameterValue",
            f"Value ({hops}) for parameter HttpPutResponseHopLimit is invalid. Value must be between 1 and 64.",
        )


def _volumes(plan: Plan, account: Account) -> None:
    base = {each["DeviceName"]: each["Ebs"] for each in plan.image.block_device_mappings}
    for mapping in plan.params.get("BlockDeviceMappings") or []:
        device, ebs = mapping.get("DeviceName", ""), mapping.get("Ebs") or {}
        if not device:
            raise Refused("MissingParameter", "The request must contain the parameter deviceName")
        if mapping.get("NoDevice") is not None or mapping.get("VirtualName"):
            continue
        size, least = ebs.get("VolumeSize"), base.get(device, {}).get("VolumeSize")
        if size is None and least is None and not ebs.get("SnapshotId"):
            raise Refused("MissingParameter", "The request must contain the parameter size or snapshotId")
        if size is not None and least is not None and int(size) < int(least):
            raise Refused(
                "InvalidBlockDeviceMapping",
                f"Volume of size {size}GB is smaller than snapshot '{base[device]['SnapshotId']}',"
                f" expect size >= {least}GB",
            )
        if size is not None and not 1 <= int(size) <= VOLUME_LIMIT:
            raise Refused("InvalidParameterValue", f"Volume of {size}GiB is invalid; must be 1GiB-{VOLUME_LIMIT}GiB")


def _shutdown_behaviour(plan: Plan, account: Account) -> None:
    value = plan.params.get("InstanceInitiatedShutdownBehavior")
    if value not in (None, "", "stop", "terminate"):
        raise Refused(
            "InvalidParameterValue",
            f"Value ({value}) for parameter instanceInitiatedShutdownBehavior is invalid. Valid: stop, terminate",
        )


def _tags(plan: Plan, account: Account) -> None:
    tags.check_specifications(plan.params.get("TagSpecifications") or [])


def _private_address(plan: Plan, account: Account) -> None:
    address = plan.interfaces[0].get("PrivateIpAddress")
    if not address:
        return
    subnet = plan.subnets[0]
    if plan.most > 1 or not re.fullmatch(r"[\d.]+", address):
        raise Refused("InvalidParameterValue", f"Value ({address}) for parameter privateIpAddress is invalid.")
    if not any(address == str(host) for host in subnet.cidr.hosts()):
        raise Refused("InvalidParameterValue", f"Address {address} does not fall within the subnet's address range")
    if address in subnet._subnet_ips:  # noqa: SLF001 - moto's own record of what is taken
        raise Refused("InvalidIPAddress.InUse", f"Address {address} is in use.")


CHECKS: Final[tuple[Check, ...]] = (
    _counts, _token, _interfaces, _user_data, _key_pair, bought.check_profile, _architecture, _cpu_options,
    _metadata_options, _shutdown_behaviour, _volumes, bought.check_volumes, _tags, _placement, bought.check_placement,
    _sold_here, bought.check_market, bought.check_reservation, _groups, _private_address,
)  # fmt: skip
