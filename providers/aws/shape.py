"""The shape of a launch: network, volumes, place and way to pay, as parts of RunInstances (pure).

A launch template is the base only. EC2 takes a call's parameters over the template's, but refuses some combinations
of the two, and a template may ask for what would leak or be paid for in another way: what `template` does not raise
for, a launch can keep its promises with.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from providers.aws.config import AwsConfig
from providers.base import LaunchSpec, Purchase
from providers.errors import InvalidSpec

Request = dict[str, Any]
Shape = Mapping[str, Any]

ELASTIC_ON_SECOND: Final = 1  # the interface that an elastic address goes to where there are two


@dataclass(frozen=True, slots=True)
class Image:
    """What of an AMI shapes a launch."""

    root_device: str
    volumes: tuple[tuple[str, int], ...]  # device and GiB of every EBS volume it brings, the root's included
    architecture: str = ""


@dataclass(frozen=True, slots=True)
class Template:
    """What of a launch template shapes a launch."""

    reference: tuple[tuple[str, str], ...]  # RunInstances' LaunchTemplate
    interface: bool = False  # it describes the primary interface itself
    groups: tuple[str, ...] = ()
    devices: tuple[tuple[str, int | None], ...] = ()  # device and GiB of its volumes; None: as the snapshot or image
    snp: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where instances are put: the settings, completed by what the worker knows about itself."""

    subnet_id: str
    security_group_ids: tuple[str, ...]
    second_subnet_id: str = ""  # of the second interface; empty: the first one's
    template: Template | None = None


def image(shape: Shape) -> Image:
    """One of DescribeImages' images."""
    sizes = {
        mapping["DeviceName"]: mapping["Ebs"]["VolumeSize"]
        for mapping in shape.get("BlockDeviceMappings", [])
        if "VolumeSize" in mapping.get("Ebs", {})
    }
    return Image(shape.get("RootDeviceName", ""), tuple(sorted(sizes.items())), shape.get("Architecture", ""))


def template_request(config: AwsConfig) -> Request:
    """DescribeLaunchTemplateVersions for the configured one."""
    return {**_named(config), "Versions": [config.launch_template_version]}


def template(answer: Shape, config: AwsConfig) -> Iterator[Template]:
    """The template of a DescribeLaunchTemplateVersions answer. Raises InvalidSpec for one that no pod can have."""
    for version in answer["LaunchTemplateVersions"]:
        data = version["LaunchTemplateData"]
        interfaces = data.get("NetworkInterfaces", [])
        if problem := _template_problem(data, interfaces, config):
            raise InvalidSpec(f"the launch template {config.launch_template} {problem}")
        primary = interfaces[0] if interfaces else {}
        yield Template(
            reference=tuple({**_named(config), "Version": config.launch_template_version}.items()),
            interface=bool(interfaces),
            groups=tuple(data.get("SecurityGroupIds", []) or primary.get("Groups", [])),
            devices=tuple(
                (each["DeviceName"], each["Ebs"].get("VolumeSize"))
                for each in data.get("BlockDeviceMappings", [])
                if "Ebs" in each and "NoDevice" not in each
            ),
            snp=data.get("CpuOptions", {}).get("AmdSevSnp") == "enabled",
        )


def _template_problem(data: Shape, interfaces: Sequence[Shape], config: AwsConfig) -> str:
    if data.get("InstanceMarketOptions"):
        return "asks for spot capacity itself: take that out, and set aws.spot = true (pods choose how they are paid)"
    if len(interfaces) > 1:
        return "has several network interfaces: leave one, and set aws.secondary_interface = true"
    if any(each.get("NetworkInterfaceId") for each in interfaces):
        return "names one existing network interface, which one machine only can have: take it out"
    if data.get("SecurityGroups"):
        return "names security groups by name, which EC2 takes in no subnet of ours: name them by id"
    if data.get("SecurityGroupIds") and _describes_interfaces(config):
        return (
            "names security groups outside an interface, which EC2 refuses where a public address or a second"
            " interface is asked for: set aws.security_group_ids instead"
        )
    return ""


def _named(config: AwsConfig) -> dict[str, str]:
    by_id = config.launch_template.startswith("lt-")
    return {"LaunchTemplateId" if by_id else "LaunchTemplateName": config.launch_template}


def _describes_interfaces(config: AwsConfig) -> bool:
    return config.public_ip == "auto" or config.secondary_interface


def parts(spec: LaunchSpec, config: AwsConfig, image: Image, place: Place) -> Request:
    """All of RunInstances that settings, image and template shape."""
    made: Request = {**_network(config, place), "BlockDeviceMappings": _volumes(spec, config, image, place.template)}
    if place.template is not None:
        made["LaunchTemplate"] = dict(place.template.reference)
    if placement := _placement(config):
        made["Placement"] = placement
    if config.instance_profile:
        kind = "Arn" if config.instance_profile.startswith("arn:") else "Name"
        made["IamInstanceProfile"] = {kind: config.instance_profile}
    return {**made, **_paid(spec, config)}


def _network(config: AwsConfig, place: Place) -> Request:
    """Interfaces are described in the call, so that they are made and deleted with the instance: none can be left."""
    groups = list(place.security_group_ids)
    if not _describes_interfaces(config) and not (place.template and place.template.interface):
        return {"SubnetId": place.subnet_id, "SecurityGroupIds": groups}
    first: Request = {"DeviceIndex": 0, "SubnetId": place.subnet_id, "Groups": groups, "DeleteOnTermination": True}
    if config.public_ip == "auto":
        first["AssociatePublicIpAddress"] = True
    if not config.secondary_interface:
        return {"NetworkInterfaces": [first]}
    second = {
        "DeviceIndex": 1,
        "SubnetId": place.second_subnet_id or place.subnet_id,
        "Groups": list(config.secondary_security_group_ids) or groups,
        "DeleteOnTermination": True,
    }
    return {"NetworkInterfaces": [first, second]}


def _volumes(spec: LaunchSpec, config: AwsConfig, image: Image, template: Template | None) -> list[Request]:
    """Every volume of image and template goes with its instance, whatever those say: kept ones would leak."""
    sizes: dict[str, int | None] = dict(image.volumes)
    for device, gib in template.devices if template else ():
        sizes[device] = max(gib or 0, sizes.get(device) or 0) or None
    made = []
    for device, gib in sizes.items():
        ebs: Request = {"DeleteOnTermination": True}
        if device == image.root_device:
            ebs |= _root(config)
            asked = spec.root_volume_gib or config.root_volume_gib or 0
            gib = max(gib or 0, asked) + spec.scratch_gib  # noqa: PLW2901
        if gib:
            ebs["VolumeSize"] = gib
        made.append({"DeviceName": device, "Ebs": ebs})
    return made


def _root(config: AwsConfig) -> Request:
    asked = {
        "VolumeType": config.volume_type,
        "Iops": config.volume_iops,
        "Throughput": config.volume_throughput,
        "Encrypted": True if config.kms_key_id else config.volume_encrypted,
        "KmsKeyId": config.kms_key_id,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _placement(config: AwsConfig) -> Request:
    made: Request = {}
    if config.placement_group:
        by_id = config.placement_group.startswith("pg-")
        made["GroupId" if by_id else "GroupName"] = config.placement_group
    if config.host_resource_group_arn:  # EC2 takes the tenancy from it, and no tenancy with it
        made["HostResourceGroupArn"] = config.host_resource_group_arn
    elif config.tenancy != "default":
        made["Tenancy"] = config.tenancy
        if config.host_id:
            made["HostId"] = config.host_id
    return made


def _paid(spec: LaunchSpec, config: AwsConfig) -> Request:
    if spec.purchase is Purchase.SPOT:
        # A request that lives longer than its instance would launch another one, which nobody asked for.
        options: Request = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        if config.spot_max_price is not None:
            options["MaxPrice"] = f"{config.spot_max_price:.6f}"
        return {"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": options}}
    match config.capacity_reservation:
        case None:
            return {}
        case "open" | "none" as preference:
            return {"CapacityReservationSpecification": {"CapacityReservationPreference": preference}}
        case named:
            key = "CapacityReservationResourceGroupArn" if named.startswith("arn:") else "CapacityReservationId"
            return {"CapacityReservationSpecification": {"CapacityReservationTarget": {key: named}}}
