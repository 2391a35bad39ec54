"""Volumes, network interfaces and addresses: found by filters and in pages as EC2 has them, and not deleted in use.

How they come and are attached is moto's own, unless `api` says otherwise.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from moto.core.responses import ActionResult
from moto.ec2.responses import EC2Response

from providers.simcloud.ec2 import describe, tags
from providers.simcloud.ec2.errors import Refused

_ATTACHMENTS: Final = 27  # volumes of an instance, its root included; Nitro shares 28 with interfaces
_VOLUMES_PAGE: Final = 500  # EC2 takes larger wishes, and gives this many


class Belongings(EC2Response):
    """The actions for what instances are attached to."""

    def describe_volumes(self) -> ActionResult:
        params = dict(self.params)
        if int(params.get("MaxResults") or 0) > _VOLUMES_PAGE:
            params["MaxResults"] = _VOLUMES_PAGE
        known = self._asked_for("VolumeIds", self.ec2_backend.volumes, "InvalidVolume.NotFound", "The volume")
        page, token = describe.page(self._passing(known, "DescribeVolumes"), params, least=5, most=_VOLUMES_PAGE)
        return ActionResult({"Volumes": page, "NextToken": token})

    def describe_network_interfaces(self) -> ActionResult:
        known = self._asked_for(
            "NetworkInterfaceIds",
            self.ec2_backend.enis,
            "InvalidNetworkInterfaceID.NotFound",
            "The networkInterface ID",
        )
        found = self._passing(known, "DescribeNetworkInterfaces")
        page, token = describe.page(found, self.params, least=5, most=1000)
        return ActionResult({"NetworkInterfaces": page, "NextToken": token})

    def describe_addresses(self) -> ActionResult:
        allocated = {each.allocation_id: each for each in self.ec2_backend.addresses}
        known = self._asked_for("AllocationIds", allocated, "InvalidAllocationID.NotFound", "The allocation ID")
        asked = self.params.get("PublicIps") or []
        shown = [each for each in known if not asked or each.public_ip in asked]
        return ActionResult({"Addresses": self._passing(shown, "DescribeAddresses")})

    def create_volume(self) -> ActionResult:
        self._check_tags()
        return super().create_volume()

    def create_network_interface(self) -> ActionResult:
        self._check_tags()
        return super().create_network_interface()

    def allocate_address(self) -> ActionResult:
        self._check_tags()
        return super().allocate_address()

    def associate_address(self) -> ActionResult:
        """A machine that starts cannot have one yet; moto takes any, and puts up with associating twice."""
        account, asked = self.ec2_backend, self.params
        interface = account.enis.get(asked.get("NetworkInterfaceId") or "")
        holder = account.get_instance(asked["InstanceId"]) if asked.get("InstanceId") else None
        if asked.get("NetworkInterfaceId") and interface is None:
            raise Refused(
                "InvalidNetworkInterfaceID.NotFound",
                f"The networkInterface ID '{asked['NetworkInterfaceId']}' does not exist",
            )
        holder = holder if interface is None else interface.instance
        if holder is not None and holder.state != "running":
            raise Refused(
                "InvalidInstanceID",
                f"The {holder.state} instance '{holder.id}' is not in a valid state for this operation.",
            )
        for each in account.addresses:
            held = each.allocation_id == asked.get("AllocationId") and each.eni not in (None, interface)
            if held and not asked.get("AllowReassociation"):
                raise Refused("Resource.AlreadyAssociated", f"{each.allocation_id} is already associated")
        result = super().associate_address()
        for each in account.addresses:
            if interface is not None and each.eni is interface:
                each.instance = holder  # moto forgets whose interface it is
        return result

    def attach_volume(self) -> ActionResult:
        account, asked = self.ec2_backend, self.params
        volume = account.volumes.get(asked.get("VolumeId") or "")
        if volume is None:
            raise Refused("InvalidVolume.NotFound", f"The volume '{asked.get('VolumeId')}' does not exist.")
        instance = account.get_instance(asked.get("InstanceId") or "")
        if instance.state not in ("running", "stopped"):
            raise Refused("IncorrectState", f"Instance '{instance.id}' is not 'running'.")
        if volume.attachment is not None:
            raise Refused("VolumeInUse", f"{volume.id} is already attached to an instance")
        if volume.zone.name != instance.availability_zone:
            raise Refused(
                "InvalidVolume.ZoneMismatch",
                f"The volume '{volume.id}' is not in the same availability zone as instance '{instance.id}'",
            )
        if not asked.get("Device"):
            raise Refused("MissingParameter", "The request must contain the parameter device")
        if asked["Device"] in instance.block_device_mapping:
            raise Refused(
                "InvalidParameterValue",
                f"Invalid value '{asked['Device']}' for unixDevice. Attachment point {asked['Device']} is already in use",
            )
        if len(instance.block_device_mapping) >= _ATTACHMENTS:
            raise Refused("AttachmentLimitExceeded", f"{instance.id} has {_ATTACHMENTS} attachments already")
        return super().attach_volume()

    def release_address(self) -> ActionResult:
        """In a default VPC an address may be released while in use; elsewhere it may not."""
        asked = self.params.get("AllocationId")
        for each in self.ec2_backend.addresses:
            used_in = each.eni.vpc_id if each.eni is not None else None
            if asked == each.allocation_id and used_in not in (None, self.ec2_backend.default_vpc.id):
                raise Refused("InvalidIPAddress.InUse", f"The address '{each.public_ip}' is in use.")
        return super().release_address()

    def delete_network_interface(self) -> ActionResult:
        interface = self.ec2_backend.get_network_interface(self.params["NetworkInterfaceId"])
        if interface.instance is not None:
            raise Refused("InvalidParameterValue", f"Network interface '{interface.id}' is currently in use.")
        self.error_on_dryrun()
        for address in self.ec2_backend.addresses:
            if address.eni is interface:
                let_go(self.ec2_backend, address)
        return super().delete_network_interface()

    def _check_tags(self) -> None:
        for specification in self.params.get("TagSpecifications") or []:
            tags.check(specification.get("Tags") or [])

    def _asked_for(self, parameter: str, known: Mapping[str, Any], code: str, what: str) -> list[Any]:
        """Those whose ids the call names, all when it names none. Raises Refused for one that does not exist."""
        ids: Sequence[str] = self.params.get(parameter) or []
        if ids and self.params.get("MaxResults"):
            raise Refused(
                "InvalidParameterCombination", f"The parameter {parameter} cannot be used with the parameter maxResults"
            )
        for each in ids:
            if each not in known:
                raise Refused(code, f"{what} '{each}' does not exist")
        return [known[each] for each in dict.fromkeys(ids)] if ids else list(known.values())

    def _passing(self, items: Sequence[Any], action: str) -> list[Any]:
        filters = self.params.get("Filters") or []
        return [item for item in items if all(_passes(item, each, action) for each in filters)]


def let_go(account: Any, address: Any) -> None:
    """End the association of an address with whatever it is associated with."""
    account.disassociate_address(address=address.public_ip)


def _passes(item: Any, asked: Mapping[str, Any], action: str) -> bool:
    name, patterns = asked["Name"], asked.get("Values") or []
    value: Any
    if name.startswith("tag:"):
        value = [tag["value"] for tag in item.get_tags() if tag["key"] == name.removeprefix("tag:")]
    else:
        value = item.get_filter_value(name, action)  # moto's words for those it does not know are passed on
    values = value if isinstance(value, list | tuple) else [value]
    return any(describe.matches(str(each), patterns) for each in values if each is not None)
