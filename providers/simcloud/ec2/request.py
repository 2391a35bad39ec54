"""What a RunInstances call asks for, with launch template and defaults filled in. Nothing is refused for its
value here, only for what can not be found.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from providers.simcloud.ec2 import catalog
from providers.simcloud.ec2.account import Account
from providers.simcloud.ec2.errors import Refused

Params = Mapping[str, Any]

# Say nothing about the instance: a call that differs in these only is the same call.
_NOT_COMPARED: Final = frozenset({"ClientToken", "DryRun"})
_ID: Final = re.compile(r"[a-z]+-([0-9a-f]{8}|[0-9a-f]{17})")


@dataclass(frozen=True, slots=True)
class Plan:
    """One RunInstances call, resolved: what it names, found."""

    params: Params
    image: Any
    kind: Mapping[str, Any]  # the instance type, as DescribeInstanceTypes shows it
    subnets: Sequence[Any]  # where it may go, best first; one when the call says so
    groups: Sequence[Any]

    @property
    def type_name(self) -> str:
        return str(self.kind["InstanceType"])

    @property
    def least(self) -> int:
        return int(self.params["MinCount"])

    @property
    def most(self) -> int:
        return int(self.params["MaxCount"])

    @property
    def interfaces(self) -> Sequence[Params]:
        """The network interfaces asked for; the primary one first, even when none was asked for."""
        asked = sorted(self.params.get("NetworkInterfaces") or [], key=lambda nic: int(nic.get("DeviceIndex", 0)))
        return asked or [{"DeviceIndex": 0, "PrivateIpAddress": self.params.get("PrivateIpAddress")}]


def fingerprint(params: Params) -> str:
    """Equal for equal calls. A digest: user data holds a secret, and this is kept."""
    compared = {key: value for key, value in params.items() if key not in _NOT_COMPARED}
    return hashlib.sha256(json.dumps(compared, sort_keys=True, default=str).encode()).hexdigest()


def with_template(params: Params, account: Account) -> dict[str, Any]:
    """The parameters over those of the launch template they name."""
    named = params.get("LaunchTemplate")
    if not named:
        return dict(params)
    template = dict(account._get_template_from_args(named).data)  # noqa: SLF001 - moto's only way to read a version
    if template.get("UserData"):  # which moto has wrapped
        template["UserData"] = template["UserData"].as_bytes().decode()
    return {**template, **{key: value for key, value in params.items() if value not in (None, [], {})}}


def resolve(params: Params, account: Account) -> Plan:
    """Find what the call names. Raises Refused for what is missing, malformed or unknown."""
    for required in ("ImageId", "MinCount", "MaxCount"):
        if params.get(required) in (None, ""):
            raise Refused("MissingParameter", f"The request must contain the parameter {required}")
    image = account.image(well_formed(params["ImageId"], "ami", "InvalidAMIID.Malformed"))
    kind = catalog.shape(params.get("InstanceType") or "m1.small", account.region_name)
    subnets = _subnets(params, kind, account)
    return Plan(params, image, kind, subnets, _groups(params, subnets[0], account))


def well_formed(value: str, prefix: str, code: str) -> str:
    """An id that looks like one. Raises Refused with `code`."""
    if not (value.startswith(f"{prefix}-") and _ID.fullmatch(value)):
        raise Refused(code, f'Invalid id: "{value}" (expecting "{prefix}-...")')
    return value


def _subnets(params: Params, kind: Mapping[str, Any], account: Account) -> list[Any]:
    primary: Params = next(iter(params.get("NetworkInterfaces") or []), {})
    wanted = params.get("SubnetId") or primary.get("SubnetId")
    if wanted:
        return [account.subnet_of(well_formed(wanted, "subnet", "InvalidSubnetID.Malformed"))]
    if primary.get("NetworkInterfaceId"):
        return [account.get_network_interface(primary["NetworkInterfaceId"]).subnet]
    zone = (params.get("Placement") or {}).get("AvailabilityZone")
    defaults = account.get_default_subnets()
    if zone:
        if zone not in {each.name for each in account.describe_availability_zones()}:
            raise Refused("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
        if zone not in defaults:
            raise Refused("MissingInput", f"No default subnet for availability zone: '{zone}'.")
        return [defaults[zone]]
    sold_in = catalog.zones_of(account.region_name)[kind["InstanceType"]]
    return [subnet for zone, subnet in sorted(defaults.items()) if zone in sold_in] or list(defaults.values())


def _groups(params: Params, subnet: Any, account: Account) -> list[Any]:
    primary: Params = next(iter(params.get("NetworkInterfaces") or []), {})
    ids = params.get("SecurityGroupIds") or primary.get("Groups") or []
    groups = [account.group(well_formed(group, "sg", "InvalidGroupId.Malformed")) for group in ids]
    for name in params.get("SecurityGroups") or []:
        named = account.get_security_group_from_name(name, subnet.vpc_id)
        if named is None:
            raise Refused("InvalidGroup.NotFound", f"The security group '{name}' does not exist in default VPC")
        groups.append(named)
    return groups or [account.get_default_security_group(subnet.vpc_id)]
