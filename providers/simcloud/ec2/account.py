"""moto's EC2 backend as one account in one region, with a default VPC, an image and a group of fixed ids."""

from dataclasses import dataclass, field
from typing import Any, Final, cast

from moto.core.parse import default_timestamp_parser as parse_timestamp
from moto.ec2.models import EC2Backend
from moto.ec2.models.amis import AMIS, Ami
from moto.ec2.models.security_groups import SecurityGroup

from providers.simcloud.ec2 import catalog
from providers.simcloud.ec2.errors import Refused
from providers.simcloud.options import SimcloudError

ACCOUNT_ID: Final = "123456789012"
AMI: Final = "ami-051c10ad000000001"
ARM_AMI: Final = "ami-051c10ad000000002"
SECURITY_GROUP: Final = "sg-051c10ad000000001"
_SUBNET: Final = "subnet-051c10ad00000000"  # and the zone's letter
INSTANCE_PROFILE: Final = "peerpods-podvm"
KMS_KEY: Final = "alias/peerpods"
ROOT_DEVICE: Final = "/dev/xvda"
ROOT_GIB: Final = 8


@dataclass(slots=True)
class Note:
    """What moto does not keep about an instance. Times are monotonic seconds."""

    reservation: Any
    instance: Any
    visible_from: float
    terminated_at: float | None = None

    def visible(self, now: float, terminated_for: float) -> bool:
        """Whether the API shows the instance; `terminated_for` is how long it does after its end."""
        ended = self.terminated_at
        return now >= self.visible_from and (ended is None or now < ended + terminated_for)


@dataclass(slots=True)
class Reservation:
    """Capacity kept for this account."""

    id: str
    type_name: str
    zone: str
    left: int


@dataclass
class Bought:
    """What the account has besides instances."""

    groups: dict[str, str] = field(default_factory=dict)  # placement groups: name -> id
    reservations: dict[str, Reservation] = field(default_factory=dict)


class Image(Ami):
    """An image with the volumes it was registered with; moto's own all have the same one."""

    tpm_support: str | None = None
    imds_support: str | None = None
    ena_support: bool = True
    volumes: list[dict[str, Any]] | None = None  # as BlockDeviceMappings; None: one root volume

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        if self.volumes is not None:
            return self.volumes
        ebs = {"SnapshotId": self.ebs_snapshot.id, "VolumeSize": ROOT_GIB, "VolumeType": "gp3"}
        return [{"DeviceName": self.root_device_name, "Ebs": {**ebs, "DeleteOnTermination": True, "Encrypted": False}}]


class Account(EC2Backend):
    """The backend: what exists. Lookups raise Refused with EC2's own code for what does not."""

    def __init__(self, region: str, network: str) -> None:
        if not catalog.zones_of(region):
            raise SimcloudError(f"EC2 has no region {region!r}, or none that moto knows the instance types of")
        self._network = network
        self.notes: dict[str, Note] = {}  # by instance id, in order of launch
        self.bought = Bought()
        super().__init__(region, ACCOUNT_ID)
        for zone, subnets in self.subnets.items():
            self._rename(zone, next(iter(subnets)), _SUBNET + zone[-1])
        for image_id, architecture in ((AMI, "x86_64"), (ARM_AMI, "arm64")):
            self.add_image(image_id, f"peerpods-podvm-{architecture}", architecture, ROOT_DEVICE, "uefi")
        group = cast("Any", SecurityGroup)(
            self, SECURITY_GROUP, "peerpods", "simcloud: pod VMs", vpc_id=self.default_vpc.id
        )
        self.groups[self.default_vpc.id][SECURITY_GROUP] = group
        default: Any = self.get_default_security_group(self.default_vpc.id)
        for each in (SECURITY_GROUP, default.id):
            self.authorize_security_group_ingress(each, "-1", "", "", [{"CidrIp": network}])

    def _load_amis(self) -> None:
        """The images moto brings, without the thousand that Amazon lists in SSM: they cost a tenth of a second."""
        for described in AMIS:
            created = described.get("creation_date")
            when = parse_timestamp(created) if isinstance(created, str) else created
            facts = {**described, "owner_alias": "amazon", "creation_date": when}
            self.amis[described["ami_id"]] = Ami(self, **facts)

    def create_default_vpc(self) -> Any:
        """moto's, in the range this cloud was given."""
        vpc = self.create_vpc(cidr_block=self._network, is_default=True)
        for zone in self.describe_availability_zones():
            self.create_default_subnet(zone.name)
        return vpc

    @property
    def subnet(self) -> str:
        """The default subnet of the first zone."""
        return _SUBNET + min(self.subnets)[-1]

    def add_image(self, image_id: str, name: str, architecture: str, root_device: str, boot_mode: str | None) -> Image:
        """An image of this account's own."""
        made = self.amis[image_id] = Image(
            self,
            image_id,
            name=name,
            virtualization_type="hvm",
            architecture=architecture,
            root_device_type="ebs",
            root_device_name=root_device,
            hypervisor="xen",
            image_location=f"{ACCOUNT_ID}/{name}",
            boot_mode=cast("str", boot_mode),
            region_name=f"{self.region_name}a",
        )
        return made

    def image(self, image_id: str) -> Any:
        if image_id in self.deleted_amis:
            raise Refused("InvalidAMIID.Unavailable", f"The image ID '{image_id}' is no longer available")
        if image_id not in self.amis:
            raise Refused("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
        return self.amis[image_id]

    def subnet_of(self, subnet_id: str) -> Any:
        for subnets in self.subnets.values():
            if subnet_id in subnets:
                return subnets[subnet_id]
        raise Refused("InvalidSubnetID.NotFound", f"The subnet ID '{subnet_id}' does not exist")

    def group(self, group_id: str) -> Any:
        group = self.get_security_group_from_id(group_id)
        if group is None:
            raise Refused("InvalidGroup.NotFound", f"The security group '{group_id}' does not exist")
        return group

    def _rename(self, zone: str, old: str, new: str) -> None:
        subnet = self.subnets[zone].pop(old)
        subnet.id = new
        self.subnets[zone][new] = subnet
        for acl in self.network_acls.values():
            for association in acl.associations:
                if association.subnet_id == old:
                    association.subnet_id = new
