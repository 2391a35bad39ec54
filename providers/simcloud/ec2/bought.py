"""How a launch is paid for and where it is put: spot, placement groups, dedicated hosts, capacity reservations, and
what else of a launch moto keeps no record of. Checks raise Refused; `record` writes down what was granted.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from providers.simcloud.ec2 import prices
from providers.simcloud.ec2.account import INSTANCE_PROFILE, Account
from providers.simcloud.ec2.errors import Refused
from providers.simcloud.ec2.request import Plan

_DEAREST: Final = 1000.0


def check_market(plan: Plan, account: Account) -> None:
    """InstanceMarketOptions."""
    asked = plan.params.get("InstanceMarketOptions") or {}
    if not asked:
        return
    if asked.get("MarketType") != "spot":
        raise Refused("InvalidParameterValue", f"Invalid value '{asked.get('MarketType')}' for MarketType.")
    options = asked.get("SpotOptions") or {}
    kind, end = options.get("SpotInstanceType", "one-time"), options.get("InstanceInterruptionBehavior", "terminate")
    if kind not in ("one-time", "persistent") or end not in ("terminate", "stop", "hibernate"):
        raise Refused("InvalidParameterValue", f"Invalid spot options: {kind}, {end}")
    if kind == "one-time" and end != "terminate":
        raise Refused("InvalidParameterCombination", f"A one-time request cannot {end} its instance")
    if "spot" not in plan.kind.get("SupportedUsageClasses", []):
        raise Refused("InvalidParameterValue", f"{plan.type_name} is not supported as a Spot Instance.")
    if (plan.params.get("Placement") or {}).get("Tenancy") == "host":
        raise Refused("UnsupportedTenancy", "Spot Instances do not support the tenancy host")
    _check_price(plan, account, options.get("MaxPrice"))


def _check_price(plan: Plan, account: Account, offered: str | None) -> None:
    if offered is None:
        return
    if not re.fullmatch(r"\d+(\.\d+)?", offered) or not 0 < float(offered) < _DEAREST:
        raise Refused("InvalidParameterValue", f"'{offered}' is not a price")
    price = prices.spot(plan.type_name, account.region_name, plan.subnets[0].availability_zone)
    if float(offered) < price:
        raise Refused(
            "SpotMaxPriceTooLow",
            f"Your Spot request price of {offered} is lower than the minimum required Spot request fulfillment price of"
            f" {price}.",
        )


def check_placement(plan: Plan, account: Account) -> None:
    """Placement: what it names must be there, and fit the type and the zone."""
    asked = plan.params.get("Placement") or {}
    group, tenancy, host = asked.get("GroupName"), asked.get("Tenancy") or "default", asked.get("HostId")
    if group and group not in account.bought.groups:
        raise Refused("InvalidPlacementGroup.Unknown", f"The Placement Group '{group}' is unknown.")
    if asked.get("GroupId") and asked["GroupId"] not in account.bought.groups.values():
        raise Refused("InvalidPlacementGroup.Unknown", f"The Placement Group '{asked['GroupId']}' is unknown.")
    if tenancy not in ("default", "dedicated", "host"):
        raise Refused("InvalidParameterValue", f"Invalid value '{tenancy}' for tenancy.")
    if asked.get("HostResourceGroupArn"):
        raise Refused("InvalidParameterValue", "simcloud has no host resource groups")
    if host and tenancy != "host":
        raise Refused("InvalidParameterCombination", "HostId needs the tenancy host")
    if tenancy == "host":
        _check_host(plan, account, host)


def _check_host(plan: Plan, account: Account, host_id: str | None) -> None:
    if host_id and host_id not in account.hosts:
        raise Refused("InvalidHostID.NotFound", f"The host ID '{host_id}' does not exist")
    zone = plan.subnets[0].availability_zone
    usable = [account.hosts[host_id]] if host_id else list(account.hosts.values())
    for host in usable:
        family = plan.type_name.partition(".")[0]
        if host.zone == zone and host.state == "available" and plan.type_name == host.instance_type:
            return
        if host.zone == zone and host.state == "available" and family == host.instance_family:
            return
    if host_id:
        raise Refused("UnsupportedHostConfiguration", f"{plan.type_name} in {zone} does not fit the host {host_id}")
    raise Refused("InsufficientHostCapacity", f"There is no dedicated host for {plan.type_name} in {zone}")


def check_reservation(plan: Plan, account: Account) -> None:
    """CapacityReservationSpecification."""
    asked = plan.params.get("CapacityReservationSpecification") or {}
    target = asked.get("CapacityReservationTarget") or {}
    if asked.get("CapacityReservationPreference") and target:
        raise Refused("InvalidParameterCombination", "A preference and a target may not be specified together")
    if target.get("CapacityReservationResourceGroupArn"):
        raise Refused("InvalidParameterValue", "simcloud has no resource groups")
    named = target.get("CapacityReservationId")
    if not named:
        return
    kept = account.bought.reservations.get(named)
    if kept is None:
        raise Refused("InvalidCapacityReservationId.NotFound", f"The reservation '{named}' does not exist")
    if (kept.type_name, kept.zone) != (plan.type_name, plan.subnets[0].availability_zone):
        raise Refused("InvalidParameterValue", f"{named} is for {kept.type_name} in {kept.zone}")
    if kept.left < plan.least:
        raise Refused("ReservationCapacityExceeded", f"{named} has {kept.left} instances left")


def check_profile(plan: Plan, account: Account) -> None:
    """IamInstanceProfile: there is one."""
    profile = plan.params.get("IamInstanceProfile") or {}
    for name, value in profile.items():
        if value and str(value).rpartition("/")[2] != INSTANCE_PROFILE:
            raise Refused(
                "InvalidParameterValue",
                f"Value ({value}) for parameter iamInstanceProfile.{name.lower()} is invalid."
                f" Invalid IAM Instance Profile {name.lower()} (simcloud has {INSTANCE_PROFILE} only)",
            )


def check_volumes(plan: Plan, account: Account) -> None:
    """Types of volumes, and what each can do."""
    for mapping in plan.params.get("BlockDeviceMappings") or []:
        ebs = mapping.get("Ebs") or {}
        kind, iops, throughput = ebs.get("VolumeType") or "gp3", ebs.get("Iops"), ebs.get("Throughput")
        if kind not in ("gp2", "gp3", "io1", "io2", "st1", "sc1", "standard"):
            raise Refused("InvalidParameterValue", f"Invalid value '{kind}' for VolumeType.")
        if iops is not None and kind not in ("gp3", "io1", "io2"):
            raise Refused("InvalidParameterCombination", f"The parameter iops is not supported for {kind} volumes.")
        if iops is None and kind in ("io1", "io2"):
            raise Refused("MissingParameter", f"The parameter iops must be specified for {kind} volumes.")
        if throughput is not None and kind != "gp3":
            raise Refused("InvalidParameterCombination", f"The parameter throughput is not supported for {kind}.")
        if kind == "gp3" and int(throughput or 125) > 0.25 * int(iops or 3000):
            raise Refused(
                "InvalidParameterValue", "Throughput (MiBps) to iops ratio is too high; maximum is 0.25 MiBps per iops"
            )
        if ebs.get("KmsKeyId") and ebs.get("Encrypted") is False:
            raise Refused(
                "InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set."
            )


def record(plan: Plan, account: Account, instance: Any) -> None:
    """What was granted, where the API shows it."""
    asked: Mapping[str, Any] = plan.params.get("Placement") or {}
    names = {id: name for name, id in account.bought.groups.items()}
    instance.placement.group_name = asked.get("GroupName") or names.get(asked.get("GroupId", ""), "")
    instance.placement.tenancy = asked.get("Tenancy") or "default"
    instance.placement.host_id = asked.get("HostId")
    target = (plan.params.get("CapacityReservationSpecification") or {}).get("CapacityReservationTarget") or {}
    if named := target.get("CapacityReservationId"):
        account.bought.reservations[named].left -= 1
        instance.capacity_reservation_id = named
    if profile := plan.params.get("IamInstanceProfile"):
        arn = profile.get("Arn") or f"arn:aws:iam::{account.account_id}:instance-profile/{profile['Name']}"
        instance.iam_instance_profile = {"Arn": arn, "Id": "AIPASIMCLOUD"}
    for mapping in plan.params.get("BlockDeviceMappings") or []:
        device = instance.block_device_mapping.get(mapping["DeviceName"])
        if device is not None:
            volume = account.volumes[device.volume_id]
            ebs = mapping.get("Ebs") or {}
            volume.iops, volume.throughput = ebs.get("Iops", volume.iops), ebs.get("Throughput", volume.throughput)
