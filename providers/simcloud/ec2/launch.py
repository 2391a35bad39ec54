"""RunInstances: at most once per token, as many as there is room for, none half-made."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from typing import Any, Final

from moto.ec2.utils import parse_user_data

from providers.simcloud.ec2 import bought, catalog, checks, metadata, tags
from providers.simcloud.ec2.account import KMS_KEY, Account, Note
from providers.simcloud.ec2.errors import Refused
from providers.simcloud.ec2.request import Plan, fingerprint, resolve, with_template
from providers.simcloud.faults import Faults
from providers.simcloud.fleet import OFF, Fleet, State
from providers.simcloud.machines.base import Machine
from providers.simcloud.options import Options

_RESERVED: Final = 5  # of each subnet's addresses, Amazon keeps the first four and the last


@dataclass(slots=True)
class _Token:
    """A ClientToken that has been used. Kept for good; EC2 keeps one for a day and more.

    A launch that was sound but found no room uses its token too: with it, only the same launch can be tried again.
    """

    fingerprint: str
    reservation: Any = None


class Launcher:
    """All launches of one account. `now` is monotonic seconds."""

    def __init__(
        self, account: Account, fleet: Fleet, faults: Faults, options: Options, network: str, now: Callable[[], float]
    ) -> None:
        self._account = account
        self._fleet = fleet
        self._faults = faults
        self._options = options
        self._network = IPv4Network(network)
        self._now = now
        self._random = random.Random(options.seed)  # noqa: S311 - spreads delays
        self._tokens: dict[str, _Token] = {}

    def run(self, params: Mapping[str, Any]) -> Any:
        """The reservation; the same again for a token that was used. Raises Refused, having done nothing."""
        token = self._tokens.get(params.get("ClientToken") or "", _Token(fingerprint(params)))
        if token.fingerprint != fingerprint(params):
            raise Refused(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
            )
        if token.reservation is not None:
            return self._again(token)
        plan = resolve(with_template(params, self._account), self._account)
        checks.refuse_if_wrong(plan, self._account)
        if params.get("DryRun"):
            raise Refused("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
        if params.get("ClientToken"):
            self._tokens[params["ClientToken"]] = token
        subnet, count = self._room(plan)
        token.reservation = self._create(plan, subnet, count)
        for instance in token.reservation.instances:
            self._be_born(plan, token.reservation, instance)
        return token.reservation

    def _again(self, known: _Token) -> Any:
        dead = all(self._fleet.lives[each.id].state is State.TERMINATED for each in known.reservation.instances)
        if dead and self._options.token_after_termination == "error":  # noqa: S105 - no password
            raise Refused(
                "IdempotentInstanceTerminated",
                "The client token you have provided is associated with a terminated resource. Please use a different"
                " client token.",
            )
        return known.reservation

    def _room(self, plan: Plan) -> tuple[Any, int]:
        """Where, and how many. Raises Refused when there is no room for the least that was asked for."""
        most = self._quota(plan)
        for subnet in plan.subnets:
            if not subnet.cidr.subnet_of(self._network) and self._options.instances == "namespace":
                raise Refused("Unsupported", f"simcloud boots instances in its default VPC only ({self._network})")
            count = self._faults.room(plan.type_name, subnet.availability_zone, most)
            if count >= plan.least:
                return subnet, self._addresses(plan, subnet, count)
        zone = plan.subnets[0].availability_zone
        others = [
            other
            for other in sorted(catalog.zones_of(self._account.region_name)[plan.type_name])
            if other != zone and self._faults.room(plan.type_name, other, plan.least)
        ]
        elsewhere = f" or choosing {', '.join(others)}" if others else ""
        raise Refused(
            "InsufficientInstanceCapacity",
            f"We currently do not have sufficient {plan.type_name} capacity in the Availability Zone you requested"
            f" ({zone}). Our system will be working on provisioning additional capacity. You can currently get"
            f" {plan.type_name} capacity by not specifying an Availability Zone in your request{elsewhere}.",
        )

    def _quota(self, plan: Plan) -> int:
        """How many of those asked for the account may have. Raises Refused for less than the least."""
        limit = self._faults.vcpus
        if limit is None:
            return plan.most
        up = (note.instance.instance_type for id, note in self._account.notes.items() if self._is_up(id))
        fit = (limit - sum(map(catalog.vcpus, up))) // catalog.vcpus(plan.type_name)
        if fit < plan.least:
            raise Refused(
                "VcpuLimitExceeded",
                f"You have requested more vCPU capacity than your current vCPU limit of {limit} allows for the instance"
                " bucket that the specified instance type belongs to. Please visit"
                " http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.",
            )
        return int(min(plan.most, fit))

    def _is_up(self, instance_id: str) -> bool:
        return self._fleet.lives[instance_id].state not in OFF

    def _addresses(self, plan: Plan, subnet: Any, count: int) -> int:
        left = subnet.cidr.num_addresses - _RESERVED - len(subnet._subnet_ips)  # noqa: SLF001 - moto's own record
        if left < plan.least:
            raise Refused(
                "InsufficientFreeAddressesInSubnet",
                f"There are not enough free addresses in subnet '{subnet.id}' to satisfy the requested number of"
                " instances.",
            )
        return int(min(count, left))

    def _create(self, plan: Plan, subnet: Any, count: int) -> Any:
        params = plan.params
        given = tags.check_specifications(params.get("TagSpecifications") or [])
        market = (params.get("InstanceMarketOptions") or {}).get("MarketType")
        reservation = self._account.run_instances(
            image_id=plan.image.id,
            count=count,
            user_data=parse_user_data(params.get("UserData")),
            security_group_names=[],
            instance_type=plan.type_name,
            is_instance_type_default=False,
            region_name=self._account.region_name,
            placement=None,
            subnet_id=subnet.id,
            key_name=params.get("KeyName"),
            security_group_ids=[group.id for group in plan.groups],
            nics=_interfaces(plan, subnet),
            tags={kind: given[kind] for kind in ("instance", "volume") if kind in given},
            ebs_optimized=params.get("EbsOptimized") or False,
            disable_api_termination=params.get("DisableApiTermination") or False,
            disable_api_stop=params.get("DisableApiStop") or False,
            instance_market_options=market,
            instance_initiated_shutdown_behavior=params.get("InstanceInitiatedShutdownBehavior"),
            metadata_options=params.get("MetadataOptions") or {},
            monitoring_state="enabled" if (params.get("Monitoring") or {}).get("Enabled") else "disabled",
            client_token=params.get("ClientToken") or "",
            block_device_mappings=_volumes(plan),
        )
        for instance in reservation.instances:
            bought.record(plan, self._account, instance)
            setattr(instance, "cpu_options", _cpu_options(plan))  # noqa: B010 - moto's class does not know it
            for interface in instance.nics.values():
                interface.add_tags(given.get("network-interface", {}))
        return reservation

    def _be_born(self, plan: Plan, reservation: Any, instance: Any) -> None:
        subnet = self._account.subnet_of(instance.subnet_id)
        visible_from = self._now() + self._options.visible_after.draw(self._random)
        second = instance.nics.get(1)
        note = self._account.notes[instance.id] = Note(reservation, instance, visible_from)
        self._fleet.launch(
            Machine(
                id=instance.id,
                hostname=instance.private_dns_name.partition(".")[0],
                address=IPv4Interface(f"{instance.private_ip}/{subnet.cidr.prefixlen}"),
                mac=instance.nics[0].mac_address,
                metadata=metadata.Metadata(self._account, note).answer,
                stops_itself=instance.instance_initiated_shutdown_behavior == "stop",
                second=second and (_address(second), second.mac_address),
                pools=self._faults.occupy(plan.type_name, subnet.availability_zone),
            )
        )
        keys = {(each.get("Ebs") or {}).get("KmsKeyId") for each in plan.params.get("BlockDeviceMappings") or []}
        if keys - {None, KMS_KEY}:  # RunInstances does not look at keys: the instance ends while it starts
            said = "Client.InvalidKMSKey.InvalidState: The KMS key provided is in an incorrect state"
            self._fleet.kill(instance.id, said)


def _address(interface: Any) -> IPv4Interface:
    return IPv4Interface(f"{interface.private_ip_address}/{interface.subnet.cidr.prefixlen}")


def _interfaces(plan: Plan, subnet: Any) -> list[dict[str, Any]]:
    """As moto wants them, with EC2's defaults: what is made for an instance goes with it."""
    made = []
    for asked in plan.interfaces:
        public = asked.get("AssociatePublicIpAddress")
        interface = {
            "DeviceIndex": int(asked["DeviceIndex"]),
            "SubnetId": asked.get("SubnetId") or subnet.id,
            "Groups": asked.get("Groups"),
            "PrivateIpAddress": asked.get("PrivateIpAddress"),
            "NetworkInterfaceId": asked.get("NetworkInterfaceId"),
            "Description": asked.get("Description", ""),
            "AssociatePublicIpAddress": subnet.map_public_ip_on_launch if public is None else public,
            "DeleteOnTermination": asked.get("DeleteOnTermination", not asked.get("NetworkInterfaceId")),
        }
        made.append({key: value for key, value in interface.items() if value is not None})
    return made


def _volumes(plan: Plan) -> list[dict[str, Any]]:
    """The image's volumes, each overridden by the call's for the same device, then the call's own."""
    merged: dict[str, dict[str, Any]] = {each["DeviceName"]: dict(each["Ebs"]) for each in _of_image(plan.image)}
    for mapping in plan.params.get("BlockDeviceMappings") or []:
        device = mapping["DeviceName"]
        if mapping.get("NoDevice") is not None:
            merged.pop(device, None)
        elif not mapping.get("VirtualName"):  # instance store: nothing that the API keeps
            merged[device] = {**merged.get(device, {"DeleteOnTermination": True}), **(mapping.get("Ebs") or {})}
    return [{"DeviceName": device, "Ebs": ebs} for device, ebs in merged.items()]


def _of_image(image: Any) -> list[dict[str, Any]]:
    # moto's own images say False for their root, as no image in the real catalogue does.
    return [
        {**each, "Ebs": {**each["Ebs"], "DeleteOnTermination": True}}
        if each["DeviceName"] == image.root_device_name
        else each
        for each in image.block_device_mappings
    ]


def _cpu_options(plan: Plan) -> dict[str, Any]:
    asked, known = plan.params.get("CpuOptions") or {}, plan.kind["VCpuInfo"]
    cpu = {
        "CoreCount": asked.get("CoreCount") or known["DefaultCores"],
        "ThreadsPerCore": asked.get("ThreadsPerCore") or known.get("DefaultThreadsPerCore", 1),
    }
    if snp := asked.get("AmdSevSnp"):
        cpu["AmdSevSnp"] = snp
    return cpu
